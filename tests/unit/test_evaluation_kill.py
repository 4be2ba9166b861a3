"""A run killed at any write continues and gives the rows of a run that was never killed."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
from test_evaluation_loop import Listener, PaintedStore, make_samples, speak

from boundary import die_before
from surgvivqa_audio.evaluation.loop import Settings, Sources, run_eval


def run(out: Path) -> list[dict[str, Any]]:
    sources = Sources(store=PaintedStore(), speak=speak)
    rows = run_eval(make_samples(), Listener(), sources, out, Settings(batch_size=6))
    return [{name: value for name, value in row.items() if name not in ("run", "wall_ms")} for row in rows]


def run_until_killed(out: Path, function: str, call: int) -> None:
    """Runs in a child; see :func:`tests.boundary.die_before`."""
    die_before(function, call)
    run(out)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_killed_at_every_write_boundary(tmp_path: Path, function: str) -> None:
    expected = run(tmp_path / "whole.jsonl")
    context = multiprocessing.get_context("fork")
    killed = 0
    while True:
        out = tmp_path / f"{function}-{killed}.jsonl"
        child = context.Process(target=run_until_killed, args=(out, function, killed + 1))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        assert run(out) == expected
        assert not out.with_name(out.name + ".parts").exists()
    assert killed >= 6  # the mark, three batches, the run record, the rows

"""The whole evaluation of one checkpoint: systems, floors, controls, refusals, then the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.evaluation.controls import CONTROLS
from surgvivqa_audio.evaluation.report import ReportOptions, make_report
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.taxonomy import Taxonomy

SYSTEMS = ("audio", "text", "audio+text", "audio-zeroshot", "text-zeroshot", "asr", "noframes")
FLOORS = ("majority", "nearest", "constant")

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Suite:
    """What is run: ``systems[0]`` is the one that the controls and the report are about."""

    systems: Sequence[str] = SYSTEMS
    controls: Sequence[str] = CONTROLS
    eval_rows: Path | None = None  # annotation rows of the eval split, for temperature and conformal sets
    eval_data: Path | None = None  # the data folder they belong to, if it is another one
    cases: int = 12
    title: str = "Evaluation report"


def plan_suite(request: Request, suite: Suite) -> dict[str, Request]:
    """Every run by the name of its file, in order; ``request.out`` is the folder of the report."""
    main = suite.systems[0]
    folder = request.out / "predictions"
    runs: dict[str, Request] = {}

    def add(name: str, **changes: Any) -> None:
        runs[name] = replace(request, out=folder / f"{name}.jsonl", **changes)

    for system in suite.systems:
        add(system, system=system)
    for floor in FLOORS:
        add(floor, system=floor)
    if request.rows is None:
        other = "in" if request.template == "out" else "out"
        add(f"{main}-{other}", system=main, template=other)
    for control in suite.controls:
        add(f"{main}-{control}", system=main, control=control)
    add(f"{main}-out-of-scope", system=main, out_of_scope=True)
    if suite.eval_rows is not None or suite.eval_data is not None:
        data = suite.eval_data or request.data
        add(f"{main}-eval", system=main, rows=suite.eval_rows, data=data, frames=None)
    return runs


def run_suite(
    request: Request, suite: Suite, taxonomy: Taxonomy, build: Callable[[str], System], announce: Announce
) -> dict[str, Any]:
    """Make every prediction file that is not there yet, then the report beside them.

    Raises:
        SurgVivqaError: as ``run_request`` and ``make_report``.
    """
    system = cache(build)
    runs = plan_suite(request, suite)
    for number, (name, run) in enumerate(runs.items(), start=1):
        if run.out.is_file():
            announce(f"{number}/{len(runs)} {name}: already there")
            continue
        rows = run_request(run, taxonomy, system)
        failed = sum(row["error"] is not None for row in rows)
        announce(f"{number}/{len(runs)} {name}: {len(rows)} rows, {failed} failed")
    held = f"{suite.systems[0]}-eval"
    options = ReportOptions(
        train=request.train,
        eval_predictions=runs[held].out if held in runs else None,
        data=request.data,
        cases=suite.cases,
        title=suite.title,
    )
    return make_report(
        [run.out for name, run in runs.items() if name != held], request.out, taxonomy, options
    )

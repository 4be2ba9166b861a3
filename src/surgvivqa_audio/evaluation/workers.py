"""Several processes on one machine, each with every n-th clip of every run."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.errors import SurgVivqaError
from surgvivqa_audio.evaluation.loop import sidecar
from surgvivqa_audio.evaluation.merge import merge_shards
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.taxonomy import Taxonomy


def run_shards(
    runs: dict[str, Request],
    workers: int,
    taxonomy: Taxonomy,
    build: Callable[[str], System],
    announce: Callable[[str], None],
) -> None:
    """Carry out all runs with ``workers`` processes and join their files; continues after a kill.

    Raises:
        SurgVivqaError: a worker failed; what it said stands above.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    processes = [
        context.Process(target=_work, args=(runs, (number, workers), taxonomy, build))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if any(codes):
        raise SurgVivqaError(f"evaluation workers ended with {codes}; run the same command again to continue")
    for name, run in runs.items():
        parts = [shard_file(run.out, (number, workers)) for number in range(workers)]
        rows = merge_shards(parts, run.out, taxonomy)
        for path in parts:
            path.unlink()
            sidecar(path).unlink(missing_ok=True)
        failed = sum(row["error"] is not None for row in rows)
        announce(f"{name}: {len(rows)} rows, {failed} failed")


def shard_file(out: Path, shard: tuple[int, int]) -> Path:
    """Where the rows of one shard lie until all are there."""
    return out.with_name(f"{out.stem}.{shard[0]}-of-{shard[1]}{out.suffix}")


def _work(
    runs: dict[str, Request], shard: tuple[int, int], taxonomy: Taxonomy, build: Callable[[str], System]
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    known: dict[str, System] = {}

    def system(name: str) -> System:
        if name not in known:
            known.clear()
            known[name] = build(name)
        return known[name]

    for run in runs.values():
        out = shard_file(run.out, shard)
        if not out.is_file():
            run_request(replace(run, out=out, shard=shard), taxonomy, system)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on writing into the folder of the next attempt."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""The table of baselines: both wordings, accuracy, questions per second and latency, all systems alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.evaluation.clock import read_clock, write_clock
from surgvivqa_audio.evaluation.figures import run_figures
from surgvivqa_audio.evaluation.loop import Progress
from surgvivqa_audio.evaluation.reference import REFERENCES
from surgvivqa_audio.evaluation.runs import load_run
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.scoring.table import interval, percent
from surgvivqa_audio.taxonomy import Taxonomy


def baseline_table(
    request: Request,
    systems: Sequence[str],
    taxonomy: Taxonomy,
    build: Callable[[str], System],
    progress: Progress | None = None,
    clips: int = 4,
) -> list[dict[str, Any]]:
    """Run each system on both templates; predictions go to ``request.out/<system>-<template>.jsonl``.

    A prediction file that is already complete is read, not made again. On ``clips`` clips every system is
    timed alone, one question at a time (0 leaves that out).

    Raises:
        SurgVivqaError: as ``run_request``.
    """
    train = None if request.train is None else read_samples(request.train, taxonomy)
    table = []
    timed = [system for system in systems if system not in REFERENCES] if clips else []
    if timed:
        first = replace(request, template="out")
        write_clock(first, timed, clips, taxonomy, build, lambda _line: None)
    clock = read_clock(request.out)
    for system in systems:
        entry: dict[str, Any] = {"system": system, "clock": clock.get(system)}
        for template in ("in", "out"):
            out = request.out / f"{system}-{template}.jsonl"
            if not out.is_file():
                asked = replace(request, system=system, template=template, out=out)
                run_request(asked, taxonomy, build, progress)
            run = load_run(out, taxonomy, train)
            figures = run_figures(run, taxonomy, rounds=200)
            entry[template] = {
                name: figures.get(name)
                for name in ("rows", "errors", "closed_set", "ci95", "balanced", "substring", "floor")
            }
            entry[template] |= {"latency_ms": figures["latency_ms"], "simulated": run.simulated}
            walls = [row.extra["wall_ms"] for row in run.rows if row.extra and row.extra.get("wall_ms")]
            entry[template]["per_second"] = 1000 * len(walls) / sum(walls) if walls else None
        table.append(entry)
    return table


def baseline_lines(table: Sequence[dict[str, Any]]) -> list[str]:
    """The table as text."""
    simulated = any(entry[template]["simulated"] for entry in table for template in ("in", "out"))
    lines = ["ColonSim (simulator), not colonoscopy:"] if simulated else []
    lines.append(
        "system           in-template %           out-of-template %       floor %  per s  "
        "ms cold p50 / p95, prefix ready p50 / p95"
    )
    for entry in table:
        cells = [entry["system"].ljust(15)]
        for template in ("in", "out"):
            one = entry[template]
            text = f"{percent(one['closed_set'])} [{interval(one['ci95'])}] n={one['rows']}"
            cells.append(text.ljust(22))
        one = entry["out"]
        states = entry["clock"] or {}
        cells.append(percent(one["floor"]).rjust(6))
        cells.append(f"{one['per_second']:.1f}".rjust(6) if one["per_second"] else "     -")
        waits = [states[name] for name in ("cold", "prefix_ready") if name in states]
        cells.append(", ".join(f"{wait['p50']:.0f} / {wait['p95']:.0f}" for wait in waits) or "-")
        lines.append("  ".join(cells))
    lines.append(
        "right by the closed-set rule; per s: in batches, clips opened included; ms: one question at a time, "
        "last audio sample to answer string"
    )
    return lines

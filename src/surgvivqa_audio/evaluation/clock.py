"""Every system on the same clock: one question at a time, from the last audio sample to the answer string.

Batches of a run share their passes, so the times in prediction rows say how much a question costs, not how
long somebody waits. Here nothing is shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from surgvivqa_audio.answering.base import Clip, Query, System
from surgvivqa_audio.evaluation.controls import clip_name
from surgvivqa_audio.evaluation.drawing import draw
from surgvivqa_audio.evaluation.loop import Sources
from surgvivqa_audio.evaluation.session import Request, open_sources
from surgvivqa_audio.files import write_json
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import Sample, read_clip, read_samples
from surgvivqa_audio.taxonomy import Taxonomy

CLOCK_FILE = "clock.json"
NTH = 10
_STAGES = ("open_clip", "audio", "answer")


def write_clock(
    request: Request,
    systems: Sequence[str],
    clips: int,
    taxonomy: Taxonomy,
    build: Callable[[str], System],
    announce: Callable[[str], None],
) -> None:
    """Time each system on the same clips and questions, unless ``clock.json`` has its times already.

    Raises:
        SurgVivqaError: a system or its media fail; a clock has no rows that may fail.
    """
    figures = read_clock(request.out)
    missing = [name for name in systems if name not in figures]
    if not missing:
        return
    groups: dict[str, list[Sample]] = {}
    for sample in read_samples(request.rows_file, taxonomy):
        groups.setdefault(clip_name(sample), []).append(sample)
    fewest = min(map(len, groups.values()))
    drawn = draw(groups, clips * max(map(len, groups.values())) + fewest)
    chosen = list(drawn.values())[: clips + 1]  # the first one warms up
    for name in missing:
        system = build(name)
        with ExitStack() as stack:
            sources = open_sources(replace(request, system=name), system, taxonomy, stack)
            figures[name] = time_system(system, sources, chosen)
        first = figures[name]["cold"]
        announce(f"clock {name}: cold {first['p50']:.0f} ms (n = {first['rows']})")
    record = run_record(seed=None, config={"clips": len(chosen) - 1, "nth": NTH})
    write_json(request.out / CLOCK_FILE, {"systems": figures, "record": record})


def read_clock(folder: Path) -> dict[str, Any]:
    """The times of each system that an earlier run left in ``folder``; empty where there are none."""
    path = folder / CLOCK_FILE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(found.get("systems", {}))


def time_system(system: System, sources: Sources, clips: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Wall-clock milliseconds of one question: the first of a clip, the second, the tenth.

    ``clips`` holds the questions of each clip; the first clip warms up and is not counted. Frames are
    decoded and sound is loaded before the clock starts.
    """
    states: dict[str, list[tuple[float, dict[str, float]]]] = {"cold": [], "prefix_ready": [], "nth": []}
    for number, questions in enumerate(clips):
        clip = _clip(system, sources, questions[0])
        for asked in range(NTH):
            query = _query(system, sources, clip, questions[asked % len(questions)])
            start = perf_counter()
            answer = system.predict([query])[0]
            spent = (perf_counter() - start) * 1e3
            state = {0: "cold", 1: "prefix_ready", NTH - 1: "nth"}.get(asked)
            if state is not None and (number or len(clips) == 1):
                states[state].append((spent, answer.timings_ms))
    return {state: _figures(found, state == "cold") for state, found in states.items() if found}


def _figures(found: Sequence[tuple[float, dict[str, float]]], cold: bool) -> dict[str, Any]:
    p50, p95 = np.percentile([spent for spent, _ in found], [50, 95])
    names = _STAGES if cold else _STAGES[1:]
    stages = {
        name: float(np.median([times[name] for _, times in found]))
        for name in names
        if all(name in times for _, times in found)
    }
    return {"rows": len(found), "p50": float(p50), "p95": float(p95), "stages_p50": stages}


def _clip(system: System, sources: Sources, sample: Sample) -> Clip:
    if "frames" not in system.needs or sources.store is None:
        return Clip((), 1.0)
    return Clip(tuple(read_clip(sources.store, sample)), sources.rate(sample))


def _query(system: System, sources: Sources, clip: Clip, sample: Sample) -> Query:
    audio = text = None
    if "audio" in system.needs and sources.speak is not None:
        audio = sources.speak(sample, "default")
    if "text" in system.needs:
        text = sources.wording(sample, "default")
    return Query(key="clock", clip=clip, audio=audio, text=text)

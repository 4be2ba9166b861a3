"""Samples a second of training: the predecessor's recipe, the fast path and every step between them.

All ways take the same update in turn: same rows, from JPEG bytes and samples to the optimizer's step, same
weights, type and optimizer, one process. The first round is not timed; it counts floating-point work and
peak memory. The cache is timed as a run of several epochs sees it: one miss, then hits. Processor time is
kept beside the clock, because other work on the machine lengthens the clock alone.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from surgvivqa_audio.bench.latency import Progress
from surgvivqa_audio.bench.measure import clock, machine, ratio, timed
from surgvivqa_audio.bench.slice import peak_gib, reset_peak
from surgvivqa_audio.bench.training_variants import Rig, Variant, ladder
from surgvivqa_audio.bench.workload import Workload
from surgvivqa_audio.errors import ConfigError, ModelError

EPOCHS = 8  # of the published recipe
SAMPLES = 8  # its effective batch, the default


def run_training(
    work: Workload,
    rounds: int,
    *,
    questions: int = 1,
    samples: int = SAMPLES,
    whole_ladder: bool = True,
    minutes: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure and return the JSON object of the command.

    Args:
        work: the model and what it is shown.
        rounds: timed updates of every way; fewer where another one would end after ``minutes``.
        questions: per clip; the published rows have 1.02.
        samples: of one update.
        whole_ladder: False: only both ends.

    Raises:
        ConfigError: ``questions`` does not divide the update's samples.
        ModelError: a loss is not finite.
    """
    if questions < 1 or samples % questions:
        raise ConfigError(f"--questions {questions}: use a divisor of --samples, {samples}")
    rig = Rig(work, samples // questions, questions)
    variants = ladder(questions)
    variants = variants if whole_ladder else [variants[0], variants[-1]]
    before = machine(work.device, rig.dtype)
    started = clock()
    costs = {variant.name: _cost(rig, variant) for variant in variants}
    times: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    lengths: list[float] = []
    while len(lengths) < rounds and fits(lengths, clock() - started, minutes):
        lengths.append(timed(lambda: _round(rig, variants, len(lengths), times, busy)))
        if progress is not None:
            progress(len(lengths), rounds)
    return {
        "benchmark": "training",
        "size": work.size,
        "rounds": len(lengths),
        "samples_per_step": samples,
        "questions_per_clip": questions,
        "epochs": EPOCHS,
        "samples_per_second": {name: _rate(rig, spent) for name, spent in times.items()},
        "ratios": _ratios(variants, times),
        "processor_ratios": _ratios(variants, busy),
        "steps": _steps(rig, variants, times, costs),
        "workload": work.describe() | {"adapters": sum(p.numel() for p in rig.adapters)},
        "machine": before | {"load_average_after": machine(work.device, rig.dtype)["load_average"]},
        "minutes": round((clock() - started) / 60e3, 2),
    }


def fits(lengths: Sequence[float], spent: float, minutes: float | None) -> bool:
    """Whether one more round, as long as the longest so far, ends in time; the first always does.

    Args:
        lengths: of the rounds so far, milliseconds.
        spent: milliseconds since the measurement began.
        minutes: the limit; None for none.
    """
    return not lengths or minutes is None or spent + max(lengths) <= minutes * 60e3


def _round(
    rig: Rig,
    variants: list[Variant],
    number: int,
    times: dict[str, list[float]],
    busy: dict[str, list[float]],
) -> None:
    """The same update by every way; the first to go changes from round to round."""
    group = rig.group(number + 1)
    for index in range(len(variants)):
        _update(rig, variants[(index + number) % len(variants)], group, times, busy)


def _ratios(variants: list[Variant], times: dict[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {"peer": "seed", "state": variant.name, **ratio(times["seed"], times[variant.name])}
        for variant in variants[1:]
    ]


def _update(
    rig: Rig, variant: Variant, group: Any, times: dict[str, list[float]], busy: dict[str, list[float]]
) -> None:
    """Milliseconds of one update on the clock and of processor time; with a cache, the mean over a run."""
    states = ["cache miss", "cache hit"] if variant.cached else [variant.name]
    for state in states:
        before = time.process_time()
        times[state].append(timed(lambda: rig.step(variant, group)))
        busy[state].append((time.process_time() - before) * 1e3)
    if variant.cached:
        for table in (times, busy):
            missed, hit = (table[state][-1] for state in states)
            table[variant.name].append((missed + (EPOCHS - 1) * hit) / EPOCHS)


def _rate(rig: Rig, spent: list[float]) -> float:
    return round(rig.samples / float(np.median(spent)) * 1e3, 4)


def _attention(*shapes: Any, **_: Any) -> int:
    return int(sdpa_flop_count(*shapes[:3]))


def _attention_backward(*shapes: Any, **_: Any) -> int:
    return int(sdpa_backward_flop_count(*shapes[:4]))


def _counter() -> FlopCounterMode:
    """Counts attention on a CPU too, which torch's own table leaves out."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    )


def _cost(rig: Rig, variant: Variant) -> dict[str, float]:
    """Operations per sample, peak memory and tokens per sample of one update; with a cache, of a hit."""
    group = rig.group(0)
    if variant.cached:
        rig.step(variant, group)
    reset_peak(rig.work.device)
    with _counter() as counter:
        found = rig.step(variant, group)
    if not math.isfinite(found["loss"]):
        raise ModelError(f"{variant.name}: the loss is {found['loss']}")
    return {
        "gflop_per_sample": round(counter.get_total_flops() / rig.samples / 1e9, 4),
        "peak_gib": round(peak_gib(rig.work.device), 3),
        "tokens_per_sample": round(found["tokens"] / rig.samples, 1),
        "loss": round(found["loss"], 4),
    }


def _steps(
    rig: Rig,
    variants: list[Variant],
    times: dict[str, list[float]],
    costs: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """One entry per way, in order; ``over_previous`` is what its one switch brought."""
    found: list[dict[str, Any]] = []
    for index, variant in enumerate(variants):
        entry = {
            "name": variant.name,
            "samples_per_second": _rate(rig, times[variant.name]),
            **costs[variant.name],
        }
        if index:
            before = variants[index - 1].name
            entry["over_previous"] = ratio(times[before], times[variant.name])
        found.append(entry)
    return found

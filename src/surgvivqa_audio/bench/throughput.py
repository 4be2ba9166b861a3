"""Samples per second: ours in batches, the predecessor's recipe one by one, on the same clips."""

from __future__ import annotations

from typing import Any

from surgvivqa_audio.answering.base import Clip, Query
from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.answering.systems import EngineSystem
from surgvivqa_audio.bench.latency import Progress
from surgvivqa_audio.bench.measure import clock, machine, ratio
from surgvivqa_audio.bench.peers import SeedPeer
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.errors import ConfigError


def run_throughput(
    work: Workload, pairs: int, *, batch: int = 16, progress: Progress | None = None
) -> dict[str, Any]:
    """``pairs`` rounds of one batch each: every sample has a clip of its own, bytes to answer.

    Raises:
        ConfigError: nothing to measure.
    """
    if pairs < 1 or batch < 1:
        raise ConfigError("ask for at least one pair and a batch of at least one sample")
    system, peer = EngineSystem("audio", work.engine, "audio"), SeedPeer(work)
    dtype = next(work.engine.model.parameters()).dtype
    start = machine(work.device, dtype)
    ours: list[float] = []
    theirs: list[float] = []
    for pair in range(-1, pairs):
        clips = [work.jpegs(50_000 + (pair + 1) * batch + index) for index in range(batch)]
        before = clock()
        _batch(work, system, clips)
        between = clock()
        opened = work.engine.open(None)
        for index, jpegs in enumerate(clips[: _seed_share(batch)]):
            peer.answer(jpegs, work.waves[index % len(work.waves)], "", opened)
        after = clock()
        if pair < 0:
            continue
        ours.append((between - before) / batch)
        theirs.append((after - between) / _seed_share(batch))
        if progress is not None:
            progress(pair + 1, pairs)
    return {
        "benchmark": "throughput",
        "size": work.size,
        "pairs": pairs,
        "batch": batch,
        "samples_per_second": {"ours": _rate(ours), "seed": _rate(theirs)},
        "ratios": [{"peer": "seed", "state": "batched", **ratio(theirs, ours)}],
        "workload": work.describe(),
        "machine": start,
    }


def _seed_share(batch: int) -> int:
    """The peer answers one at a time, so a part of the batch gives its rate."""
    return min(batch, 4)


def _rate(times: list[float]) -> float:
    return round(1e3 / sorted(times)[len(times) // 2], 3)


def _batch(work: Workload, system: EngineSystem, clips: list[list[bytes]]) -> None:
    geometry = work.engine.processor.geometry
    queries = [
        Query(
            key=str(index),
            clip=Clip(tuple(decode_frames(jpegs, geometry)), FPS),
            audio=work.waves[index % len(work.waves)],
        )
        for index, jpegs in enumerate(clips)
    ]
    system.predict(queries)

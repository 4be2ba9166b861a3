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
    """``pairs`` rounds of two batches, bytes to answer: samples with a clip of their own each, as most
    published rows have, and as many questions about one clip, which is how ColonSim asks (about twenty).

    Raises:
        ConfigError: nothing to measure.
    """
    if pairs < 1 or batch < 1:
        raise ConfigError("ask for at least one pair and a batch of at least one sample")
    system, peer = EngineSystem("audio", work.engine, "audio"), SeedPeer(work)
    dtype = next(work.engine.model.parameters()).dtype
    start = machine(work.device, dtype)
    ours: list[float] = []
    ours_one_clip: list[float] = []
    theirs: list[float] = []
    for pair in range(-1, pairs):
        clips = [work.jpegs(50_000 + (pair + 1) * batch + index) for index in range(batch)]
        one_clip = [work.jpegs(40_000 + pair)]
        began = clock()
        _batch(work, system, one_clip, batch)
        before = clock()
        _batch(work, system, clips, 1)
        between = clock()
        opened = work.engine.open(None)
        for index, jpegs in enumerate(clips[: _seed_share(batch)]):
            peer.answer(jpegs, work.waves[index % len(work.waves)], "", opened)
        after = clock()
        if pair < 0:
            continue
        ours_one_clip.append((before - began) / batch)
        ours.append((between - before) / batch)
        theirs.append((after - between) / _seed_share(batch))
        if progress is not None:
            progress(pair + 1, pairs)
    return {
        "benchmark": "throughput",
        "size": work.size,
        "pairs": pairs,
        "batch": batch,
        "samples_per_second": {
            "ours": _rate(ours),
            "ours_one_clip": _rate(ours_one_clip),
            "seed": _rate(theirs),
        },
        "ratios": [
            {"peer": "seed", "state": "batched", **ratio(theirs, ours)},
            {"peer": "seed", "state": "batched-one-clip", **ratio(theirs, ours_one_clip)},
        ],
        "workload": work.describe(),
        "machine": start,
    }


def _seed_share(batch: int) -> int:
    """The peer answers one at a time, so a part of the batch gives its rate."""
    return min(batch, 4)


def _rate(times: list[float]) -> float:
    return round(1e3 / sorted(times)[len(times) // 2], 3)


def _batch(work: Workload, system: EngineSystem, clips: list[list[bytes]], questions: int) -> None:
    geometry = work.engine.processor.geometry
    shown = [Clip(tuple(decode_frames(jpegs, geometry)), FPS) for jpegs in clips]
    system.predict(
        [
            Query(key=str(number), clip=clip, audio=work.waves[number % len(work.waves)])
            for number, clip in enumerate(clip for clip in shown for _ in range(questions))
        ]
    )

"""Time to an answer, pair by pair: ours in three states and every peer on the same bytes.

The clock runs from the last sample of the recording to the answer string. ``cold``: JPEG bytes of a clip
nobody has seen; ``prefix_ready``: the clip was opened before; ``nth``: the tenth or later question on one
clip. A peer cannot prepare, but in the two warm states its pictures are decoded and cut before the clock
starts. The order within a pair alternates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from surgvivqa_audio.answering.engine import Method, OpenClip
from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.bench.measure import clock, machine, percentiles, ratio, timed
from surgvivqa_audio.bench.peers import Peer, Times, build_peers
from surgvivqa_audio.bench.preparation import preparation_ms
from surgvivqa_audio.bench.workload import FPS, Workload

STATES = ("cold", "prefix_ready", "nth")
QUESTION_NUMBER = 10
Progress = Callable[[int, int], None]


class _Ours:
    """The engine as ``ask`` runs it."""

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.used: OpenClip | None = None

    def warm(self, clip: OpenClip, question: int, method: Method = "tree") -> str:
        """One question on an open clip."""
        wave = self.work.waves[question % len(self.work.waves)]
        return clip.ask(wave, method=method).answer

    def long_open(self) -> OpenClip:
        """A clip that has heard nine questions."""
        if self.used is None:
            engine = self.work.engine
            self.used = engine.open(decode_frames(self.work.jpegs(10**6), engine.processor.geometry), FPS)
            for number in range(QUESTION_NUMBER - 1):
                self.warm(self.used, number)
        return self.used


def run_latency(
    work: Workload,
    peers: list[str],
    pairs: int,
    *,
    warm_up: int = 2,
    minutes: float | None = None,
    prepare: int = 20,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure and return the JSON object of the command; ``minutes`` may end it before ``pairs`` are done.

    ``prepare``: how often the work before the model is timed.

    Raises:
        ConfigError: unknown peers or no pairs.
    """
    others, ours = build_peers(work, peers), _Ours(work)
    times: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[Times]] = defaultdict(list)
    before = machine(work.device, next(work.engine.model.parameters()).dtype)
    prepared = preparation_ms(work, prepare)
    until = None if minutes is None else clock() + minutes * 60e3
    for pair in range(-warm_up, pairs):
        if until is not None and times["cold"] and clock() > until:
            break
        found, seen = _pair(work, ours, others, pair)
        if pair < 0:
            continue
        for state, spent in found.items():
            times[state].append(spent)
        for name, spent_there in seen.items():
            theirs[name].append(spent_there)
        if progress is not None:
            progress(pair + 1, pairs)
    after = machine(work.device, next(work.engine.model.parameters()).dtype)
    return {
        "benchmark": "latency",
        "size": work.size,
        "pairs": len(times["cold"]),
        "ours_ms": {state: percentiles(times[state]) for state in STATES},
        "jump_ms": {"prefix_ready": percentiles(times["jump"])},
        "open_clip_ms": percentiles(times["open"]),
        "preparation_ms": prepared,
        "nth_over_cold": ratio(times["nth"], times["cold"]),
        "peers_ms": {name: _peer_ms(seen) for name, seen in theirs.items()},
        "ratios": [entry for name, seen in theirs.items() for entry in _ratios(name, seen, times)],
        "workload": work.describe(),
        "machine": before | {"load_average_after": after["load_average"]},
    }


def _pair(
    work: Workload, ours: _Ours, others: list[Peer], pair: int
) -> tuple[dict[str, float], dict[str, Times]]:
    jpegs, question = work.jpegs(pair + 1000), pair % len(work.waves)
    used = ours.long_open()
    found: dict[str, float] = {}
    seen: dict[str, Times] = {}

    def ask_us() -> None:
        start = clock()
        engine = work.engine
        clip = engine.open(decode_frames(jpegs, engine.processor.geometry), FPS)
        found["open"] = clock() - start
        ours.warm(clip, question)
        found["cold"] = clock() - start
        found["prefix_ready"] = timed(lambda: ours.warm(clip, question))
        found["nth"] = timed(lambda: ours.warm(used, question))
        found["jump"] = timed(lambda: ours.warm(clip, question, "jump"))

    def ask_them() -> None:
        for peer in others:
            seen[peer.name] = peer.answer(jpegs, work.waves[question], work.texts[question], used)

    for side in (ask_us, ask_them) if pair % 2 else (ask_them, ask_us):
        side()
    return found, seen


def _peer_ms(seen: list[Times]) -> dict[str, Any]:
    shown = {"prefix_ready": percentiles([one.answer for one in seen])}
    if seen[0].prepare:
        shown["cold"] = percentiles([one.prepare + one.answer for one in seen])
    return shown


def _ratios(name: str, seen: list[Times], times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Ours as ``ask`` runs it, then the greedy walk, then the peer with answers of natural length."""
    warm = [one.answer for one in seen]
    entries = []
    if seen[0].prepare:
        cold = [one.prepare + one.answer for one in seen]
        entries.append({"peer": name, "state": "cold", **ratio(cold, times["cold"])})
    entries += [{"peer": name, "state": state, **ratio(warm, times[state])} for state in STATES[1:]]
    entries.append({"peer": name, "state": "prefix_ready-jump", **ratio(warm, times["jump"])})
    if seen[0].prepare:
        natural = [one.natural for one in seen]
        entries.append(
            {"peer": f"{name}-natural", "state": "prefix_ready", **ratio(natural, times["prefix_ready"])}
        )
        whole = [one.prepare + one.natural for one in seen]
        entries.append({"peer": f"{name}-natural", "state": "cold", **ratio(whole, times["cold"])})
    return entries

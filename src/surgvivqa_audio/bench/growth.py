"""How the time of a question grows: with frames, questions per clip, seconds of speech and options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.answering.trie import build_trie
from surgvivqa_audio.bench.latency import Progress
from surgvivqa_audio.bench.measure import machine, percentiles, slope, timed
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.errors import ConfigError, MissingExtra
from surgvivqa_audio.files import atomic_writer

AXES: dict[str, tuple[int, ...]] = {
    "frames": (8, 16, 32, 64),
    "questions": (1, 2, 4, 8, 16, 32),
    "speech_seconds": (2, 5, 10, 20, 30),
    "options": (2, 4, 8, 16, 32, 64),
}


def run_growth(
    work: Workload, repeats: int, progress: Progress | None = None, axes: Sequence[str] = tuple(AXES)
) -> dict[str, Any]:
    """Median time per point (prefix ready), its growth over the axis and the log-log slope.

    ``questions`` is the whole time of that many questions on one clip, the opening included; the others are
    one question on an open clip. Points of one axis are visited in turn, ``repeats`` times.

    Raises:
        ConfigError: an axis is unknown.
    """
    for axis in axes:
        if axis not in AXES:
            raise ConfigError(f"axis '{axis}' is unknown; use some of {', '.join(AXES)}")
    curves: dict[str, Any] = {}
    for number, axis in enumerate(axes):
        all_sizes = AXES[axis]
        sizes = [size for size in all_sizes if axis != "options" or size <= len(work.engine.sentences)]
        points = [_POINTS[axis](work, size) for size in sizes]
        times: list[list[float]] = [[] for _ in sizes]
        for round_ in range(-1, repeats):
            for at, point in enumerate(points):
                spent = timed(point)
                if round_ >= 0:
                    times[at].append(spent)
        medians = [percentiles(spent)["p50"] for spent in times]
        curves[axis] = {
            "sizes": sizes,
            "ms": medians,
            "growth": round(medians[-1] / medians[0], 4),
            "slope": slope(sizes, medians),
        }
        if progress is not None:
            progress(number + 1, len(axes))
    return {
        "benchmark": "growth",
        "size": work.size,
        "repeats": repeats,
        "curves": curves,
        "workload": work.describe(),
        "machine": machine(work.device, next(work.engine.model.parameters()).dtype),
    }


def _frames(work: Workload, size: int) -> Callable[[], object]:
    engine = work.engine
    clip = engine.open(decode_frames(work.jpegs(70_000, size), engine.processor.geometry), FPS)
    return lambda: clip.ask(work.waves[0])


def _questions(work: Workload, size: int) -> Callable[[], object]:
    engine = work.engine
    frames = decode_frames(work.jpegs(71_000), engine.processor.geometry)

    def ask() -> None:
        engine.prefixes.clear()
        clip = engine.open(frames, FPS)
        for number in range(size):
            clip.ask(work.waves[number % len(work.waves)])

    return ask


def _speech(work: Workload, size: int) -> Callable[[], object]:
    engine = work.engine
    clip = engine.open(decode_frames(work.jpegs(72_000), engine.processor.geometry), FPS)
    sound = np.concatenate(work.waves)
    wave = np.resize(sound, size * 16_000).astype(np.float32)
    return lambda: clip.ask(wave)


def _options(work: Workload, size: int) -> Callable[[], object]:
    engine = work.engine
    clip = engine.open(decode_frames(work.jpegs(73_000), engine.processor.geometry), FPS)
    whole = engine.trie
    paths = [whole.tokens[list(path)].tolist() for path in whole.paths[:size]]
    part = build_trie(paths)
    sentences = engine.sentences

    def ask() -> None:
        engine.trie, engine.sentences = part, sentences[:size]
        try:
            clip.ask(work.waves[0])
        finally:
            engine.trie, engine.sentences = whole, sentences

    return ask


_POINTS: dict[str, Callable[[Workload, int], Callable[[], object]]] = {
    "frames": _frames,
    "questions": _questions,
    "speech_seconds": _speech,
    "options": _options,
}


def plot_growth(result: dict[str, Any], path: Path) -> None:
    """One panel per axis, logarithmic. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plots need matplotlib: `pip install surgvivqa-audio[train]`") from error
    import matplotlib

    curves = result["curves"]
    figure = Figure(figsize=(3.2 * len(curves), 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False).flat
    for panel, (axis, curve) in zip(panels, curves.items(), strict=True):
        panel.loglog(curve["sizes"], curve["ms"], marker="o", color="black")
        panel.set_xlabel(axis.replace("_", " "))
        panel.set_ylabel("ms")
        panel.set_title(f"slope {curve['slope']:.2f}, {curve['growth']:.2f} times")
        panel.set_ylim(bottom=min(curve["ms"]) / 2, top=max(curve["ms"]) * 2)
    figure.suptitle(f"Growth of the time to an answer, {result['size']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "growth"}), atomic_writer(path) as stream:
        figure.savefig(stream, format=path.suffix.removeprefix("."), metadata=fixed)

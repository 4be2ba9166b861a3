"""Proof that open clips answer like cold ones, however their questions are mixed and their cache is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.bench.workload import FPS
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.sample import Image

TOLERANCE = 1e-5  # of a sentence's log-probability, fp32


def ask_interleaved(
    engine: AnswerEngine, clips: Sequence[Sequence[Image]], sounds: Sequence[Spoken], questions: int
) -> dict[str, Any]:
    """Ask at random, with room for four clips, and compare with runs that keep nothing.

    Args:
        engine: its model, processor and taxonomy are used, its cache is not.
        clips: frames (h, w, 3) of more than four clips.
        sounds: the questions to choose from.
        questions: how many to ask.

    Returns:
        ``questions``, ``clips``, ``kept`` (clips still open at the end) and ``faults``: one line for every
        answer that differs from the cold one or whose log-probabilities do.
    """
    parts = engine.model, engine.processor, engine.taxonomy
    cold = AnswerEngine(*parts, name="cold", cache_bytes=0)
    expected: dict[tuple[int, int], torch.Tensor] = {}
    size = max(cold.open(frames, FPS).prefix.nbytes for frames in clips)
    warm = AnswerEngine(*parts, name="warm", cache_bytes=4 * size)
    draws = np.random.default_rng(0)
    faults: list[str] = []
    for number in range(questions):
        clip, sound = int(draws.integers(len(clips))), int(draws.integers(len(sounds)))
        if (clip, sound) not in expected:
            expected[clip, sound] = cold.score(cold.open(clips[clip], FPS), sounds[sound])
        scores = warm.score(warm.open(clips[clip], FPS), sounds[sound])
        gap = float((scores - expected[clip, sound]).abs().max())
        if int(scores.argmax()) != int(expected[clip, sound].argmax()) or gap > TOLERANCE:
            faults.append(f"question {number}, clip {clip}, sound {sound}: off by {gap:.2e}")
    return {"questions": questions, "clips": len(clips), "kept": len(warm.prefixes), "faults": faults}

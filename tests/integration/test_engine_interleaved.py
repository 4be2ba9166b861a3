"""A thousand questions over interleaved clips: not one differs from a run that starts cold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from tiny_graft import nano_graft, nano_processor, tone

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.taxonomy import load_taxonomy

pytestmark = pytest.mark.integration
CLIPS, SOUNDS, QUESTIONS = 10, 12, 1000


def test_a_thousand_interleaved_questions_equal_cold_runs(make_frames: Any) -> None:
    processor = nano_processor()
    model = nano_graft(processor)
    taxonomy = load_taxonomy()
    clips = [make_frames(4 + 2 * (index % 2), 64, seed=index) for index in range(CLIPS)]
    sounds = [processor.mel(tone(0.2 + 0.07 * index, 250 + 60 * index)) for index in range(SOUNDS)]
    questions = [Spoken("audio", mel) for mel in sounds]

    cold = AnswerEngine(model, processor, taxonomy, name="cold", cache_bytes=0)
    expected: dict[tuple[int, int], torch.Tensor] = {}
    for clip, frames in enumerate(clips):
        for sound, question in enumerate(questions):
            expected[clip, sound] = cold.score(cold.open(frames, 6.25), question)
    assert len(cold.prefixes) == 0

    size = cold.open(clips[1], 6.25).prefix.nbytes
    warm = AnswerEngine(model, processor, taxonomy, name="warm", cache_bytes=4 * size)
    draws = np.random.default_rng(0)
    different = 0
    for _ in range(QUESTIONS):
        clip, sound = int(draws.integers(CLIPS)), int(draws.integers(SOUNDS))
        scores = warm.score(warm.open(clips[clip], 6.25), questions[sound])
        wanted = expected[clip, sound]
        if int(scores.argmax()) != int(wanted.argmax()) or float((scores - wanted).abs().max()) > 1e-5:
            different += 1
    assert different == 0
    assert 0 < len(warm.prefixes) < CLIPS

"""Questions over interleaved clips equal cold runs; `make soak ONLY=engine-interleaved` asks a thousand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.bench.agreement import run_agreement, spoken_cases
from surgvivqa_audio.bench.interleaved import ask_interleaved
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone

pytestmark = pytest.mark.integration
CLIPS, SOUNDS, QUESTIONS = 6, 6, 120
SOAK_CLIPS, SOAK_QUESTIONS = 12, 1000


def test_interleaved_questions_equal_cold_runs(make_frames: Any) -> None:
    processor = nano_processor()
    engine = AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")
    clips = [make_frames(4 + 2 * (index % 2), 64, seed=index) for index in range(CLIPS)]
    sounds = [
        Spoken("audio", processor.mel(tone(0.2 + 0.07 * index, 250 + 60 * index))) for index in range(SOUNDS)
    ]
    found = ask_interleaved(engine, clips, sounds, QUESTIONS)
    assert found["faults"] == []
    assert 0 < found["kept"] < CLIPS


def test_a_difference_between_warm_and_cold_is_found(
    make_frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = nano_processor()
    engine = AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")
    stock = AnswerEngine.score

    def drifting(self: AnswerEngine, *asked: Any) -> torch.Tensor:
        return stock(self, *asked) + (1e-4 if self.name == "warm" else 0.0)

    monkeypatch.setattr(AnswerEngine, "score", drifting)
    found = ask_interleaved(
        engine, [make_frames(4, 64)], [Spoken("audio", processor.mel(tone(0.2)))], questions=3
    )
    assert len(found["faults"]) == 3


def test_greedy_text_of_the_shipped_model_mostly_is_the_best_sentence() -> None:
    found = run_agreement(load_engine(), 24)
    assert found["questions"] == 24
    # A walk that is broken agrees on next to nothing. Whether 99 % is reached depends on the weights, and
    # `bench agreement` counts it over 1,500 questions.
    assert found["agreement"]["greedy"]["equal"] >= 18
    assert found["agreement"]["jump"]["equal"] >= 18
    assert found["greedy_outside_the_tree"] <= 24 - found["agreement"]["greedy"]["equal"]


def soak(_folder: Path) -> dict[str, Any]:
    """A thousand spoken questions about simulated clips, asked of the shipped model."""
    engine = load_engine()
    cases = list(spoken_cases(engine, 20 * SOAK_CLIPS))
    clips = list({id(frames): frames for frames, _ in cases}.values())[:SOAK_CLIPS]
    return ask_interleaved(engine, clips, [question for _, question in cases[:20]], SOAK_QUESTIONS)

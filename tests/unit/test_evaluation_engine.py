"""The loop around the real engine on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_evaluation_loop import PaintedStore, make_samples

from surgvivqa_audio.answering.base import Clip, Query, Wave
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.systems import EngineSystem
from surgvivqa_audio.evaluation.leak import text_leak
from surgvivqa_audio.evaluation.loop import Settings, Sources, run_eval
from surgvivqa_audio.evaluation.outcomes import outcomes
from surgvivqa_audio.evaluation.runs import load_run
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor

TAXONOMY = load_taxonomy()


class LargerStore(PaintedStore):
    """Frames that the vision tower accepts."""

    def read(self, video_id: str, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.kron(super().read(video_id, number), np.ones((14, 14, 1), np.uint8))


def speak(sample: Sample, _variant: str) -> Wave:
    pitch = 0.02 + 0.01 * (len(sample.question_type) % 7)
    return (0.4 * np.sin(np.arange(8000) * pitch)).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> AnswerEngine:
    processor = nano_processor()
    return AnswerEngine(nano_graft(processor), processor, TAXONOMY, name="tiny")


def test_engine_rows_carry_what_scoring_and_calibration_need(tmp_path: Path, engine: AnswerEngine) -> None:
    system = EngineSystem("audio", engine, "audio")
    sources = Sources(store=LargerStore(), speak=speak)
    rows = run_eval(make_samples(2, 1), system, sources, tmp_path / "p.jsonl", Settings(batch_size=4))
    assert [row["error"] for row in rows] == [None] * 6
    assert all(row["inference_time_ms"] > 0 for row in rows)
    run = load_run(tmp_path / "p.jsonl", TAXONOMY)
    assert run.system == "audio"
    assert all(label is not None for label in run.labels)  # every sentence of the engine can be parsed
    found = outcomes(run.rows, TAXONOMY)
    assert len(found) == 6
    for row, outcome in zip(rows, found, strict=True):
        assert outcome.probabilities.sum() == pytest.approx(1.0, abs=1e-6)
        assert outcome.probabilities[:-1].max() == pytest.approx(row["confidence"], abs=1e-4)  # four decimals


def test_no_character_reaches_the_listening_system(engine: AnswerEngine) -> None:
    clip = Clip(tuple(LargerStore().read("v", number) for number in range(4)), 6.25)
    queries = [Query(key="a", clip=clip, audio=speak(make_samples()[0], ""))]
    assert text_leak(EngineSystem("audio", engine, "audio"), queries) == []
    assert text_leak(EngineSystem("audio+text", engine, "audio+text"), queries) == ["a"]

"""The shipped nano model on procedures, voices and wordings it was never trained on."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgvivqa_audio import cli
from surgvivqa_audio.answering.bundle import default_model_dir, load_engine
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.colonsim import Procedure, render
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.speech.speakable import speakable

pytestmark = pytest.mark.integration
SEED = 88_000_000  # no recipe and no other test draws procedures from here
LIMIT = 16_000_000


@pytest.fixture(scope="module")
def engine() -> AnswerEngine:
    return load_engine()


def _run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["surgvivqa", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    output = capsys.readouterr()
    assert stopped.value.code == 0, output.err
    return output.out


def test_weights_are_small_and_unmerged() -> None:
    folder = default_model_dir()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "asr/decoder.safetensors"):
        assert (folder / name).is_file(), name


def test_demo_then_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = _run(monkeypatch, capsys, "demo", "--out", tmp_path, "--no-page")
    assert text.count("spoken: ") == 3
    assert text.count("simulator's truth: ") == 3
    clip = next(path for path in tmp_path.iterdir() if path.is_dir())
    question = tmp_path / "question-1.wav"
    raw = _run(monkeypatch, capsys, "ask", "--clip", clip, "--question", question, "--json")
    answer: dict[str, Any] = json.loads(raw)
    for field in ("answer", "short_answer", "question_type", "confidence", "abstained", "options", "model"):
        assert field in answer
    assert set(answer["timings_ms"]) == {"open_clip", "audio", "answer", "total"}
    assert answer["answer"] in text


def test_silence_is_no_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from surgvivqa_audio.speech.audio import write_wav

    _run(monkeypatch, capsys, "demo", "--out", tmp_path, "--no-page", "--questions", 1)
    clip = next(path for path in tmp_path.iterdir() if path.is_dir())
    write_wav(tmp_path / "silence.wav", np.zeros(32_000, np.float32))
    question = tmp_path / "silence.wav"
    answer = json.loads(_run(monkeypatch, capsys, "ask", "--clip", clip, "--question", question, "--json"))
    assert answer["abstained"] is True
    assert answer["reason"] == "silence"


def test_spoken_answers_are_above_the_best_constant_on_eight_types(engine: AnswerEngine) -> None:
    bank = phrasing_bank(engine.taxonomy)
    right: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    with EspeakEngine() as voices:
        for number in range(8):
            procedure = Procedure(SEED + number)
            for index in range(12):
                spec = procedure.clip(index)
                clip = engine.open(list(render(spec).frames), 6.25)
                asked = sorted(spec.answers)
                items = [
                    (
                        speakable(bank[name].held_out[index % len(bank[name].held_out)]),
                        HELD_OUT_VOICES[(number + index) % len(HELD_OUT_VOICES)],
                    )
                    for name in asked
                ]
                for name, wave in zip(asked, voices.synthesize_many(items), strict=True):
                    answer = clip.ask(wave)
                    hit = answer.question_type == name and answer.short_answer == spec.answers[name]
                    right[name].append((spec.answers[name], hit))
    above = []
    for name, rows in right.items():
        golds = [gold for gold, _ in rows]
        floor = max(golds.count(gold) for gold in set(golds)) / len(golds)
        if np.mean([hit for _, hit in rows]) > floor:
            above.append(name)
    assert len(right) == 20
    assert len(above) >= 8, above

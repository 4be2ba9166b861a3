"""The predecessor's baseline prompts, and systems chosen by flag."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from surgvivqa_audio.answering.base import Clip, Query
from surgvivqa_audio.answering.baseline import BaselineSystem
from surgvivqa_audio.answering.cascade import AsrSystem
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.faster import FasterWhisper
from surgvivqa_audio.errors import ConfigError, MissingExtra
from surgvivqa_audio.processing.baseline import baseline_example
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone

PROCESSOR = nano_processor()
FRAMES = [np.full((900, 1200, 3), 40 * number, np.uint8) for number in range(2)]


def text_of(ids: Sequence[int]) -> str:
    return str(PROCESSOR.tokenizer.decode([token for token in ids if token != PROCESSOR.special.image_pad]))


def test_typed_baseline_is_the_bare_question_behind_separate_pictures() -> None:
    example = baseline_example(PROCESSOR, FRAMES, None, "Is the scope moving?")
    assert text_of(example.ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + "<|vision_start|><|vision_end|>" * 2
        + "Is the scope moving?<|im_end|>\n<|im_start|>assistant\n"
    )
    # 768 px on the long side, 576 on the short one, in visual tokens of 28 px: 27 x 21
    assert example.ids.count(PROCESSOR.special.image_pad) == 2 * 27 * 21
    assert example.types.count(1) == 2 * 27 * 21
    assert example.mels == []


def test_spoken_baseline_puts_the_sound_first_and_says_one_sentence() -> None:
    example = baseline_example(PROCESSOR, FRAMES[:1], PROCESSOR.mel(tone(0.5)), None)
    assert "Answer the question based on the audio and images.<|im_end|>" in text_of(example.ids)
    assert example.ids.index(PROCESSOR.special.audio) < example.ids.index(PROCESSOR.special.image_pad)
    assert len(example.mels) == 1
    for mel, text in ((None, None), (PROCESSOR.mel(tone(0.5)), "both")):
        with pytest.raises(ConfigError, match="either a recording or a typed question"):
            baseline_example(PROCESSOR, FRAMES, mel, text)


def test_what_it_writes_is_greedy_text_of_at_most_so_many_tokens() -> None:
    engine = AnswerEngine(nano_graft(PROCESSOR), PROCESSOR, load_taxonomy(), name="tiny")
    small = tuple(frame[:56, :56] for frame in FRAMES)
    system = BaselineSystem("text-zeroshot (seed prompt)", engine, "text", tokens=3)
    query = Query("q", Clip(small, 1.0), text="Is the scope moving?")
    answer = system.predict([query])[0]
    example = baseline_example(PROCESSOR, small, None, "Is the scope moving?")
    ids, expected = list(example.ids), []
    pixels = torch.from_numpy(example.video.pixels)  # type: ignore[union-attr]
    grid = torch.tensor(example.video.grids)  # type: ignore[union-attr]
    for _ in range(3):
        types = torch.tensor([[*example.types, *[0] * len(expected)]])
        with torch.no_grad():
            logits = engine.model(
                torch.tensor([ids]), mm_token_type_ids=types, pixel_values=pixels, image_grid_thw=grid
            ).logits
        token = int(logits[0, -1].argmax())
        if token == PROCESSOR.special.im_end:
            break
        expected.append(token)
        ids.append(token)
    assert answer.answer == PROCESSOR.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert (answer.options, answer.question_type, answer.abstained) == ((), "", False)
    with pytest.raises(ConfigError, match="needs text"):
        system.predict([Query("q", Clip(small, 1.0))])
    with pytest.raises(ConfigError, match="for audio and for text only"):
        BaselineSystem("x", engine, "audio+text")


def test_another_transcriber_takes_the_place_of_our_own() -> None:
    engine = AnswerEngine(nano_graft(PROCESSOR), PROCESSOR, load_taxonomy(), name="tiny")
    clip = Clip(tuple(frame[:56, :56] for frame in FRAMES), 1.0)
    system = AsrSystem(engine, None, lambda wave: f"{len(wave)} samples")
    answer = system.predict([Query("q", clip, tone(0.5))])[0]
    assert answer.extra == {"transcript": "8000 samples"}
    typed = engine.open(clip.frames, 1.0).ask(text="8000 samples", mode="text")
    assert answer.log_probs == pytest.approx(typed.log_probs, abs=1e-5)


def test_faster_whisper_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtra, match=r"surgvivqa-audio\[asr\]"):
        FasterWhisper("tiny")

"""A pause around a question reaches no system: each hears what it would hear without."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation_omni import checkpoint
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

import surgvivqa_audio
from surgvivqa_audio.answering.base import Clip, Query, Wave
from surgvivqa_audio.answering.baseline import BaselineSystem
from surgvivqa_audio.answering.cascade import ASR_FOLDER, AsrSystem
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.omni import load_omni
from surgvivqa_audio.answering.systems import engine_system
from surgvivqa_audio.apps.cases import ClipView
from surgvivqa_audio.apps.visit import Visit
from surgvivqa_audio.model import encoder as encoder_module
from surgvivqa_audio.model.loading import save_decoder
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.speech.audio import wav_bytes
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone, whisper_config

MARGIN = np.zeros(1_600, np.float32)  # 0.1 s
PAUSE = np.zeros(32_000, np.float32)  # 2 s
SPOKEN = np.concatenate([MARGIN, tone(0.5), MARGIN])
RECORDED = np.concatenate([PAUSE, tone(0.5), PAUSE])
FRAMES = tuple(np.full((56, 56, 3), 60 * number, np.uint8) for number in range(2))
CLIP = Clip(FRAMES, 6.25)
PACKAGE = Path(surgvivqa_audio.__file__).parent

Asking = Callable[[Wave], object]


def tiny_engine(layout: str = "stream") -> AnswerEngine:
    ours = nano_processor()
    processor = AudioGraftProcessor(ours.feature_extractor, ours.tokenizer, max_side=64, layout=layout)
    return AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")


def heard_by(encoder: nn.Module, asking: Asking, wave: Wave) -> Tensor:
    """What enters the encoder's first convolution while a question is answered, (b, m, t).

    Ours multiplies with its weights; omni and the stock Whisper call it.
    """
    inputs: list[Tensor] = []
    product = encoder_module._convolve

    def keep(convolution: nn.Conv1d, frames: Tensor) -> Tensor:
        if convolution is encoder.conv1:
            inputs.append(frames.transpose(1, 2).clone())
        return product(convolution, frames)

    hook = encoder.conv1.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))  # type: ignore[union-attr, operator]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "_convolve", keep)
        try:
            asking(wave)
        finally:
            hook.remove()
    assert len(inputs) == 1
    return inputs[0]


def asking_system(system: Any) -> Asking:
    return lambda wave: system.predict([Query("q", CLIP, wave, "What is this?")])


def spoken_ways(tmp_path: Path) -> dict[str, tuple[nn.Module, Asking]]:
    """Every way to answer a recorded question, with the encoder it hears by."""
    engine, seed = tiny_engine(), tiny_engine("seed")
    save_decoder(WhisperForConditionalGeneration(whisper_config()), tmp_path / ASR_FOLDER)
    omni = load_omni(str(checkpoint(tmp_path / "omni")))
    clip, visit = engine.open(FRAMES, 6.25), Visit(engine)
    visit.show(ClipView("clip", "data", FRAMES, (0, 4), 6.25, {}))
    ours, theirs = engine.model.audio_encoder, seed.model.audio_encoder
    return {
        "ask": (ours, clip.ask),
        "jump": (ours, lambda wave: clip.ask(wave, method="jump")),
        "free text": (ours, lambda wave: clip.generate(wave, max_tokens=1)),
        "page": (ours, lambda wave: visit.ask("microphone", wave)),
        "audio": (ours, asking_system(engine_system("audio", engine, "audio"))),
        "audio+text": (ours, asking_system(engine_system("audio+text", engine, "audio+text"))),
        "noframes": (ours, asking_system(engine_system("noframes", engine, "audio", frames=False))),
        "asr": (ours, asking_system(AsrSystem(engine, tmp_path))),
        "seed prompt": (ours, asking_system(BaselineSystem("audio (seed prompt)", engine, "audio", 1))),
        "seed layout": (theirs, asking_system(engine_system("audio", seed, "audio"))),
        "omni": (omni.model.model.audio_tower, asking_system(omni)),
    }


def test_every_system_hears_the_same_with_and_without_pauses(tmp_path: Path) -> None:
    frames = {"seed layout": 3_000, "omni": 70}
    for name, (encoder, asking) in spoken_ways(tmp_path).items():
        plain, paused = (heard_by(encoder, asking, wave) for wave in (SPOKEN, RECORDED))
        assert torch.equal(plain, paused), name
        assert plain.shape[-1] == frames.get(name, 70), name  # 0.7 s


def test_another_transcriber_and_the_kept_recording_get_the_cut_sound() -> None:
    engine = tiny_engine()
    asked = AsrSystem(engine, None, lambda wave: f"{wave.size} samples").predict([Query("q", CLIP, RECORDED)])
    assert asked[0].extra == {"transcript": "11200 samples"}
    visit = Visit(engine)
    visit.keep_recordings = True
    visit.show(ClipView("clip", "data", FRAMES, (0, 4), 6.25, {}))
    assert visit.ask("microphone", RECORDED).recording == wav_bytes(SPOKEN)


def test_what_holds_no_speech_is_not_cut() -> None:
    for size in (0, 100, 16_000):
        assert listen(np.zeros(size, np.float32)).size == size


def test_sound_is_cut_in_one_place() -> None:
    """Above ``speech/`` only ``hearing.py`` cuts, and no other file of ``answering/`` may forget it."""
    others = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "speech"]
    assert [path.name for path in others if "trim_silence" in path.read_text("utf-8")] == ["hearing.py"]
    bare = [
        path.name
        for path in (PACKAGE / "answering").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "mel"
        and "listen" not in ast.unparse(node)
    ]
    assert bare == ["cascade.py"]  # the transcriber's own ear: `predict` hands it what `listen` returned


def test_pauses_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second cut would start from another noise floor."""
    calls: list[int] = []
    from surgvivqa_audio.answering import hearing

    trim = hearing.trim_silence
    monkeypatch.setattr(hearing, "trim_silence", lambda wave: calls.append(wave.size) or trim(wave))
    tiny_engine().open(FRAMES, 6.25).ask(RECORDED)
    assert calls == [72_000]

"""The baseline that transcribes first: our Whisper writes, then the text is asked about the same clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from transformers import WhisperForConditionalGeneration

from surgvivqa_audio.answering.base import Answer, Query, Wave
from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.prefix import model_digest
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.loading import load_whisper
from surgvivqa_audio.processing.transcribe import transcribe

ASR_FOLDER = "asr"


class AsrSystem:
    """Speech -> text -> answer, with the transcript kept in ``Answer.extra``.

    ``hear`` replaces our own Whisper by another transcriber.
    """

    name = "asr"
    needs = frozenset({"audio", "frames"})

    def __init__(
        self, engine: AnswerEngine, model_dir: Path | None, hear: Callable[[Wave], str] | None = None
    ) -> None:
        self.engine, self.facts = engine, engine.facts
        if hear is not None:
            self.hear = hear
            return
        folder = (default_model_dir() if model_dir is None else model_dir) / ASR_FOLDER
        if not folder.is_dir():
            raise ModelError(f"{folder}: no Whisper decoder beside the model; the ASR baseline needs one")
        encoder = engine.model.audio_encoder
        self.whisper: WhisperForConditionalGeneration = load_whisper(folder, encoder).to(
            engine.device, encoder.conv1.weight.dtype
        )
        self.facts["transcriber"] = model_digest(self.whisper)
        self.hear = self._own

    def _own(self, wave: Wave) -> str:
        mel = self.engine.processor.mel(wave)
        return transcribe(self.whisper, self.engine.processor.tokenizer, [mel])[0]

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order; the transcription counts as ``audio`` time."""
        answers = []
        for query in queries:
            if query.audio is None:
                raise ConfigError(f"{query.key}: the ASR system needs audio")
            opened = self.engine.open(query.clip.frames, query.clip.fps)
            start = perf_counter()
            text = self.hear(listen(query.audio))
            spent = (perf_counter() - start) * 1e3
            answer = opened.ask(text=text, mode="text")
            times = dict(answer.timings_ms)
            times["audio"] = round(times["audio"] + spent, 3)
            times["total"] = round(times["total"] + spent, 3)
            answers.append(replace(answer, timings_ms=times, extra={"transcript": text}))
        return answers

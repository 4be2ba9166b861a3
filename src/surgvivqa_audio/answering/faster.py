"""faster-whisper as the transcriber of the ASR baseline: an extra, for a baseline nobody can call slow."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.errors import MissingExtra


class FasterWhisper:
    """A CTranslate2 Whisper, greedy and English.

    Args:
        source: folder of a converted model, or a name that faster-whisper knows.

    Raises:
        MissingExtra: faster-whisper is not installed.
    """

    def __init__(self, source: str) -> None:
        try:
            library: Any = import_module("faster_whisper")
        except ImportError as error:
            raise MissingExtra(
                "faster-whisper is not installed: `pip install 'surgvivqa-audio[asr]'`"
            ) from error
        self.model: Any = library.WhisperModel(source)

    def __call__(self, wave: Wave) -> str:
        """Transcript of a mono 16 kHz waveform."""
        segments, _ = self.model.transcribe(wave, language="en", beam_size=1)
        return " ".join(segment.text.strip() for segment in segments)

"""What all visitors of one server share: the model and the built-in voice. Loaded once, on first use."""

from __future__ import annotations

import threading
from functools import lru_cache

from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.speech.audio import Wave
from surgvivqa_audio.speech.engine import EspeakEngine
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.speech.voices import Voice

_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _engine(folder: str) -> AnswerEngine:
    return load_engine(folder or None)


@lru_cache(maxsize=1)
def _voice() -> EspeakEngine:
    return EspeakEngine()


def engine(folder: str) -> AnswerEngine:
    """The one model of this server; empty is the nano model. Two first visitors load it once.

    Raises:
        ModelError: the folder is not a complete checkpoint.
    """
    with _LOADING:
        return _engine(folder)


def speak(text: str, voice: Voice) -> Wave:
    """A question spoken by the built-in voice: float32 (samples,) mono 16 kHz.

    Raises:
        SpeechError: espeak-ng is missing or failed.
    """
    with _LOADING:
        engine = _voice()
    return engine.synthesize(speakable(text), voice)

"""Where the spoken question of a row comes from: a recording, or espeak-ng for other voices and wordings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.controls import Wave, generator
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE
from surgvivqa_audio.speech.audio import read_audio
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, SpeechEngine, Voice
from surgvivqa_audio.speech.make import find_recording
from surgvivqa_audio.speech.phrasing import PhrasingSplit, phrasing_bank
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import Taxonomy


class Speaker:
    """Gives the waveform, or the typed wording, of a question in one of its variants.

    ``default`` is the recording of the row, or without a folder of recordings a training voice of the
    engine. ``voice`` is a held-out voice saying the same words, ``phrasing`` a held-out wording in a
    training voice, ``swap`` a recording like any other. Out-of-scope questions are always in a held-out
    voice. The choice is fixed by ``seed`` and key.
    """

    def __init__(
        self, taxonomy: Taxonomy, engine: SpeechEngine, recordings: Path | None, seed: int = 42
    ) -> None:
        self.engine = engine
        self.recordings = recordings
        self.seed = seed
        self._bank: dict[str, PhrasingSplit] = phrasing_bank(taxonomy)
        self._say = lru_cache(maxsize=512)(engine.synthesize)
        self._read = lru_cache(maxsize=512)(read_audio)

    def speak(self, sample: Sample, variant: str) -> Wave:
        """Mono 16 kHz waveform.

        Raises:
            MissingAudio: no recording of this row in the folder.
            BadAudio: the recording cannot be used.
            SpeechError: the engine failed.
        """
        if variant in ("default", "swap") and self.recordings is not None:
            return self._read(find_recording(self.recordings, sample))
        unseen = variant == "voice" or sample.question_type == OUT_OF_SCOPE
        voices = HELD_OUT_VOICES if unseen else VOICES
        return self._say(speakable(self.wording(sample, variant)), self._voice(sample, voices))

    def wording(self, sample: Sample, variant: str) -> str:
        """The words of the question: its own, or a held-out wording of its type.

        Raises:
            ConfigError: the taxonomy has no held-out wording for the type.
        """
        if variant != "phrasing" or sample.question_type not in self._bank:
            return sample.question
        held_out = self._bank[sample.question_type].held_out
        if not held_out:
            raise ConfigError(f"question type {sample.question_type} has no held-out wording in the taxonomy")
        return held_out[int(generator(self.seed, "phrasing", sample.key).integers(len(held_out)))]

    def _voice(self, sample: Sample, voices: tuple[Voice, ...]) -> Voice:
        return voices[int(generator(self.seed, "voice", sample.key).integers(len(voices)))]

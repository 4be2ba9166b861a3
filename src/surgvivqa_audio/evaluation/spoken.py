"""Where the spoken question of a row comes from: a recording, or espeak-ng for other voices and wordings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError, MissingAudio
from surgvivqa_audio.evaluation.controls import Wave, generator
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE
from surgvivqa_audio.speech.audio import read_audio
from surgvivqa_audio.speech.cache import MANIFEST, SpeechCache
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, SpeechEngine, Voice
from surgvivqa_audio.speech.make import find_recording
from surgvivqa_audio.speech.phrasing import PhrasingSplit, phrasing_bank
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import Taxonomy


class Speaker:
    """Gives the waveform, or the typed wording, of a question in one of its variants.

    ``default`` is the recording of the row, or without a folder of recordings a training voice of the
    engine. ``voice`` is another held-out voice saying the same words, ``phrasing`` another held-out wording
    in the voice of the recording where espeak-ng spoke it, else in a training voice, ``swap`` a recording
    like any other. Out-of-scope questions are always in a held-out voice. The choice is fixed by ``seed`` and
    key; with a ``cache`` nothing is synthesised twice.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        engine: SpeechEngine,
        recordings: Path | None,
        seed: int = 42,
        cache: SpeechCache | None = None,
    ) -> None:
        self.engine = engine
        self.recordings = recordings
        self.seed = seed
        self.cache = cache
        self._bank: dict[str, PhrasingSplit] = phrasing_bank(taxonomy)
        self._say = lru_cache(maxsize=512)(self._synthesise)
        self._read = lru_cache(maxsize=512)(read_audio)
        self._manifest = {} if recordings is None else _read_manifest(recordings)

    def speak(self, sample: Sample, variant: str) -> Wave:
        """Mono 16 kHz waveform.

        Raises:
            MissingAudio: no recording of this row in the folder.
            BadAudio: the recording cannot be used.
            SpeechError: the engine failed.
        """
        if variant in ("default", "swap") and self.recordings is not None:
            return self._read(find_recording(self.recordings, sample))
        recorded = self._recorded(sample)
        unseen = variant == "voice" or sample.question_type == OUT_OF_SCOPE
        voices = HELD_OUT_VOICES if unseen else VOICES
        if recorded is not None and recorded["engine"] == self.engine.name:
            own = Voice(recorded["voice"], recorded["rate"], recorded["pitch"])
            voices = tuple(voice for voice in voices if voice.name != own.name) if unseen else (own,)
        return self._say(self.wording(sample, variant), self._voice(sample, voices))

    def wording(self, sample: Sample, variant: str) -> str:
        """The words of the question: those of its recording, else its own, or another held-out wording.

        Raises:
            ConfigError: the taxonomy has no held-out wording for the type.
        """
        recorded = self._recorded(sample)
        words = sample.question if recorded is None else str(recorded["text"])
        if variant != "phrasing" or sample.question_type not in self._bank:
            return words
        held_out = [text for text in self._bank[sample.question_type].held_out if text != words]
        if not held_out:
            raise ConfigError(f"question type {sample.question_type} has no held-out wording in the taxonomy")
        return held_out[int(generator(self.seed, "phrasing", sample.key).integers(len(held_out)))]

    def _recorded(self, sample: Sample) -> dict[str, Any] | None:
        """The manifest's row of this question's recording, if the folder has one."""
        if self.recordings is None or not self._manifest:
            return None
        try:
            return self._manifest.get(find_recording(self.recordings, sample).name)
        except MissingAudio:
            return None  # a row that is spoken fails with this error; a typed one has its own words

    def _synthesise(self, text: str, voice: Voice) -> Wave:
        if self.cache is not None:
            return read_audio(self.cache.get(text, voice))
        return self.engine.synthesize(speakable(text), voice)

    def _voice(self, sample: Sample, voices: tuple[Voice, ...]) -> Voice:
        return voices[int(generator(self.seed, "voice", sample.key).integers(len(voices)))]


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    return {Path(row["file"]).name: row for _, row in read_jsonl(path)} if path.is_file() else {}

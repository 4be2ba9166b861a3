"""Rows of a DATA folder as training examples: frames, recording, prompt, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from torch.utils.data import Dataset

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.data.folder import video_table
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.errors import ConfigError, MissingAudio, MissingFrame
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Spoken
from surgvivqa_audio.processing.prompts import INSTRUCTION, TRANSCRIBE
from surgvivqa_audio.sample import FrameStore, Image, Sample, clips, read_clip, read_samples
from surgvivqa_audio.speech.audio import read_audio
from surgvivqa_audio.speech.make import find_recording
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.vqa_recipe import DataKeys

_ASSUMED_FPS = 25.0  # of a folder without video_info.csv; five of the six annotated procedures have it
_SHOWN = 5  # missing media named in an error


class Media:
    """Frames, rate and recordings of a DATA folder, as a recipe's data section names them."""

    def __init__(self, keys: DataKeys, *, frames: bool = True) -> None:
        self.keys = keys
        self.speech = keys.path(keys.speech)
        self.store: FrameStore | None = open_store(keys.path(keys.frames)) if frames else None
        self.rates = {name: info.fps for name, info in video_table(keys.folder).items()}

    def frames(self, sample: Sample) -> list[Image]:
        """RGB frames in order. Raises MissingFrame, BadImage."""
        if self.store is None:
            raise ConfigError(f"{sample.key}: this run looks at no frames")
        return read_clip(self.store, sample)

    def rate(self, sample: Sample) -> float:
        """Frames per second of the clip: the rate of its procedure over the stride of its frames."""
        numbers = sample.frame_numbers
        stride = (numbers[-1] - numbers[0]) / (len(numbers) - 1) if len(numbers) > 1 else 1.0
        return self.rates.get(sample.video_id, _ASSUMED_FPS) / max(stride, 1.0)

    def wave(self, sample: Sample) -> Wave | None:
        """The recording, None in mode ``text``. Raises MissingAudio, BadAudio."""
        if "audio" not in self.keys.mode:
            return None
        return read_audio(find_recording(self.speech, sample, self.keys.variant))

    def check(self, samples: Sequence[Sample]) -> None:
        """Look for every frame and recording before the first step.

        Raises:
            MissingFrame: names the first that are absent.
            MissingAudio: names the first rows without a recording.
        """
        wanted = {(row.video_id, number): row.key for row in samples for number in row.frame_numbers}
        if self.store is not None:
            lost = [
                f"{video}/{n} ({key})" for (video, n), key in wanted.items() if not self.store.has(video, n)
            ]
            if lost:
                raise MissingFrame(
                    f"{self.keys.path(self.keys.frames)}: {len(lost)} frames are missing, first "
                    f"{', '.join(lost[:_SHOWN])}; run `surgvivqa data fetch frames`"
                )
        if "audio" not in self.keys.mode:
            return
        silent = []
        for row in samples:
            try:
                find_recording(self.speech, row, self.keys.variant)
            except MissingAudio as error:
                silent.append(str(error))
        if silent:
            raise MissingAudio(f"{len(silent)} rows have no recording; first: {silent[0]}")


@dataclass(frozen=True)
class Row:
    """What the dataset gives: an example and the keys of its questions."""

    example: Example
    keys: tuple[str, ...]


class VqaRows(Dataset[Row]):
    """One row per question, or per up to ``pack`` questions of a clip. Row ``i`` is always the same."""

    def __init__(self, samples: Sequence[Sample], media: Media, processor: AudioGraftProcessor) -> None:
        self.samples, self.media, self.processor = list(samples), media, processor
        keys = media.keys
        self.instruction = TRANSCRIBE if keys.target == "transcript" else INSTRUCTION
        self.groups = [[sample] for sample in self.samples]
        if keys.pack > 1:
            self.groups = [
                rows[first : first + keys.pack]
                for rows in clips(self.samples).values()
                for first in range(0, len(rows), keys.pack)
            ]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Row:
        group = self.groups[index]
        clip = None
        if self.media.store is not None:
            clip = self.processor.clip(self.media.frames(group[0]), self.media.rate(group[0]))
        example = self.processor.encode(clip, [self._question(row) for row in group], self.instruction)
        return Row(example, tuple(row.key for row in group))

    def lengths(self) -> list[int]:
        """How long every row is, in log-mel frames of its recordings: enough to put similar ones together."""
        keys = self.media.keys
        if "audio" not in keys.mode:
            return [sum(len(row.question) for row in group) for group in self.groups]
        files = [
            [find_recording(self.media.speech, row, keys.variant) for row in group] for group in self.groups
        ]
        return [sum(round(soundfile.info(path).duration * 100) for path in group) for group in files]

    def _question(self, sample: Sample) -> Spoken:
        wave = self.media.wave(sample)
        answer = sample.question if self.media.keys.target == "transcript" else sample.answer
        mel = None if wave is None else self.processor.mel(wave)
        return Spoken(self.media.keys.mode, mel, sample.question, answer)


@dataclass(frozen=True)
class Collator:
    """Rows -> one padded batch with the ``keys`` of its rows and the number of its ``tokens``."""

    pad_id: int
    packed: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        examples = [row.example for row in rows]
        batch: dict[str, Any] = collate(examples, self.pad_id, packed=self.packed)
        batch["keys"] = [key for row in rows for key in row.keys]
        batch["tokens"] = sum(len(example.ids) for example in examples)
        return batch


def recipe_samples(keys: DataKeys, taxonomy: Taxonomy) -> tuple[list[Sample], list[Sample], list[Path]]:
    """Training and eval rows of a recipe and the files they came from.

    Raises:
        BadAnnotation: a file is missing or breaks the schema.
        ConfigError: a row is in both files.
    """
    paths = [keys.path(keys.train), keys.path(keys.eval)]
    train, held = (read_samples(path, taxonomy) for path in paths)
    shared = {row.key for row in train} & {row.key for row in held}
    if shared:
        raise ConfigError(
            f"{paths[1]}: {len(shared)} rows are training rows too, first {min(shared)}; split again"
        )
    return train[: keys.limit or None], held[: keys.eval_limit or None], paths

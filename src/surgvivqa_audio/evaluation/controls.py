"""Controls: the same questions with one thing taken away or exchanged.

A control never touches the gold answer of a row. It decides whose question is spoken, how it sounds and
which pictures are shown; the row records all three, so that the report can say what followed what.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Image, Sample

Wave = NDArray[np.float32]
AddNoise = Callable[[Wave, str, float, np.random.Generator], Wave]

AUDIO_CONTROLS = (
    "silence", "swap-within", "swap-across", "voice", "phrasing",
    "noise-20", "noise-10", "noise-5", "noise-0",
)  # fmt: skip
FRAME_CONTROLS = ("blank", "frozen", "shuffle", "reverse", "other-clip")
CONTROLS = AUDIO_CONTROLS + FRAME_CONTROLS
NOISE_KINDS = ("hum", "suction", "beeps", "babble")


@dataclass(frozen=True)
class Plan:
    """Whose question is asked, whose clip is shown, and in which variant the question is spoken."""

    asked: Sample
    seen: Sample
    variant: str = "default"


def check_control(control: str | None) -> None:
    """Refuse an unknown control.

    Raises:
        ConfigError: names the controls that exist.
    """
    if control is not None and control not in CONTROLS:
        raise ConfigError(f"unknown control '{control}'; known: {', '.join(CONTROLS)}")


def generator(seed: int, *parts: object) -> np.random.Generator:
    """A generator fixed by seed and name, independent of order, shard and resume."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, parts)).encode())])


def clip_name(sample: Sample) -> str:
    """Video and first frame: the clip a sample asks about."""
    return f"{sample.video_id}/{sample.first_frame}"


class Planner:
    """Chooses partners for swapped questions and clips from the whole file, fixed by ``seed``."""

    def __init__(self, control: str | None, samples: Sequence[Sample], seed: int) -> None:
        check_control(control)
        self.control = control
        self.seed = seed
        self._by_type: dict[str, list[Sample]] = {}
        self._by_clip: dict[str, list[Sample]] = {}
        self._first: dict[str, Sample] = {}
        for sample in samples:
            self._by_type.setdefault(sample.question_type, []).append(sample)
            self._by_clip.setdefault(clip_name(sample), []).append(sample)
            self._first.setdefault(clip_name(sample), sample)

    def plan(self, sample: Sample) -> Plan:
        """What is asked and shown for one row.

        Raises:
            ConfigError: the file holds no partner for the swap; the message says what is missing.
        """
        if self.control == "swap-within":
            partners = [one for one in self._by_type[sample.question_type] if one.key != sample.key]
            return Plan(self._choose(sample, partners, "another row of its type"), sample, "swap")
        if self.control == "swap-across":
            same_clip = self._by_clip[clip_name(sample)]
            partners = [one for one in same_clip if one.question_type != sample.question_type]
            if not partners:
                partners = [rows[0] for kind, rows in self._by_type.items() if kind != sample.question_type]
            return Plan(self._choose(sample, partners, "a row of another type"), sample)
        if self.control == "other-clip":
            return Plan(sample, self._other_clip(sample))
        if self.control in ("voice", "phrasing"):
            return Plan(sample, sample, self.control)
        return Plan(sample, sample)

    def _choose(self, sample: Sample, partners: list[Sample], what: str) -> Sample:
        if not partners:
            raise ConfigError(f"control {self.control}: {sample.key} has no partner ({what}) in this file")
        return partners[int(generator(self.seed, self.control, sample.key).integers(len(partners)))]

    def _other_clip(self, sample: Sample) -> Sample:
        """Another clip, of another video where there is one; the same for all questions of a clip."""
        others = [one for one in self._first.values() if one.video_id != sample.video_id]
        if not others:
            others = [one for name, one in self._first.items() if name != clip_name(sample)]
        if not others:
            raise ConfigError(f"control other-clip: {sample.key} is the only clip of this file")
        return others[int(generator(self.seed, "other-clip", clip_name(sample)).integers(len(others)))]


def change_frames(
    control: str | None, frames: Sequence[Image], rng: np.random.Generator
) -> tuple[Image, ...]:
    """Apply a frame control to frames of shape (h, w, 3); other controls leave them alone.

    ``blank`` is mid-grey, ``frozen`` repeats the first frame, ``shuffle`` is never the identity.
    """
    if control == "blank":
        return tuple(np.full_like(frame, 128) for frame in frames)
    if control == "frozen":
        return tuple(frames[0] for _ in frames)
    if control == "reverse":
        return tuple(reversed(frames))
    if control == "shuffle" and len(frames) > 1:
        order = rng.permutation(len(frames))
        if (order == np.arange(len(frames))).all():
            order = np.roll(order, 1)
        return tuple(frames[at] for at in order)
    return tuple(frames)


def change_audio(
    control: str | None, wave: Wave, rng: np.random.Generator, add_noise: AddNoise | None
) -> Wave:
    """Apply an audio control to a mono 16 kHz waveform; other controls leave it alone.

    Raises:
        ConfigError: a noise control without a noise function.
    """
    if control == "silence":
        return np.zeros_like(wave)
    if control is not None and control.startswith("noise-"):
        if add_noise is None:
            raise ConfigError(f"control {control} needs a noise function")
        kind = NOISE_KINDS[int(rng.integers(len(NOISE_KINDS)))]
        return add_noise(wave, kind, float(control.removeprefix("noise-")), rng)
    return wave


def change_text(control: str | None, text: str) -> str:
    """A typed question under an audio control: silence is an empty line, noise does not apply.

    Raises:
        ConfigError: the control changes only sound.
    """
    if control == "silence":
        return ""
    if control is not None and (control == "voice" or control.startswith("noise-")):
        raise ConfigError(f"control {control} changes only sound, but this system reads typed text")
    return text

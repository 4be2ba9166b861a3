"""Sample -> token ids, patches and log-mels. Training, evaluation, the demo and the engine call this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import ProcessorMixin

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.config import LAYOUTS
from surgvivqa_audio.model.encoder import audio_token_count
from surgvivqa_audio.model.families import get_family
from surgvivqa_audio.model.families.base import CLIP_MEAN, CLIP_STD
from surgvivqa_audio.model.graft import IGNORE
from surgvivqa_audio.processing.features import log_mel
from surgvivqa_audio.processing.prompts import INSTRUCTION, SYSTEM, QuestionMode, special_tokens
from surgvivqa_audio.processing.seed import ImageInputs, pad_to_limit, seed_images, seed_prompt_ids
from surgvivqa_audio.processing.video import Geometry, VideoInputs, video_inputs
from surgvivqa_audio.sample import Image

Mel = NDArray[np.float32]
ClipInputs = VideoInputs | ImageInputs
_IMAGE_TYPE, _VIDEO_TYPE = 1, 2  # transformers' mm_token_type_ids; 0 is text, and our audio


@dataclass(frozen=True)
class Spoken:
    """One question in the form a mode needs, with its answer when training."""

    mode: QuestionMode
    mel: Mel | None = None
    text: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if "audio" in self.mode and self.mel is None:
            raise ConfigError(f"question mode '{self.mode}' needs audio")
        if "text" in self.mode and self.text is None:
            raise ConfigError(f"question mode '{self.mode}' needs the typed question")


@dataclass
class Example:
    """One row of model inputs, not yet padded. ``segments``: 0 prefix, 1, 2, … the questions."""

    ids: list[int]
    labels: list[int]
    segments: list[int]
    types: list[int]
    video: ClipInputs | None
    mels: list[Mel] = field(default_factory=list)


class AudioGraftProcessor(ProcessorMixin):  # type: ignore[misc]
    """The only place that knows prompts, special tokens and lengths.

    ``family`` is the vision-language model's type. ``layout`` is ``stream``, or ``seed`` for the
    predecessor's checkpoints, which fix ``audio_token_id``; see ``processing/seed.py``. ``audio_length``
    (``natural`` or ``30s``) and ``pathway`` (``video`` or ``images``) are what the layout implies when empty.
    """

    # No keyword-only marker here: ProcessorMixin.from_pretrained drops keyword-only arguments silently.
    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        patch: int = 14,
        merge: int = 2,
        temporal: int = 2,
        max_side: int = 384,
        stack: int = 4,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        family: str = "qwen2_vl",
        layout: str = "stream",
        audio_token_id: int | None = None,
        audio_length: str = "",
        pathway: str = "",
        **kwargs: Any,
    ) -> None:
        if layout not in LAYOUTS:
            raise ConfigError(f"layout '{layout}' is unknown; use one of {', '.join(LAYOUTS)}")
        self.audio_length = audio_length or ("30s" if layout == "seed" else "natural")
        self.pathway = pathway or ("images" if layout == "seed" else "video")
        if self.audio_length not in ("natural", "30s") or self.pathway not in ("video", "images"):
            raise ConfigError(
                f"audio_length '{self.audio_length}' and pathway '{self.pathway}' are unknown; "
                "use natural or 30s, and video or images"
            )
        if (layout, self.pathway) == ("stream", "images"):
            raise ConfigError("separate images exist in the seed layout only; use pathway 'video'")
        get_family(family)
        self.family, self.layout, self.audio_token_id = family, layout, audio_token_id
        self.patch, self.merge, self.temporal = patch, merge, temporal
        self.max_side, self.stack = max_side, stack
        self.mean, self.std = list(mean), list(std)
        super().__init__(feature_extractor, tokenizer, **kwargs)
        self.special = special_tokens(tokenizer, audio_token_id)

    def to_dict(self) -> dict[str, Any]:
        """What is saved: without the ids, which are read from the tokenizer again."""
        fields: dict[str, Any] = super().to_dict()
        fields.pop("special", None)
        return fields

    @property
    def geometry(self) -> Geometry:
        """Size and patch arithmetic of the frames."""
        mean, std = tuple(self.mean), tuple(self.std)
        return Geometry(self.patch, self.merge, self.temporal, self.max_side, mean, std)  # type: ignore[arg-type]

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; a special token written in it stays text."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def clip(self, frames: Sequence[Image], fps: float) -> ClipInputs:
        """Frames (f of (h, w, 3)) at ``fps`` -> patches and grid. Raises BadImage."""
        if self.pathway == "images":
            return seed_images(frames, self.geometry)
        return video_inputs(frames, fps, self.geometry)

    def mel(self, wave: NDArray[np.float32]) -> Mel:
        """Mono 16 kHz -> log-mel (m, t) at the true length, or padded to 30 s. Raises BadAudio."""
        if self.audio_length == "30s":
            wave = pad_to_limit(wave)
        return log_mel(self.feature_extractor, wave)

    def prefix_ids(self, video: ClipInputs | None, instruction: str = INSTRUCTION) -> list[int]:
        """[system][video][instruction]: what is known before the question.

        Raises:
            ConfigError: the seed layout, where nothing is known before the audio.
        """
        if self.layout == "seed" or isinstance(video, ImageInputs):
            raise ConfigError(
                "the seed layout puts audio first; no part of it can be prepared before a question"
            )
        special = self.special
        ids = [special.im_start, *self.text_ids(f"system\n{SYSTEM}"), special.im_end, *self.text_ids("\n")]
        ids += [special.im_start, *self.text_ids("user\n")]
        return ids + self._visual_ids(video) + self.text_ids(instruction)

    def _visual_ids(self, clip: ClipInputs | None) -> list[int]:
        """Placeholders between their marks: one run per picture, or what the family writes for a video."""
        special = self.special
        if clip is None:
            return []
        if isinstance(clip, ImageInputs):
            pad, runs = special.image_pad, [("", grid[1] * grid[2] // self.merge**2) for grid in clip.grids]
        else:
            tokens = clip.grid[1] * clip.grid[2] // self.merge**2
            pad, runs = special.video_pad, get_family(self.family).clip_runs(clip.stamps, tokens)
        ids: list[int] = []
        for stamp, count in runs:
            ids += self.text_ids(stamp) if stamp else []
            ids += [special.vision_start, *[pad] * count, special.vision_end]
        return ids

    def question_ids(self, question: Spoken) -> list[int]:
        """[question][assistant]: in ``audio`` mode no character of the question is looked at."""
        special = self.special
        ids: list[int] = []
        if question.mel is not None and "audio" in question.mode:
            count = audio_token_count(question.mel.shape[-1], self.stack)
            ids += [special.audio_bos, *[special.audio] * count, special.audio_eos]
        if question.text is not None and "text" in question.mode:
            ids += self.text_ids(question.text)
        ids += [special.im_end, *self.text_ids("\n"), special.im_start, *self.text_ids("assistant\n")]
        return ids

    def answer_ids(self, sentence: str) -> list[int]:
        """The sentence and the end token: exactly what is supervised."""
        return [*self.text_ids(sentence), self.special.im_end]

    def encode(
        self, video: ClipInputs | None, questions: Sequence[Spoken], instruction: str = INSTRUCTION
    ) -> Example:
        """One clip and one or more questions about it -> one row.

        A question without ``answer`` ends at the assistant header, ready to be answered. The seed layout has
        its own instruction.

        Raises:
            ConfigError: the seed layout with anything but one question.
        """
        if self.layout == "seed":
            return self._encode_seed(video, questions)
        ids = self.prefix_ids(video, instruction)
        labels, segments = [IGNORE] * len(ids), [0] * len(ids)
        mels: list[Mel] = []
        for number, question in enumerate(questions, start=1):
            asked = self.question_ids(question)
            answer = [] if question.answer is None else self.answer_ids(question.answer)
            ids += asked + answer
            labels += [IGNORE] * len(asked) + answer
            segments += [number] * (len(asked) + len(answer))
            if question.mel is not None and "audio" in question.mode:
                mels.append(question.mel)
        types = [_VIDEO_TYPE if token == self.special.video_pad else 0 for token in ids]
        return Example(ids, labels, segments, types, video, mels)

    def _encode_seed(self, clip: ClipInputs | None, questions: Sequence[Spoken]) -> Example:
        if len(questions) != 1:
            raise ConfigError("the seed layout takes one question a row")
        question = questions[0]
        audio = 0 if question.mel is None else audio_token_count(question.mel.shape[-1], self.stack)
        visual = self._visual_ids(clip)
        ids = seed_prompt_ids(self.tokenizer, self.special, visual, question.mode, question.text, audio)
        answer = [] if question.answer is None else self.answer_ids(question.answer)
        labels = [IGNORE] * len(ids) + answer
        ids += answer
        marks = {self.special.image_pad: _IMAGE_TYPE, self.special.video_pad: _VIDEO_TYPE}
        types = [marks.get(token, 0) for token in ids]
        mels = [] if question.mel is None else [question.mel]
        return Example(ids, labels, [0] * len(ids), types, clip, mels)

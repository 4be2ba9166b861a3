"""The predecessor's input, token for token: audio first, 30 s of it, eight separate pictures.

Kept so that its checkpoints load and so that we can be measured against it. Source of the layout: the public
repositories SurgViVQA-Audio and Qwen2-VL-Audio-Adapter of kulsoom-abdullah.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from surgvivqa_audio.errors import BadAudio, BadImage, ConfigError
from surgvivqa_audio.processing.features import MAX_SECONDS, SAMPLE_RATE
from surgvivqa_audio.processing.prompts import QuestionMode, SpecialTokens
from surgvivqa_audio.processing.video import Geometry, video_inputs
from surgvivqa_audio.sample import Image

SEED_SYSTEM = "You are a helpful assistant."
SEED_INSTRUCTION = "Answer the question concisely based on the visual and audio evidence."
SEED_TRANSCRIBE = "Transcribe this audio."


@dataclass(frozen=True)
class ImageInputs:
    """``pixels`` float32 (patches, channels * temporal * patch * patch); ``grids``: (1, h, w) of each."""

    pixels: NDArray[np.float32]
    grids: tuple[tuple[int, int, int], ...]


def thumbnail(frame: Image, max_side: int) -> Image:
    """Shrink a picture so that neither side exceeds ``max_side``; a smaller one is returned as it is."""
    if max(frame.shape[:2]) <= max_side:
        return frame
    picture = PIL.Image.fromarray(frame)
    picture.thumbnail((max_side, max_side))
    return np.asarray(picture)


def seed_images(frames: Sequence[Image], geometry: Geometry) -> ImageInputs:
    """Frames -> separate pictures: thumbnail, then whole visual tokens, each picture doubled in time.

    Raises:
        BadImage: no frame.
    """
    if not frames:
        raise BadImage("a clip needs at least one frame")
    single = [video_inputs([thumbnail(frame, geometry.max_side)], 1.0, geometry) for frame in frames]
    return ImageInputs(np.concatenate([one.pixels for one in single]), tuple(one.grid for one in single))


def pad_to_limit(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Silence up to 30 s behind a recording. Raises BadAudio when it is empty or longer."""
    limit = MAX_SECONDS * SAMPLE_RATE
    if not 0 < wave.size <= limit:
        raise BadAudio(
            f"the recording lasts {wave.size / SAMPLE_RATE:.2f} s; between one sample and {MAX_SECONDS} s"
            " are needed"
        )
    return np.pad(wave, (0, limit - wave.size))


def seed_prompt_ids(
    tokenizer: Any,
    special: SpecialTokens,
    visual: Sequence[int],
    mode: QuestionMode,
    text: str | None,
    audio_tokens: int,
) -> list[int]:
    """Everything before the answer.

    The predecessor cuts as many tokens off the chat template as its audio header has before the audio, so
    the system text and a second user header stand behind the sound. This is kept.

    Args:
        tokenizer: of the checkpoint; where it does not know ``<|audio_bos|>``, the mark is plain text, as
            it was for the predecessor.
        special: ids of the special tokens.
        visual: ids of the clip, placeholders and marks.
        mode: ``audio+text`` is the published one; ``audio`` leaves the typed question out.
        text: the typed question.
        audio_tokens: placeholders; the predecessor has 1,500 for its 30 s.

    Raises:
        ConfigError: mode ``text``, which this layout does not have.
    """
    if "audio" not in mode:
        raise ConfigError("the seed layout always holds audio; use mode 'audio' or 'audio+text'")

    def marked(piece: str) -> list[int]:
        return list(tokenizer(piece, add_special_tokens=False)["input_ids"])

    header = "<|im_start|>user\n"
    ids = marked(f"{header}<|audio_bos|>") + [special.audio] * audio_tokens + marked("<|audio_eos|>\n")
    template = f"<|im_start|>system\n{SEED_SYSTEM}<|im_end|>\n<|im_start|>user\n"
    ids += marked(template)[len(marked(header)) :]
    ids += visual
    typed = f"User Question: {text}\n{SEED_INSTRUCTION}" if mode == "audio+text" else SEED_INSTRUCTION
    ids += tokenizer(typed, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + marked("<|im_end|>\n<|im_start|>assistant\n")


def seed_transcription_ids(tokenizer: Any, special: SpecialTokens, audio_tokens: int) -> list[int]:
    """The request that the predecessor's base checkpoint answers with a transcript: sound, one line."""

    def marked(piece: str) -> list[int]:
        return list(tokenizer(piece, add_special_tokens=False)["input_ids"])

    ids = marked("<|im_start|>user\n<|audio_bos|>") + [special.audio] * audio_tokens
    return ids + marked(f"<|audio_eos|>\n{SEED_TRANSCRIBE}<|im_end|>\n<|im_start|>assistant\n")

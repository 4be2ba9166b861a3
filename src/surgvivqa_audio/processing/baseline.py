"""The predecessor's baselines, prompt for prompt: stock chat template, separate pictures, free text.

Source: the evaluation scripts of the public repository SurgViVQA-Audio of kulsoom-abdullah.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.encoder import audio_token_count
from surgvivqa_audio.model.graft import IGNORE
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Mel
from surgvivqa_audio.processing.seed import SEED_SYSTEM, seed_images
from surgvivqa_audio.sample import Image

BASELINE_INSTRUCTION = "Answer the question based on the audio and images."
BASELINE_SIDE = 768  # pixels
BASELINE_TOKENS = 50  # new tokens

_IMAGE_TYPE = 1  # transformers' mm_token_type_ids


def baseline_example(
    processor: AudioGraftProcessor, frames: Sequence[Image], mel: Mel | None, text: str | None
) -> Example:
    """One prompt without answer: the bare typed question, or the sound and one fixed sentence.

    Args:
        processor: of the checkpoint; its size limit is replaced by 768 pixels.
        frames: RGB uint8 (h, w, 3), each a picture of its own; may be empty.
        mel: the question as log-mel (m, t), or None.
        text: the typed question, or None.

    Raises:
        ConfigError: both or neither of sound and text.
        BadImage: frames cannot be used.
    """
    if (mel is None) == (text is None):
        raise ConfigError("the predecessor's baselines take either a recording or a typed question")
    special = processor.special
    pictures = seed_images(frames, replace(processor.geometry, max_side=BASELINE_SIDE)) if frames else None
    ids = [special.im_start, *processor.text_ids(f"system\n{SEED_SYSTEM}"), special.im_end]
    ids += [*processor.text_ids("\n"), special.im_start, *processor.text_ids("user\n")]
    if mel is not None:
        count = audio_token_count(mel.shape[-1], processor.stack)
        ids += [special.audio_bos, *[special.audio] * count, special.audio_eos]
    for grid in pictures.grids if pictures else ():
        count = grid[1] * grid[2] // processor.merge**2
        ids += [special.vision_start, *[special.image_pad] * count, special.vision_end]
    ids += processor.text_ids(BASELINE_INSTRUCTION if text is None else text)
    ids += [special.im_end, *processor.text_ids("\n"), special.im_start, *processor.text_ids("assistant\n")]
    types = [_IMAGE_TYPE if token == special.image_pad else 0 for token in ids]
    mels = [] if mel is None else [mel]
    return Example(ids, [IGNORE] * len(ids), [0] * len(ids), types, pictures, mels)

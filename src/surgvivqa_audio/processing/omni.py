"""The prompt of an open omni model (Qwen2.5-Omni thinker): our sentences, its tokens.

The stock processor needs torchvision for video; frames become patches by our own step (see ``video``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.processing.features import SAMPLE_RATE
from surgvivqa_audio.processing.prompts import INSTRUCTION, SYSTEM
from surgvivqa_audio.processing.video import Geometry, video_inputs
from surgvivqa_audio.sample import Image

OMNI_TOKENS = 48  # new tokens, as for our own free text
OMNI_SIDE = 384  # pixels

_MARKS = (
    "<|im_start|>", "<|im_end|>", "<|vision_bos|>", "<|VIDEO|>", "<|vision_eos|>",
    "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>",
)  # fmt: skip


class OmniProcessor:
    """Frames and sound -> the inputs of ``Qwen2_5OmniThinkerForConditionalGeneration``."""

    def __init__(self, tokenizer: Any, extractor: Any, vision: Any, max_side: int = OMNI_SIDE) -> None:
        self.tokenizer, self.extractor = tokenizer, extractor
        self.geometry = Geometry(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, max_side
        )
        known = tokenizer.get_vocab()
        missing = [mark for mark in _MARKS if mark not in known]
        if missing:
            raise ModelError(f"not a tokenizer of Qwen2.5-Omni: it has no {', '.join(missing)}")
        self.ids = {mark: int(known[mark]) for mark in _MARKS}

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; a special token written in it stays text."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def __call__(
        self, frames: Sequence[Image], fps: float, wave: NDArray[np.float32]
    ) -> dict[str, torch.Tensor]:
        """[system][video][instruction][sound][assistant] as a batch of one.

        Args:
            frames: RGB uint8 (h, w, 3) at ``fps`` frames per second.
            wave: mono 16 kHz.

        Raises:
            BadImage: frames cannot be used.
        """
        clip = video_inputs(frames, fps, self.geometry)
        heard = self.extractor(
            wave, sampling_rate=SAMPLE_RATE, return_attention_mask=True, padding="max_length",
            return_tensors="np",
        )  # fmt: skip
        length = int(heard["attention_mask"].sum())
        tokens = ((length - 1) // 2 + 1 - 2) // 2 + 1  # two strided steps of the stock audio tower
        ids = self._ids(clip.token_count(self.geometry.merge), tokens)
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "input_features": torch.from_numpy(np.asarray(heard["input_features"], dtype=np.float32)),
            "feature_attention_mask": torch.from_numpy(np.asarray(heard["attention_mask"])).long(),
            "pixel_values_videos": torch.from_numpy(clip.pixels),
            "video_grid_thw": torch.tensor([clip.grid]),
            "video_second_per_grid": torch.tensor([clip.seconds_per_grid]),
        }

    def _ids(self, visual: int, audible: int) -> list[int]:
        mark = self.ids
        ids = [mark["<|im_start|>"], *self.text_ids(f"system\n{SYSTEM}"), mark["<|im_end|>"]]
        ids += [*self.text_ids("\n"), mark["<|im_start|>"], *self.text_ids("user\n")]
        ids += [mark["<|vision_bos|>"], *[mark["<|VIDEO|>"]] * visual, mark["<|vision_eos|>"]]
        ids += self.text_ids(INSTRUCTION)
        ids += [mark["<|audio_bos|>"], *[mark["<|AUDIO|>"]] * audible, mark["<|audio_eos|>"]]
        ids += [mark["<|im_end|>"], *self.text_ids("\n")]
        return [*ids, mark["<|im_start|>"], *self.text_ids("assistant\n")]

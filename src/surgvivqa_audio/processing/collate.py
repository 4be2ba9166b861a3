"""Rows of different lengths -> one padded batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from surgvivqa_audio.model.graft import IGNORE
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import Example
from surgvivqa_audio.processing.seed import ImageInputs
from surgvivqa_audio.processing.video import VideoInputs


def _pad(rows: list[list[int]], value: int, side: str) -> Tensor:
    size = max(len(row) for row in rows)
    if side == "left":
        return torch.tensor([[value] * (size - len(row)) + row for row in rows])
    return torch.tensor([row + [value] * (size - len(row)) for row in rows])


def collate(
    examples: Sequence[Example],
    pad_id: int,
    *,
    side: Literal["left", "right"] = "right",
    packed: bool = False,
    labels: bool = True,
) -> dict[str, Tensor]:
    """Pad and join.

    Args:
        examples: rows of one or more questions; more than one question a row needs ``packed``.
        pad_id: the tokenizer's pad token.
        side: where padding goes (left for generation).
        packed: pass ``segments`` and let the model build the block-diagonal mask.
        labels: leave labels out for inference.

    Returns:
        ``input_ids``, ``mm_token_type_ids``, ``attention_mask`` or ``segments`` and ``labels``, all (b, s);
        ``pixel_values_videos``, ``video_grid_thw`` (b, 3), ``second_per_grid_ts`` (b,), or in the seed layout
        ``pixel_values``, ``image_grid_thw`` (pictures, 3); ``input_features`` (n, m, t), ``audio_lengths``.
    """
    batch: dict[str, Tensor] = {
        "input_ids": _pad([example.ids for example in examples], pad_id, side),
        "mm_token_type_ids": _pad([example.types for example in examples], 0, side),
    }
    if packed:
        batch["segments"] = _pad([example.segments for example in examples], -1, side)
    else:
        batch["attention_mask"] = _pad([[1] * len(example.ids) for example in examples], 0, side)
    if labels:
        batch["labels"] = _pad([example.labels for example in examples], IGNORE, side)
    videos = [example.video for example in examples if isinstance(example.video, VideoInputs)]
    if videos:
        batch["pixel_values_videos"] = torch.cat([torch.from_numpy(video.pixels) for video in videos])
        batch["video_grid_thw"] = torch.tensor([video.grid for video in videos])
        batch["second_per_grid_ts"] = torch.tensor([video.seconds_per_grid for video in videos])
    images = [example.video for example in examples if isinstance(example.video, ImageInputs)]
    if images:
        batch["pixel_values"] = torch.cat([torch.from_numpy(image.pixels) for image in images])
        batch["image_grid_thw"] = torch.tensor([grid for image in images for grid in image.grids])
    mels = [mel for example in examples for mel in example.mels]
    if mels:
        batch["input_features"], batch["audio_lengths"] = batch_mels(mels)
    return batch

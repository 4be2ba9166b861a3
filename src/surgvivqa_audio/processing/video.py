"""Frames -> ``pixel_values_videos`` and ``video_grid_thw``: the only resize policy.

The stock video processor needs torchvision, which has no build beside a CPU-only torch; this step uses
Pillow and NumPy and is held against the stock image processor by a golden test.
Layout of the patches: Qwen2-VL, arXiv 2409.12191.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from surgvivqa_audio.errors import BadImage, ModelError
from surgvivqa_audio.model.families.base import CLIP_MEAN, CLIP_STD
from surgvivqa_audio.sample import Image


@dataclass(frozen=True)
class Geometry:
    """What decides the grid of visual tokens."""

    patch: int
    merge: int
    temporal: int
    max_side: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Fit within ``max_side`` keeping the aspect, then round each side to whole visual tokens."""
        factor = self.patch * self.merge
        scale = min(1.0, self.max_side / max(height, width))
        sides = [max(factor, round(side * scale / factor) * factor) for side in (height, width)]
        return sides[0], sides[1]


def saved_geometry(folder: Path) -> Geometry:
    """The geometry of a checkpoint folder, read without loading its tokenizer or model.

    Raises:
        ModelError: the folder holds no processor of this project.
    """
    path = folder / "processor_config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        patch, merge, temporal, side = (
            int(saved[name]) for name in ("patch", "merge", "temporal", "max_side")
        )
        return Geometry(patch, merge, temporal, side, tuple(saved["mean"]), tuple(saved["std"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{path}: not a saved processor ({error}); name a complete checkpoint folder"
        ) from error


@dataclass(frozen=True)
class VideoInputs:
    """``pixels`` float32 (t * h * w, channels * temporal * patch * patch); ``grid`` (t, h, w) in patches.

    ``stamps``: the middle of every temporal slice, in seconds since the first frame.
    """

    pixels: NDArray[np.float32]
    grid: tuple[int, int, int]
    seconds_per_grid: float
    stamps: tuple[float, ...] = ()

    def token_count(self, merge: int) -> int:
        """Visual tokens after merging."""
        return self.grid[0] * self.grid[1] * self.grid[2] // merge**2


def resize(frame: Image, size: tuple[int, int]) -> Image:
    """Bicubic resize to (height, width); a frame of that size is returned as it is."""
    if frame.shape[:2] == size:
        return frame
    picture = PIL.Image.fromarray(frame)
    reduced = picture.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)
    return np.asarray(reduced)


def video_inputs(frames: Sequence[Image], fps: float, geometry: Geometry) -> VideoInputs:
    """Resize, normalise and cut frames into patches.

    Args:
        frames: RGB uint8 (h, w, 3), all of one size, in order of time.
        fps: frames per second of the given frames (source rate divided by the stride).
        geometry: see the class.

    Raises:
        BadImage: no frame, or frames of different sizes.
    """
    if not frames:
        raise BadImage("a clip needs at least one frame")
    if any(frame.shape != frames[0].shape or frame.ndim != 3 for frame in frames):
        shapes = ", ".join(sorted({str(frame.shape) for frame in frames}))
        raise BadImage(f"the frames of one clip must share one size (found {shapes})")
    size = geometry.target_size(*frames[0].shape[:2])
    shown = [resize(frame, size) for frame in frames]
    shown += shown[-1:] * (-len(frames) % geometry.temporal)
    last = len(frames) - 1
    starts = range(0, len(frames), geometry.temporal)
    stamps = tuple((start + min(start + geometry.temporal - 1, last)) / 2 / fps for start in starts)
    return VideoInputs(*_patches(shown, geometry), geometry.temporal / fps, stamps)


def _patches(frames: Sequence[Image], geometry: Geometry) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Frames (h, w, 3) -> normalised patches in the order of Qwen2-VL: merged blocks stay together.

    Bytes are put in order before they are normalised: then each colour is a run of hundreds of numbers with
    one scale, where a frame's own order has another one at every number. A band of blocks at a time stays
    in the processor's cache.
    """
    patch, merge, temporal = geometry.patch, geometry.merge, geometry.temporal
    clip = np.stack(frames)
    count, height, width, channels = clip.shape
    grid = (count // temporal, height // patch, width // patch)
    blocks = clip.reshape(
        grid[0],
        temporal,
        grid[1] // merge,
        merge,
        patch,
        grid[2] // merge,
        merge,
        patch,
        channels,
    ).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    scale = 1.0 / (255.0 * np.asarray(geometry.std, dtype=np.float32))
    shift = np.asarray([m / s for m, s in zip(geometry.mean, geometry.std, strict=True)], dtype=np.float32)
    pixels = np.empty(blocks.shape, dtype=np.float32)
    for place in np.ndindex(blocks.shape[:2]):
        pixels[place] = blocks[place]
        band = pixels[place].reshape(-1, channels, temporal * patch * patch)
        band *= scale[:, None]
        band -= shift[:, None]
    return pixels.reshape(grid[0] * grid[1] * grid[2], -1), grid

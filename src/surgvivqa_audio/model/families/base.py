"""What a vision-language family decides beyond its stock classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Family:
    """Defaults are those of Qwen2-VL; a family overrides what differs.

    Attributes:
        mean, std: normalisation of the frames.
    """

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def clip_runs(self, stamps: Sequence[float], tokens: int) -> list[tuple[str, int]]:
        """How a clip is written into the prompt: ``(text before, placeholders)`` for every marked run.

        Args:
            stamps: middle of every temporal slice in seconds since the first frame.
            tokens: visual tokens per slice.
        """
        return [("", len(stamps) * tokens)]

    def position_arguments(self, grids: dict[str, Any]) -> dict[str, Any]:
        """The arguments of ``get_rope_index`` among ``image_grid_thw``, ``video_grid_thw``,
        ``second_per_grid_ts``; absent ones are left out."""
        return {name: value for name, value in grids.items() if value is not None and name.endswith("_thw")}

"""Qwen2.5-VL: temporal positions follow absolute time. arXiv 2502.13923."""

from __future__ import annotations

from typing import Any

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.families.base import Family


class Qwen25VL(Family):
    """Needs the seconds between slices, without which the stock index assumes one second."""

    def position_arguments(self, grids: dict[str, Any]) -> dict[str, Any]:
        """As in the base class, and ``second_per_grid_ts`` (clips,). Raises ModelError if it is missing."""
        given = {name: value for name, value in grids.items() if value is not None}
        if "video_grid_thw" in given and "second_per_grid_ts" not in given:
            raise ModelError("Qwen2.5-VL needs second_per_grid_ts beside video_grid_thw; collate() makes it")
        return given

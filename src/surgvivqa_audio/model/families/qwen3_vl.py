"""Qwen3-VL: a written time before every slice; features of several vision layers. arXiv 2511.21631.

The deeper features need nothing here: the stock model adds them to its first layers from the same call.
"""

from __future__ import annotations

from collections.abc import Sequence

from surgvivqa_audio.model.families.base import Family


class Qwen3VL(Family):
    """Each slice is a run of its own behind its time; frames are scaled to -1..1."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def clip_runs(self, stamps: Sequence[float], tokens: int) -> list[tuple[str, int]]:
        """``<0.2 seconds>`` before the placeholders of every slice."""
        return [(f"<{stamp:.1f} seconds>", tokens) for stamp in stamps]

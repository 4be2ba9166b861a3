"""Qwen2-VL: one run of placeholders per clip, slices one position apart. arXiv 2409.12191."""

from surgvivqa_audio.model.families.base import Family


class Qwen2VL(Family):
    """Everything as in the base class."""

"""A procedural colonoscope: clips with per-pixel and per-question ground truth, from a seed."""

from surgvivqa_audio.colonsim.dataset import DatasetSummary, SimStore, make_dataset
from surgvivqa_audio.colonsim.procedure import Procedure
from surgvivqa_audio.colonsim.render import RenderedClip, render
from surgvivqa_audio.colonsim.spec import CLIP_FPS, ClipSpec, Scene

__all__ = [
    "CLIP_FPS",
    "ClipSpec",
    "DatasetSummary",
    "Procedure",
    "RenderedClip",
    "Scene",
    "SimStore",
    "make_dataset",
    "render",
]

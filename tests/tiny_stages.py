"""The smallest model and clips that the training stages of nano take."""

from __future__ import annotations

import random

import numpy as np
import torch

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from tiny_graft import nano_processor, whisper_config

SIZE = NanoSize(
    hidden=48, layers=1, heads=3, kv_heads=1, ffn=64, vision_width=32, vision_layers=1, vision_heads=2
)


def tiny_clips(taxonomy: Taxonomy) -> list[PoolClip]:
    """Three clips of noise with every question answered at random."""
    rng, chooser = np.random.default_rng(0), random.Random(0)
    clips = []
    for _ in range(3):
        answers = {name: chooser.choice(kind.answers).short for name, kind in taxonomy.types.items()}
        clips.append(
            PoolClip(
                rng.integers(0, 255, (8, 112, 112, 3), dtype=np.uint8),
                answers,
                (),
                rng.random((4, 4, 4, 3), dtype=np.float32),
                rng.random((4, 4, 4, 2), dtype=np.float32),
                rng.random((8, 2), dtype=np.float32) * 112,
            )
        )
    return clips


def tiny_model() -> tuple[AudioGraft, AudioGraftProcessor]:
    """A graft of random weights, one layer a part."""
    torch.manual_seed(0)
    processor = nano_processor(max_side=112)
    config = AudioGraftConfig(
        vlm_config=nano_vlm_config(SIZE, processor),
        audio_config=whisper_config(),
        audio_token_id=processor.special.audio,
        max_side=112,
    )
    model = AudioGraft(config)
    model.start_projector()
    return model, processor

"""What a model holds and what a question costs, in parameters and tokens, from the config alone.

Everything is counted on the meta device, so a 7B model takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.encoder import encoder_length
from surgvivqa_audio.model.graft import AudioGraft


@dataclass(frozen=True)
class Parts:
    """Parameters of each part; ``projections`` are the matrices of the language layers, the part that is
    quantised, ``sides`` the sum of their heights and widths (a LoRA of rank r has r times as many);
    ``head`` is 0 where it shares the embedding."""

    vision: int
    embedding: int
    projections: int
    norms: int
    head: int
    audio_encoder: int
    audio_projector: int
    sides: int

    @property
    def vlm(self) -> int:
        """The stock vision-language model."""
        return self.vision + self.embedding + self.projections + self.norms + self.head

    @property
    def total(self) -> int:
        """Everything."""
        return self.vlm + self.audio_encoder + self.audio_projector


def meta_model(config: AudioGraftConfig) -> AudioGraft:
    """The model without its weights."""
    with torch.device("meta"):
        return AudioGraft(config)


def count_parts(config: AudioGraftConfig) -> Parts:
    """Exact parameters per part."""
    model = meta_model(config)

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    language = model.vlm.model.language_model
    layers = sum(p.numel() for p in language.layers.parameters() if p.ndim == 2)
    embedding = size(model.get_input_embeddings())
    head = 0 if config.vlm_config.tie_word_embeddings else size(model.get_output_embeddings())
    return Parts(
        vision=size(model.vlm.model.visual),
        embedding=embedding,
        projections=layers,
        norms=size(language) - embedding - layers,
        head=head,
        audio_encoder=size(model.audio_encoder),
        audio_projector=size(model.audio_projector),
        sides=sum(sum(p.shape) for p in language.layers.parameters() if p.ndim == 2),
    )


@dataclass(frozen=True)
class Shape:
    """One clip and one question in tokens. ``patches``: vision tower rows, in ``slices`` that do not see each
    other; ``visual``: tokens of the clip; ``frames``: encoder frames of the sound; ``audio``: its tokens."""

    patches: int
    slices: int
    visual: int
    frames: int
    audio: int

    def tokens(self, text: int) -> int:
        """Length of the whole prompt with ``text`` words and marks."""
        return self.visual + self.audio + text


def shape_of(
    config: AudioGraftConfig, height: int, width: int, frames: int, max_side: int, seconds: float
) -> Shape:
    """Token arithmetic for frames of this size, shrunk to ``max_side``, and a question of ``seconds``.

    Raises:
        ConfigError: a number is not positive, or the question exceeds 30 s.
    """
    if min(height, width, frames, max_side, seconds) <= 0 or seconds > 30:
        raise ConfigError("sizes must be positive and a question at most 30 s long")
    vision = config.vlm_config.vision_config
    factor = vision.patch_size * vision.spatial_merge_size
    scale = min(1.0, max_side / max(height, width))
    rows, columns = (max(1, round(side * scale / factor)) for side in (height, width))
    seed = config.layout == "seed"
    slices = frames if seed else -(-frames // vision.temporal_patch_size)
    visual = slices * rows * columns
    full = config.audio_config.max_source_positions
    encoder = full if seed else encoder_length(round(seconds * 100))
    return Shape(visual * vision.spatial_merge_size**2, slices, visual, encoder, -(-encoder // config.stack))

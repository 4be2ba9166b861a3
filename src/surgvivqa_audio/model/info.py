"""What a model costs, from its config alone: parameters, memory, and the time physics allows.

Everything is counted on the meta device, so a 7B model takes no memory. Memory and time are estimates with
their assumptions written beside them; parameters are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.encoder import encoder_length
from surgvivqa_audio.model.graft import AudioGraft

GIB = 2.0**30
# Bytes per parameter of the language model's projections; the towers, embeddings, head and norms stay bf16.
# NF4 with double quantisation: 4 bits and 0.127 bits of scales. Source: QLoRA, arXiv 2305.14314.
PRECISIONS = {"bf16": 2.0, "fp8": 1.0, "nf4": (4 + 0.127) / 8}
LORA_RANK = 64
# LoRA weight and gradient in fp32, two 8-bit moments.
_TRAINED_BYTES = 4 + 4 + 2


@dataclass(frozen=True)
class Gpu:
    """Dense bf16 peak in FLOP/s, memory bandwidth in byte/s, memory in GiB."""

    flops: float
    bandwidth: float
    memory: float


GPUS = {
    "4090": Gpu(165e12, 1.008e12, 24),
    "a100": Gpu(312e12, 2.04e12, 80),
    "h200": Gpu(790e12, 4.8e12, 141),
}


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
    """One clip and one question in tokens. ``patches``: vision tower rows; ``visual``: tokens of the clip;
    ``frames``: encoder frames of the sound; ``audio``: its tokens."""

    patches: int
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
    return Shape(visual * vision.spatial_merge_size**2, visual, encoder, -(-encoder // config.stack))


def cache_bytes(config: AudioGraftConfig) -> int:
    """Keys and values of one token in bf16."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * 2 * text.num_key_value_heads * head * 2)


def inference_gib(config: AudioGraftConfig, parts: Parts, shape: Shape, precision: str) -> float:
    """Memory to answer one question: weights, cache, and the widest activations of one pass (batch 1)."""
    weights = parts.projections * PRECISIONS[precision] + (parts.total - parts.projections) * 2
    text, tokens = config.get_text_config(), shape.tokens(text=60)
    activations = tokens * 2 * (6 * text.hidden_size + 3 * text.intermediate_size)
    return float(weights + tokens * cache_bytes(config) + activations) / GIB


def qlora_gib(config: AudioGraftConfig, parts: Parts, shape: Shape, batch: int) -> float:
    """Memory of a QLoRA step: NF4 weights, rank-64 adapters on all projections, gradient checkpointing.

    The head runs on supervised positions only, so its logits are left out.
    """
    text = config.get_text_config()
    weights = parts.projections * PRECISIONS["nf4"] + (parts.total - parts.projections) * 2
    trained = (LORA_RANK * parts.sides + parts.audio_projector) * _TRAINED_BYTES
    tokens = batch * shape.tokens(text=80)
    kept = tokens * text.num_hidden_layers * text.hidden_size * 2
    widest = tokens * 2 * (16 * text.hidden_size + 8 * text.intermediate_size)
    return float(weights + trained + kept + widest) / GIB


@dataclass(frozen=True)
class Times:
    """Least milliseconds on a GPU, at its published peak: no real system is faster.

    ``cold``: clip and question unseen. ``prefix_ready``: the clip was prepared before; None in the seed
    layout, where audio comes first. ``per_token``: one further token of free generation.
    """

    cold: float
    prefix_ready: float | None
    per_token: float


def roofline(config: AudioGraftConfig, parts: Parts, shape: Shape, gpu: Gpu, tree: int = 280) -> Times:
    """bf16 time to an answer scored in one pass over ``tree`` option tokens.

    Each stage costs the larger of its arithmetic (2 FLOP per weight and row, plus attention) and of reading
    its weights once.
    """
    text = config.get_text_config()

    def stage(weights: int, rows: int, extra: float = 0.0) -> float:
        return max((2.0 * weights * rows + extra) / gpu.flops, 2.0 * weights / gpu.bandwidth)

    def attention(rows: int, seen: int, width: int, layers: int) -> float:
        return 4.0 * rows * seen * width * layers

    head = parts.head or parts.embedding
    audio = config.audio_config
    hear = stage(
        parts.audio_encoder,
        shape.frames,
        attention(shape.frames, shape.frames, audio.d_model, audio.encoder_layers),
    )
    see = stage(parts.vision, shape.patches)
    ask = shape.audio + 20
    language = parts.projections
    prefix = shape.visual + 40
    depth, width = text.num_hidden_layers, text.hidden_size
    rows = ask + tree
    ready = hear + stage(language, rows, attention(rows, prefix + rows, width, depth)) + stage(head, tree)
    whole = prefix + rows
    cold = hear + see + stage(head, tree)
    cold += stage(language, whole, attention(whole, whole // 2, width, depth))
    per_token = 2.0 * (language + head) / gpu.bandwidth
    return Times(cold * 1e3, None if config.layout == "seed" else ready * 1e3, per_token * 1e3)


def describe(
    config: AudioGraftConfig,
    gpus: Sequence[str] | None = None,
    *,
    batch: int = 1,
    seconds: float = 3.5,
    height: int = 1080,
    width: int = 1350,
) -> dict[str, Any]:
    """Everything ``model info`` prints.

    Args:
        config: of the model.
        gpus: names of :data:`GPUS`; None is all.
        batch: of the QLoRA estimate.
        seconds: length of the question.
        height, width: of a source frame.

    Raises:
        ConfigError: an unknown GPU or an impossible size.
    """
    names = list(gpus or GPUS)
    if unknown := [name for name in names if name not in GPUS]:
        raise ConfigError(f"unknown GPU '{unknown[0]}'; use one of {', '.join(GPUS)}")
    parts = count_parts(config)
    default = shape_of(config, height, width, 8, config.max_side, seconds)
    clips = []
    for side in sorted({384, 768, config.max_side}):
        for frames in (8, 16):
            shape = shape_of(config, height, width, frames, side, seconds)
            memory = {name: round(inference_gib(config, parts, shape, name), 2) for name in PRECISIONS}
            clips.append(
                {
                    "max_side": side,
                    "frames": frames,
                    "visual_tokens": shape.visual,
                    "memory_gib": memory,
                    "qlora_gib": round(qlora_gib(config, parts, shape, batch), 2),
                }
            )
    counts = {name: count for name, count in asdict(parts).items() if name != "sides"}
    return {
        "family": config.vlm_config.model_type,
        "layout": config.layout,
        "parameters": {**counts, "vlm": parts.vlm, "total": parts.total},
        "tokens_per_second": 50 / config.stack,
        "audio_tokens": default.audio,
        "clips": clips,
        "qlora_batch": batch,
        "roofline_ms": {
            name: {key: value and round(value, 2) for key, value in asdict(times).items()}
            for name in names
            for times in [roofline(config, parts, default, GPUS[name])]
        },
    }

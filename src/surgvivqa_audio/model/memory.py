"""How much memory a model needs, estimated from its config alone; the assumptions stand beside the terms."""

from __future__ import annotations

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.counts import Parts, Shape

GIB = 2.0**30
# Interpreter and libraries (0.42 GiB of process memory after importing them), or on a GPU the context.
RUNTIME_GIB = 0.5
# Bytes per parameter of the language model's projections; the towers, embeddings, head and norms stay bf16.
# NF4 with double quantisation: 4 bits and 0.127 bits of scales. Source: QLoRA, arXiv 2305.14314.
PRECISIONS = {"bf16": 2.0, "fp8": 1.0, "nf4": (4 + 0.127) / 8}
LORA_RANK = 64
# LoRA weight and gradient in fp32, two 8-bit moments.
_TRAINED_BYTES = 4 + 4 + 2


def cache_bytes(config: AudioGraftConfig) -> int:
    """Keys and values of one token in bf16."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * 2 * text.num_key_value_heads * head * 2)


def vision_bytes(config: AudioGraftConfig, shape: Shape) -> int:
    """The widest moment of the frozen vision tower for one clip, bf16: eight rows of its width and two of its
    MLP. Attention is fused, so no table of patch by patch is held."""
    vision = config.vlm_config.vision_config
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return int(2 * shape.patches * (8 * width + 2 * inner))


def inference_gib(config: AudioGraftConfig, parts: Parts, shape: Shape, precision: str) -> float:
    """Memory to answer one question: weights, cache, the runtime, and the larger of what seeing and reading
    the prompt hold at once (batch 1)."""
    weights = parts.projections * PRECISIONS[precision] + (parts.total - parts.projections) * 2
    text, tokens = config.get_text_config(), shape.tokens(text=60)
    reading = tokens * (2 * (6 * text.hidden_size + 3 * text.intermediate_size) + cache_bytes(config))
    return float(weights + max(reading, vision_bytes(config, shape))) / GIB + RUNTIME_GIB


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
    seeing = batch * vision_bytes(config, shape)
    return float(weights + trained + max(kept + widest, seeing)) / GIB + RUNTIME_GIB

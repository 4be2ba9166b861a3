"""Rearrangements of the stock model that change speed on a CPU and nothing else.

Weights, state dict and results (up to the order of summation) stay as they are; a test holds both against
the stock forward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention, apply_rotary_pos_emb_vision

QUICK_GELU = 1.702  # x sigmoid(1.702 x), which is silu(1.702 x) / 1.702


def fast_vision(vlm: nn.Module) -> None:
    """Embed patches by a matrix product, attend to all slices of one length in one call, and take the
    activation in fewer passes."""
    visual: Any = vlm.model.visual  # type: ignore[union-attr]
    _linear_patches(visual.patch_embed)
    for block in visual.blocks:
        if isinstance(block.attn, VisionAttention):
            _batched_slices(block.attn)
        if isinstance(getattr(block.mlp, "act", None), QuickGELUActivation):
            block.mlp.act.forward = _quick_gelu


def _linear_patches(embed: Any) -> None:
    """The convolution's kernel equals its stride, so it is a matrix product over flattened patches."""
    convolution = embed.proj

    def forward(patches: Tensor) -> Tensor:
        weight = convolution.weight
        flat = patches.to(weight.dtype).reshape(-1, weight[0].numel())
        return nn.functional.linear(flat, weight.reshape(weight.shape[0], -1), convolution.bias)

    embed.forward = forward


def _quick_gelu(hidden: Tensor) -> Tensor:
    return nn.functional.silu(hidden * QUICK_GELU).mul_(1 / QUICK_GELU)


def even_length(bounds: Tensor) -> int | None:
    """Patches of every slice, given the bounds (slices + 1,) of all; None where they differ."""
    lengths = bounds[1:] - bounds[:-1]
    return int(lengths[0]) if bool((lengths == lengths[0]).all()) else None


def _batched_slices(attention: Any) -> None:
    """The stock forward loops over the slices of a video; slices of one length can share one call."""
    stock = attention.forward

    def forward(
        hidden: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **options: Any
    ) -> Tensor:
        length = even_length(cu_seqlens)
        if length is None:
            return stock(hidden, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **options)
        size, heads = hidden.shape[0], attention.num_heads
        query, key, value = attention.qkv(hidden).reshape(size, 3, heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (
            part.reshape(size // length, length, heads, -1).transpose(1, 2).to(value.dtype)
            for part in (query, key, value)
        )
        # On a CPU the fused kernel's backward pass is many times slower at this length.
        if query.requires_grad:
            weights = (query @ key.transpose(-1, -2) * attention.scaling).softmax(dim=-1)
            seen = weights.to(value.dtype) @ value
        else:
            seen = nn.functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        return attention.proj(seen.transpose(1, 2).reshape(size, -1))

    attention.forward = forward

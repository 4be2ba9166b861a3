"""Rearrangements of the language model that shorten a training step on a CPU and change nothing else.

Weights and state dict stay as they are, values and gradients up to rounding; tests hold both against the
stock forward. What inference shares is in ``model/patches.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm

LEAN = "lean"


def lean_attention(vlm: nn.Module) -> None:
    """Let the language model attend in plain matrix products; masks must then be given, as additive tensors.

    On a CPU the fused kernel's backward pass is several times slower on many short sequences, and the stock
    written-out one copies keys for every query head and upcasts. The norms take one pass each way.
    """
    AttentionInterface.register(LEAN, _lean)
    language: Any = vlm.model.language_model  # type: ignore[union-attr]
    language.config._attn_implementation = LEAN
    for module in language.modules():
        if isinstance(module, Qwen2VLRMSNorm):
            _lean_norm(module)


def _lean_norm(norm: Any) -> None:
    """Under autocast the stock norm returns float32, which every projection behind it converts anew."""

    def forward(hidden: Tensor) -> Tensor:
        normed: Tensor = _Norm.apply(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
        return normed

    norm.forward = forward


class _Norm(torch.autograd.Function):
    """Root-mean-square norm (arXiv 1910.07467) of (..., d): float32 inside, in autocast's type outside."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        device = hidden.device.type
        kept = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        scale = torch.rsqrt(hidden.float().square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden.float() * scale * weight).to(kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, weight, scale = ctx.saved_tensors
        unit, gradient = hidden.float() * scale, gradients[0].float()
        inner = gradient * weight
        below = scale * (inner - unit * (inner * unit).mean(-1, keepdim=True))
        of_weight = (gradient * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return below.to(hidden.dtype), of_weight, None


def _lean(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Query (b, h, s, d), key and value (b, k, n, d), mask (b, 1, s, n) -> (b, s, h, d)."""
    batch, heads, size, width = query.shape
    groups = heads // key.shape[1]
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (part.to(dtype) for part in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        stacked = (query * scaling).reshape(batch, -1, groups * size, width)
        scores = (stacked @ key.transpose(-1, -2)).view(batch, -1, groups, size, key.shape[2])
        weights = (scores + attention_mask[:, :, None].to(scores.dtype)).softmax(dim=-1)
        mixed = weights.view(batch, -1, groups * size, key.shape[2]) @ value
    return mixed.view(batch, heads, size, width).transpose(1, 2).contiguous(), None


def lean_adapter(tuned: nn.Module) -> None:
    """Let LoRA layers add their product to the weight instead of sending every token through both factors.

    Cheaper where a weight holds fewer numbers than its input. The one adapter is unmerged, without dropout.
    """
    for module in tuned.modules():
        if isinstance(module, LoraLinear):
            _summed(module)


def _summed(layer: Any) -> None:
    base, (name,) = layer.get_base_layer(), layer.active_adapters
    down, up, scale = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]

    def forward(hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, base.weight + scale * (up.weight @ down.weight), base.bias)

    layer.forward = forward

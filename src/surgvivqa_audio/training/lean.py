"""Rearrangements of language model and vision tower that shorten a training step on a CPU, and nothing else.

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

from surgvivqa_audio.model.patches import QUICK_GELU, even_length

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


def lean_vision(vlm: nn.Module) -> None:
    """Let the tower turn queries and keys in one pass and take its activation in one.

    The stock code builds the rotated halves of every head by themselves, in float32, and the activation out
    of three products; written so, these were a third of a step.
    """
    visual: Any = vlm.model.visual  # type: ignore[union-attr]
    for block in visual.blocks:
        _lean_slices(block.attn)
        _lean_mlp(block.mlp)


def _lean_mlp(mlp: Any) -> None:
    """The activation's factor goes into the weights, which are smaller than what they multiply."""

    def forward(hidden: Tensor) -> Tensor:
        inner = nn.functional.linear(hidden, mlp.fc1.weight * QUICK_GELU, mlp.fc1.bias * QUICK_GELU)
        return nn.functional.linear(nn.functional.silu(inner), mlp.fc2.weight / QUICK_GELU, mlp.fc2.bias)

    mlp.forward = forward


def _lean_slices(attention: Any) -> None:
    before = attention.forward
    heads, width = attention.num_heads, attention.qkv.in_features
    half = width // heads // 2
    scale = torch.tensor([attention.scaling, 1.0]).view(2, 1, 1)

    def halves_first(rows: Tensor) -> Tensor:
        """Rows of the joint projection (3 d, ...): first halves of all queries and keys, then second ones."""
        turned = rows[: 2 * width].view(2, heads, 2, half, -1).movedim(2, 0)
        return torch.cat([turned.reshape(2 * width, -1), rows[2 * width :].view(width, -1)])

    def forward(
        hidden: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **options: Any
    ) -> Tensor:
        length, size = even_length(cu_seqlens), hidden.shape[0]
        if length is None:
            mixed: Tensor = before(
                hidden, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **options
            )
            return mixed
        cos, sin = (
            (each[:, None, None, :half].float() * scale).expand(-1, -1, heads, -1).reshape(size, -1)
            for each in position_embeddings
        )
        weight, bias = halves_first(attention.qkv.weight), halves_first(attention.qkv.bias)[:, 0]
        joint = nn.functional.linear(hidden, weight, bias)
        query, key, value = _Heads.apply(joint, cos, sin, length, heads)  # type: ignore[no-untyped-call]
        with torch.autocast(hidden.device.type, enabled=False):
            mixed = (query @ key.transpose(-1, -2)).softmax(dim=-1) @ value
        return attention.proj(mixed.transpose(1, 2).reshape(size, -1))

    attention.forward = forward


class _Heads(torch.autograd.Function):
    """Joint projections (n l, 3 d), halves first, to rotated queries, keys, and values, (n, h, l, d / h).

    ``cos`` and ``sin`` (n l, d) belong to the first half of every query and key (arXiv 2104.09864); those of
    the queries carry the scale of the scores.
    """

    @staticmethod
    def forward(ctx: Any, joint: Tensor, cos: Tensor, sin: Tensor, length: int, heads: int) -> Any:
        width = joint.shape[1] // 3
        half, many = width // heads // 2, len(joint) // length
        turned = _turn(joint[:, : 2 * width].float(), cos, sin, 1)
        out = joint.new_empty(3, many, heads, length, 2 * half)
        by_head = turned.view(many, length, 2, 2, heads, half).permute(3, 0, 4, 1, 2, 5)
        out[:2].view(2, many, heads, length, 2, half).copy_(by_head)
        out[2].copy_(joint[:, 2 * width :].view(many, length, heads, 2 * half).transpose(1, 2))
        ctx.save_for_backward(cos, sin)
        return out[0], out[1], out[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        many, heads, length, each = gradients[0].shape
        width, half = heads * each, each // 2
        turned = torch.empty(many, length, 2, 2, heads, half)
        for index, gradient in enumerate(gradients[:2]):
            by_half = gradient.reshape(many, heads, length, 2, half)
            turned[:, :, :, index].copy_(by_half.permute(0, 2, 3, 1, 4))
        out = gradients[0].new_empty(many * length, 3 * width)
        out[:, : 2 * width] = _turn(turned.view(-1, 2 * width), cos, sin, -1)
        out[:, 2 * width :].view(many, length, heads, each).copy_(gradients[2].transpose(1, 2))
        return out, None, None, None, None


def _turn(joined: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    """Rotate pairs, first members in the first half of the columns; ``way`` -1 turns them back."""
    out = torch.empty_like(joined)
    (first, second), (left, right) = joined.chunk(2, -1), out.chunk(2, -1)
    torch.mul(first, cos, out=left)
    left.addcmul_(second, sin, value=-way)
    torch.mul(second, cos, out=right)
    right.addcmul_(first, sin, value=way)
    return out

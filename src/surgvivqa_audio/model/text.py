"""The stock language model's layers on a prefix and on new tokens behind it, without the stock machinery.

The same modules run on the same weights, so logits equal the stock forward's (a test holds all families
to it). Left out is what nobody needs: three-axis positions of text (all three are equal), a cache object that
copies, masks made per layer, and what the last layer makes of tokens that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values (b, heads, tokens, width) of every layer


def run_prefix(vlm: Any, embeddings: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (b, heads, p, width) of every layer for a prompt that predicts nothing itself, so that
    the last layer stops at them.

    Args:
        vlm: a stock ``*ForConditionalGeneration`` whose vision features all enter as tokens (not Qwen3-VL).
        embeddings: (b, p, d), vision features in their places.
        positions: (3, b, p), M-RoPE.
    """
    text = vlm.model.language_model
    cos, sin = (part.chunk(2, dim=-1)[0] for part in text.rotary_emb(embeddings, positions))
    turn, hidden, known = _turn(cos, sin), embeddings, []
    for layer in text.layers[:-1]:
        hidden, pair = _layer(layer, hidden, turn, None, None, None)
        known.append(pair)
    last = text.layers[-1]
    normed = _norm(last.input_layernorm, hidden)
    return [*known, _keys_values(last.self_attn, normed, turn, None)]


def run_text(
    vlm: Any,
    embeddings: Tensor,
    positions: Tensor,
    past: Layers,
    allowed: Tensor | None = None,
    keep: Tensor | int | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run new text or audio tokens behind a prefix.

    Args:
        vlm: a stock ``*ForConditionalGeneration`` of a supported family.
        embeddings: (b, n, d) of the new tokens.
        positions: (b, n), the position of each, the same on all three M-RoPE axes.
        past: keys and values of the p tokens before, of batch b or 1; never written to.
        allowed: bool, (b or 1, n, p + n), true where a token may look; None is causal.
        keep: the tokens whose state is wanted: (b, k), or the last k of every row; None is all of them.

    Returns:
        Hidden states after the final norm, (b, k or n, d), and the keys and values of all p + n tokens.
    """
    text = vlm.model.language_model
    angles = positions[..., None].float() * text.rotary_emb.inv_freq.float()
    scale = text.rotary_emb.attention_scaling
    cos, sin = ((part * scale).to(embeddings.dtype) for part in (angles.cos(), angles.sin()))
    turn = _turn(cos, sin)
    mask = _mask(embeddings, past[0][0].shape[2], allowed)
    hidden, grown = embeddings, []
    for number, (layer, old) in enumerate(zip(text.layers, past, strict=True)):
        rows = keep if number + 1 == len(past) else None
        hidden, pair = _layer(layer, hidden, turn, old, mask, rows)
        grown.append(pair)
    return _norm(text.norm, hidden), grown


def _turn(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(b, n, width / 2) to (b, n, 1, width), with the sign of the sine's first half changed."""
    return torch.cat([cos, cos], dim=-1)[:, :, None], torch.cat([-sin, sin], dim=-1)[:, :, None]


def _mask(embeddings: Tensor, past: int, allowed: Tensor | None) -> Tensor | None:
    """Additive (b or 1, 1, n, past + n): what the fused attention of a CPU takes fastest."""
    size = embeddings.shape[1]
    if allowed is None:
        if size == 1:
            return None
        allowed = torch.ones(1, size, past + size, dtype=torch.bool, device=embeddings.device).tril(past)
    mask = embeddings.new_zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(embeddings.dtype).min)
    return mask[:, None]


def _layer(
    layer: Any,
    hidden: Tensor,
    turn: tuple[Tensor, Tensor],
    old: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
    rows: Tensor | int | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    attention = layer.self_attn
    batch = hidden.shape[0]
    normed = _norm(layer.input_layernorm, hidden)
    keys, values = _keys_values(attention, normed, turn, old)
    cos, sin = turn
    if rows is not None:
        hidden, normed = _rows(hidden, rows), _rows(normed, rows)
        cos, sin = (_rows(part[:, :, 0], rows)[:, :, None] for part in turn)
        if mask is not None:
            mask = _rows(mask.expand(batch, -1, -1, -1)[:, 0], rows)[:, None]
    query = _linear(attention.q_proj, normed).view(batch, hidden.shape[1], -1, attention.head_dim)
    if hasattr(attention, "q_norm"):  # Qwen3-VL
        query = _norm(attention.q_norm, query)
    query = _rotate(query, cos, sin).transpose(1, 2)
    seen = attend(query, keys, values, mask, attention.scaling, causal=old is None)
    hidden = hidden + _linear(attention.o_proj, seen.transpose(1, 2).flatten(2))
    mlp, normed = layer.mlp, _norm(layer.post_attention_layernorm, hidden)
    wide = mlp.act_fn(_linear(mlp.gate_proj, normed)).mul_(_linear(mlp.up_proj, normed))
    return hidden + _linear(mlp.down_proj, wide), (keys, values)


def _keys_values(
    attention: Any, normed: Tensor, turn: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Of all tokens so far, (b, heads, p + n, width)."""
    heads = (*normed.shape[:2], -1, attention.head_dim)
    key, value = _linear(attention.k_proj, normed).view(heads), _linear(attention.v_proj, normed).view(heads)
    if hasattr(attention, "k_norm"):  # Qwen3-VL
        key = _norm(attention.k_norm, key)
    key, value = _rotate(key, *turn).transpose(1, 2), value.transpose(1, 2)
    if old is None:
        return key.contiguous(), value.contiguous()
    past_key, past_value = (part.expand(key.shape[0], -1, -1, -1) for part in old)
    return torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)


def _rows(x: Tensor, rows: Tensor | int) -> Tensor:
    """(b, n, width) -> (b, k, width); the last k are a view."""
    if isinstance(rows, int):
        return x[:, x.shape[1] - rows :]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def _linear(module: Any, x: Tensor) -> Tensor:
    """A plain linear layer without the module's call, which costs more than a small product; others (an
    adapter beside the weights, 4-bit weights) run as they are."""
    if type(module) is nn.Linear:
        return functional.linear(x, module.weight, module.bias)
    return module(x)  # type: ignore[no-any-return]


def _norm(module: Any, x: Tensor) -> Tensor:
    """RMS norm by the length of each row, where that rounds as the stock one does, in float32.

    On a CPU torch's own norm squares and averages in passes of their own and takes more than twice as long.
    """
    if x.dtype == torch.float32 and module.weight.dtype == torch.float32:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(module.variance_epsilon).rsqrt_()
        return (x * scale).mul_(module.weight)
    return module(x)  # type: ignore[no-any-return]


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool = False
) -> Tensor:
    """Fused attention; keys and values may have fewer heads than queries. ``causal`` takes no mask.

    Only the CPU kernel takes fewer heads together with a mask without falling back to the slow path.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.device.type != "cpu":
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        groups = 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=groups > 1
    )


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(b, n, heads, width) turned by (b, n, 1, width); the sine's first half has its sign changed."""
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat([second, first], dim=-1), sin)

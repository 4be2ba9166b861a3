"""The Whisper encoder at the true length of the sound, and the arithmetic of its lengths.

The stock encoder accepts exactly 30 s. Here the same modules run on the frames that exist: the table of
positions is sliced, attention does not see padding, and the output of the first convolution is zeroed past
the end, because the second one (kernel 3, stride 2) would otherwise read one padded frame at odd lengths.
Source of the architecture: Whisper, arXiv 2212.04356.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from surgvivqa_audio.errors import ModelError


def encoder_length(mel_frames: int) -> int:
    """Encoder frames for ``mel_frames`` log-mel frames: conv2 has stride 2, kernel 3 and padding 1."""
    return (mel_frames + 1) // 2


def audio_token_count(mel_frames: int, stack: int) -> int:
    """Audio tokens for ``mel_frames`` log-mel frames when ``stack`` encoder frames make one token."""
    return -(-encoder_length(mel_frames) // stack)


def _mask(lengths: Tensor, size: int) -> Tensor:
    """(b,) lengths -> (b, size) bool, true where an element exists."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def encode_audio(encoder: WhisperEncoder, features: Tensor, lengths: Tensor) -> Tensor:
    """Run a stock Whisper encoder on features of any length up to its table of positions.

    Args:
        encoder: the stock module; its own ``forward`` is not called.
        features: log-mel features, (b, m, t), padded at the end with anything.
        lengths: valid mel frames per sample, (b,), integer, at least 1.

    Returns:
        (b, ceil(t / 2), d); rows past ``encoder_length(lengths)`` are undefined.

    Raises:
        ModelError: a sample is longer than the encoder's positions.
    """
    size = encoder_length(features.shape[-1])
    if size > encoder.max_source_positions:
        raise ModelError(
            f"audio of {features.shape[-1]} mel frames needs {size} encoder positions, the encoder has "
            f"{encoder.max_source_positions}; shorten the recording"
        )
    hidden = features.to(encoder.conv1.weight.dtype).transpose(1, 2)
    whole = bool((lengths == features.shape[-1]).all())  # nothing is padded, nothing must be masked
    silent = None if whole else ~_mask(lengths, features.shape[-1])[:, :, None]
    hidden = _heard(nn.functional.gelu(_convolve(encoder.conv1, _heard(hidden, silent))), silent)
    hidden = nn.functional.gelu(_convolve(encoder.conv2, hidden))
    hidden = hidden + encoder.embed_positions.weight[:size].to(hidden.dtype)
    hidden = nn.functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    bias = None
    if not whole:
        valid = _mask((lengths + 1) // 2, size)
        bias = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(~valid, torch.finfo(hidden.dtype).min)[:, None, None, :]
        bias = bias.expand(-1, 1, size, -1)
    # fp16 needs the stock layer's clamp, training its dropout.
    run = _stock if encoder.training or hidden.dtype == torch.float16 else _layer
    for layer in encoder.layers:
        hidden = run(layer, hidden, bias)
    return encoder.layer_norm(hidden)


def _heard(hidden: Tensor, silent: Tensor | None) -> Tensor:
    """Zero where nothing was recorded."""
    return hidden if silent is None else hidden.masked_fill(silent, 0)


def _convolve(convolution: nn.Conv1d, frames: Tensor) -> Tensor:
    """(b, t, c) -> (b, n, d), as the stock module does, in one matrix product over all windows: on a CPU the
    convolution's own kernels take longer at these lengths."""
    kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    padded = nn.functional.pad(frames, (0, 0, padding, padding))
    windows = padded.unfold(1, kernel, stride)  # (b, n, c, kernel)
    return nn.functional.linear(windows.flatten(2), convolution.weight.flatten(1), convolution.bias)


def _stock(layer: Any, hidden: Tensor, bias: Tensor | None) -> Tensor:
    return layer(hidden, bias)  # type: ignore[no-any-return]


def _layer(layer: Any, hidden: Tensor, bias: Tensor | None) -> Tensor:
    """A stock layer's modules without the copies and switches that a cache and cross attention need."""
    attention = layer.self_attn
    heads = (*hidden.shape[:2], attention.num_heads, -1)
    normed = layer.self_attn_layer_norm(hidden)
    query, key, value = (
        projection(normed).view(heads).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    seen = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=attention.scaling
    )
    hidden = hidden + attention.out_proj(seen.transpose(1, 2).reshape(hidden.shape))
    wide = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
    return hidden + layer.fc2(wide)


def stack_frames(hidden: Tensor, lengths: Tensor, stack: int) -> tuple[Tensor, Tensor]:
    """Join ``stack`` neighbouring encoder frames into one; missing ones at the end are zero.

    Args:
        hidden: (b, n, d) encoder frames, undefined past ``lengths``.
        lengths: valid encoder frames per sample, (b,).
        stack: frames per token.

    Returns:
        (b, a, stack * d) and the valid tokens per sample, (b,).
    """
    batch, size, width = hidden.shape
    hidden = hidden.masked_fill(~_mask(lengths, size)[..., None], 0)
    padded = -(-size // stack) * stack
    hidden = nn.functional.pad(hidden, (0, 0, 0, padded - size))
    return hidden.reshape(batch, padded // stack, stack * width), (lengths + stack - 1) // stack

"""The Whisper decoder on true-length encodings: teacher forcing and greedy transcription.

The stock decoder attends to every encoder frame it is given; in a batch of different lengths that would
include frames that do not exist. Here its own layers run with a mask over the frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.encoder import encode_audio


def decode_audio_tokens(
    model: WhisperForConditionalGeneration,
    ids: Tensor,
    encoded: Tensor,
    lengths: Tensor,
    cache: EncoderDecoderCache | None = None,
) -> Tensor:
    """Next-token logits of the stock decoder, blind to encoder frames past the end of each sample.

    Args:
        model: a stock Whisper.
        ids: decoder tokens, (b, n); only the new ones when a cache is given.
        encoded: output of :func:`~surgvivqa_audio.model.encoder.encode_audio`, (b, s, d).
        lengths: valid mel frames per sample, (b,).
        cache: grows by the new tokens; one new token at a time once it holds some.

    Returns:
        (b, n, vocabulary).

    Raises:
        ModelError: more tokens than the decoder has positions.
    """
    decoder = model.model.decoder
    past = 0 if cache is None else int(cache.get_seq_length())
    size = ids.shape[1]
    if past + size > decoder.max_target_positions:
        raise ModelError(
            f"a transcript of {past + size} tokens exceeds the decoder's {decoder.max_target_positions}"
        )
    positions = decoder.embed_positions.weight[past : past + size]
    hidden = decoder.embed_tokens(ids) + positions
    hidden = torch.nn.functional.dropout(hidden, p=decoder.dropout, training=decoder.training)
    frames = torch.arange(encoded.shape[1], device=encoded.device)[None, :]
    missing = frames >= ((lengths + 1) // 2)[:, None]
    bias = torch.zeros(missing.shape, dtype=hidden.dtype, device=hidden.device)
    bias = bias.masked_fill(missing, torch.finfo(hidden.dtype).min)[:, None, None, :].expand(-1, 1, size, -1)
    causal = torch.full((size, past + size), torch.finfo(hidden.dtype).min, device=hidden.device)
    causal = causal.to(hidden.dtype).triu(past + 1)[None, None].expand(ids.shape[0], 1, -1, -1)
    for layer in decoder.layers:
        hidden = layer(
            hidden,
            causal,
            encoded,
            encoder_attention_mask=bias,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    logits: Tensor = model.proj_out(decoder.layer_norm(hidden))
    return logits


@torch.no_grad()
def greedy_transcribe(
    model: WhisperForConditionalGeneration, features: Tensor, lengths: Tensor, max_tokens: int
) -> Tensor:
    """Most likely tokens, one after the other, for a batch of recordings.

    Args:
        model: a stock Whisper; its config names the start, end and padding tokens.
        features: log-mel features, (b, m, t).
        lengths: valid mel frames per sample, (b,).
        max_tokens: longest transcript, end token included.

    Returns:
        int64, (b, n) with n <= ``max_tokens``: without the start token; an end token closes each transcript
        that fits, padding follows it.

    Raises:
        ModelError: a recording or ``max_tokens`` exceeds the positions of the model.
    """
    config = model.config
    encoded = encode_audio(model.model.encoder, features, lengths)
    batch = features.shape[0]
    current = torch.full((batch, 1), config.decoder_start_token_id, dtype=torch.int64, device=features.device)
    open_rows = torch.ones(batch, dtype=torch.bool, device=features.device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    written: list[Tensor] = []
    while len(written) < max_tokens and bool(open_rows.any()):
        logits = decode_audio_tokens(model, current, encoded, lengths, cache)
        best = logits[:, -1].argmax(dim=-1).masked_fill(~open_rows, config.pad_token_id)
        written.append(best)
        open_rows = open_rows & (best != config.eos_token_id)
        current = best[:, None]
    return torch.stack(written, dim=1) if written else current[:, :0]

"""Masked decoding of the stock Whisper: teacher forcing and greedy transcription."""

from __future__ import annotations

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.asr import decode_audio_tokens, greedy_transcribe
from surgvivqa_audio.model.encoder import encode_audio


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    torch.manual_seed(3)
    config = WhisperConfig(
        vocab_size=40,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_source_positions=30,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=1,
        eos_token_id=2,
        init_std=0.5,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config).eval()


def _features(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(lengths), 8, max(lengths), generator=generator)
    return features, torch.tensor(lengths)


def test_full_length_equals_the_stock_model(model: WhisperForConditionalGeneration) -> None:
    features, lengths = _features([60, 60])
    ids = torch.tensor([[1, 5, 9, 30], [1, 7, 7, 2]])
    with torch.no_grad():
        stock = model(input_features=features, decoder_input_ids=ids).logits
        ours = decode_audio_tokens(model, ids, encode_audio(model.model.encoder, features, lengths), lengths)
    assert (stock - ours).abs().max() <= 1e-5


def test_batched_equals_single_at_odd_and_even_lengths(model: WhisperForConditionalGeneration) -> None:
    features, lengths = _features([41, 60, 7, 38])
    ids = torch.tensor([[1, 5, 9]]).repeat(4, 1)
    with torch.no_grad():
        batched = decode_audio_tokens(
            model, ids, encode_audio(model.model.encoder, features, lengths), lengths
        )
        for row, length in enumerate(lengths.tolist()):
            alone = features[row : row + 1, :, :length]
            encoded = encode_audio(model.model.encoder, alone, lengths[row : row + 1])
            single = decode_audio_tokens(model, ids[:1], encoded, lengths[row : row + 1])
            assert (batched[row] - single[0]).abs().max() <= 1e-5


def test_greedy_equals_a_reference_without_cache_or_batch(model: WhisperForConditionalGeneration) -> None:
    features, lengths = _features([41, 60, 7, 38, 22, 13])
    written = greedy_transcribe(model, features, lengths, max_tokens=12)
    stops = set()
    for row, length in enumerate(lengths.tolist()):
        ids = [1]
        while len(ids) <= 12 and ids[-1] != 2:
            with torch.no_grad():
                encoded = encode_audio(
                    model.model.encoder, features[row : row + 1, :, :length], lengths[row : row + 1]
                )
                logits = decode_audio_tokens(model, torch.tensor([ids]), encoded, lengths[row : row + 1])
            ids.append(int(logits[0, -1].argmax()))
        expected = ids[1:] + [0] * (written.shape[1] - len(ids) + 1)
        assert written[row].tolist() == expected
        stops.add(ids[-1] == 2)
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_finished_rows_are_padded(model: WhisperForConditionalGeneration) -> None:
    features, lengths = _features([41, 60])
    first = int(greedy_transcribe(model, features, lengths, max_tokens=1)[0, 0])
    ended = model.config.eos_token_id
    model.config.eos_token_id = first
    try:
        written = greedy_transcribe(model, features[:1].repeat(2, 1, 1), lengths[:1].repeat(2), max_tokens=5)
    finally:
        model.config.eos_token_id = ended
    assert written.tolist() == [[first], [first]]


def test_too_many_tokens_are_refused(model: WhisperForConditionalGeneration) -> None:
    features, lengths = _features([20])
    encoded = encode_audio(model.model.encoder, features, lengths)
    with pytest.raises(ModelError, match="17 tokens exceeds the decoder's 16"):
        decode_audio_tokens(model, torch.ones(1, 17, dtype=torch.int64), encoded, lengths)

"""The Whisper encoder at the true length, its length arithmetic, and the splice into the embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from surgvivqa_audio.errors import BadAudio, ModelError, PlaceholderMismatch
from surgvivqa_audio.model.encoder import audio_token_count, encode_audio, encoder_length, stack_frames
from surgvivqa_audio.model.fusion import placeholder_runs, splice_audio
from surgvivqa_audio.processing.features import log_mel, make_feature_extractor
from tiny_graft import IDS, tiny_graft, tone, whisper_config


def _encoder(positions: int = 60) -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(whisper_config(positions)).eval()


# samples -> mel frames (10 ms hop, at least one 25 ms window) -> encoder frames (half, rounded up) -> tokens
LENGTHS = [
    (1, 2, 1, 1),
    (8_000, 50, 25, 7),
    (16_000, 100, 50, 13),
    (55_520, 347, 174, 44),
    (480_000, 3_000, 1_500, 375),
]


@pytest.mark.parametrize(("samples", "mel_frames", "frames", "tokens"), LENGTHS)
def test_lengths_at_stack_four(samples: int, mel_frames: int, frames: int, tokens: int) -> None:
    wave = np.full(samples, 0.01, dtype=np.float32)
    assert log_mel(make_feature_extractor(), wave).shape == (80, mel_frames)
    assert encoder_length(mel_frames) == frames
    assert audio_token_count(mel_frames, 4) == tokens


@pytest.mark.parametrize(("stack", "tokens"), [(1, 174), (2, 87), (4, 44), (8, 22)])
def test_tokens_of_3_47_seconds_at_every_stack(stack: int, tokens: int) -> None:
    assert audio_token_count(347, stack) == tokens


@pytest.mark.parametrize("stack", [1, 2, 4, 8])
@pytest.mark.parametrize("frames", [2, 50, 347])
@torch.no_grad()
def test_the_model_makes_as_many_features_as_the_arithmetic_says(stack: int, frames: int) -> None:
    model = tiny_graft(stack=stack)
    mel = torch.zeros(1, 80, frames)
    features = model.get_audio_features(mel, torch.tensor([frames]))
    assert [tuple(feature.shape) for feature in features] == [(audio_token_count(frames, stack), 64)]


def test_empty_and_31_seconds_are_refused() -> None:
    extractor = make_feature_extractor()
    with pytest.raises(BadAudio, match="recording is empty"):
        log_mel(extractor, np.zeros(0, dtype=np.float32))
    with pytest.raises(BadAudio, match=r"31\.00 s, the limit is 30 s"):
        log_mel(extractor, tone(31.0))
    with pytest.raises(ModelError, match="3100 mel frames needs 1550 encoder positions, the encoder has 60"):
        encode_audio(_encoder(), torch.zeros(1, 80, 3100), torch.tensor([3100]))


@torch.no_grad()
def test_full_length_equals_the_stock_encoder() -> None:
    encoder = _encoder()
    features = torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(1))
    stock = encoder(features).last_hidden_state
    ours = encode_audio(encoder, features, torch.tensor([120, 120]))
    assert float(stock.std()) > 0.1
    assert float((ours - stock).abs().max()) <= 1e-5


@torch.no_grad()
def test_a_batch_equals_each_recording_alone_at_odd_and_even_lengths() -> None:
    encoder = _encoder()
    lengths = [120, 119, 64, 63, 33, 2, 1]
    features = torch.randn(len(lengths), 80, 120, generator=torch.Generator().manual_seed(2))
    for row, length in zip(features, lengths, strict=True):
        row[:, length:] = 1e4
    batch = encode_audio(encoder, features, torch.tensor(lengths))
    for index, length in enumerate(lengths):
        alone = encode_audio(encoder, features[index : index + 1, :, :length], torch.tensor([length]))[0]
        assert alone.shape[0] == encoder_length(length)
        assert float((batch[index, : alone.shape[0]] - alone).abs().max()) <= 1e-5, length


@torch.no_grad()
def test_padding_never_leaves_the_encoder() -> None:
    model = tiny_graft()
    features = torch.randn(2, 80, 40, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([40, 9])
    first = model.get_audio_features(features, lengths)
    features[1, :, 9:] = -7e3
    second = model.get_audio_features(features, lengths)
    assert [feature.shape[0] for feature in first] == [5, 2]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_stacking_joins_neighbours_and_fills_with_zero() -> None:
    hidden = torch.arange(1.0, 13.0).reshape(1, 6, 2)
    stacked, counts = stack_frames(hidden, torch.tensor([5]), 4)
    assert counts.tolist() == [2]
    assert stacked[0].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 0, 0, 0, 0, 0, 0]]


def test_splice_puts_features_where_their_placeholders_stand() -> None:
    audio = IDS["audio"]
    ids = torch.tensor([[1, audio, audio, 2, audio], [3, 4, 5, 6, 7]])
    features = [torch.full((2, 3), 10.0), torch.full((1, 3), 20.0)]
    spliced = splice_audio(torch.zeros(2, 5, 3), ids, features, audio)
    assert spliced[..., 0].tolist() == [[0, 10, 10, 0, 20], [0, 0, 0, 0, 0]]
    assert placeholder_runs(ids == audio) == [(0, 2), (0, 1)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([2, 2], r"row 1 of the batch: 3 audio placeholders for 2 audio features \(recording 1\)"),
        ([3, 2], r"row 0 of the batch: 2 audio placeholders for 3 audio features \(recording 0\)"),
        ([2], r"row 1 of the batch: 3 audio placeholders for 0 audio features \(recording 1\)"),
        ([2, 3, 1], "3 recordings for 2 runs of audio placeholders"),
    ],
)
def test_a_wrong_count_names_the_row_even_when_the_totals_agree(counts: list[int], message: str) -> None:
    audio = IDS["audio"]
    ids = torch.tensor([[1, audio, audio, 2, 2], [3, audio, audio, audio, 7]])
    with pytest.raises(PlaceholderMismatch, match=message):
        splice_audio(torch.zeros(2, 5, 3), ids, [torch.zeros(count, 3) for count in counts], audio)

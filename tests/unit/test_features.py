"""Log-mel features at the true length of the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from surgvivqa_audio.errors import BadAudio, ModelError
from surgvivqa_audio.processing.features import (
    batch_mels,
    log_mel,
    make_feature_extractor,
    mel_frame_count,
)


def _tone(samples: int, frequency: float = 440.0) -> NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(samples) / 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return make_feature_extractor()


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(1, 2), (160, 2), (400, 2), (559, 3), (16_000, 100), (16_159, 100), (48_080, 300), (480_000, 3000)],
)
def test_frames_follow_the_samples(extractor: WhisperFeatureExtractor, samples: int, frames: int) -> None:
    mel = log_mel(extractor, _tone(samples))
    assert mel.shape == (80, frames)
    assert mel.dtype == np.float32
    assert mel_frame_count(samples, extractor) == frames


def test_equal_to_the_stock_extractor_on_thirty_seconds(extractor: WhisperFeatureExtractor) -> None:
    wave = _tone(480_000)
    stock = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    assert np.array_equal(log_mel(extractor, wave), stock)


@pytest.mark.parametrize("samples", [400, 559, 3200, 31_999])
def test_equal_to_the_stock_extractor_at_any_length(extractor: WhisperFeatureExtractor, samples: int) -> None:
    noise = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    stock = extractor(noise, sampling_rate=16_000, padding=False, truncation=False, return_tensors="np")
    assert np.array_equal(log_mel(extractor, noise), stock["input_features"][0])


def test_a_tone_lights_its_own_mel_band(extractor: WhisperFeatureExtractor) -> None:
    low = log_mel(extractor, _tone(16_000, 300.0)).mean(axis=1).argmax()
    high = log_mel(extractor, _tone(16_000, 3000.0)).mean(axis=1).argmax()
    assert (low, high) == (7, 54)


def test_silence_is_flat_at_the_floor(extractor: WhisperFeatureExtractor) -> None:
    assert np.unique(log_mel(extractor, np.zeros(3200, np.float32))).tolist() == [-1.5]


def test_mel_bins_and_saved_extractor(tmp_path: Path) -> None:
    extractor = make_feature_extractor(128)
    extractor.save_pretrained(tmp_path)
    again = WhisperFeatureExtractor.from_pretrained(tmp_path)
    wave = _tone(5000)
    assert log_mel(again, wave).shape == (128, 31)
    assert np.array_equal(log_mel(again, wave), log_mel(extractor, wave))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(480_001, np.float32), r"lasts 30\.00 s, the limit is 30 s"),
        (np.zeros((2, 800), np.float32), r"shape \(2, 800\)"),
        (np.zeros(800, np.float64), "got float64"),
        (np.full(800, np.nan, np.float32), "not finite"),
    ],
)
def test_bad_sound_is_refused(
    extractor: WhisperFeatureExtractor, wave: NDArray[np.float32], message: str
) -> None:
    with pytest.raises(BadAudio, match=message):
        log_mel(extractor, wave)


def test_batches_are_padded_at_the_end() -> None:
    features, lengths = batch_mels([np.ones((2, 3), np.float32), np.full((2, 1), 5, np.float16)])
    assert lengths.tolist() == [3, 1]
    assert lengths.dtype == torch.int64
    assert features.dtype == torch.float32
    assert features.tolist() == [[[1, 1, 1], [1, 1, 1]], [[5, 0, 0], [5, 0, 0]]]


def test_batches_need_equal_bins_and_a_member() -> None:
    with pytest.raises(ModelError, match="at least one"):
        batch_mels([])
    with pytest.raises(ModelError, match=r"\[2, 3\]"):
        batch_mels([np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)])

"""Sound to log-mel features at the true length, with the numbers of the stock Whisper feature extractor.

Stock processing pads every recording to 30 s; here nothing is padded except recordings shorter than one
analysis window, so that the cost of a question follows its length. The arithmetic is the stock extractor's,
bit for bit; its batches, padding and containers, a fifth of the time of a short question, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from surgvivqa_audio.errors import BadAudio, ModelError

SAMPLE_RATE = 16_000
MAX_SECONDS = 30


def make_feature_extractor(mel_bins: int = 80) -> WhisperFeatureExtractor:
    """The stock extractor with this many mel bins: 16 kHz, 25 ms windows, 10 ms hop."""
    return WhisperFeatureExtractor(feature_size=mel_bins)


def mel_frame_count(samples: int, extractor: WhisperFeatureExtractor) -> int:
    """Log-mel frames that :func:`log_mel` makes of this many samples."""
    return max(samples, int(extractor.n_fft)) // int(extractor.hop_length)


def log_mel(extractor: WhisperFeatureExtractor, wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel features of one recording.

    Args:
        extractor: the stock extractor that is saved beside the model.
        wave: mono samples at 16 kHz, float32 in -1..1, (n,), n >= 1. One shorter than the analysis window
            is zero-padded to it, and the padding counts as sound.

    Returns:
        float32, (m, t) with t = :func:`mel_frame_count`; equal to the stock extractor's without padding
        and dither.

    Raises:
        BadAudio: the recording is empty, not mono float32, not finite or longer than 30 s.
    """
    if wave.ndim != 1 or wave.dtype != np.float32:
        raise BadAudio(
            f"mono float32 samples are needed, got {wave.dtype} of shape {wave.shape}; decode and mix first"
        )
    if wave.size == 0:
        raise BadAudio("the recording is empty; record the question again")
    limit = MAX_SECONDS * SAMPLE_RATE
    if wave.size > limit:
        raise BadAudio(
            f"the recording lasts {wave.size / SAMPLE_RATE:.2f} s, the limit is {MAX_SECONDS} s; shorten it"
        )
    if not np.isfinite(wave).all():
        raise BadAudio("the recording holds values that are not finite; decode it again")
    if wave.size < extractor.n_fft:
        wave = np.pad(wave, (0, extractor.n_fft - wave.size))
    size, hop = int(extractor.n_fft), int(extractor.hop_length)
    waves = torch.from_numpy(wave)[None]
    spectrum = torch.stft(waves, size, hop, window=_window(size), return_complex=True)
    power = (spectrum[..., :-1].abs() ** 2).contiguous()
    filters = torch.from_numpy(extractor.mel_filters).to(torch.float32)
    logs = torch.clamp(filters.T @ power, min=1e-10).log10()[0]
    return ((torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).numpy()


@lru_cache
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


def batch_mels(mels: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Pad features at the end with zeros to the longest of the batch.

    Args:
        mels: arrays of shape (m, t), one per recording, all with the same m; float16 is accepted.

    Returns:
        features, float32, (b, m, t_max), and their true lengths, int64, (b,).

    Raises:
        ModelError: the batch is empty or the numbers of mel bins differ.
    """
    if not mels:
        raise ModelError("a batch of audio features needs at least one recording")
    bins = {mel.shape[0] for mel in mels}
    if len(bins) != 1:
        raise ModelError(f"recordings of one batch have different numbers of mel bins: {sorted(bins)}")
    lengths = [mel.shape[1] for mel in mels]
    features = np.zeros((len(mels), bins.pop(), max(lengths)), dtype=np.float32)
    for row, mel in zip(features, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    return torch.from_numpy(features), torch.tensor(lengths, dtype=torch.int64)

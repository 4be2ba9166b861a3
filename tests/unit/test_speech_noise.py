"""Noise at an exact ratio, reverberation, clipping."""

from __future__ import annotations

import numpy as np
import pytest

from surgvivqa_audio.errors import BadAudio
from surgvivqa_audio.speech.audio import activity
from surgvivqa_audio.speech.noise import NOISES, add_noise, clip, make_noise, operating_room, reverb


def speech(level=0.2):
    """A modulated tone between two pauses, as long as a short question."""
    time = np.arange(32000) / 16000
    wave = level * np.sin(2 * np.pi * 220 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    wave[:6400] = 0
    wave[-6400:] = 0
    return wave.astype(np.float32)


def rng(seed=7):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("snr_db", [20, 5, 0, -5])
@pytest.mark.parametrize("kind", NOISES)
def test_ratio_is_exact_over_the_active_part(kind, snr_db):
    clean = speech()
    mixed = add_noise(clean, kind, snr_db, rng())
    active = activity(clean)
    # the pauses hold noise only, so the gain of the whole is found by least squares on the clean wave
    noise_alone = add_noise(clean, kind, snr_db, rng()).astype(np.float64)
    assert np.array_equal(mixed, noise_alone.astype(np.float32))
    scale = _scale(clean, kind, snr_db)
    noise = mixed.astype(np.float64) / scale - clean
    measured = 10 * np.log10(np.mean(clean[active] ** 2.0) / np.mean(noise[active] ** 2))
    assert measured == pytest.approx(snr_db, abs=0.1)
    assert mixed.dtype == np.float32
    assert np.abs(mixed).max() <= 1


def _scale(clean, kind, snr_db):
    """Peak limiting of the mixture, recomputed from its parts."""
    active = activity(clean)
    noise = make_noise(kind, clean.size, rng()).astype(np.float64)
    noise *= np.sqrt(np.mean(clean[active] ** 2.0) / 10 ** (snr_db / 10) / np.mean(noise[active] ** 2))
    return min(1.0, 0.999 / np.abs(clean + noise).max())


def test_a_loud_mixture_is_scaled_not_clipped():
    mixed = add_noise(speech(0.9), "white", -10, rng())
    assert np.abs(mixed).max() == pytest.approx(0.999, abs=1e-6)
    assert (np.abs(mixed) > 0.998).sum() == 1


def test_noises_have_their_own_spectra():
    def share(kind, low, high):
        power = np.abs(np.fft.rfft(make_noise(kind, 64000, rng()))) ** 2
        frequency = np.fft.rfftfreq(64000, 1 / 16000)
        return power[(frequency >= low) & (frequency < high)].sum() / power.sum()

    assert share("white", 0, 4000) == pytest.approx(0.5, abs=0.02)
    assert share("pink", 0, 500) > 0.4
    assert share("hum", 40, 500) > 0.95
    assert share("beeps", 580, 1120) > 0.95
    assert share("suction", 0, 80) < 0.1
    assert share("babble", 200, 4000) > 0.8


@pytest.mark.parametrize("kind", NOISES)
def test_same_seed_same_noise(kind):
    assert np.array_equal(make_noise(kind, 8000, rng(1)), make_noise(kind, 8000, rng(1)))
    assert not np.array_equal(make_noise(kind, 8000, rng(1)), make_noise(kind, 8000, rng(2)))


def test_babble_uses_the_voices_given():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    noise = make_noise("babble", 16000, rng(), [tone])
    assert np.argmax(np.abs(np.fft.rfft(noise))) == 1000
    with pytest.raises(BadAudio, match="empty or silent"):
        make_noise("babble", 100, rng(), [np.zeros(10, np.float32)])


def test_silence_and_unknown_kinds_are_refused():
    with pytest.raises(BadAudio, match="silent wave has no signal-to-noise ratio"):
        add_noise(np.zeros(16000, np.float32), "white", 10, rng())
    with pytest.raises(BadAudio, match="unknown noise 'rain'; known: white, pink"):
        add_noise(speech(), "rain", 10, rng())


def test_reverb_adds_a_tail_and_keeps_power_and_length():
    clean = speech()
    wet = reverb(clean, rng(), rt60=0.4)
    active = activity(clean)
    assert wet.size == clean.size
    assert np.mean(wet[active] ** 2.0) == pytest.approx(np.mean(clean[active] ** 2.0), rel=1e-3)
    assert np.abs(wet[-6000:-4000]).max() > 1e-3
    assert np.abs(clean[-6000:-4000]).max() == 0
    assert np.array_equal(wet, reverb(clean, rng(), rt60=0.4))


def test_clip_cuts_the_given_share_flat():
    clean = speech()
    cut = clip(clean, 0.1)
    level = np.abs(cut).max()
    assert level < np.abs(clean).max()
    flat = (np.abs(cut) >= level - 1e-7)[activity(clean)].mean()
    assert flat == pytest.approx(0.1, abs=0.01)


def test_operating_room_is_repeatable_and_refuses_silence():
    assert np.array_equal(operating_room(speech(), 5, rng()), operating_room(speech(), 5, rng()))
    with pytest.raises(BadAudio, match="silent"):
        operating_room(np.zeros(16000, np.float32), 5, rng())

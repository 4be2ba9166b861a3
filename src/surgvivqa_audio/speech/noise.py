"""Sounds of an operating room at an exact ratio to the speech, reverberation and clipping.

Everything is drawn from the generator that is passed in: equal seeds give equal waves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from surgvivqa_audio.errors import BadAudio
from surgvivqa_audio.speech.audio import SAMPLE_RATE, activity

Wave = NDArray[np.float32]
Signal = NDArray[np.float64]

NOISES = ("white", "pink", "hum", "babble", "beeps", "suction")

_BABBLE_SPEAKERS = 6
_PEAK = 0.999


def _filtered(source: Signal, gain: Callable[[Signal], Signal]) -> Signal:
    """``source`` (samples,) with its spectrum multiplied by ``gain`` of the frequencies in Hz."""
    total = next_fast_len(source.size, real=True)  # a prime length would cost many times more
    frequencies = np.asarray(np.fft.rfftfreq(total, 1.0 / SAMPLE_RATE), np.float64)
    spectrum = np.fft.rfft(source, total) * gain(frequencies)
    return np.asarray(np.fft.irfft(spectrum, total)[: source.size], np.float64)


def _shaped(size: int, gain: Callable[[Signal], Signal], rng: np.random.Generator) -> Signal:
    return _filtered(rng.standard_normal(size), gain)


def _resonance(centre: float, width: float) -> Callable[[Signal], Signal]:
    return lambda frequencies: 1.0 / (1.0 + ((frequencies - centre) / width) ** 2)


def _slow(size: int, rate_hz: float, rng: np.random.Generator) -> Signal:
    """A smooth random envelope in [0, 1] that changes about ``rate_hz`` times a second."""
    knots = rng.random(max(2, int(size / SAMPLE_RATE * rate_hz) + 2))
    return np.interp(np.linspace(0, knots.size - 1, size), np.arange(knots.size), knots)


def _pink(size: int, rng: np.random.Generator) -> Signal:
    return _shaped(size, lambda frequencies: 1.0 / np.sqrt(np.maximum(frequencies, 20.0)), rng)


def _hum(size: int, rng: np.random.Generator) -> Signal:
    base = float(rng.choice((50.0, 60.0)))
    time = np.arange(size) / SAMPLE_RATE
    hum = np.zeros(size)
    for harmonic, level in enumerate((1.0, 0.6, 0.45, 0.3, 0.2, 0.15, 0.1, 0.08), start=1):
        phase = rng.uniform(0, 2 * np.pi)
        hum += level * rng.uniform(0.5, 1.0) * np.sin(2 * np.pi * base * harmonic * time + phase)
    return hum + 0.02 * _pink(size, rng)


def _synthetic_speaker(size: int, rng: np.random.Generator) -> Signal:
    """A voiced source with drifting pitch and formants and syllable-like pauses; says nothing."""
    pitch = rng.uniform(90, 230) * (0.9 + 0.2 * _slow(size, 3.0, rng))
    cycles = np.cumsum(pitch / SAMPLE_RATE)
    source = 2.0 * (cycles - np.floor(cycles)) - 1.0 + 0.3 * rng.standard_normal(size)
    formants = [
        _resonance(float(centre), 150.0)
        for centre in (rng.uniform(300, 800), rng.uniform(1000, 2200), rng.uniform(2400, 3200))
    ]
    voiced = _filtered(source, lambda frequencies: np.sum([gain(frequencies) for gain in formants], axis=0))
    return np.asarray(voiced * np.square(_slow(size, 6.0, rng)), np.float64)


def _tiled(wave: Wave, size: int, rng: np.random.Generator) -> Signal:
    repeats = -(-size // wave.size) + 1
    start = int(rng.integers(wave.size))
    return np.tile(wave.astype(np.float64), repeats)[start : start + size]


def _babble(size: int, rng: np.random.Generator, voices: Sequence[Wave] | None) -> Signal:
    if voices is None:
        speakers = [_synthetic_speaker(size, rng) for _ in range(_BABBLE_SPEAKERS)]
        return np.asarray(np.sum(speakers, axis=0), np.float64)
    usable = [wave for wave in voices if wave.size and np.any(wave)]
    if not usable:
        raise BadAudio("babble: every wave to be mixed is empty or silent; pass waves that hold speech")
    chosen = [usable[int(rng.integers(len(usable)))] for _ in range(_BABBLE_SPEAKERS)]
    tiles = [_tiled(wave, size, rng) * rng.uniform(0.6, 1.4) for wave in chosen]
    return np.asarray(np.sum(tiles, axis=0), np.float64)


def _beeps(size: int, rng: np.random.Generator) -> Signal:
    """A pulse monitor; the period is short enough for at least two beeps a second and a half."""
    length = int(rng.uniform(0.08, 0.14) * SAMPLE_RATE)
    period = int(rng.uniform(0.45, 0.75) * SAMPLE_RATE)
    tone = np.sin(2 * np.pi * rng.uniform(600, 1100) * np.arange(length) / SAMPLE_RATE) * np.hanning(length)
    beeps = np.zeros(size + length)
    for start in range(int(rng.integers(period)), size, period):
        beeps[start : start + length] += tone
    return beeps[:size] + 1e-3 * rng.standard_normal(size)


def _suction(size: int, rng: np.random.Generator) -> Signal:
    """Broad turbulence around a resonance of the tube, with gurgling."""
    tube = _resonance(float(rng.uniform(700, 1600)), 600.0)
    turbulence = _shaped(size, lambda frequencies: (0.25 + tube(frequencies)) * (frequencies > 80), rng)
    gurgle = _shaped(size, lambda frequencies: np.exp(-frequencies / 250.0), rng)
    gurgle *= _slow(size, 12.0, rng) > 0.6
    return turbulence * (0.6 + 0.4 * _slow(size, 5.0, rng)) + 1.5 * gurgle


def make_noise(kind: str, size: int, rng: np.random.Generator, babble: Sequence[Wave] | None = None) -> Wave:
    """Noise alone, float32 (size,), root mean square 0.1 unless its peak would exceed 1.

    Raises:
        BadAudio: unknown kind, or babble from silent waves.
    """
    if kind not in NOISES:
        raise BadAudio(f"unknown noise '{kind}'; known: {', '.join(NOISES)}")
    if kind == "white":
        signal: Signal = rng.standard_normal(size)
    elif kind == "babble":
        signal = _babble(size, rng, babble)
    else:
        signal = {"pink": _pink, "hum": _hum, "beeps": _beeps, "suction": _suction}[kind](size, rng)
    signal = signal * (0.1 / max(float(np.sqrt(np.mean(np.square(signal)))), 1e-12))
    return _limited(signal)


def _limited(signal: Signal) -> Wave:
    """Scale the whole signal, so that ratios inside it stay, when its peak exceeds full scale."""
    peak = float(np.abs(signal).max(initial=0.0))
    return (signal * (_PEAK / peak) if peak > _PEAK else signal).astype(np.float32)


def _power(signal: NDArray[np.floating[Any]], where: NDArray[np.bool_]) -> float:
    return float(np.mean(np.square(signal[where])))


def add_noise(
    wave: Wave, kind: str, snr_db: float, rng: np.random.Generator, babble: Sequence[Wave] | None = None
) -> Wave:
    """Add noise so that speech to noise, both over the active part of the speech, is ``snr_db``.

    ``wave`` is float32 (samples,) at 16 kHz; so is the result, scaled as a whole if its peak exceeds 1.

    Raises:
        BadAudio: unknown kind, or ``wave`` holds no speech that a ratio could refer to.
    """
    active = activity(wave)
    if not active.any():
        raise BadAudio("a silent wave has no signal-to-noise ratio; use make_noise for noise alone")
    speech = wave.astype(np.float64)
    noise = make_noise(kind, wave.size, rng, babble).astype(np.float64)
    target = _power(speech, active) / 10.0 ** (snr_db / 10.0)
    return _limited(speech + noise * np.sqrt(target / _power(noise, active)))


def reverb(wave: Wave, rng: np.random.Generator, rt60: float | None = None) -> Wave:
    """Convolve with an exponentially decaying room response; same length and, where active, same power.

    ``rt60`` is the time in seconds in which the tail falls by 60 dB; drawn from 0.2 to 0.6 when None.
    """
    seconds = float(rng.uniform(0.2, 0.6)) if rt60 is None else rt60
    if not wave.size or seconds <= 0:
        return wave
    length = max(1, int(seconds * SAMPLE_RATE))
    decay = np.exp(-np.log(1000.0) * np.arange(length) / length)
    response = rng.standard_normal(length) * decay
    response *= rng.uniform(0.3, 0.7) / np.sqrt(np.sum(np.square(response)))
    response[0] = 1.0
    total = next_fast_len(wave.size + length - 1, real=True)
    wet = np.fft.irfft(np.fft.rfft(wave.astype(np.float64), total) * np.fft.rfft(response, total), total)
    wet = wet[: wave.size]
    active = activity(wave)
    if active.any():
        wet *= np.sqrt(_power(wave.astype(np.float64), active) / max(_power(wet, active), 1e-20))
    return _limited(wet)


def clip(wave: Wave, share: float = 0.02) -> Wave:
    """Overdrive: the loudest ``share`` of the active samples is cut flat at one level."""
    active = activity(wave)
    if not active.any() or share <= 0:
        return wave
    level = float(np.quantile(np.abs(wave[active]), 1.0 - share))
    return np.clip(wave, -level, level).astype(np.float32)


def operating_room(
    wave: Wave, snr_db: float, rng: np.random.Generator, babble: Sequence[Wave] | None = None
) -> Wave:
    """A whole room: reverberation, two of the noises together at ``snr_db``, sometimes clipping.

    Raises:
        BadAudio: ``wave`` holds no speech.
    """
    active = activity(wave)
    if not active.any():
        raise BadAudio("a silent wave has no signal-to-noise ratio; use make_noise for noise alone")
    speech = reverb(wave, rng).astype(np.float64)
    if rng.random() < 0.3:
        speech = clip(speech.astype(np.float32)).astype(np.float64)
    kinds = rng.choice(("hum", "babble", "beeps", "suction"), size=2, replace=False)
    parts = [make_noise(str(kind), wave.size, rng, babble) for kind in kinds]
    noise = np.asarray(np.sum(parts, axis=0), np.float64)
    target = _power(speech, active) / 10.0 ** (snr_db / 10.0)
    return _limited(speech + noise * np.sqrt(target / _power(noise, active)))


def parse_degradation(spec: str) -> tuple[str, float | None]:
    """``suction@10`` or ``room@5`` (decibels), ``reverb``, ``clip``: kind and ratio.

    Raises:
        BadAudio: anything else; lists what is known.
    """
    kind, _, ratio = spec.partition("@")
    try:
        snr_db = float(ratio) if ratio else None
    except ValueError:
        snr_db = float("nan")
    noisy = kind in (*NOISES, "room")
    if (noisy and snr_db is not None and -30 <= snr_db <= 60) or (kind in ("reverb", "clip") and not ratio):
        return kind, snr_db
    raise BadAudio(
        f"noise '{spec}' is not understood; write reverb, clip or KIND@DECIBELS (-30 to 60) with KIND one of "
        f"{', '.join((*NOISES, 'room'))}"
    )


def degrade(wave: Wave, spec: str, rng: np.random.Generator) -> Wave:
    """Apply what :func:`parse_degradation` understands.

    Raises:
        BadAudio: the specification is wrong, or ``wave`` holds no speech.
    """
    kind, snr_db = parse_degradation(spec)
    if snr_db is None:
        return reverb(wave, rng) if kind == "reverb" else clip(wave)
    return operating_room(wave, snr_db, rng) if kind == "room" else add_noise(wave, kind, snr_db, rng)

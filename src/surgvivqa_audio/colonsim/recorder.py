"""From light to recorded pixels: exposure, tone, noise, focus and compression."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgvivqa_audio.colonsim.anatomy import Floats, Look, noise_bank
from surgvivqa_audio.colonsim.camera import Lens
from surgvivqa_audio.colonsim.spec import Scene

_MEAN_BRIGHTNESS = np.float32(0.46)  # of the view before the tone curve


def record(
    colour: Floats, scene: Scene, look: Look, moments: NDArray[np.float64], lens: Lens
) -> NDArray[np.uint8]:
    """Exposure, vignette, tone curve, noise and blur; uint8 (F, size, size, 3)."""
    rng = np.random.default_rng([scene.seed, 61])
    hard = scene.difficulty
    exposure = rng.uniform(1 - 0.36 * hard - 0.05, 1 + 0.30 * hard + 0.05)
    balance = np.asarray(look.white_balance) * (1 + rng.uniform(-0.10, 0.10, 3) * (0.5 + hard))
    flicker = 1 + 0.02 * hard * rng.standard_normal(8)[(np.round(moments * 31) % 8).astype(int)]
    x, y = lens.xy
    vignette = (1 - np.float32(look.vignette) * (x * x + y * y)) * lens.edge
    # automatic exposure: scopes hold the mean brightness, so a dark shaft or a white jet hardly shows in it
    bright = (
        np.float32(0.3) * colour[0].mean(1)
        + np.float32(0.6) * colour[1].mean(1)
        + np.float32(0.1) * (colour[2].mean(1))
    )
    exposure = exposure * (_MEAN_BRIGHTNESS / np.maximum(bright, np.float32(0.05))) ** np.float32(0.85)
    gain = (flicker * exposure)[:, None].astype(np.float32) * vignette
    colour *= gain * balance.astype(np.float32).reshape(3, 1, 1)
    # a shoulder instead of hard clipping, then display gamma (approximated by a square root blend)
    colour = np.maximum(colour, 0)
    colour = colour * (1 + colour * np.float32(0.10)) / (1 + colour * np.float32(0.32)) * np.float32(1.12)
    noise = noise_bank()[3].ravel()
    strength = np.float32(0.005 + 0.034 * hard * rng.random())
    soften, quality = rng.random() < 0.6 * hard, int(rng.integers(45, 85))
    quality = quality if rng.random() < 0.5 * hard else 0
    count = lens.index.size
    for frame, moment in enumerate(moments):
        starts = np.random.default_rng([scene.seed, 67, round(float(moment) * 1000)])
        for channel, start in enumerate(starts.integers(0, noise.size, 3)):
            colour[channel, frame] += strength * _wrap(noise, int(start), count)
    pixels = np.zeros((colour.shape[1], lens.size * lens.size, 3), dtype=np.uint8)
    pixels[:, lens.index] = np.moveaxis(np.clip(colour * 255 + np.float32(0.5), 0, 255), 0, -1).astype(
        np.uint8
    )
    frames = pixels.reshape(-1, lens.size, lens.size, 3)
    if soften:
        for _ in range(max(1, round(lens.size / 112))):
            frames = _soften(frames)
    return np.stack([_compress(frame, quality) for frame in frames]) if quality else frames


def _soften(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Out of focus: a three-tap binomial filter both ways."""
    wide = frames.astype(np.uint16)
    wide[:, 1:-1] = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:] + 2) >> 2
    wide[:, :, 1:-1] = (wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:] + 2) >> 2
    return wide.astype(np.uint8)


def _compress(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One frame through a JPEG encoder and back."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _wrap(noise: Floats, start: int, count: int) -> Floats:
    end = start + count
    if end > noise.size:
        noise = np.tile(noise, -(-end // noise.size))
    return noise[start:end]

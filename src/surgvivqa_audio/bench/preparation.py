"""What happens before the model runs: sound to log-mel, JPEG bytes to patches."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import PIL.Image

from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.bench.measure import percentiles, timed
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.processing.video import Geometry, VideoInputs, video_inputs

_HEIGHT, _WIDTH = 1080, 1350
_FRAMES = 8
_GEOMETRY = Geometry(14, 2, 2, 384)  # of the 7B model, whatever the size at hand
_GRAIN = 8.0  # sensor noise; without it a JPEG decodes in half the time. 490 KB a frame
_FINE_GRAIN = 3.7  # 292 KB a frame, the mean of REAL-Colon's archive 002-001 (7.6 GB, 25,998 frames)


def camera_jpegs(seed: int, grain: float = _GRAIN) -> list[bytes]:
    """Eight 1350x1080 frames with Gaussian noise of this deviation, of 255."""
    generator = np.random.default_rng(seed)
    contents = []
    for _ in range(_FRAMES):
        coarse = generator.uniform(60, 200, size=(9, 9, 3)).astype(np.uint8)
        smooth = PIL.Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), PIL.Image.Resampling.BICUBIC)
        noise = generator.normal(0, grain, (_HEIGHT, _WIDTH, 1))
        frame = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        PIL.Image.fromarray(frame).save(stream, "JPEG", quality=90)
        contents.append(stream.getvalue())
    return contents


def preparation_ms(work: Workload, repeats: int = 20) -> dict[str, dict[str, float]]:
    """Percentiles of ``question`` (recording to log-mel) and ``clip`` (eight 1350x1080 JPEGs to patches).

    ``clip_of_dataset_size`` is the latter with frames of as many bytes as the dataset's have.
    """
    grainy, usual = camera_jpegs(0), camera_jpegs(0, _FINE_GRAIN)
    times: dict[str, list[float]] = {"question": [], "clip": [], "clip_of_dataset_size": []}
    for number in range(-1, repeats):
        wave = work.waves[number % len(work.waves)]
        spent = (
            timed(partial(work.engine.processor.mel, wave)),
            timed(partial(_to_patches, grainy)),
            timed(partial(_to_patches, usual)),
        )
        if number >= 0:
            for kept, one in zip(times.values(), spent, strict=True):
                kept.append(one)
    return {name: percentiles(kept) for name, kept in times.items()}


def _to_patches(jpegs: list[bytes]) -> VideoInputs:
    return video_inputs(decode_frames(jpegs, _GEOMETRY), FPS, _GEOMETRY)

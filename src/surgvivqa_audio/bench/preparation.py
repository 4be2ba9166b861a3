"""What happens before the model runs: sound to log-mel, JPEG bytes to patches."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import PIL.Image

from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.bench.measure import percentiles, timed
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.processing.video import Geometry, video_inputs

_HEIGHT, _WIDTH = 1080, 1350
_FRAMES = 8
_GEOMETRY = Geometry(14, 2, 2, 384)  # of the 7B model, whatever the size at hand
_GRAIN = 8.0  # sensor noise; without it a JPEG decodes in half the time


def camera_jpegs(seed: int) -> list[bytes]:
    """Eight grainy 1350x1080 frames."""
    generator = np.random.default_rng(seed)
    contents = []
    for _ in range(_FRAMES):
        coarse = generator.uniform(60, 200, size=(9, 9, 3)).astype(np.uint8)
        smooth = PIL.Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), PIL.Image.Resampling.BICUBIC)
        grain = generator.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1))
        frame = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        PIL.Image.fromarray(frame).save(stream, "JPEG", quality=90)
        contents.append(stream.getvalue())
    return contents


def preparation_ms(work: Workload, repeats: int = 20) -> dict[str, dict[str, float]]:
    """Percentiles of ``question`` (recording to log-mel) and ``clip`` (eight 1350x1080 JPEGs to patches)."""
    jpegs = camera_jpegs(0)
    question, clip = [], []
    for number in range(-1, repeats):
        wave = work.waves[number % len(work.waves)]
        heard = timed(partial(work.engine.processor.mel, wave))
        seen = timed(lambda: video_inputs(decode_frames(jpegs, _GEOMETRY), FPS, _GEOMETRY))
        if number >= 0:
            question.append(heard)
            clip.append(seen)
    return {"question": percentiles(question), "clip": percentiles(clip)}

"""The frames of a clip as a small self-contained player: play, 1 to 10 FPS, slider, zoom, grid, keyboard."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files

import numpy as np
import PIL.Image

from surgvivqa_audio.apps.cases import ClipView
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.processing.video import resize
from surgvivqa_audio.sample import Image

HEIGHT = 540  # pixels of the player, fixed so that nothing jumps
MAX_SIDE = 640  # longer side of a displayed frame


def model_frames(clip: ClipView, processor: AudioGraftProcessor) -> list[Image]:
    """The frames after the processor's resize: the pixels that enter the model."""
    size = processor.geometry.target_size(*clip.frames[0].shape[:2])
    return [resize(frame, size) for frame in clip.frames]


def shown_frames(clip: ClipView) -> list[Image]:
    """The frames as they came, shrunk to what a page needs."""
    found = []
    for frame in clip.frames:
        picture = PIL.Image.fromarray(frame)
        picture.thumbnail((MAX_SIDE, MAX_SIDE), PIL.Image.Resampling.LANCZOS)
        found.append(np.asarray(picture))
    return found


def captions(clip: ClipView) -> list[str]:
    """``1/8 · frame 3806 · 0.00 s`` for every frame."""
    count = len(clip.frames)
    return [
        f"{place}/{count} · frame {number} · {time:.2f} s"
        for place, (number, time) in enumerate(zip(clip.numbers, clip.seconds(), strict=True), start=1)
    ]


def data_uri(frame: Image, lossless: bool) -> str:
    """A frame inside a page: PNG, or JPEG where a pixel more or less does not matter."""
    stream = io.BytesIO()
    picture = PIL.Image.fromarray(frame)
    if lossless:
        picture.save(stream, format="PNG", compress_level=3)
    else:
        picture.save(stream, format="JPEG", quality=92)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def flipbook_html(frames: list[Image], labels: list[str], dark: bool, lossless: bool = False) -> str:
    """One page with pictures, controls and script; nothing is fetched and nothing is sent."""
    template = (files("surgvivqa_audio") / "apps" / "flipbook.html").read_text(encoding="utf-8")
    pictures = [data_uri(frame, lossless) for frame in frames]
    data = json.dumps({"pictures": pictures, "labels": labels}).replace("<", "\\u003c")
    template = template.replace("__THEME__", "dark" if dark else "light")
    # Pixels that are shown as what the model sees are enlarged without smoothing.
    return template.replace("__CLASS__", "pixels" if lossless else "").replace("__DATA__", data)

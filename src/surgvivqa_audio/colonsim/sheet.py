"""A contact sheet: one tile per answer of every question type, first and last frame side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from surgvivqa_audio.colonsim.procedure import Procedure
from surgvivqa_audio.colonsim.render import render
from surgvivqa_audio.files import write_bytes
from surgvivqa_audio.taxonomy import load_taxonomy

_LABEL = 14  # pixels above a tile


def contact_sheet(out: Path, seed: int = 0, size: int = 144, columns: int = 6, quality: int = 82) -> int:
    """Write the sheet as JPEG and return its number of tiles."""
    pairs = [(t.name, a.short) for t in load_taxonomy().types.values() for a in t.answers]
    wide, high = 2 * size + 4, size + _LABEL
    sheet = Image.new("RGB", (columns * wide, -(-len(pairs) // columns) * high), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, want in enumerate(pairs):
        spec = Procedure(seed * 1000 + number % 12).clip(number, frames=2, want=want)
        left, top = number % columns * wide, number // columns * high
        frames = render(spec, size).frames
        sheet.paste(Image.fromarray(np.concatenate([frames[0], frames[-1]], axis=1)), (left, top + _LABEL))
        draw.text((left + 2, top + 1), f"{want[0]}: {want[1]}", fill=(235, 235, 235))
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=quality)
    write_bytes(out, buffer.getvalue())
    return len(pairs)

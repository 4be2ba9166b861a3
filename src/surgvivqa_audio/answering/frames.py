"""JPEG bytes -> frames at the size the model looks at, several at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image

from surgvivqa_audio.data.images import load_image
from surgvivqa_audio.errors import BadImage
from surgvivqa_audio.processing.video import Geometry, resize
from surgvivqa_audio.sample import Image


def decode_frames(
    contents: Sequence[bytes], geometry: Geometry, *, threads: int = 2, scaled: bool = True
) -> list[Image]:
    """Decode and shrink frames to ``geometry``'s size.

    Args:
        contents: bytes of JPEG or PNG files.
        geometry: decides the size.
        threads: frames decoded at a time (Pillow releases the interpreter lock).
        scaled: let the JPEG decoder halve the picture while it stays large enough. The pixels then differ
            slightly from those of a full decode (about one of 255 on smooth frames); False decodes in full.

    Returns:
        (h, w, 3) uint8 each.

    Raises:
        BadImage: a file is corrupt or of another format; names its place in the list.
    """

    def one(item: tuple[int, bytes]) -> Image:
        number, content = item
        name = f"frame {number}"
        frame = _half_or_less(content, name, geometry) if scaled else None
        frame = load_image(content, name) if frame is None else frame
        return resize(frame, geometry.target_size(*frame.shape[:2])) if frame.ndim == 3 else frame

    if not contents:
        raise BadImage("a clip needs at least one frame")
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(one, enumerate(contents, start=1)))


def _half_or_less(content: bytes, name: str, geometry: Geometry) -> Image | None:
    """A JPEG decoded at a power-of-two fraction of its size, None where that is not possible."""
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
            height, width = picture.height, picture.width
            wanted = geometry.target_size(height, width)
            scale = picture.draft("RGB", (wanted[1], wanted[0]))
            if scale is None or picture.size == (width, height):
                return None
            return np.asarray(resize(np.asarray(picture.convert("RGB")), wanted))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImage(f"{name}: not a complete JPEG image ({error}); fetch or export it again") from error

"""Decoding of single images: format allow-list and size caps are checked before any pixel is made."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
from PIL import Image as PillowImage

from surgvivqa_audio.errors import BadImage, MissingFrame
from surgvivqa_audio.sample import Image

MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 4096 * 4096  # REAL-Colon frames have about 1.4 million
FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpg", ".jpeg", ".png")
_MODES = ("RGB", "L", "RGBA", "P", "1")
_VIDEO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    PillowImage.DecompressionBombError,
    PillowImage.DecompressionBombWarning,
)


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse a picture size that no endoscope makes.

    Raises:
        BadImage: a side is zero, or there are more than ``MAX_PIXELS`` pixels.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise BadImage(f"{name}: {width}x{height} pixels; between 1 and {MAX_PIXELS} pixels are accepted")


def check_video_id(video_id: str) -> str:
    """Return a video id that is safe as one path component.

    Raises:
        MissingFrame: it holds separators, ``..`` or other characters that no video id has.
    """
    if not _VIDEO_ID.fullmatch(video_id) or ".." in video_id:
        raise MissingFrame(
            f"{video_id!r} is not a video id (letters, digits, '.', '_' and '-'); correct the row"
        )
    return video_id


def load_image(content: bytes, name: str) -> Image:
    """Decode one JPEG or PNG to RGB, uint8 (height, width, 3).

    Args:
        content: the bytes of the file.
        name: file or archive member, for the message.

    Raises:
        BadImage: another format, over a cap, truncated or corrupt.
    """
    if not content:
        raise BadImage(f"{name}: the file is empty; fetch it again")
    if len(content) > MAX_IMAGE_BYTES:
        raise BadImage(f"{name}: {len(content)} bytes; at most {MAX_IMAGE_BYTES} are accepted")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PillowImage.DecompressionBombWarning)
            picture = PillowImage.open(io.BytesIO(content), formats=FORMATS)
        with picture:
            check_pixels(picture.width, picture.height, name)
            if picture.mode not in _MODES:
                raise BadImage(f"{name}: colour mode {picture.mode} is not supported; store 8-bit RGB")
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except _DECODER_ERRORS as error:
        raise BadImage(
            f"{name}: not a complete JPEG or PNG image ({error}); fetch or export it again"
        ) from error

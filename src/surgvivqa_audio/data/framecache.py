"""A cache of resized frames: made once, read as an ordinary folder store, with a manifest."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from surgvivqa_audio.data.images import check_video_id, load_image
from surgvivqa_audio.data.presence import enter
from surgvivqa_audio.errors import BadImage, ConfigError, MissingFrame
from surgvivqa_audio.files import sha256_bytes, write_bytes, write_json
from surgvivqa_audio.sample import FrameStore, Image, Sample

MAX_BYTES = 400_000
_QUALITIES = (95, 90, 85, 80, 70, 60, 50, 40)


def resize(image: Image, side: int) -> Image:
    """Scale so that the longer side has at most ``side`` pixels; smaller pictures stay as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(
        PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BICUBIC), dtype=np.uint8
    )


def encode(image: Image, name: str) -> bytes:
    """JPEG of at most ``MAX_BYTES``, at the best quality of a fixed list that fits.

    Raises:
        BadImage: it does not fit at the lowest quality.
    """
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    raise BadImage(f"{name}: over {MAX_BYTES} bytes even at quality {_QUALITIES[-1]}; choose a smaller side")


class FrameCache:
    """Resized frames of another store in ``folder``.

    A frame is made when it is first read, or ahead by ``build``. It is always read from its file, so the
    first read gives the same pixels as every later one.

    Raises:
        ConfigError: the folder was made with another side, or is not a cache.
    """

    def __init__(self, source: FrameStore, folder: str | Path, side: int) -> None:
        if not 28 <= side <= 4096:
            raise ConfigError(f"--side {side}: between 28 and 4096 pixels are possible")
        self.source = source
        self.folder = Path(folder)
        self.side = side
        self.made = 0
        self._settings = {"side": side, "max_bytes": MAX_BYTES, "format": "JPEG", "resampling": "bicubic"}
        path = self.folder / "cache.json"
        if path.is_file():
            try:
                stored = json.loads(path.read_bytes())
            except ValueError as error:
                raise ConfigError(
                    f"{path}: not the settings of a cache ({error}); delete the folder"
                ) from error
            if stored != self._settings:
                raise ConfigError(f"{path}: the cache has other settings ({stored}); choose another folder")
        elif self.folder.is_dir() and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise ConfigError(f"{self.folder}: not empty and not a cache; choose another folder")
        self._presence = enter(self.folder)
        if not path.is_file():
            write_json(path, self._settings)

    @property
    def manifest_path(self) -> Path:
        """Size and SHA-256 of every frame, written by ``build``."""
        return self.folder / "manifest.json"

    def path(self, video_id: str, number: int) -> Path:
        """The file of a frame."""
        return self.folder / check_video_id(video_id) / f"{video_id}_{number}.jpg"

    def has(self, video_id: str, number: int) -> bool:
        """Whether the frame is cached or can be made."""
        return self.path(video_id, number).is_file() or self.source.has(video_id, number)

    def read(self, video_id: str, number: int) -> Image:
        """One resized frame, RGB uint8 (height, width, 3); raises MissingFrame or BadImage."""
        path = self.path(video_id, number)
        return load_image(self._content(video_id, number), str(path))

    def _content(self, video_id: str, number: int) -> bytes:
        path = self.path(video_id, number)
        if not path.is_file():
            image = self.source.read(video_id, number)
            write_bytes(path, encode(resize(image, self.side), str(path)))
            self.made += 1
        try:
            return path.read_bytes()
        except OSError as error:
            raise MissingFrame(f"{path}: cannot be read ({error.strerror})") from error

    def build(
        self, samples: Iterable[Sample], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, Any]:
        """Make every frame that rows need, then write the manifest.

        Frames that an interrupted build left are kept: a frame's file is complete or absent.

        Raises:
            MissingFrame, BadImage: a frame cannot be read from the source.
        """
        needed = sorted({(row.video_id, number) for row in samples for number in row.frame_numbers})
        frames: dict[str, dict[str, Any]] = {}
        for place, (video_id, number) in enumerate(needed, start=1):
            content = self._content(video_id, number)
            frames[f"{video_id}/{number}"] = {"bytes": len(content), "sha256": sha256_bytes(content)}
            progress(place, len(needed))
        manifest = {
            **self._settings,
            "count": len(frames),
            "bytes": sum(each["bytes"] for each in frames.values()),
            "largest": max((each["bytes"] for each in frames.values()), default=0),
            "frames": frames,
        }
        write_json(self.manifest_path, manifest)
        return manifest

"""A visitor's own clip: size caps and format allow-lists before any decoder runs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from surgvivqa_audio.apps.cases import ClipView
from surgvivqa_audio.apps.serve import MAX_UPLOAD_MB
from surgvivqa_audio.data.images import SUFFIXES as IMAGE_SUFFIXES
from surgvivqa_audio.data.images import load_image
from surgvivqa_audio.data.stores import read_video_clip
from surgvivqa_audio.data.video import CONTAINERS, VideoFile
from surgvivqa_audio.errors import BadAudio, BadImage, MissingFrame
from surgvivqa_audio.files import write_bytes
from surgvivqa_audio.sample import Image
from surgvivqa_audio.speech.audio import Wave, decode_audio

FRAMES = 8
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".webm", ".m4a")
VIDEO_SUFFIXES = tuple(CONTAINERS)
CLIP_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_LAST_NUMBER = re.compile(r"(\d{1,18})(?!.*\d)")
_IMAGE_SIGNS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class Upload(NamedTuple):
    """A file as the browser sent it; its name is shown, never used as a path."""

    name: str
    content: bytes


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


def _named(suffixes: Sequence[str]) -> str:
    return ", ".join(suffix.removeprefix(".").upper() for suffix in suffixes)


def read_question(upload: Upload) -> Wave:
    """A recorded question: float32 (samples,) mono 16 kHz.

    Raises:
        BadAudio: another kind of file, too large, longer than 30 s, empty or damaged.
    """
    if _suffix(upload.name) not in AUDIO_SUFFIXES:
        raise BadAudio(f"{upload.name}: not a sound file; upload {_named(AUDIO_SUFFIXES)}")
    if len(upload.content) > MAX_UPLOAD_MB << 20:
        raise BadAudio(f"{upload.name}: larger than {MAX_UPLOAD_MB} MB; a question lasts at most 30 s")
    return decode_audio(upload.content, upload.name)


def read_clip(uploads: Sequence[Upload], stride: int = 4, fps: float = 25.0) -> ClipView:
    """One short video, or exactly 8 images in the order of the numbers in their names.

    Args:
        stride: video frames from one frame of the clip to the next; also the distance of the images in
            their source.
        fps: frame rate of the source of the images; a video brings its own.

    Raises:
        BadImage: a refused format, too large or damaged.
        MissingFrame: not 8 images, or a video too short.
    """
    for upload in uploads:
        if _suffix(upload.name) not in CLIP_SUFFIXES:
            raise BadImage(
                f"{upload.name}: neither an image nor a video; upload one video ({_named(VIDEO_SUFFIXES)}) "
                f"or {FRAMES} images ({_named(IMAGE_SUFFIXES)})"
            )
        if len(upload.content) > MAX_UPLOAD_MB << 20:
            raise BadImage(f"{upload.name}: larger than {MAX_UPLOAD_MB} MB; cut a shorter piece")
        if not upload.content:
            raise BadImage(f"{upload.name}: the file is empty; export it again")
    videos = [upload for upload in uploads if _suffix(upload.name) in VIDEO_SUFFIXES]
    if videos:
        if len(uploads) > 1:
            raise MissingFrame(f"{len(uploads)} files; upload one video, or {FRAMES} images without a video")
        return _video(videos[0], stride)
    return _images(uploads, stride, fps)


def _video(upload: Upload, stride: int) -> ClipView:
    with tempfile.TemporaryDirectory(prefix="surgvivqa-") as folder:
        # A name of our own: what the visitor typed never becomes a path.
        path = Path(folder) / f"clip{_suffix(upload.name)}"
        write_bytes(path, upload.content)
        try:
            frames, fps, start = _middle(path, stride)
        except BadImage as error:
            raise BadImage(str(error).replace(str(path), upload.name)) from error
        except MissingFrame as error:
            raise MissingFrame(str(error).replace(str(path), upload.name)) from error
    numbers = tuple(start + stride * step for step in range(FRAMES))
    return ClipView(upload.name, "own", tuple(frames), numbers, fps / stride)


def _middle(path: Path, stride: int) -> tuple[list[Image], float, int]:
    start = max(0, (len(VideoFile(path)) - ((FRAMES - 1) * stride + 1)) // 2)
    frames, fps = read_video_clip(path, FRAMES, stride, start)
    return frames, fps, start


def _images(uploads: Sequence[Upload], stride: int, fps: float) -> ClipView:
    if len(uploads) != FRAMES:
        raise MissingFrame(f"{len(uploads)} images; a clip is exactly {FRAMES}")
    numbered: dict[int, Upload] = {}
    for upload in uploads:
        match = _LAST_NUMBER.search(PurePath(upload.name).stem)
        if match is None:
            raise MissingFrame(f"{upload.name}: the name holds no number; name the frames 1.jpg, 2.jpg, …")
        number = int(match.group(1))
        if number in numbered:
            raise MissingFrame(
                f"{upload.name}: {numbered[number].name} has the same number; rename one of them"
            )
        if not upload.content.startswith(_IMAGE_SIGNS):
            raise BadImage(f"{upload.name}: the content is neither JPEG nor PNG; export it again")
        numbered[number] = upload
    frames = [load_image(numbered[number].content, numbered[number].name) for number in sorted(numbered)]
    if len({frame.shape for frame in frames}) > 1:
        raise BadImage(f"{uploads[0].name} and others differ in size; the images of a clip share one size")
    return ClipView(f"{FRAMES} uploaded images", "own", tuple(frames), tuple(sorted(numbered)), fps / stride)

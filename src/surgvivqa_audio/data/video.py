"""Video files as frame stores: frame-exact random access, forced container, no protocols."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa_audio.data.images import check_pixels
from surgvivqa_audio.errors import BadImage, MissingFrame
from surgvivqa_audio.sample import Image

# The demuxer is forced by suffix: probing would let a text file act as a playlist.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
}
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "ffv1")
MAX_FRAMES = 1_000_000


class VideoFile:
    """Frames of one video file by their index in display order.

    The display times of all packets are read once (no decoding). A frame is then reached by a seek
    to the key frame before it and decoding up to exactly that time.

    Raises:
        BadImage: not a readable video, a codec outside ``CODECS``, or over a size cap.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in CONTAINERS:
            raise BadImage(f"{self.path}: not a video file; known: {', '.join(sorted(CONTAINERS))}")
        with self._opened() as (container, stream):
            check_pixels(stream.codec_context.width, stream.codec_context.height, str(self.path))
            name = stream.codec_context.name
            if name not in CODECS:
                raise BadImage(f"{self.path}: codec {name} is refused; known: {', '.join(CODECS)}")
            self.fps = self._rate(stream)
            self._times = self._display_times(container, stream)

    def __len__(self) -> int:
        return len(self._times)

    def read(self, index: int) -> Image:
        """Frame ``index`` (from 0), RGB uint8 (height, width, 3).

        Raises:
            MissingFrame: the video is shorter.
            BadImage: the frame cannot be decoded.
        """
        return self.read_many([index])[0]

    def read_many(self, indices: list[int]) -> list[Image]:
        """Several frames with one pass over the part of the file that holds them, in the given order.

        Raises:
            MissingFrame: the video is shorter.
            BadImage: a frame cannot be decoded.
        """
        for index in indices:
            if not 0 <= index < len(self):
                raise MissingFrame(f"{self.path}: no frame {index}; the video has {len(self)} frames")
        wanted = {self._times[index]: index for index in indices}
        found: dict[int, Image] = {}
        first = min(wanted)
        with self._opened() as (container, stream):
            container.seek(first, stream=stream, backward=True, any_frame=False)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    found[wanted[frame.pts]] = self._pixels(frame)
                    if len(found) == len(wanted):
                        break
        missing = sorted(set(indices) - set(found))
        if missing:
            raise BadImage(f"{self.path}: frames {missing} cannot be decoded; the file is damaged")
        return [found[index] for index in indices]

    def _pixels(self, frame: Any) -> Image:
        check_pixels(frame.width, frame.height, str(self.path))
        return np.ascontiguousarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)

    def _rate(self, stream: Any) -> float:
        rate: Fraction | None = stream.average_rate or stream.guessed_rate
        if not rate or not 0.1 <= float(rate) <= 1000:
            raise BadImage(f"{self.path}: the file states no usable frame rate ({rate})")
        return float(rate)

    def _display_times(self, container: Any, stream: Any) -> list[int]:
        times: list[int] = []
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.pts is None:
                raise BadImage(f"{self.path}: packets without a display time; remux it to MP4 or MKV")
            times.append(packet.pts)
            if len(times) > MAX_FRAMES:
                raise BadImage(f"{self.path}: more than {MAX_FRAMES} frames; cut it into parts")
        if not times:
            raise BadImage(f"{self.path}: the video holds no frame")
        if len(set(times)) != len(times):
            raise BadImage(f"{self.path}: two frames share one display time; encode it again")
        return sorted(times)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        import av

        try:
            with open(self.path, "rb") as content:
                # A byte stream and a forced container: nothing in the file can make FFmpeg open another.
                form = CONTAINERS[self.path.suffix.lower()]
                with av.open(content, mode="r", format=form) as container:
                    if not container.streams.video:
                        raise BadImage(f"{self.path}: the file holds no video stream")
                    stream = container.streams.video[0]
                    stream.thread_type = "NONE"
                    yield container, stream
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise BadImage(f"{self.path}: cannot be read as a video ({error})") from error


class VideoStore:
    """One video file per procedure; frame number ``first_number`` is the first picture of the file."""

    def __init__(self, paths: Mapping[str, Path], first_number: int = 0) -> None:
        self._paths = dict(paths)
        self._first = first_number
        self._files: dict[str, VideoFile] = {}
        self._lock = threading.Lock()  # two readers must not list the packets of one file twice

    def _file(self, video_id: str) -> VideoFile:
        with self._lock:
            if video_id not in self._files:
                if video_id not in self._paths:
                    known = ", ".join(sorted(self._paths))
                    raise MissingFrame(f"no video file for {video_id}; known: {known}")
                self._files[video_id] = VideoFile(self._paths[video_id])
            return self._files[video_id]

    def read(self, video_id: str, number: int) -> Image:
        """One frame, RGB uint8 (height, width, 3); raises MissingFrame or BadImage."""
        return self._file(video_id).read(number - self._first)

    def has(self, video_id: str, number: int) -> bool:
        """Whether the file has that many frames; raises BadImage for a file that is no video."""
        if video_id not in self._paths:
            return False
        return 0 <= number - self._first < len(self._file(video_id))


def read_video_clip(
    path: str | Path, frames: int = 8, stride: int = 4, start: int | None = None
) -> tuple[list[Image], float]:
    """Frames ``start, start + stride, …`` of a video file, and its frame rate.

    Args:
        start: index of the first frame; None centres the clip in the video.

    Returns:
        ``frames`` RGB images, uint8 (height, width, 3), and frames per second.

    Raises:
        MissingFrame: the video is too short for the clip.
        BadImage: it cannot be decoded.
    """
    if frames < 1 or stride < 1:
        raise MissingFrame(f"a clip needs at least one frame and a stride of one, not {frames} and {stride}")
    video = VideoFile(path)
    span = (frames - 1) * stride + 1
    if start is None:
        start = (len(video) - span) // 2
    if start < 0 or start + span > len(video):
        raise MissingFrame(
            f"{path}: {frames} frames at stride {stride} from {max(start, 0)} need {max(start, 0) + span} "
            f"frames, the video has {len(video)}; choose another start or a longer video"
        )
    return video.read_many([start + stride * step for step in range(frames)]), video.fps

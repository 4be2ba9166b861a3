"""Which archives and frames a set of rows needs, and rows with 16 frames instead of 8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from surgvivqa_audio.data.tables import VideoInfo
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Sample, make_key

Extension = Literal["denser", "longer"]
# Without the table: about 300 KB a frame, as the archive of 002-001 has (7.6 GB for 25,998 frames).
FRAME_BYTES = 292_000
BOX_BYTES = 1_000


@dataclass(frozen=True)
class VideoPlan:
    """One procedure: its archive and the frame numbers needed of it, sorted."""

    video_id: str
    numbers: tuple[int, ...]
    available: int | None

    @property
    def frames_archive(self) -> str:
        """Name of the archive of frames."""
        return f"{self.video_id}_frames.tar.gz"


def fetch_plan(samples: Iterable[Sample], videos: Mapping[str, VideoInfo]) -> list[VideoPlan]:
    """The frames that rows need, per procedure.

    Raises:
        ConfigError: a row needs a frame beyond the end of its video.
    """
    needed: dict[str, set[int]] = {}
    for sample in samples:
        needed.setdefault(sample.video_id, set()).update(sample.frame_numbers)
    plans = []
    for video_id in sorted(needed):
        info = videos.get(video_id)
        last = max(needed[video_id])
        if info is not None and last > info.frames:
            raise ConfigError(
                f"{video_id}: frame {last} is needed, the video has {info.frames}; run `data audit`"
            )
        plans.append(VideoPlan(video_id, tuple(sorted(needed[video_id])), info.frames if info else None))
    return plans


def extend_clip(first: int, last: int, frames: int, how: Extension, end: int) -> tuple[int, ...]:
    """Frame numbers of a clip with ``frames`` frames instead of 8 at stride 4.

    ``denser`` halves the stride in the same window; ``longer`` keeps it over a window twice as long
    with the same middle. A window that would leave frames 1 to ``end`` is moved just inside.

    Raises:
        ConfigError: the video is too short.
    """
    stride = 2 if how == "denser" else 4
    span = (frames - 1) * stride
    start = first if how == "denser" else first - (span - (last - first)) // 2
    start = max(1, min(start, end - span))
    if start + span > end:
        raise ConfigError(f"{frames} frames at stride {stride} need {span + 1} frames, the video has {end}")
    return tuple(start + stride * step for step in range(frames))


def extend_rows(
    samples: Sequence[Sample],
    rows: Mapping[str, Mapping[str, Any]],
    frames: int,
    how: Extension,
    videos: Mapping[str, VideoInfo],
) -> list[dict[str, Any]]:
    """Rows with longer or denser clips, as they are written to an annotation file.

    ``source_key`` keeps the key of the 8-frame row: a clip that starts earlier gets a key of its own,
    and results of the two sizes are compared by ``source_key``.

    Raises:
        ConfigError: ``frames`` is not 16, or a video's length is unknown or too short.
    """
    if frames != 16:
        raise ConfigError(f"--frames {frames}: clips have 8 frames and can be extended to 16")
    extended = []
    taken: set[str] = set()
    for sample in samples:
        if sample.video_id not in videos:
            raise ConfigError(
                f"{sample.video_id}: its length is not known; put video_info.csv beside the file"
            )
        # Whether numbering starts at 0 or 1 is not stated; 1 to frames - 1 exists either way.
        end = videos[sample.video_id].frames - 1
        numbers = extend_clip(sample.frame_numbers[0], sample.frame_numbers[-1], frames, how, end)
        numbers = _apart(sample, numbers, end, taken)
        row = dict(rows[sample.key])
        row.update(
            template=sample.template,
            source_key=sample.key,
            frames=[f"{sample.video_id}_{number}" for number in numbers],
            frame_numbers=list(numbers),
            total_frames=frames,
        )
        row.pop("key", None)
        extended.append(row)
    return extended


def _apart(sample: Sample, numbers: tuple[int, ...], end: int, taken: set[str]) -> tuple[int, ...]:
    """Windows moved to the same border would share a key: step inwards until this one is free."""
    step = -1 if numbers[-1] == end else 1
    while (key := make_key(sample.template, sample.video_id, numbers[0], sample.question_type)) in taken:
        numbers = tuple(number + step for number in numbers)
    taken.add(key)
    return numbers


def estimate(
    plans: Sequence[VideoPlan], archive_bytes: Mapping[str, int], rate: float, member_bytes: int = FRAME_BYTES
) -> dict[str, Any]:
    """Bytes to transfer, bytes to keep and seconds at ``rate`` bytes per second.

    Args:
        archive_bytes: sizes of archives by procedure, where known.
        member_bytes: what a member is taken to have where the archive's size is not known.
    """
    transfer = kept = 0
    for plan in plans:
        size = archive_bytes.get(plan.video_id, member_bytes * (plan.available or len(plan.numbers)))
        transfer += size
        kept += round(size / (plan.available or len(plan.numbers)) * len(plan.numbers))
    return {
        "archives": len(plans),
        "frames": sum(len(plan.numbers) for plan in plans),
        "frames_in_archives": sum(plan.available or 0 for plan in plans) or None,
        "transfer_bytes": transfer,
        "disk_bytes": kept,
        "seconds": round(transfer / rate),
    }


def human_bytes(count: float) -> str:
    """``7.6 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"

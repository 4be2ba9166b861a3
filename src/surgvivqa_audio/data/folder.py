"""A DATA folder: ``in_template.jsonl``, ``out_template.jsonl``, tables, ``frames/``, ``speech/``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa_audio.data.stats import PARTS, TEMPLATES
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.data.tables import VideoInfo, read_video_info
from surgvivqa_audio.errors import BadImage, ConfigError, FetchError, MissingFrame
from surgvivqa_audio.files import read_jsonl, sha256_bytes, write_bytes
from surgvivqa_audio.sample import FrameStore, Sample, by_video, read_samples
from surgvivqa_audio.taxonomy import Taxonomy

# SHA-256 of the published files, beside those that the taxonomy pins.
OUT_TEMPLATE_SHA256 = "ab90374a9b003e06295de00f5d4395488b0b2e7143a2fd6e18215ccbb677df7a"


def data_rows(data: str | Path, taxonomy: Taxonomy, rows: Iterable[Path] = ()) -> list[Sample]:
    """The rows of a DATA folder (both templates, else split files), or of the named files.

    Rows whose key an earlier file already brought are left out.

    Raises:
        ConfigError: the folder has no annotation file.
        BadAnnotation: a file breaks the schema.
    """
    data = Path(data)
    paths = list(rows)
    for names in (TEMPLATES, PARTS):
        paths = paths or [path for name in names if (path := data / f"{name}.jsonl").is_file()]
    if not paths:
        raise ConfigError(f"{data}: no in_template.jsonl; run `surgvivqa data fetch annotations` first")
    found: dict[str, Sample] = {}
    for path in paths:
        for sample in read_samples(path, taxonomy) if path.stat().st_size else ():
            found.setdefault(sample.key, sample)
    return list(found.values())


def select_videos(samples: Sequence[Sample], videos: Sequence[str]) -> list[Sample]:
    """Rows of the named procedures, all when none is named; raises ConfigError for an unknown one."""
    present = by_video(samples)
    unknown = [video for video in videos if video not in present]
    if unknown:
        raise ConfigError(f"no rows of video {', '.join(unknown)}; there are {', '.join(sorted(present))}")
    return [sample for sample in samples if not videos or sample.video_id in videos]


def video_table(data: str | Path) -> dict[str, VideoInfo]:
    """``video_info.csv`` of the folder; empty when it is not there."""
    path = Path(data) / "video_info.csv"
    return read_video_info(path) if path.is_file() else {}


def derive_out_template(data: str | Path, taxonomy: Taxonomy) -> Path:
    """Write ``out_template.jsonl`` from ``in_template.jsonl``: the same rows in the other wording.

    The published out file is exactly this; for the pinned in file the result must have its SHA-256.

    Raises:
        BadAnnotation: the in file cannot be read or has an unknown type.
        FetchError: the result differs from the published file.
    """
    source, target = Path(data) / "in_template.jsonl", Path(data) / "out_template.jsonl"
    lines = []
    for _, row in read_jsonl(source):
        wording = taxonomy.type_of(str(row.get("question_type"))).out_template
        changed: dict[str, Any] = {**row, "question": wording}
        if "key" in row:
            changed["key"] = "out/" + str(row["key"]).partition("/")[2]
        if "template" in row:
            changed["template"] = "out"
        lines.append(json.dumps(changed))
    content = "\n".join(lines).encode("ascii")
    pinned = taxonomy.dataset.sha256.get("in_template")
    if sha256_bytes(source.read_bytes()) == pinned and sha256_bytes(content) != OUT_TEMPLATE_SHA256:
        raise FetchError(f"{target}: differs from the published file; the taxonomy's wordings have changed")
    write_bytes(target, content)
    return target


@dataclass
class VideoCheck:
    """What is missing of one procedure."""

    rows: int
    frames: int
    missing_frames: list[int] = field(default_factory=list)
    broken_frames: list[str] = field(default_factory=list)
    missing_speech: list[str] = field(default_factory=list)


def verify(
    data: str | Path,
    taxonomy: Taxonomy,
    videos: Sequence[str] = (),
    decode: bool = False,
    speech: bool = True,
) -> dict[str, VideoCheck]:
    """Frames and recordings that the rows of a DATA folder need and that are not there, per video.

    Args:
        decode: also decode every frame, which finds damaged files.
        speech: look for recordings too.

    Raises:
        ConfigError: no annotation file, or an unknown video.
    """
    data = Path(data)
    samples = select_videos(data_rows(data, taxonomy), videos)
    store = open_store(data / "frames") if (data / "frames").is_dir() else None
    spoken = recordings_table(data / "speech") if speech else {}
    report: dict[str, VideoCheck] = {}
    for video, rows in sorted(by_video(samples).items()):
        numbers = sorted({number for row in rows for number in row.frame_numbers})
        check = VideoCheck(len(rows), len(numbers))
        for number in numbers:
            if store is None or not store.has(video, number):
                check.missing_frames.append(number)
            elif decode:
                check.broken_frames += _broken(store, video, number)
        if speech:
            check.missing_speech = [row.key for row in rows if not recordings(data / "speech", row, spoken)]
        report[video] = check
    return report


def _broken(store: FrameStore, video: str, number: int) -> list[str]:
    try:
        store.read(video, number)
    except (BadImage, MissingFrame) as error:
        return [str(error)]
    return []


def recordings_table(folder: Path) -> dict[str, list[str]]:
    """Files by key, from the assignments that ``speech make`` writes."""
    path = folder / "assignments.jsonl"
    table: dict[str, list[str]] = {}
    if path.is_file():
        for _, row in read_jsonl(path):
            if row.get("status") == "ok":
                table.setdefault(str(row.get("key")), []).append(str(row.get("file")))
    return table


def recordings(folder: Path, sample: Sample, assigned: dict[str, list[str]]) -> list[Path]:
    """Recordings of a question that exist: by key, else ``{in,out}_<video>/<id>.mp3`` or ``.wav``."""
    found = [folder / name for name in assigned.get(sample.key, ())]
    if not found:
        older = folder / f"{sample.template}_{sample.video_id}"
        found = [older / f"{sample.id}{suffix}" for suffix in (".mp3", ".wav")]
    root = folder.resolve()
    return [path for path in found if path.resolve().is_relative_to(root) and path.is_file()]

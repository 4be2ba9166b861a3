"""Simulated procedures as a data folder in the published schema, and as a frame store."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from surgvivqa_audio.colonsim.procedure import SLOT, Procedure
from surgvivqa_audio.colonsim.render import render
from surgvivqa_audio.colonsim.spec import FPS, STRIDE, ClipSpec
from surgvivqa_audio.errors import ConfigError, MissingFrame
from surgvivqa_audio.files import write_bytes, write_json, write_jsonl, write_text
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import Image, Sample, make_key
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy

JPEG_QUALITY = 90
RECORD = "sim.json"
Progress = Callable[[int, int], None]
Template = Literal["in", "out"]


@dataclass(frozen=True)
class DatasetSummary:
    """What ``make_dataset`` wrote; ``rows`` counts one template, ``by_type`` its rows per answer."""

    out: Path
    procedures: int
    clips: int
    rows: int
    frames: int
    by_type: dict[str, dict[str, int]] = field(default_factory=dict)


def frame_name(video_id: str, number: int) -> str:
    """Published name of a frame, without folder or suffix."""
    return f"{video_id}_{number}"


def samples_of(
    spec: ClipSpec, template: Template, taxonomy: Taxonomy, include_unanswerable: bool
) -> list[Sample]:
    """The questions of one clip in taxonomy order; ``id`` is the key's part after the template."""
    samples = []
    for name, question_type in taxonomy.types.items():
        if name in spec.answers:
            answer = question_type.answer(spec.answers[name])
            sentence, short = answer.sentence, answer.short
        elif include_unanswerable and name in spec.unanswerable:
            sentence, short = taxonomy.refusal.sentence, taxonomy.refusal.short
        else:
            continue
        key = make_key(template, spec.video_id, spec.frame_numbers[0], name)
        samples.append(
            Sample(
                key=key,
                id=key.split("/", 1)[1],
                template=template,
                video_id=spec.video_id,
                frames=tuple(frame_name(spec.video_id, number) for number in spec.frame_numbers),
                frame_numbers=spec.frame_numbers,
                question=question_type.template(template),
                question_type=name,
                answer=sentence,
                short_answer=short,
            )
        )
    return samples


def encode_jpeg(frame: Image) -> bytes:
    """JPEG bytes of a frame; the same frame gives the same bytes."""
    buffer = io.BytesIO()
    PillowImage.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=False)
    return buffer.getvalue()


def _claim(out: Path, config: dict[str, Any]) -> None:
    """Make sure that ``out`` is empty or holds a run with the same configuration."""
    record = out / RECORD
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a new or empty folder")
    if record.is_file():
        found = _read_record(record)
        if found.get("config") != config:
            raise ConfigError(
                f"{record}: made with other settings ({found.get('config')}); name another folder"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: not empty and not made by the simulator; name a new or empty folder")
    write_json(record, {"config": config, "complete": False})


def _read_record(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: not readable as JSON ({error}); delete the folder or name another"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a JSON object is needed; delete the folder or name another")
    return document


def _write_clip(out: Path, spec: ClipSpec, size: int) -> int:
    folder = out / "frames" / spec.video_id
    paths = [folder / f"{frame_name(spec.video_id, number)}.jpg" for number in spec.frame_numbers]
    if all(path.is_file() for path in paths):
        return len(paths)
    for path, frame in zip(paths, render(spec, size).frames, strict=True):
        write_bytes(path, encode_jpeg(frame))
    return len(paths)


def _video_table(videos: list[Procedure], clips: int) -> str:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["unique_video_name", "endoscope_brand", "fps", "num_frames", "num_lesions"])
    for video in videos:
        lesions = sum(bool(video.clip(index).scene.size_mm) for index in range(clips))
        writer.writerow([video.video_id, "ColonSim", FPS, video.first_frame(clips), lesions])
    return text.getvalue()


def make_dataset(
    out: Path, procedures: int, clips: int, seed: int, size: int = 384, frames: int = 8,
    difficulty: float = 0.5, progress: Progress | None = None, include_unanswerable: bool = False,
) -> DatasetSummary:  # fmt: skip
    """Write a data folder: annotations of both templates (row-aligned), frames, video table, record.

    Resumes a folder made with the same settings; every file appears complete or not at all.

    Raises:
        ConfigError: a value out of range, or a folder that holds something else.
    """
    if procedures < 1 or clips < 1 or size < 32 or seed < 0:
        raise ConfigError(
            f"simulator: procedures {procedures} and clips {clips} must be at least 1, "
            f"size {size} at least 32, seed {seed} at least 0"
        )
    config = {
        "procedures": procedures, "clips": clips, "seed": seed, "size": size, "frames": frames,
        "difficulty": difficulty, "include_unanswerable": include_unanswerable,
    }  # fmt: skip
    out = Path(out)
    videos = [Procedure(seed * 1000 + number, difficulty) for number in range(procedures)]
    specs = [video.clip(index, frames) for video in videos for index in range(clips)]
    _claim(out, config)
    written = 0
    for done, spec in enumerate(specs, start=1):
        written += _write_clip(out, spec, size)
        if progress is not None:
            progress(done, len(specs))
    taxonomy = load_taxonomy()
    templates: tuple[Template, Template] = ("in", "out")
    counts: dict[str, Counter[str]] = {}
    for template in templates:
        rows = [s for spec in specs for s in samples_of(spec, template, taxonomy, include_unanswerable)]
        write_jsonl(out / f"{template}_template.jsonl", (sample.to_row() for sample in rows))
    for sample in rows:
        counts.setdefault(sample.question_type, Counter())[sample.short_answer] += 1
    write_text(out / "video_info.csv", _video_table(videos, clips))
    by_type = {name: dict(sorted(counter.items())) for name, counter in sorted(counts.items())}
    record = run_record(seed=seed, config=config)
    write_json(
        out / RECORD, record | {"complete": True, "rows": len(rows), "frames": written, "by_type": by_type}
    )
    return DatasetSummary(out, procedures, len(specs), len(rows), written, by_type)


class SimStore:
    """Frames straight from the simulator, without a disk: any frame of a clip of any procedure."""

    def __init__(self, size: int = 112, difficulty: float = 0.5, frames: int = 8) -> None:
        self.size = size
        self.difficulty = difficulty
        self.frames = frames
        self._clip = lru_cache(maxsize=16)(self._render)

    def _render(self, seed: int, index: int) -> dict[int, NDArray[np.uint8]]:
        spec = Procedure(seed, self.difficulty).clip(index, self.frames)
        return dict(zip(spec.frame_numbers, render(spec, self.size).frames, strict=True))

    def _find(self, video_id: str, number: int) -> tuple[int, int] | None:
        digits = video_id.removeprefix("sim-")
        if not video_id.startswith("sim-") or not digits.isdecimal():
            return None
        video = Procedure(int(digits), self.difficulty)
        start = (number - video.first_frame(0)) // SLOT
        for index in (start - 1, start, start + 1):
            if index >= 0:
                offset = number - video.first_frame(index)
                if 0 <= offset < STRIDE * self.frames and offset % STRIDE == 0:
                    return video.seed, index
        return None

    def has(self, video_id: str, number: int) -> bool:
        """Whether a clip of the simulator holds this frame."""
        return self._find(video_id, number) is not None

    def read(self, video_id: str, number: int) -> Image:
        """One frame, uint8 (size, size, 3).

        Raises:
            MissingFrame: no clip holds this frame.
        """
        place = self._find(video_id, number)
        if place is None:
            raise MissingFrame(
                f"simulator: no clip of '{video_id}' holds frame {number}; check id and number"
            )
        return self._clip(*place)[number]

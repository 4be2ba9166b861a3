"""The unit of data: one question about one clip, with the key that identifies it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from surgvivqa_audio.errors import BadAnnotation, UnknownQuestionType
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.taxonomy import Taxonomy

Template = Literal["in", "out"]
Image = NDArray[np.uint8]  # (height, width, 3), RGB


class Sample(BaseModel):
    """One annotation row of the published schema, with a key that is unique in the dataset.

    ``id`` is the published identifier. It collides (5,200 rows, 3,750 ids) and is kept for reports
    only: nothing is stored, cached or joined by it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    key: str
    id: str
    template: Template
    video_id: str
    frames: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    question: str
    question_type: str
    answer: str
    short_answer: str

    @property
    def first_frame(self) -> int:
        """Number of the first frame of the clip."""
        return self.frame_numbers[0]

    def to_row(self) -> dict[str, Any]:
        """The published JSONL schema plus ``key`` and ``template``."""
        count = len(self.frames)
        return {
            "key": self.key,
            "id": self.id,
            "template": self.template,
            "video_id": self.video_id,
            "frames": list(self.frames),
            "frame_numbers": list(self.frame_numbers),
            "question": self.question,
            "question_type": self.question_type,
            "support_frames": count,
            "total_frames": count,
            "support_ratio": 1.0,
            "support_percentage": 100.0,
            "answer": self.answer,
            "short_answer": self.short_answer,
        }


class FrameStore(Protocol):
    """Where frames come from: folders, archives, video files or the simulator. Several threads may read."""

    def read(self, video_id: str, number: int) -> Image:
        """Return one RGB frame, uint8 (height, width, 3).

        Raises:
            MissingFrame: the store does not hold that frame.
            BadImage: it holds it, but the bytes cannot be decoded or exceed a cap.
        """
        ...

    def has(self, video_id: str, number: int) -> bool:
        """Whether the frame is present (its bytes may still be broken)."""
        ...


def make_key(template: str, video_id: str, first_frame: int, question_type: str) -> str:
    """``in/002-003/3806/mucosa_visibility``: unique on all published rows, unlike their ids."""
    return f"{template}/{video_id}/{first_frame}/{question_type}"


def read_clip(store: FrameStore, sample: Sample) -> list[Image]:
    """Read the frames of a sample in order.

    Raises:
        MissingFrame: with the frame named by the store.
        BadImage: a frame cannot be decoded.
    """
    return [store.read(sample.video_id, number) for number in sample.frame_numbers]


def template_of(row: dict[str, Any], path: Path, taxonomy: Taxonomy) -> Template:
    """Which wording a row uses: its own field, the file name, the wording, else ``in``."""
    declared = row.get("template")
    if declared in ("in", "out"):
        return declared  # type: ignore[no-any-return]
    if path.name.startswith("out_template"):
        return "out"
    if path.name.startswith("in_template"):
        return "in"
    question_type = taxonomy.types.get(str(row.get("question_type")))
    if (
        question_type is not None
        and row.get("question") == question_type.out_template != question_type.in_template
    ):
        return "out"
    return "in"


def parse_row(row: dict[str, Any], where: str, template: Template, taxonomy: Taxonomy) -> Sample:
    """Check one row against the schema and the taxonomy.

    Raises:
        BadAnnotation: a field is missing or wrong, or the answer is not in the closed set.
        UnknownQuestionType: the taxonomy does not define the type.
    """
    try:
        numbers = tuple(row["frame_numbers"])
        frames = tuple(row["frames"])
        if not numbers or len(numbers) != len(frames):
            raise BadAnnotation(
                f"{where}: 'frames' ({len(frames)}) and 'frame_numbers' ({len(numbers)}) must list "
                "the same frames, at least one"
            )
        sample = Sample(
            key=make_key(template, row["video_id"], numbers[0], row["question_type"]),
            template=template,
            frames=frames,
            frame_numbers=numbers,
            **{
                field: row[field]
                for field in ("id", "video_id", "question", "question_type", "answer", "short_answer")
            },
        )
    except KeyError as error:
        raise BadAnnotation(f"{where}: field {error} is missing") from error
    except TypeError as error:
        raise BadAnnotation(f"{where}: 'frames' and 'frame_numbers' must be lists ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadAnnotation(f"{where}: field '{field}': {first['msg']}") from error
    question_type = taxonomy.types.get(sample.question_type)
    if question_type is None:
        raise UnknownQuestionType(
            f"{where}: unknown question type '{sample.question_type}'; taxonomy "
            f"'{taxonomy.name}' defines: {', '.join(sorted(taxonomy.types))}"
        )
    allowed = {answer.short for answer in question_type.answers} | {taxonomy.refusal.short}
    if sample.short_answer not in allowed:
        raise BadAnnotation(
            f"{where}: '{sample.short_answer}' is not an answer of {sample.question_type} "
            f"(allowed: {', '.join(sorted(allowed))})"
        )
    return sample


def read_samples(path: str | Path, taxonomy: Taxonomy) -> list[Sample]:
    """Read an annotation file; every key must be unique.

    Raises:
        BadAnnotation: names file, line and field.
        UnknownQuestionType: names file, line and type.
    """
    path = Path(path)
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        sample = parse_row(row, f"{path}:{number}", template_of(row, path, taxonomy), taxonomy)
        if sample.key in lines:
            raise BadAnnotation(
                f"{path}:{number}: key '{sample.key}' already stands on line {lines[sample.key]}; "
                "remove one of the two rows"
            )
        lines[sample.key] = number
        samples.append(sample)
    if not samples:
        raise BadAnnotation(f"{path}: no rows; an annotation file holds one JSON object per line")
    return samples


def by_video(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Group samples by video, in order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.video_id, []).append(sample)
    return groups


def clips(samples: Sequence[Sample]) -> dict[tuple[str, tuple[int, ...]], list[Sample]]:
    """Group samples that ask about exactly the same frames."""
    groups: dict[tuple[str, tuple[int, ...]], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.video_id, sample.frame_numbers), []).append(sample)
    return groups

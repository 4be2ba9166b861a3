"""Import of annotation files with every defect of a file in one report.

``sample.read_samples`` stops at the first bad row, which is right for a run. Somebody who has just
received a new version of the dataset wants the whole list at once.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from surgvivqa_audio.data.images import check_video_id
from surgvivqa_audio.errors import BadAnnotation, MissingFrame, SurgVivqaError
from surgvivqa_audio.sample import Sample, parse_row, template_of
from surgvivqa_audio.taxonomy import Taxonomy

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_CLIP_FRAMES = 64
MAX_FRAME_NUMBER = 10_000_000
MAX_TEXT = 1000
_LISTED = 20


@dataclass
class Annotations:
    """What an annotation file holds: good rows, and everything that is wrong with the others.

    ``rows`` has the good rows as they stand in the file, by key: a few fields (support counts) are not
    part of a sample but belong into the files that a split writes.
    """

    path: Path
    samples: list[Sample] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unknown_types: Counter[str] = field(default_factory=Counter)
    unknown_answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """Whether every row was accepted."""
        return not (self.problems or self.unknown_types or self.unknown_answers)

    def report(self) -> str:
        """All defects, one line each; unknown types and answers are listed together, once."""
        lines = [f"{self.path}: {len(self.samples)} rows are good; these are not:"]
        lines += [
            f"  unknown question type {name!r} ({count} rows)"
            for name, count in sorted(self.unknown_types.items())
        ]
        lines += [
            f"  unknown answer {answer!r} of {name} ({count} rows)"
            for (name, answer), count in sorted(self.unknown_answers.items())
        ]
        lines += [f"  {problem}" for problem in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            lines.append(f"  and {len(self.problems) - _LISTED} more malformed rows")
        lines.append("  correct the rows, or add the types and answers to a taxonomy file")
        return "\n".join(lines)


def read_annotations(path: str | Path, taxonomy: Taxonomy) -> Annotations:
    """Read an annotation file and collect every defect.

    Raises:
        BadAnnotation: the file cannot be read at all, is over the size cap or has no rows.
    """
    path = Path(path)
    found = Annotations(path)
    lines: dict[str, int] = {}
    for number, line in enumerate(_content(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _object(line, number, found)
        sample = _sample(row, number, found, taxonomy) if row is not None else None
        if row is None or sample is None:
            continue
        if sample.key in lines:
            found.problems.append(
                f"line {number}: key '{sample.key}' already stands on line {lines[sample.key]}"
            )
            continue
        lines[sample.key] = number
        found.samples.append(sample)
        found.rows[sample.key] = row
    if found.clean and not found.samples:
        raise BadAnnotation(f"{path}: no rows; an annotation file holds one JSON object per line")
    return found


def import_annotations(path: str | Path, taxonomy: Taxonomy) -> Annotations:
    """An annotation file without any defect.

    Raises:
        BadAnnotation: with the full report of ``read_annotations``.
    """
    found = read_annotations(path, taxonomy)
    if not found.clean:
        raise BadAnnotation(found.report())
    return found


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadAnnotation(f"{path}: {size} bytes; at most {MAX_FILE_BYTES} are accepted")
        return path.read_bytes()
    except OSError as error:
        raise BadAnnotation(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _object(line: bytes, number: int, found: Annotations) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
        if b"\\u" in line:
            # JSON can spell half a surrogate pair, which no file can hold.
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        found.problems.append(f"line {number}: not valid JSON ({error})")
        return None
    if not isinstance(row, dict):
        found.problems.append(f"line {number}: a JSON object is needed, not {type(row).__name__}")
        return None
    return row


def _sample(row: dict[str, Any], number: int, found: Annotations, taxonomy: Taxonomy) -> Sample | None:
    name = row.get("question_type")
    if isinstance(name, str) and name not in taxonomy.types:
        found.unknown_types[name[:MAX_TEXT]] += 1
        return None
    short = row.get("short_answer")
    if isinstance(name, str) and isinstance(short, str) and not _known(taxonomy, name, short):
        found.unknown_answers[name, short[:MAX_TEXT]] += 1
        return None
    try:
        sample = parse_row(row, f"line {number}", template_of(row, found.path, taxonomy), taxonomy)
        _check_clip(sample, row, f"line {number}")
    except SurgVivqaError as error:
        found.problems.append(str(error))
        return None
    expected = _sentence(taxonomy, sample)
    if sample.answer != expected:
        found.unknown_answers[sample.question_type, sample.answer[:MAX_TEXT]] += 1
        return None
    return sample


def _known(taxonomy: Taxonomy, name: str, short: str) -> bool:
    shorts = {answer.short for answer in taxonomy.types[name].answers}
    return short in shorts or short == taxonomy.refusal.short


def _sentence(taxonomy: Taxonomy, sample: Sample) -> str:
    if sample.short_answer == taxonomy.refusal.short:
        return taxonomy.refusal.sentence
    return taxonomy.types[sample.question_type].answer(sample.short_answer).sentence


def _check_clip(sample: Sample, row: dict[str, Any], where: str) -> None:
    try:
        check_video_id(sample.video_id)
    except MissingFrame as error:
        raise BadAnnotation(f"{where}: field 'video_id': {error}") from error
    numbers = sample.frame_numbers
    if len(numbers) > MAX_CLIP_FRAMES:
        raise BadAnnotation(
            f"{where}: field 'frame_numbers': {len(numbers)} frames, at most {MAX_CLIP_FRAMES}"
        )
    if numbers[0] < 0 or numbers[-1] > MAX_FRAME_NUMBER:
        raise BadAnnotation(f"{where}: field 'frame_numbers': outside 0..{MAX_FRAME_NUMBER}")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise BadAnnotation(f"{where}: field 'frame_numbers': the numbers must rise")
    for name, number in zip(sample.frames, numbers, strict=True):
        if name != f"{sample.video_id}_{number}":
            raise BadAnnotation(
                f"{where}: field 'frames': '{name[:80]}' should be '{sample.video_id}_{number}'"
            )
    if not sample.question.strip() or len(sample.question) > MAX_TEXT:
        raise BadAnnotation(f"{where}: field 'question': between 1 and {MAX_TEXT} characters are needed")
    total = row.get("total_frames", len(numbers))
    if total != len(numbers):
        raise BadAnnotation(f"{where}: field 'total_frames': {total!r}, but {len(numbers)} frames are listed")

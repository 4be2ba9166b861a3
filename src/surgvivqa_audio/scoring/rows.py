"""Prediction rows: ours, and published ones that carry no key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import BadAnnotation, UnknownQuestionType
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE
from surgvivqa_audio.taxonomy import Taxonomy

_TEXT = ("question_type", "short_answer", "ground_truth")


@dataclass(frozen=True)
class Prediction:
    """One answered question. ``key`` is empty in published files; ``error`` marks a row that failed."""

    key: str
    question_id: str
    question_type: str
    question: str
    ground_truth: str
    short_answer: str
    predicted: str
    confidence: float | None = None
    inference_time_ms: float | None = None
    error: str | None = None
    extra: dict[str, Any] | None = None

    @property
    def video_id(self) -> str:
        """As :attr:`video`; the name that samples use."""
        return self.video

    @property
    def first_frame(self) -> int:
        """First frame of the clip, from the key; -1 when the row has none."""
        parts = self.key.split("/")
        return int(parts[2]) if len(parts) == 4 and parts[2].isdecimal() else -1

    @property
    def video(self) -> str:
        """The procedure, from the key; empty when the row has none."""
        parts = self.key.split("/")
        return parts[1] if len(parts) == 4 else ""


def _number(row: dict[str, Any], field: str, where: str) -> float | None:
    value = row.get(field)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise BadAnnotation(f"{where}: field '{field}' must be a number or null, not {value!r}")


def parse_prediction(row: dict[str, Any], where: str, taxonomy: Taxonomy) -> Prediction:
    """Check one prediction row.

    Raises:
        BadAnnotation: a field is missing or wrong, or the gold answer is not in the closed set.
        UnknownQuestionType: the taxonomy does not define the type.
    """
    for field in _TEXT:
        if not isinstance(row.get(field), str):
            raise BadAnnotation(f"{where}: prediction rows need the text field '{field}'")
    error = row.get("error") or None
    predicted = row.get("predicted_answer")
    if predicted is None and error is not None:
        predicted = ""
    if not isinstance(predicted, str):
        raise BadAnnotation(f"{where}: 'predicted_answer' must be text (it may be null beside an 'error')")
    name = row["question_type"]
    kind = taxonomy.types.get(name)
    if kind is None and name != OUT_OF_SCOPE:
        raise UnknownQuestionType(
            f"{where}: unknown question type '{name}'; taxonomy '{taxonomy.name}' "
            f"defines: {', '.join(sorted(taxonomy.types))}"
        )
    allowed = {answer.short for answer in kind.answers} if kind else set()
    allowed.add(taxonomy.refusal.short)
    if row["short_answer"] not in allowed:
        raise BadAnnotation(
            f"{where}: '{row['short_answer']}' is not an answer of {name} "
            f"(allowed: {', '.join(sorted(allowed))})"
        )
    return Prediction(
        key=str(row.get("key") or ""),
        question_id=str(row.get("question_id") or row.get("id") or ""),
        question_type=name,
        question=str(row.get("question") or ""),
        ground_truth=row["ground_truth"],
        short_answer=row["short_answer"],
        predicted=predicted,
        confidence=_number(row, "confidence", where),
        inference_time_ms=_number(row, "inference_time_ms", where),
        error=None if error is None else str(error),
        extra=row,
    )


def read_predictions(path: str | Path, taxonomy: Taxonomy) -> list[Prediction]:
    """Read a prediction file; a key may stand in it once.

    Raises:
        BadAnnotation: names file, line and field; also for an empty file or a repeated key.
        UnknownQuestionType: names file, line and type.
    """
    path = Path(path)
    rows: list[Prediction] = []
    lines: dict[str, int] = {}
    for number, raw in read_jsonl(path):
        row = parse_prediction(raw, f"{path}:{number}", taxonomy)
        if row.key and row.key in lines:
            raise BadAnnotation(
                f"{path}:{number}: key '{row.key}' already stands on line {lines[row.key]}; "
                "a question counts once, remove one of the two rows"
            )
        lines[row.key] = number
        rows.append(row)
    if not rows:
        raise BadAnnotation(f"{path}: no rows; a prediction file holds one JSON object per line")
    return rows


def join(
    rows: Sequence[Prediction], samples: Iterable[Sample], taxonomy: Taxonomy
) -> tuple[list[Prediction], list[Prediction]]:
    """Give rows without a key the key of their sample, where (id, question type) names exactly one clip.

    The wording of the question decides the template. Returns all rows, joined where possible, and
    those that could not be: never guessed, always reported.
    """
    candidates: dict[tuple[str, str], dict[str, Sample]] = {}
    for sample in samples:
        clip = sample.key.partition("/")[2]
        candidates.setdefault((sample.id, sample.question_type), {})[clip] = sample
    repeated = Counter((row.question_id, row.question_type, row.question) for row in rows if not row.key)
    joined: list[Prediction] = []
    left: list[Prediction] = []
    for row in rows:
        clips = candidates.get((row.question_id, row.question_type), {})
        template = _template(row, taxonomy) if clips else ""
        unique = len(clips) == 1 and repeated[row.question_id, row.question_type, row.question] == 1
        if not row.key and unique and template and next(iter(clips.values())).answer == row.ground_truth:
            joined.append(replace(row, key=f"{template}/{next(iter(clips))}"))
        else:
            joined.append(row)
            if not row.key:
                left.append(row)
    return joined, left


def _template(row: Prediction, taxonomy: Taxonomy) -> str:
    kind = taxonomy.type_of(row.question_type)
    if row.question == kind.in_template:
        return "in"
    return "out" if row.question == kind.out_template else ""

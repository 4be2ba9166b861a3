"""What can be had without looking or listening; every reported number stands beside these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


class Labelled(Protocol):
    """Anything with a question type and a gold short answer."""

    @property
    def question_type(self) -> str: ...
    @property
    def short_answer(self) -> str: ...


class Placed(Labelled, Protocol):
    """A labelled row whose clip has a place in time."""

    @property
    def video_id(self) -> str: ...
    @property
    def first_frame(self) -> int: ...


def majority(rows: Iterable[Labelled]) -> dict[str, str]:
    """Most frequent short answer per question type; ties go to the answer that appears first."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.question_type, Counter())[row.short_answer] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in counts.items()}


def hits(rows: Iterable[Labelled], constant: Mapping[str, str]) -> int:
    """How many rows a fixed answer per type gets right; a type it does not know is wrong."""
    return sum(constant.get(row.question_type) == row.short_answer for row in rows)


def nearest(rows: Sequence[Placed], train: Sequence[Placed]) -> list[str | None]:
    """For each row, the answer of the nearest training clip in time: same type, same video.

    Ties go to the earlier clip. None where the training rows hold no clip of that type and video,
    so on a held-out video this floor answers nothing.
    """
    known: dict[tuple[str, str], list[Placed]] = {}
    for sample in train:
        known.setdefault((sample.video_id, sample.question_type), []).append(sample)
    answers: list[str | None] = []
    for row in rows:
        clips = known.get((row.video_id, row.question_type), [])
        closest = min(
            clips,
            key=lambda clip: (abs(clip.first_frame - row.first_frame), clip.first_frame),
            default=None,
        )
        answers.append(None if closest is None else closest.short_answer)
    return answers

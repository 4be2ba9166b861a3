"""What can be scored without looking: majority, best constant and nearest-in-time copy."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from surgvivqa_audio.sample import Sample


def majority(samples: Sequence[Sample]) -> dict[str, str]:
    """The most frequent short answer of each type; a tie goes to the answer that appears first."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.question_type, Counter())[sample.short_answer] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in counts.items()}


def constant_share(samples: Sequence[Sample], answers: Mapping[str, str]) -> float | None:
    """Share of rows answered right by one answer per type; None without rows."""
    if not samples:
        return None
    return sum(answers.get(row.question_type) == row.short_answer for row in samples) / len(samples)


def nearest_in_time(train: Sequence[Sample], samples: Sequence[Sample]) -> float | None:
    """Share of rows answered right by the label of the nearest training clip of the same type and video.

    Distance is between first frames; of two equally near clips the earlier one counts. Rows whose
    video and type have no training clip count as wrong. None when the two lists share no procedure.
    """
    if not {row.video_id for row in train} & {row.video_id for row in samples}:
        return None
    table: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in train:
        table.setdefault((row.video_id, row.question_type), []).append((row.first_frame, row.short_answer))
    for clips in table.values():
        clips.sort(key=lambda clip: clip[0])
    hits = 0
    for row in samples:
        clips = table.get((row.video_id, row.question_type), [])
        place = bisect_left(clips, row.first_frame, key=lambda clip: clip[0])
        around = clips[max(place - 1, 0) : place + 1]
        if around:
            hits += min(around, key=lambda clip: abs(clip[0] - row.first_frame))[1] == row.short_answer
    return hits / len(samples)


def floors(train: Sequence[Sample], samples: Sequence[Sample]) -> dict[str, float | None]:
    """The three shares of rows, 0 to 1, that a system has to beat on ``samples``."""
    return {
        "train_majority": constant_share(samples, majority(train)),
        "best_constant": constant_share(samples, majority(samples)),
        "nearest_in_time": nearest_in_time(train, samples),
    }


def informative(samples: Sequence[Sample]) -> dict[str, int]:
    """Types with more than one answer in these rows, and how many answers each has."""
    answers: dict[str, set[str]] = {}
    for row in samples:
        answers.setdefault(row.question_type, set()).add(row.short_answer)
    return {name: len(found) for name, found in sorted(answers.items()) if len(found) > 1}

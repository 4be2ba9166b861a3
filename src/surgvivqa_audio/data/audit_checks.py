"""Labels that cannot both be true, clips that nearly coincide, and how alike neighbours answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from surgvivqa_audio.sample import Sample, by_video, clips

EXAMPLES = 20


@dataclass(frozen=True)
class Rule:
    """Answers of two question types that exclude each other on the same frames."""

    name: str
    left: str
    right: str
    excluded: frozenset[tuple[str, str]]


def _rule(name: str, left: str, right: str, *pairs: tuple[str, str]) -> Rule:
    return Rule(name, left, right, frozenset(pairs))


# A "no" to "advancing?" says withdrawing and the other way round, so equal answers exclude each other.
RULES = (
    _rule("forward_backward", "scope_forward_motion", "scope_backward_motion", ("yes", "yes"), ("no", "no")),
    _rule(
        "motion_type_forward",
        "scope_motion_type",
        "scope_forward_motion",
        ("advancing", "no"),
        ("withdrawing", "yes"),
    ),
    _rule(
        "motion_type_backward",
        "scope_motion_type",
        "scope_backward_motion",
        ("advancing", "yes"),
        ("withdrawing", "no"),
    ),
    _rule(
        "still_yet_moving", "scope_motion", "scope_motion_type", ("no", "advancing"), ("no", "withdrawing")
    ),
    _rule(
        "tool_catheter",
        "tool_identification",
        "tool_catheter_check",
        ("catheter", "no"),
        ("forceps", "yes"),
        ("snare", "yes"),
    ),
    _rule("nbi_lighting", "nbi_status", "lighting_mode", ("no", "NBI"), ("yes", "WL")),
    _rule("occlusion_fluid", "occlusion_check", "fluid_occlusion_level", ("no", "complete")),
    _rule(
        "mucosa_fluid", "mucosa_visibility", "fluid_occlusion_level", ("yes", "complete"), ("no", "absent")
    ),
    _rule("mucosa_occlusion", "mucosa_visibility", "occlusion_check", ("yes", "yes"), ("no", "no")),
    _rule("outside_mucosa", "scope_outside", "mucosa_visibility", ("yes", "yes")),
    _rule(
        "outside_lesion",
        "scope_outside",
        "lesion_screen_position",
        ("yes", "upper-left"),
        ("yes", "upper-right"),
        ("yes", "lower-left"),
        ("yes", "lower-right"),
    ),
)


def overlapping(samples: Sequence[Sample]) -> list[tuple[Sample, Sample, int]]:
    """All pairs of rows that share frames, with the number of shared frames, in file order."""
    order = {sample.key: place for place, sample in enumerate(samples)}
    pairs: Counter[tuple[int, int]] = Counter()
    for rows in by_video(samples).values():
        holders: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            for number in row.frame_numbers:
                holders[number].append(order[row.key])
        for places in holders.values():
            for index, first in enumerate(places):
                for second in places[index + 1 :]:
                    pairs[min(first, second), max(first, second)] += 1
    return [(samples[a], samples[b], count) for (a, b), count in sorted(pairs.items())]


def interleaved(samples: Sequence[Sample]) -> list[tuple[Sample, Sample, int]]:
    """Pairs of rows whose clips overlap in time without sharing a frame (other phase of the stride)."""
    pairs = []
    for rows in by_video(samples).values():
        ordered = sorted(rows, key=lambda row: row.first_frame)
        for place, row in enumerate(ordered):
            numbers = set(row.frame_numbers)
            for later in ordered[place + 1 :]:
                if later.first_frame > row.frame_numbers[-1]:
                    break
                if not numbers.intersection(later.frame_numbers):
                    pairs.append((row, later, 0))
    return pairs


def contradictions(pairs: Sequence[tuple[Sample, Sample, int]]) -> list[dict[str, Any]]:
    """Rules that are broken by pairs of rows on overlapping frames.

    Args:
        pairs: from ``overlapping`` (shared frames) or ``interleaved`` (same seconds, other frames).

    Returns:
        One entry per broken rule: ``rule``, ``count`` of pairs, ``same_clip`` and ``half_shared`` (pairs
        on identical frames, and on at least half of them), ``answers``, ``keys`` (examples, two per pair).
    """
    found = []
    for rule in RULES:
        broken = [pair for pair in (_match(rule, *each) for each in pairs) if pair is not None]
        if broken:
            found.append(_entry(rule.name, broken))
    same = [
        (a, b, count)
        for a, b, count in pairs
        if a.question_type == b.question_type
        and a.short_answer != b.short_answer
        and a.template == b.template
    ]
    if same:
        found.append(_entry("same_type_other_answer", same))
    return found


def _match(rule: Rule, a: Sample, b: Sample, count: int) -> tuple[Sample, Sample, int] | None:
    for left, right in ((a, b), (b, a)):
        if (
            left.question_type == rule.left
            and right.question_type == rule.right
            and (left.short_answer, right.short_answer) in rule.excluded
        ):
            return left, right, count
    return None


def _entry(name: str, pairs: Sequence[tuple[Sample, Sample, int]]) -> dict[str, Any]:
    answers = Counter(
        f"{a.question_type}={a.short_answer}, {b.question_type}={b.short_answer}" for a, b, _ in pairs
    )
    return {
        "rule": name,
        "count": len(pairs),
        "same_clip": sum(a.frame_numbers == b.frame_numbers for a, b, _ in pairs),
        "half_shared": sum(2 * count >= len(a.frame_numbers) for a, _, count in pairs),
        "answers": dict(answers.most_common()),
        "keys": [row.key for a, b, _ in pairs[: EXAMPLES // 2] for row in (a, b)],
    }


def near_duplicates(samples: Sequence[Sample]) -> dict[str, Any]:
    """Distinct clips that share half of their frames or more with another clip of the procedure."""
    first = [rows[0] for rows in clips(samples).values()]
    close = [pair for pair in overlapping(first) if 2 * pair[2] >= len(pair[0].frame_numbers)]
    return {
        "clips": len(first),
        "pairs": len(close),
        "keys": [row.key for a, b, _ in close[: EXAMPLES // 2] for row in (a, b)],
    }


def neighbour_agreement(samples: Sequence[Sample]) -> dict[str, float]:
    """Per type, how often two clips that follow each other in a procedure have the same answer.

    Types with one answer overall are left out: there it is 1 by construction.
    """
    rows: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    answers: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        rows[sample.question_type, sample.video_id].append(sample)
        answers[sample.question_type].add(sample.short_answer)
    same: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for (name, _), group in rows.items():
        group.sort(key=lambda row: row.first_frame)
        for earlier, later in pairwise(group):
            total[name] += 1
            same[name] += earlier.short_answer == later.short_answer
    return {name: round(same[name] / total[name], 4) for name in sorted(total) if len(answers[name]) > 1}


def constant_types(samples: Iterable[Sample]) -> dict[str, str]:
    """Types that have a single answer in these rows, and that answer."""
    answers: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        answers[sample.question_type].add(sample.short_answer)
    return {name: next(iter(found)) for name, found in sorted(answers.items()) if len(found) == 1}


def colliding_ids(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """Ids that more than one row carries, with the keys of those rows."""
    keys: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        keys[sample.id].append(sample.key)
    return {name: found for name, found in sorted(keys.items()) if len(found) > 1}

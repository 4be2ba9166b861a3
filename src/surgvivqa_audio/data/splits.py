"""Train, eval and test: without shared frames, as published, or one fold per procedure."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Sample, by_video

_PASSES = 50
_ALL = ("", "")  # the stratum of all rows: it holds the overall fraction


@dataclass(frozen=True)
class Split:
    """Three disjoint lists of samples."""

    train: list[Sample]
    eval: list[Sample]
    test: list[Sample]

    def parts(self) -> dict[str, list[Sample]]:
        """The lists by name, in the order in which they are written."""
        return {"train": self.train, "eval": self.eval, "test": self.test}


def _select(
    samples: Sequence[Sample], held_out: Iterable[str], videos: Iterable[str]
) -> tuple[list[Sample], list[Sample]]:
    """Rows to train and evaluate on, and rows of the held-out procedures."""
    held, chosen = set(held_out), set(videos)
    present = set(by_video(samples))
    unknown = sorted((held | chosen) - present)
    if unknown:
        raise ConfigError(f"no rows of video {', '.join(unknown)}; the file has {', '.join(sorted(present))}")
    rest = [
        sample
        for sample in samples
        if sample.video_id not in held and (not chosen or sample.video_id in chosen)
    ]
    if not rest:
        raise ConfigError("no rows are left to train on; hold out fewer videos")
    return rest, [sample for sample in samples if sample.video_id in held]


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(f"--eval-fraction {fraction}: a number between 0 and 1 is needed")


def seed_split(
    samples: Sequence[Sample],
    held_out: Sequence[str] = (),
    videos: Sequence[str] = (),
    eval_fraction: float = 0.15,
    seed: int = 42,
) -> Split:
    """The split behind the published audio results, row for row.

    Rows are grouped by question type in order of first appearance; one generator shuffles each group
    in turn, the last ``max(1, int(fraction * n))`` rows of a group are evaluation rows, and the same
    generator then shuffles train, eval and test. Neighbouring clips end up on both sides: the
    report counts the shared frames.

    Raises:
        ConfigError: an unknown video, a fraction outside (0, 1) or nothing left to train on.
    """
    _check_fraction(eval_fraction)
    rest, test = _select(samples, held_out, videos)
    groups: dict[str, list[Sample]] = {}
    for sample in rest:
        groups.setdefault(sample.question_type, []).append(sample)
    generator = random.Random(seed)
    train: list[Sample] = []
    evaluation: list[Sample] = []
    for group in groups.values():
        generator.shuffle(group)
        count = max(1, int(len(group) * eval_fraction))
        train += group[: len(group) - count]
        evaluation += group[len(group) - count :]
    for part in (train, evaluation, test):
        generator.shuffle(part)
    return Split(train, evaluation, test)


def clip_groups(samples: Sequence[Sample], gap: int = 0) -> list[list[Sample]]:
    """Groups of samples that must stay together: their clips overlap or lie within ``gap`` frames.

    The span of a clip counts, not only its eight frames: frames between them show the same scene.
    Groups are in order of video and time.
    """
    groups: list[list[Sample]] = []
    for video in sorted(by_video(samples)):
        end = None
        rows = [sample for sample in samples if sample.video_id == video]
        for sample in sorted(rows, key=lambda row: (row.frame_numbers[0], row.frame_numbers[-1], row.key)):
            if end is None or sample.frame_numbers[0] > end + gap:
                groups.append([])
                end = sample.frame_numbers[-1]
            groups[-1].append(sample)
            end = max(end, sample.frame_numbers[-1])
    return groups


def leak_free_split(
    samples: Sequence[Sample],
    held_out: Sequence[str] = (),
    videos: Sequence[str] = (),
    eval_fraction: float = 0.15,
    gap: int = 0,
    seed: int = 42,
) -> Split:
    """Held-out procedures as test; train and eval share no frame and no neighbouring clip.

    Whole groups of ``clip_groups`` are dealt, the largest first, each to the side where the counts
    per (question type, answer) then lie nearest to the wanted fraction. Afterwards a type that one
    side lacks gets the smallest group that brings it, where a second group of it exists.

    Raises:
        ConfigError: an unknown video, a fraction outside (0, 1), a negative gap or nothing to train on.
    """
    _check_fraction(eval_fraction)
    if gap < 0:
        raise ConfigError(f"--gap {gap}: a number of frames, 0 or more, is needed")
    rest, test = _select(samples, held_out, videos)
    groups = clip_groups(rest, gap)
    generator = random.Random(seed)
    generator.shuffle(groups)
    groups.sort(key=len, reverse=True)
    total = _strata(rest)
    wanted = {stratum: count * eval_fraction for stratum, count in total.items()}
    chosen = _deal(groups, wanted)
    _cover_types(groups, chosen)
    if not any(chosen) and len(groups) > 1:
        # So few clips that none brings eval nearer to its fraction: the smallest one is better than none.
        chosen[min(range(len(groups)), key=lambda place: (len(groups[place]), place))] = True
    train = [row for group, taken in zip(groups, chosen, strict=True) if not taken for row in group]
    evaluation = [row for group, taken in zip(groups, chosen, strict=True) if taken for row in group]
    order = {sample.key: place for place, sample in enumerate(rest)}
    for part in (train, evaluation):
        part.sort(key=lambda row: order[row.key])
    return Split(train, evaluation, test)


def _strata(group: Sequence[Sample]) -> Counter[tuple[str, str]]:
    counts = Counter((row.question_type, row.short_answer) for row in group)
    counts[_ALL] = len(group)
    return counts


def _deal(groups: Sequence[Sequence[Sample]], wanted: dict[tuple[str, str], float]) -> list[bool]:
    """Which groups go to eval: a pass that adds, then single flips while they bring the counts nearer."""
    have: dict[tuple[str, str], float] = defaultdict(float)
    counted = [_strata(group) for group in groups]
    chosen = [False] * len(groups)
    for _ in range(_PASSES):
        flips = 0
        for place, counts in enumerate(counted):
            sign = -1 if chosen[place] else 1
            # Squared distance relative to each stratum's size, so that rare answers count as much.
            change = sum(
                count * (2 * sign * (have[key] - wanted[key]) + count) / wanted[key]
                for key, count in counts.items()
            )
            if change < 0:
                flips += 1
                chosen[place] = not chosen[place]
                for key, count in counts.items():
                    have[key] += sign * count
        if not flips:
            break
    return chosen


def _cover_types(groups: Sequence[Sequence[Sample]], chosen: list[bool]) -> None:
    """Move single groups so that each type stands on both sides, where it has two groups."""
    holders: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        for name in sorted({row.question_type for row in group}):
            holders[name].append(place)
    for name in sorted(holders):
        places = holders[name]
        for side in (True, False):
            if any(chosen[place] == side for place in places):
                continue
            movable = [
                place for place in places if _stays_covered(groups, chosen, holders, place, lacking=name)
            ]
            if movable:
                chosen[min(movable, key=lambda place: (len(groups[place]), place))] = side


def _stays_covered(
    groups: Sequence[Sequence[Sample]],
    chosen: Sequence[bool],
    holders: dict[str, list[int]],
    place: int,
    lacking: str,
) -> bool:
    """Whether the side that gives a group away keeps another group of each of its types."""
    return all(
        any(other != place and chosen[other] == chosen[place] for other in holders[name])
        for name in {row.question_type for row in groups[place]} | {lacking}
    )


def folds(
    samples: Sequence[Sample],
    videos: Sequence[str] = (),
    eval_fraction: float = 0.15,
    gap: int = 0,
    seed: int = 42,
) -> dict[str, Split]:
    """Leave one procedure out: one leak-free split per procedure, by its id.

    Raises:
        ConfigError: fewer than two procedures, or as for ``leak_free_split``.
    """
    present = sorted(videos or by_video(samples))
    if len(present) < 2:
        raise ConfigError("--policy folds needs at least two videos")
    return {
        held: leak_free_split(
            samples, [held], [video for video in present if video != held], eval_fraction, gap, seed
        )
        for held in present
    }


def subset(samples: Sequence[Sample], video: str, size: int = 50, seed: int = 42) -> list[Sample]:
    """A small test set of one procedure with all its types, as the published baselines use it.

    Types in alphabetical order get ``size // types`` rows each, the first ``size % types`` one more;
    one generator samples each and shuffles the whole. A type with fewer rows gives what it has.

    Raises:
        ConfigError: the file has no rows of the video, or the size is not positive.
    """
    if size < 1:
        raise ConfigError(f"--size {size}: at least one row is needed")
    rows, _ = _select(samples, (), (video,))
    groups: dict[str, list[Sample]] = {}
    for row in rows:
        groups.setdefault(row.question_type, []).append(row)
    generator = random.Random(seed)
    each, more = divmod(size, len(groups))
    chosen: list[Sample] = []
    for place, name in enumerate(sorted(groups)):
        chosen += generator.sample(groups[name], min(each + (place < more), len(groups[name])))
    generator.shuffle(chosen)
    return chosen


def published_bytes(samples: Iterable[Sample], rows: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Samples as the published JSONL files write them: without ``key`` and ``template``.

    Args:
        rows: the rows as they stand in the annotation file, by key.
    """
    lines = []
    for sample in samples:
        row = {name: value for name, value in rows[sample.key].items() if name not in ("key", "template")}
        lines.append(json.dumps(row).encode("ascii") + b"\n")
    return b"".join(lines)

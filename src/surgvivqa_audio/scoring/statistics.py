"""Statistics of scored rows: F1, confusion, intervals over procedures, paired tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ANSWER = "(none)"

Figure = Callable[[NDArray[np.int64]], float]


def confusion(gold: Sequence[str], said: Sequence[str | None]) -> dict[str, dict[str, int]]:
    """Counts ``table[gold][said]``; an answer outside the closed set is counted under "(none)"."""
    table: dict[str, Counter[str]] = {}
    for truth, answer in zip(gold, said, strict=True):
        table.setdefault(truth, Counter())[NO_ANSWER if answer is None else answer] += 1
    return {truth: dict(sorted(counts.items())) for truth, counts in sorted(table.items())}


def macro_f1(gold: Sequence[str], said: Sequence[str | None]) -> float:
    """Unweighted mean F1 over the gold answers that occur; 0 for one that is never right."""
    scores = []
    for label in dict.fromkeys(gold):
        right = sum(truth == label == answer for truth, answer in zip(gold, said, strict=True))
        claimed = sum(answer == label for answer in said)
        present = sum(truth == label for truth in gold)
        scores.append(2 * right / (claimed + present))
    return sum(scores) / len(scores) if scores else 0.0


def cluster_bootstrap(
    clusters: Sequence[Hashable],
    figure: Figure,
    *,
    rounds: int = 1000,
    seed: int = 42,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of ``figure`` when whole clusters (procedures) are drawn with replacement.

    Args:
        clusters: the cluster of each row.
        figure: computes the number from an array of row numbers, repeats included.

    Rows of one procedure share mucosa, scope and light; drawing rows alone would pretend they do not.
    """
    members: dict[Hashable, list[int]] = {}
    for number, name in enumerate(clusters):
        members.setdefault(name, []).append(number)
    groups = [np.asarray(rows, dtype=np.int64) for rows in members.values()]
    rng = np.random.default_rng(seed)
    values = [
        figure(np.concatenate([groups[at] for at in rng.integers(len(groups), size=len(groups))]))
        for _ in range(rounds)
    ]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Two systems on the same rows: how often which was right, and the exact McNemar p-value."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Exact McNemar test: a two-sided binomial test on the rows where exactly one is right."""
    counts = Counter(zip(map(bool, first), map(bool, second), strict=True))
    one, other = counts[True, False], counts[False, True]
    discordant = one + other
    tail = sum(math.comb(discordant, k) for k in range(min(one, other) + 1))
    p_value = min(1.0, 2 * tail / 2**discordant) if discordant else 1.0
    return Paired(counts[True, True], one, other, counts[False, False], p_value)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values, in the order given.

    Source: Holm, Scand. J. Statist. 6 (1979) 65-70.
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class Flips:
    """The same clips asked in two wordings."""

    pairs: int
    changed: int  # another option, right or wrong
    lost: int  # right in the first wording only
    won: int  # right in the second wording only
    p_value: float


def flips(
    first: Mapping[str, tuple[str | None, bool]], second: Mapping[str, tuple[str | None, bool]]
) -> Flips:
    """Compare ``{name: (option, right)}`` of two wordings over the names both have."""
    shared = [name for name in first if name in second]
    paired = mcnemar([first[name][1] for name in shared], [second[name][1] for name in shared])
    return Flips(
        pairs=len(shared),
        changed=sum(first[name][0] != second[name][0] for name in shared),
        lost=paired.only_first,
        won=paired.only_second,
        p_value=paired.p_value,
    )

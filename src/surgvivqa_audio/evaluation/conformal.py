"""Answer sets that hold the right answer as often as promised.

Source: split-conformal prediction, Vovk et al., Algorithmic Learning in a Random World.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from surgvivqa_audio.evaluation.outcomes import OTHER, Outcome


def conformal_threshold(rows: Sequence[Outcome], temperature: float, alpha: float = 0.1) -> float:
    """Split-conformal threshold on ``1 - p(gold)``: its ceil((n + 1)(1 - alpha))-th smallest value.

    Holds for rows exchangeable with these. Rows of one procedure are not exchangeable with rows of
    another, so coverage is promised for procedures like those of the eval split, not for each one.
    """
    scores = np.sort([1.0 - _probability(row, row.gold, temperature) for row in rows])
    rank = math.ceil((len(scores) + 1) * (1 - alpha))
    return float(scores[rank - 1]) if rank <= len(scores) else 1.0


def conformal_sets(
    rows: Sequence[Outcome], temperature: float, threshold: float
) -> list[tuple[tuple[str, str], ...]]:
    """For each row the options that cannot be ruled out; "(other)" stands for all that are not written."""
    found = []
    for row in rows:
        probabilities = row.tempered(temperature)
        probabilities[-1] /= max(row.unlisted, 1)
        listed = range(len(row.labels) if row.unlisted else len(row.labels) - 1)
        found.append(tuple(row.labels[at] for at in listed if 1.0 - probabilities[at] <= threshold))
    return found


def _probability(row: Outcome, label: tuple[str, str], temperature: float) -> float:
    """Of one option; of one that is not written, an equal part of the rest."""
    at = row.labels.index(label) if label in row.labels else -1
    probability = float(row.tempered(temperature)[at])
    return probability / max(row.unlisted, 1) if row.labels[at] == OTHER else probability


def conformal_figures(
    test: Sequence[Outcome], fitted_on: Sequence[Outcome], temperature: float, alpha: float = 0.1
) -> dict[str, Any]:
    """Coverage and size of the sets of ``test`` with the threshold of ``fitted_on``."""
    threshold = conformal_threshold(fitted_on, temperature, alpha)
    sets = conformal_sets(test, temperature, threshold)
    covered = [
        row.gold in found or (row.gold not in row.labels and OTHER in found)
        for row, found in zip(test, sets, strict=True)
    ]
    sizes = [
        len(found) + (row.unlisted - 1) * (OTHER in found) for row, found in zip(test, sets, strict=True)
    ]
    by_procedure = _by_video(test, covered)
    return {
        "target": 1 - alpha,
        "threshold": threshold,
        "coverage": float(np.mean(covered)),
        "mean_set_size": float(np.mean(sizes)),
        "empty_sets": sum(not found for found in sets),
        "coverage_by_procedure": by_procedure,
        "over_procedures": float(np.mean(list(by_procedure.values()))),
        "halves": procedure_halves(test, temperature, alpha),
        "holds_for": "procedures exchangeable with those of the eval split",
    }


def procedure_halves(
    rows: Sequence[Outcome], temperature: float, alpha: float = 0.1, rounds: int = 100, seed: int = 42
) -> dict[str, float] | None:
    """Coverage when the threshold comes from a random half of the procedures and is used on the other half.

    Procedures are the exchangeable unit, so this is the promise itself, without the luck of one split. None
    for fewer than four procedures.
    """
    videos = sorted({row.video for row in rows})
    if len(videos) < 4:
        return None
    scores = np.array([1.0 - _probability(row, row.gold, temperature) for row in rows])
    owner = np.array([videos.index(row.video) for row in rows])
    rng = np.random.default_rng(seed)
    coverage = []
    for _ in range(rounds):
        half = np.isin(owner, rng.permutation(len(videos))[: len(videos) // 2])
        known = np.sort(scores[half])
        rank = math.ceil((len(known) + 1) * (1 - alpha))
        threshold = known[rank - 1] if rank <= len(known) else 1.0
        coverage.append(float(np.mean(scores[~half] <= threshold)))
    low, high = np.quantile(coverage, [0.025, 0.975])
    return {"rounds": rounds, "mean": float(np.mean(coverage)), "low": float(low), "high": float(high)}


def _by_video(rows: Sequence[Outcome], covered: Sequence[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for row, inside in zip(rows, covered, strict=True):
        groups.setdefault(row.video, []).append(inside)
    return {video: sum(found) / len(found) for video, found in sorted(groups.items())}

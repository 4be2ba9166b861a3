"""Whether a confidence means what it says, and what abstaining below it would buy.

Everything here reads the option probabilities that a prediction row carries. The temperature and the
conformal threshold are fitted on rows of the eval split and only applied to others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.taxonomy import Taxonomy

Array = NDArray[np.float64]

_TINY = 1e-9
_OTHER = ("", "(other)")


@dataclass(frozen=True)
class Outcome:
    """Probabilities of the written options of one row, the rest lumped together, and the gold option."""

    labels: tuple[tuple[str, str], ...]  # (question type, short answer); last: everything not written
    probabilities: Array
    gold: tuple[str, str]
    video: str
    unlisted: int = 1  # how many options the last probability is shared by, taken as equally likely

    @property
    def best(self) -> tuple[str, str]:
        """The option with the highest probability."""
        return self.labels[int(np.argmax(self.probabilities[:-1]))]

    @property
    def correct(self) -> bool:
        """Whether the best option is the gold one."""
        return self.best == self.gold

    def tempered(self, temperature: float) -> Array:
        """Probabilities after dividing their logarithms by ``temperature``, (n,); last: the rest together."""
        each = self.probabilities.copy()
        each[-1] /= max(self.unlisted, 1)
        logits = np.log(np.maximum(each, _TINY)) / temperature
        logits = np.where(each > 0, logits, -np.inf)
        weights = np.exp(logits - logits.max())
        weights[-1] *= self.unlisted
        return np.asarray(weights / weights.sum(), dtype=np.float64)


def outcomes(rows: Sequence[Prediction], taxonomy: Taxonomy) -> list[Outcome]:
    """The rows that carry option probabilities; rows with an error or without options are left out.

    Raises:
        BadAnnotation: an option is not ``[type, short answer, probability]``.
    """
    refusal, total = taxonomy.refusal.short, len(taxonomy.sentences())
    found = []
    for row in rows:
        options = (row.extra or {}).get("options")
        if row.error is not None or not options:
            continue
        try:
            labels = [(str(kind), str(short)) for kind, short, _ in options]
            known = np.array([float(probability) for _, _, probability in options])
        except (TypeError, ValueError) as error:
            raise BadAnnotation(
                f"{row.key}: 'options' must list [type, short answer, probability] ({error})"
            ) from error
        rest = max(0.0, 1.0 - float(known.sum()))
        gold = ("" if row.short_answer == refusal else row.question_type, row.short_answer)
        unlisted = max(total - len(labels), 0)
        mass = np.append(known, rest if unlisted else 0.0)
        found.append(Outcome((*labels, _OTHER), mass, gold, row.video, unlisted))
    return found


def confidences(rows: Sequence[Outcome], temperature: float = 1.0) -> Array:
    """Confidence in the best option of each row, (n,)."""
    return np.array([float(row.tempered(temperature)[:-1].max()) for row in rows])


def fit_temperature(rows: Sequence[Outcome]) -> float:
    """The temperature between 0.05 and 20 with the smallest negative log-likelihood of the gold options.

    Source: Guo et al., ICML 2017.
    """
    if not rows:
        return 1.0
    positions = [row.labels.index(row.gold) if row.gold in row.labels else -1 for row in rows]
    width = max(len(row.labels) for row in rows)
    each = np.zeros((len(rows), width))
    copies = np.ones((len(rows), width))
    for number, row in enumerate(rows):  # the rest last, whatever the number of options before it
        count = len(row.labels) - 1
        each[number, :count] = row.probabilities[:count]
        each[number, -1] = row.probabilities[-1] / max(row.unlisted, 1)
        copies[number, -1] = max(row.unlisted, 1)
    gold = each[np.arange(len(rows)), positions]
    logits = np.where(each > 0, np.log(np.maximum(each, _TINY)), -np.inf)

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        scaled = np.log(np.maximum(gold, _TINY)) / temperature
        return float(np.mean(logsumexp(logits / temperature, axis=1, b=copies) - scaled))

    return math.exp(float(minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded").x))


def reliability(confidence: Array, correct: Array, bins: int = 15) -> list[dict[str, float]]:
    """Equal-mass bins from least to most confident: rows, mean confidence, share right."""
    order = np.argsort(confidence, kind="stable")
    return [
        {
            "rows": len(chunk),
            "confidence": float(confidence[chunk].mean()),
            "accuracy": float(correct[chunk].mean()),
        }
        for chunk in np.array_split(order, min(bins, len(order)) or 1)
        if len(chunk)
    ]


def expected_calibration_error(confidence: Array, correct: Array, bins: int = 15) -> float:
    """ECE over equal-mass bins: mean gap between confidence and share right, weighted by rows."""
    table = reliability(confidence, correct, bins)
    total = sum(entry["rows"] for entry in table)
    gaps = [entry["rows"] * abs(entry["confidence"] - entry["accuracy"]) for entry in table]
    return sum(gaps) / total if total else 0.0


def brier(confidence: Array, correct: Array) -> float:
    """Top-label Brier score: mean squared gap between confidence and being right."""
    return float(np.mean((confidence - correct) ** 2)) if len(confidence) else 0.0


def risk_coverage(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """Coverage 1/n .. 1 and the share wrong among the most confident rows, both (n,).

    Rows of equal confidence share their errors evenly, so that file order cannot matter.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = 1.0 - np.asarray(correct, dtype=np.float64)[order]
    _, group = np.unique(-confidence[order], return_inverse=True)
    means = np.bincount(group, weights=wrong) / np.bincount(group)
    ranks = np.arange(1, len(order) + 1)
    return ranks / len(order), np.cumsum(means[group]) / ranks


def area_under_risk_coverage(confidence: Array, correct: Array) -> float:
    """AURC: mean risk over all coverages; 0 is perfect, the error rate is what guessing order gives."""
    return float(risk_coverage(confidence, correct)[1].mean()) if len(confidence) else 0.0


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
    return [
        tuple(label for label in row.labels if 1.0 - _probability(row, label, temperature) <= threshold)
        for row in rows
    ]


def _probability(row: Outcome, label: tuple[str, str], temperature: float) -> float:
    """Of one option; of one that is not written, an equal part of the rest."""
    at = row.labels.index(label) if label in row.labels else -1
    probability = float(row.tempered(temperature)[at])
    return probability / max(row.unlisted, 1) if row.labels[at] == _OTHER else probability


def calibrate(
    test: Sequence[Outcome], fitted_on: Sequence[Outcome] | None, alpha: float = 0.1
) -> dict[str, Any]:
    """All calibration figures of ``test``, before and after the temperature fitted on ``fitted_on``."""
    correct = np.array([row.correct for row in test], dtype=np.float64)
    result: dict[str, Any] = {"rows": len(test), "temperature": None}
    result["raw"] = _figures(confidences(test), correct)
    if fitted_on:
        temperature = fit_temperature(fitted_on)
        threshold = conformal_threshold(fitted_on, temperature, alpha)
        sets = conformal_sets(test, temperature, threshold)
        covered = [row.gold in found or (row.gold not in row.labels and _OTHER in found)
                   for row, found in zip(test, sets, strict=True)]  # fmt: skip
        result["temperature"] = temperature
        result["fitted_rows"] = len(fitted_on)
        result["tempered"] = _figures(confidences(test, temperature), correct)
        result["conformal"] = {
            "target": 1 - alpha,
            "threshold": threshold,
            "coverage": float(np.mean(covered)),
            "mean_set_size": float(
                np.mean(
                    [
                        len(found) + (row.unlisted - 1) * (_OTHER in found)
                        for row, found in zip(test, sets, strict=True)
                    ]
                )
            ),
            "empty_sets": sum(not found for found in sets),
            "coverage_by_procedure": _by_video(test, covered),
            "holds_for": "procedures exchangeable with those of the eval split",
        }
    return result


def fit_decision(rows: Sequence[Outcome], refusal: str, max_false_refusals: float = 0.03) -> dict[str, float]:
    """Temperature, and the confidence below which to abstain, from rows of the eval split.

    The rows must have been predicted at temperature 1. The threshold is the highest at which at most
    ``max_false_refusals`` of the answerable rows are refused, outright refusals included.
    """
    temperature = fit_temperature(rows)
    answerable = [row for row in rows if row.gold != ("", refusal)]
    refused = sum(row.best == ("", refusal) for row in answerable)
    kept = np.sort(confidences([row for row in answerable if row.best != ("", refusal)], temperature))
    budget = math.floor(max_false_refusals * len(answerable)) - refused
    threshold = float(kept[min(budget, len(kept) - 1)]) if budget > 0 and len(kept) else 0.0
    return {"temperature": temperature, "abstain_below": threshold}


def _figures(confidence: Array, correct: Array) -> dict[str, Any]:
    coverage, risk = risk_coverage(confidence, correct)
    marks = [round(0.1 * step, 1) for step in range(1, 11)]
    return {
        "ece": expected_calibration_error(confidence, correct),
        "brier": brier(confidence, correct),
        "aurc": area_under_risk_coverage(confidence, correct),
        "accuracy": float(correct.mean()),
        "confidence": float(confidence.mean()),
        "reliability": reliability(confidence, correct),
        "risk_at_coverage": {
            str(mark): float(risk[int(np.searchsorted(coverage, mark - 1e-9))]) for mark in marks
        },
    }


def _by_video(rows: Sequence[Outcome], covered: Sequence[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for row, inside in zip(rows, covered, strict=True):
        groups.setdefault(row.video, []).append(inside)
    return {video: sum(found) / len(found) for video, found in sorted(groups.items())}

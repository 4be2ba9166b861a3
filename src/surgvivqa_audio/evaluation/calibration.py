"""Whether a confidence means what it says, and what abstaining below it would buy.

Everything here reads the probabilities that a prediction row carries. The temperature is fitted on rows of
the eval split and only applied to others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from surgvivqa_audio.evaluation.conformal import conformal_figures
from surgvivqa_audio.evaluation.outcomes import EXACT, TINY, Array, Outcome


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
    tiny = TINY if any(row.unlisted for row in rows) else EXACT
    copies = np.ones((len(rows), width))
    for number, row in enumerate(rows):  # the rest last, whatever the number of options before it
        count = len(row.labels) - 1
        each[number, :count] = row.probabilities[:count]
        each[number, -1] = row.probabilities[-1] / max(row.unlisted, 1)
        copies[number, -1] = max(row.unlisted, 1)
    gold = each[np.arange(len(rows)), positions]
    logits = np.where(each > 0, np.log(np.maximum(each, tiny)), -np.inf)

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        scaled = np.log(np.maximum(gold, tiny)) / temperature
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


def calibrate(
    test: Sequence[Outcome], fitted_on: Sequence[Outcome] | None, alpha: float = 0.1
) -> dict[str, Any]:
    """All calibration figures of ``test``, before and after the temperature fitted on ``fitted_on``."""
    correct = np.array([row.correct for row in test], dtype=np.float64)
    result: dict[str, Any] = {"rows": len(test), "temperature": None}
    result["raw"] = _figures(confidences(test), correct)
    if fitted_on:
        temperature = fit_temperature(fitted_on)
        result["temperature"] = temperature
        result["fitted_rows"] = len(fitted_on)
        result["tempered"] = _figures(confidences(test, temperature), correct)
        result["conformal"] = conformal_figures(test, fitted_on, temperature, alpha)
    return result


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

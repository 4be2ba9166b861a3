"""The decision rule of a checkpoint, fitted on predictions of the eval split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.answering.bundle import DECISION_FILE
from surgvivqa_audio.answering.decision import refusal_log_odds
from surgvivqa_audio.errors import BadAnnotation, ConfigError
from surgvivqa_audio.evaluation.calibration import fit_temperature
from surgvivqa_audio.evaluation.outcomes import Outcome, outcomes
from surgvivqa_audio.files import write_json
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.taxonomy import Taxonomy

STAGES = ("tuned", "base")
MAX_FALSE_REFUSALS = 0.04  # aims at 5 % on new procedures
# Of off-topic questions 90 % are to be refused; a bank of some hundred knows its share to within 3 points.
# More than that is not bought with answers to questions that have one.
ENOUGH_REFUSED = 0.93


@dataclass(frozen=True)
class Fitted:
    """What goes into ``decision.json``, and what it does to the rows it was fitted on."""

    decision: dict[str, float]
    answerable: int
    false_refusals: float
    unanswerable: int
    refused: float


def write_decision(
    predictions: Sequence[Path], model: Path, stage: str, max_false_refusals: float, taxonomy: Taxonomy
) -> Fitted:
    """Fit temperature and threshold on all files together and put them into the model folder.

    Other stages in the folder stay untouched.

    Raises:
        BadAnnotation: the predictions carry no log-probabilities.
        ConfigError: an unknown stage, or no such model folder.
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage {stage}: one of {', '.join(STAGES)}")
    if not model.is_dir():
        raise ConfigError(f"{model}: no such model folder")
    rows = [row for path in predictions for row in outcomes(read_predictions(path, taxonomy), taxonomy)]
    names = ", ".join(map(str, predictions))
    if not rows:
        raise BadAnnotation(f"{names}: no row carries 'log_probs', nothing can be calibrated")
    if any(row.unlisted for row in rows):
        raise BadAnnotation(
            f"{names}: rows without 'log_probs'; make the predictions again with this version"
        )
    fitted = fit_decision(rows, max_false_refusals)
    path = model / DECISION_FILE
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, known | {stage: fitted.decision})
    return fitted


def fit_decision(rows: Sequence[Outcome], max_false_refusals: float = MAX_FALSE_REFUSALS) -> Fitted:
    """Temperature by likelihood; then the refusal threshold: the lowest within the budget of false refusals,
    or a higher one if that still refuses :data:`ENOUGH_REFUSED` of the off-topic rows.

    The temperature is fitted on the answerable rows alone, so that it does not depend on how many
    out-of-scope questions were asked.
    """
    answerable = [row for row in rows if row.gold[0] != ""]
    temperature = fit_temperature(answerable)
    inside = _log_odds(answerable, temperature)
    outside = _log_odds([row for row in rows if row.gold[0] == ""], temperature)
    threshold = _threshold(inside, max_false_refusals)
    if len(outside):
        needed = int(np.ceil(ENOUGH_REFUSED * len(outside)))
        threshold = max(threshold, float(np.sort(outside)[len(outside) - needed]))
    return Fitted(
        {"temperature": temperature, "refuse_at": threshold},
        len(inside),
        _share(inside >= threshold),
        len(outside),
        _share(outside >= threshold),
    )


def _threshold(inside: NDArray[np.float64], budget: float) -> float:
    """Between the last answerable row that may be refused and the next one."""
    if not len(inside):
        return 0.0
    ordered = np.sort(inside)[::-1]
    allowed = int(budget * len(ordered))
    above = ordered[allowed - 1] if allowed else ordered[0] + 2.0
    return float((above + ordered[min(allowed, len(ordered) - 1)]) / 2)


def _log_odds(rows: Sequence[Outcome], temperature: float) -> NDArray[np.float64]:
    kinds = [kind for kind, _ in rows[0].labels[:-1]] if rows else []
    return np.array([refusal_log_odds(row.tempered(temperature)[:-1].tolist(), kinds) for row in rows])


def _share(values: NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else 0.0

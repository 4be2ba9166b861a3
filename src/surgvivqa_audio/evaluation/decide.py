"""The decision rule of a checkpoint, fitted on predictions of the eval split."""

from __future__ import annotations

import json
from pathlib import Path

from surgvivqa_audio.answering.bundle import DECISION_FILE
from surgvivqa_audio.errors import BadAnnotation, ConfigError
from surgvivqa_audio.evaluation.calibration import fit_decision, outcomes
from surgvivqa_audio.files import write_json
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.taxonomy import Taxonomy

STAGES = ("tuned", "base")


def write_decision(
    predictions: Path, model: Path, stage: str, max_false_refusals: float, taxonomy: Taxonomy
) -> dict[str, float]:
    """Fit temperature and threshold and put them into the model folder, other stages untouched.

    Raises:
        BadAnnotation: the predictions carry no option probabilities.
        ConfigError: an unknown stage, or no such model folder.
    """
    if stage not in STAGES:
        raise ConfigError(f"--stage {stage}: one of {', '.join(STAGES)}")
    if not model.is_dir():
        raise ConfigError(f"{model}: no such model folder")
    rows = outcomes(read_predictions(predictions, taxonomy), taxonomy)
    if not rows:
        raise BadAnnotation(f"{predictions}: no row carries 'options', nothing can be calibrated")
    fields = fit_decision(rows, taxonomy.refusal.short, max_false_refusals)
    path = model / DECISION_FILE
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, known | {stage: fields})
    return fields

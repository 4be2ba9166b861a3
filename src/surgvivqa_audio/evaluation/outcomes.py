"""Prediction rows as probabilities over options, and the gold option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.taxonomy import Taxonomy

Array = NDArray[np.float64]

TINY = 1e-9  # of a share that a row rounded away
EXACT = 1e-300  # of a probability that a row holds exactly
OTHER = ("", "(other)")


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
        logits = np.log(np.maximum(each, TINY if self.unlisted else EXACT)) / temperature
        logits = np.where(each > 0, logits, -np.inf)
        weights = np.exp(logits - logits.max())
        weights[-1] *= self.unlisted
        return np.asarray(weights / weights.sum(), dtype=np.float64)


def outcomes(rows: Sequence[Prediction], taxonomy: Taxonomy) -> list[Outcome]:
    """The rows that carry probabilities; rows with an error or without options are left out.

    ``log_probs`` gives every sentence its probability before any temperature. Rows without it (other
    systems, older files) have the written options only.

    Raises:
        BadAnnotation: ``log_probs`` does not fit the taxonomy, or an option is not ``[type, short answer,
            probability]``.
    """
    refusal, total = taxonomy.refusal.short, len(taxonomy.sentences())
    every = tuple(taxonomy.sentences().values())
    found = []
    for row in rows:
        options = (row.extra or {}).get("options")
        if row.error is not None or not options:
            continue
        gold = ("" if row.short_answer == refusal else row.question_type, row.short_answer)
        known_logs = (row.extra or {}).get("log_probs")
        if known_logs:
            found.append(_exact(row, known_logs, every, gold))
            continue
        try:
            labels = [(str(kind), str(short)) for kind, short, _ in options]
            known = np.array([float(probability) for _, _, probability in options])
        except (TypeError, ValueError) as error:
            raise BadAnnotation(
                f"{row.key}: 'options' must list [type, short answer, probability] ({error})"
            ) from error
        rest = max(0.0, 1.0 - float(known.sum()))
        unlisted = max(total - len(labels), 0)
        mass = np.append(known, rest if unlisted else 0.0)
        found.append(Outcome((*labels, OTHER), mass, gold, row.video, unlisted))
    return found


def _exact(
    row: Prediction, log_probs: Sequence[float], every: tuple[tuple[str, str], ...], gold: tuple[str, str]
) -> Outcome:
    try:
        logits = np.array([float(value) for value in log_probs])
    except (TypeError, ValueError) as error:
        raise BadAnnotation(f"{row.key}: 'log_probs' must be numbers ({error})") from error
    if len(logits) != len(every) or not np.isfinite(logits).all():
        raise BadAnnotation(
            f"{row.key}: 'log_probs' has {len(logits)} values, the taxonomy {len(every)} sentences; the file "
            "belongs to another taxonomy or version"
        )
    weights = np.exp(logits - logits.max())
    return Outcome((*every, OTHER), np.append(weights / weights.sum(), 0.0), gold, row.video, 0)

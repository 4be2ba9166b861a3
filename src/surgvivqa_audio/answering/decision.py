"""How the probabilities of the sentences become an answer, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Fitted on the eval split and kept beside the weights.

    ``temperature`` divides sentence log-probabilities. ``refuse_at`` is the log-odds of the refusal against
    the likeliest question type from which on the question counts as one that no clip answers; without it
    the refusal is said where its sentence is the likeliest. Below the confidence ``abstain_below`` nothing
    is said.
    """

    temperature: float = 1.0
    abstain_below: float = 0.0
    refuse_at: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The chosen sentence's number and why nothing is said: ``refused``, ``uncertain`` or empty."""

    sentence: int
    reason: str


def refusal_log_odds(probabilities: Sequence[float], kinds: Sequence[str]) -> float:
    """Log-odds of the refusal (the kind that is empty) against the likeliest question type."""
    mass: dict[str, float] = {}
    for probability, kind in zip(probabilities, kinds, strict=True):
        mass[kind] = mass.get(kind, 0.0) + probability
    refusal = mass.pop("", 0.0)
    tiny = 1e-30  # float32 probabilities may be exactly zero
    return math.log(refusal + tiny) - math.log(max(mass.values(), default=0.0) + tiny)


def choose(probabilities: Sequence[float], kinds: Sequence[str], decision: Decision) -> Verdict:
    """Pick a sentence. ``probabilities`` are after temperature; the refusal's kind is empty."""
    order = range(len(probabilities))
    if decision.refuse_at is None:
        best = max(order, key=probabilities.__getitem__)
        refused = kinds[best] == ""
    else:
        refused = refusal_log_odds(probabilities, kinds) >= decision.refuse_at
        best = max((at for at in order if (kinds[at] == "") == refused), key=probabilities.__getitem__)
    if refused:
        return Verdict(best, "refused")
    return Verdict(best, "uncertain" if probabilities[best] < decision.abstain_below else "")

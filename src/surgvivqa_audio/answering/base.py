"""What a system may see and what it returns.

A query carries frames and sound (or typed text) and nothing else: question type and gold answer have no
field here, so no system can read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.sample import Image

Wave = NDArray[np.float32]  # mono, 16 kHz, [-1, 1]


@dataclass(frozen=True)
class Clip:
    """Frames (h, w, 3) uint8 RGB in order of time, at ``fps`` frames per second (rate after the stride)."""

    frames: tuple[Image, ...]
    fps: float


@dataclass(frozen=True)
class Query:
    """One question about one clip. ``key`` is an opaque label for joining predictions."""

    key: str
    clip: Clip
    audio: Wave | None = None
    text: str | None = None


@dataclass(frozen=True)
class Option:
    """One sentence of the closed set with its probability among all sentences of all types."""

    short_answer: str
    sentence: str
    question_type: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What comes out. ``question_type`` is what the system understood, empty when refused.

    ``reason`` says why it abstained: ``silence``, ``refused`` (the refusal sentence won, or the decision rule
    takes the question for one that no clip answers) or ``uncertain`` (confidence below the threshold); empty
    otherwise. ``options`` holds the understood type and the refusal; ``log_probs`` the log-probability of
    every sentence in the taxonomy's order before temperature, empty where the system knows none.
    """

    answer: str
    short_answer: str
    question_type: str
    confidence: float
    abstained: bool
    options: tuple[Option, ...]
    timings_ms: dict[str, float]
    model: str
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    log_probs: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The object that ``ask --json`` prints: without ``log_probs``, which have no names."""
        fields = asdict(self)
        del fields["log_probs"]
        return fields


class System(Protocol):
    """Anything that answers queries: ours, the baselines and the ablations."""

    name: str
    needs: frozenset[str]  # subset of {"audio", "text", "frames"}
    facts: dict[str, Any]  # for the run record: digest of the weights, decision rule, device other than cpu

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer each query, in order."""
        ...

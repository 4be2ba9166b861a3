"""The goals of the project per size, and whether a result reaches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_Range = tuple[float, float, float]  # measured, and the 95 % interval where there is one
_RATIOS: dict[str, list[tuple[str, str, float]]] = {
    "nano": [
        ("seed", "prefix_ready", 10),
        ("seed", "cold", 4),
        ("seed", "prefix_ready-jump", 15),
        ("asr", "prefix_ready", 2),
    ],
    "slice": [("seed", "prefix_ready", 8), ("seed", "cold", 4), ("seed", "prefix_ready-jump", 30)],
    "7b": [],
}
_MOST_MS = {"nano": {"prefix_ready": 30.0}, "slice": {}, "7b": {"prefix_ready": 15.0, "cold": 60.0}}
_NTH, _QUESTION_MS, _CLIP_MS = 0.2, 3.0, 80.0
_FRAMES = {"nano": 1.3, "slice": 1.3, "7b": 1.05}
_BATCHED, _AGREE = 10.0, 0.99


@dataclass(frozen=True)
class Goal:
    """``least`` or ``most`` of something measured; decided where the whole interval lies on one side."""

    text: str
    bound: float
    least: bool
    found: _Range
    digits: int = 2

    @property
    def verdict(self) -> str:
        """``holds``, ``missed``, or ``not decided``."""
        _, low, high = self.found
        if low >= self.bound if self.least else high <= self.bound:
            return "holds"
        return "missed" if (high < self.bound if self.least else low > self.bound) else "not decided"

    def row(self, name: str) -> list[str]:
        """Cells of the table of goals."""
        value, low, high = (f"{part:.{self.digits}f}" for part in self.found)
        shown = value if low == high else f"{value} [{low}, {high}]"
        sign = "at least" if self.least else "at most"
        return [f"{self.text}: {sign} {self.bound:g}", shown, self.verdict, f"`{name}`"]


def verdicts(name: str, result: dict[str, Any]) -> list[list[str]]:
    """Rows ``goal, measured, verdict, result`` of one result; none where its size has no goals."""
    goals = _JUDGED[result["benchmark"]](result) if result["size"] in _RATIOS else []
    return [goal.row(name) for goal in goals]


def _bounded(entry: dict[str, Any]) -> _Range:
    return float(entry["median"]), float(entry["ci95"][0]), float(entry["ci95"][1])


def _exactly(value: float) -> _Range:
    return value, value, value


def _latency(result: dict[str, Any]) -> list[Goal]:
    size = result["size"]
    ratios = {(entry["peer"], entry["state"]): entry for entry in result["ratios"]}
    goals = [
        Goal(f"{size}, times faster than `{peer}`, {state.replace('_', ' ')}", least, True, _bounded(entry))
        for peer, state, least in _RATIOS[size]
        if (entry := ratios.get((peer, state))) is not None
    ]
    goals += [
        Goal(
            f"{size}, {state.replace('_', ' ')}, p50, ms",
            most,
            False,
            _exactly(result["ours_ms"][state]["p50"]),
        )
        for state, most in _MOST_MS[size].items()
    ]
    goals.append(
        Goal(f"{size}, 10th question over a cold first one", _NTH, False, _bounded(result["nth_over_cold"]))
    )
    prepared = result.get("preparation_ms")
    if prepared is not None:
        goals += [
            Goal(
                "log-mel of a question, p50, ms", _QUESTION_MS, False, _exactly(prepared["question"]["p50"])
            ),
            Goal(
                "eight 1350x1080 JPEGs to patches, p50, ms",
                _CLIP_MS,
                False,
                _exactly(prepared["clip"]["p50"]),
            ),
        ]
    return goals


def _growth(result: dict[str, Any]) -> list[Goal]:
    size, frames = result["size"], result["curves"].get("frames")
    if frames is None:
        return []
    return [
        Goal(f"{size}, growth from 8 to 64 frames, times", _FRAMES[size], False, _exactly(frames["growth"]))
    ]


def _throughput(result: dict[str, Any]) -> list[Goal]:
    if result["size"] != "nano":
        return []
    return [Goal("nano, batched samples/s over `seed`", _BATCHED, True, _bounded(result["ratios"][0]))]


def _agreement(result: dict[str, Any]) -> list[Goal]:
    share = _exactly(result["agreement"]["greedy"]["share"])  # of the questions asked
    return [Goal("nano, the tree's sentence is the greedy one, share", _AGREE, True, share, 3)]


_JUDGED: dict[str, Callable[[dict[str, Any]], list[Goal]]] = {
    "latency": _latency,
    "growth": _growth,
    "throughput": _throughput,
    "agreement": _agreement,
}

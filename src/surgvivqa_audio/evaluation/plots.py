"""Plots of a report, as SVG text. Matplotlib is imported only when one is drawn."""

from __future__ import annotations

import io
from typing import Any

from surgvivqa_audio.errors import MissingExtra

_INK, _FLOOR, _SOFT = "#2a6f97", "#c1666b", "#9aa5b1"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "plots need matplotlib; install it with `pip install 'surgvivqa-audio[ui]'`, or pass --no-plots"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def type_plot(by_type: dict[str, dict[str, Any]]) -> str:
    """Share right per type with its interval, and its floor as a mark."""
    kinds = sorted(by_type, key=lambda kind: by_type[kind]["closed_set"])
    figure, axes = _figure(8, 0.3 * len(kinds) + 1.2)
    for place, kind in enumerate(kinds):
        row = by_type[kind]
        low, high = row["ci95"]
        single = row["answers"] == 1
        axes.barh(place, 100 * row["closed_set"], color=_SOFT if single else _INK, height=0.65)
        axes.plot([100 * low, 100 * high], [place, place], color="black", linewidth=1)
        axes.plot(100 * row["floor"], place, "|", color=_FLOOR, markersize=14, markeredgewidth=3)
    axes.set_yticks(range(len(kinds)), [f"{kind} (n={by_type[kind]['rows']})" for kind in kinds])
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, % (line: 95 % interval; red mark: floor; grey: one answer only)")
    return _svg(figure)


def reliability_plot(raw: list[dict[str, float]], tempered: list[dict[str, float]] | None) -> str:
    """Share right against confidence in equal-mass bins."""
    figure, axes = _figure(5, 5)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1)
    series = [(raw, _FLOOR, "as given")] + ([(tempered, _INK, "after temperature")] if tempered else [])
    for table, colour, label in series:
        axes.plot(
            [entry["confidence"] for entry in table],
            [entry["accuracy"] for entry in table],
            marker="o",
            color=colour,
            label=label,
        )
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return _svg(figure)


def risk_plot(risk: dict[str, float]) -> str:
    """Share wrong among the most confident answers, by coverage."""
    figure, axes = _figure(5, 4)
    axes.plot([float(mark) for mark in risk], list(risk.values()), marker="o", color=_INK)
    axes.set(xlabel="coverage (most confident first)", ylabel="share wrong", xlim=(0, 1), ylim=(0, None))
    return _svg(figure)


def control_plot(controls: list[dict[str, Any]]) -> str:
    """Share right under each control beside the run without it, with the floor."""
    figure, axes = _figure(8, 0.35 * len(controls) + 1.2)
    for place, entry in enumerate(reversed(controls)):
        axes.barh(place, 100 * entry["second"], color=_INK, height=0.6)
        axes.plot(100 * entry["first"], place, "|", color="black", markersize=14, markeredgewidth=2)
        axes.plot(100 * entry["floor"], place, "|", color=_FLOOR, markersize=14, markeredgewidth=3)
    axes.set_yticks(range(len(controls)), [entry["control"] for entry in reversed(controls)])
    axes.set_xlim(0, 100)
    axes.set_xlabel("right for the row's own question, % (black: without control; red: floor)")
    return _svg(figure)

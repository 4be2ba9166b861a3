"""Pictures of a run from its ``log.jsonl``: PNG files and one self-contained page. Needs no account."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import MissingExtra
from surgvivqa_audio.files import read_jsonl, write_bytes, write_text

PAGE = "training.html"
_INK, _SECOND, _SOFT = "#2a6f97", "#c1666b", "#9aa5b1"
_Series = list[tuple[float, float]]


def series(log: Sequence[dict[str, Any]], name: str) -> _Series:
    """(step, value) of every log line that has this value."""
    return [(row["step"], row[name]) for row in log if isinstance(row.get(name), int | float)]


def _figure(title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plots need matplotlib; install the extra: surgvivqa-audio[train]") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="update", title=title)
    return figure, axes


def _loss(points: _Series, title: str, best: int | None = None) -> Any:
    figure, axes = _figure(title)
    axes.plot(*zip(*points, strict=True), color=_INK, marker="o" if len(points) < 40 else "", markersize=3)
    if min(value for _, value in points) > 0:
        axes.set_yscale("log")
    if best is not None:
        axes.axvline(best, color=_SECOND, linewidth=1, label=f"best: update {best}")
        axes.legend(frameon=False)
    axes.set_ylabel("mean loss per answer token")
    return figure


def _accuracy(log: Sequence[dict[str, Any]]) -> Any:
    figure, axes = _figure("Eval accuracy (closed set)")
    types = sorted({name for row in log for name in row if name.startswith("eval_accuracy/")})
    for name in types:
        axes.plot(*zip(*series(log, name), strict=True), color=_SOFT, linewidth=0.8)
    for name, colour, label in (
        ("eval_accuracy", _INK, "all rows"),
        ("eval_balanced", _SECOND, "balanced"),
    ):
        points = series(log, name)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=label)
    axes.set(ylim=(0, 1), ylabel="share right (grey: one question type each)")
    axes.legend(frameon=False)
    return figure


def _bytes(figure: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(stream, format=kind, dpi=120, metadata=metadata)
    return stream.getvalue()


def draw(folder: Path, title: str, best: int | None = None) -> list[Path]:
    """Write ``train_loss.png``, ``eval_loss.png``, ``eval_accuracy.png`` and ``training.html`` into a run
    folder; a picture without data is left out.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    log = [row for _, row in read_jsonl(folder / "log.jsonl")] if (folder / "log.jsonl").is_file() else []
    figures: dict[str, Any] = {}
    if points := series(log, "loss"):
        figures["train_loss"] = _loss(points, "Training loss")
    if points := series(log, "eval_loss"):
        figures["eval_loss"] = _loss(points, "Eval loss", best)
    if series(log, "eval_accuracy"):
        figures["eval_accuracy"] = _accuracy(log)
    written = []
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.png", _bytes(figure, "png"))
        written.append(folder / f"{name}.png")
        svg = _bytes(figure, "svg").decode("utf-8")
        parts.append(svg[svg.index("<svg") :])
    parts.append(_types_table(log))
    page = "<!doctype html><meta charset='utf-8'><title>{}</title><body style='font-family:sans-serif'>{}"
    write_text(folder / PAGE, page.format(html.escape(title), "\n".join(parts)) + "</body>\n")
    return [*written, folder / PAGE]


def _types_table(log: Sequence[dict[str, Any]]) -> str:
    measured = [row for row in log if "eval_accuracy" in row]
    if not measured:
        return ""
    last = measured[-1]
    rows = "".join(
        f"<tr><td>{html.escape(name.partition('/')[2] or 'all rows')}</td><td>{100 * value:.1f}</td></tr>"
        for name, value in last.items()
        if name.startswith("eval_accuracy")
    )
    return f"<table><caption>Share right at update {last['step']}, %</caption>{rows}</table>"

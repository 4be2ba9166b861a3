"""From logs and answers to the figures of convergence.py: cost of a sample, differences, table, plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa_audio.bench.figures import markdown_table, replace_figures
from surgvivqa_audio.files import read_jsonl, write_text
from surgvivqa_audio.scoring.parse import AnswerParser
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.scoring.score import judge
from surgvivqa_audio.scoring.statistics import cluster_bootstrap
from surgvivqa_audio.taxonomy import Taxonomy

Log = Sequence[dict[str, Any]]
COLOURS = {"seed": "#c1666b", "fast": "#2a6f97", "fast-typed": "#9aa5b1", "seed-video": "#e0a458"}
SMOOTH = 5  # updates behind a point of the train loss


def count(path: Path) -> int:
    """Rows of a file."""
    return sum(1 for _ in read_jsonl(path))


def missing(runs: Sequence[dict[str, Any]], arms: Iterable[str], seeds: Sequence[int]) -> list[str]:
    """The runs that are not there yet, as arm and seed."""
    done = {(run["arm"], run["seed"]) for run in runs}
    return [f"{arm} {seed}" for arm in arms for seed in seeds if (arm, seed) not in done]


def cost(log: Log, samples: float) -> float:
    """Mean processor seconds of a sample, from the updates before which nothing was evaluated.

    Args:
        log: of a run that logs every update.
        samples: of an update, on average.
    """
    spent: list[float] = []
    before: float | None = 0.0
    for row in log:
        if "loss" in row and before is not None:
            spent.append(row["processor_seconds"] - before)
        before = row["processor_seconds"] if "loss" in row else None
    return float(np.mean(spent)) / samples


def per_update(log: Log, rows: int) -> float:
    """Samples of an update, on average, from how far the epochs of ``rows`` have come."""
    last = [row for row in log if "loss" in row][-1]
    return float(last["epoch"]) * rows / int(last["step"])


def curves(log: Log, rows: int) -> dict[str, list[list[float]]]:
    """``train_loss`` and ``eval_loss`` as [samples, loss]."""
    step = per_update(log, rows)
    return {
        name: [[round(row["step"] * step), round(row[key], 4)] for row in log if key in row]
        for name, key in (("train_loss", "loss"), ("eval_loss", "eval_loss"))
    }


def last_gain(eval_loss: Sequence[Sequence[float]]) -> float | None:
    """By what share the last evaluation lies below the one before; None with fewer than two."""
    if len(eval_loss) < 2:
        return None
    return round(1 - eval_loss[-1][1] / eval_loss[-2][1], 4)


def difference(pairs: Sequence[Sequence[Sequence[Prediction]]], taxonomy: Taxonomy) -> dict[str, Any]:
    """Accuracy of the first of each pair minus that of the second, all pairs together.

    Rows are paired by key; the interval draws whole procedures with all their seeds.
    """
    parser = AnswerParser(taxonomy)
    gaps: list[float] = []
    videos: list[str] = []
    for ours, theirs in pairs:
        other = dict(zip((row.key for row in theirs), judge(theirs, parser), strict=True))
        for row, right in zip(ours, judge(ours, parser), strict=True):
            gaps.append(float(right) - float(other[row.key]))
            videos.append(str(row.key).split("/")[1])
    found = np.asarray(gaps)
    low, high = cluster_bootstrap(videos, lambda rows: float(found[rows].mean()))
    return {"mean": round(float(found.mean()), 4), "ci95": [round(low, 4), round(high, 4)]}


def plot(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Train loss over samples, eval loss over samples and over processor time; one line per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = (("train_loss", False), ("eval_loss", False), ("eval_loss", True))
    for axes, (kind, clock) in zip(figure.subplots(1, 3), panels, strict=True):
        for run in runs:
            x, y = np.asarray(run[kind], dtype=float).T
            if kind == "train_loss":
                wide = min(SMOOTH, len(y))
                y = np.convolve(y, np.ones(wide) / wide, "valid")
                x = x[-len(y) :]
            x = x * run["seconds_per_sample"] / 60 if clock else x
            first = all(run is each or each["arm"] != run["arm"] for each in runs[: runs.index(run) + 1])
            dots = {"marker": "" if kind == "train_loss" else "o", "markersize": 2, "linewidth": 1}
            axes.plot(x, y, color=COLOURS[run["arm"]], label=run["arm"] if first else None, **dots)
        axes.set(xlabel="minutes of one processor" if clock else "training samples", yscale="log")
        axes.set(title=kind.replace("_", " ").capitalize(), ylabel="mean loss per answer token")
        axes.set_xscale("log" if clock else "linear")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.suptitle("ColonSim, nano: the same rows, one line per training seed", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def table(result: dict[str, Any]) -> str:
    """The Markdown of the documentation: one line per run, then the comparison of the arms."""
    head = [
        "arm",
        "seed",
        "samples/s (processor)",
        "loss: first, best eval",
        "best at epoch, why it ended",
        "last gain",
        f"right of {result['rows']['test']}, % [95 %]",
        "balanced, %",
    ]
    rows = []
    for run in sorted(result["runs"], key=lambda run: list(COLOURS).index(run["arm"])):
        low, high = (100 * bound for bound in run["ci95"])
        rows.append(
            [
                run["arm"],
                str(run["seed"]),
                f"{run['samples_per_second']:.2f}",
                f"{run['train_loss'][0][1]:.2f}, {run['best_eval_loss']:.3f}",
                f"{run['best_epoch']:.1f}, {run['stopped'].partition(':')[0]} at {run['epochs']:.1f}",
                "-" if run["last_gain"] is None else f"{100 * run['last_gain']:.1f} %",
                f"{100 * run['accuracy']:.1f} [{low:.1f}, {high:.1f}]",
                f"{100 * run['balanced']:.1f}",
            ]
        )
    lines = [markdown_table(head, rows)]
    floor = 100 * result["runs"][0]["floor"]
    lines += ["", f"Floor (majority of the training rows, per type): {floor:.1f} %. Simulator (ColonSim)."]
    for entry in result["against_seed"]:
        gap, speed = entry["accuracy_difference"], entry["samples_per_second_ratio"]
        low, high = (100 * bound for bound in gap["ci95"])
        lines.append(
            f"`{entry['arm']}` against `seed`, {len(entry['seeds'])} training seeds: {speed['median']:.1f} "
            f"times the samples per processor second ({min(speed['pairs']):.1f} to "
            f"{max(speed['pairs']):.1f}), accuracy {100 * gap['mean']:+.1f} points [{low:+.1f}, {high:+.1f}]."
        )
    if result["missing"]:
        lines.append(f"**Not complete**, still to run: {', '.join(result['missing'])}.")
    return "\n".join(lines)


def write_page(result: dict[str, Any], page: Path) -> None:
    """Put the table between the marks of a page."""
    write_text(page, replace_figures(page.read_text(encoding="utf-8"), table(result)))

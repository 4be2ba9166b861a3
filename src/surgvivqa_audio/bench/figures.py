"""Results -> the tables and plots of the performance page. No number on that page is copied by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgvivqa_audio.bench.goals import verdicts
from surgvivqa_audio.bench.growth import plot_growth
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import write_text

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_ORDER = ("latency", "growth", "throughput", "agreement")
_STATES = {
    "cold": "cold",
    "prefix_ready": "prefix ready",
    "nth": "10th question",
    "prefix_ready-jump": "prefix ready, jump-forward",
}


def read_results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the results in a folder that this page shows, in a fixed order.

    Raises:
        ConfigError: there are none, or a file is not JSON.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: not a result ({error}); measure again or delete it") from error
        if isinstance(result, dict) and result.get("benchmark") in _ORDER:
            found.append((path.stem, result))
    if not found:
        raise ConfigError(
            f"{folder}: no results; run `surgvivqa bench latency --json {folder}/latency-nano.json`"
        )
    return sorted(found, key=lambda entry: (_ORDER.index(entry[1]["benchmark"]), entry[0]))


def figures_markdown(results: list[tuple[str, dict[str, Any]]], folder: str) -> str:
    """The block between the marks: goals first, then every result."""
    rows = [row for name, result in results for row in verdicts(name, result)]
    parts = ["### Goals", markdown_table(["goal", "measured", "verdict", "result"], rows)] if rows else []
    for name, result in results:
        parts += [
            f"### `{name}`",
            _conditions(name, result, folder),
            *_SHOWN[result["benchmark"]](name, result),
        ]
        if result["benchmark"] == "growth":
            parts.append(f"![growth of the time to an answer, {name}]({folder}/{name}.svg)")
    return "\n\n".join(parts)


def write_report(folder: Path, page: Path) -> list[Path]:
    """Replace the figures of a page and draw its plots; returns what was written.

    Raises:
        ConfigError: no results, or the page lacks the marks.
        MissingExtra: matplotlib is not installed.
    """
    results = read_results(folder)
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{page}: the lines '{BEGIN}' and '{END}' must be there once each")
    written = []
    for name, result in results:
        if result["benchmark"] == "growth":
            plot_growth(result, folder / f"{name}.svg")
            written.append(folder / f"{name}.svg")
    write_text(page, replace_figures(text, figures_markdown(results, folder.name)))
    return [*written, page]


def replace_figures(text: str, figures: str) -> str:
    """A page with other figures between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{rest.split(END)[1]}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown from its head and its rows, all cells as written."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _conditions(name: str, result: dict[str, Any], folder: str) -> str:
    machine = result["machine"]
    load = machine["load_average"][0]
    parts = [
        f"`{folder}/{name}.json`: weights {result['workload']['weights']}",
        machine.get("gpu", {}).get("name", machine["cpu"]),
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['dtype']}",
        f"load average {load} at the start",
        f"commit `{str(machine['git_commit'])[:9]}`",
    ]
    counts = [f"{result[key]} {key}" for key in ("pairs", "repeats", "questions") if key in result]
    return ", ".join(parts + counts) + "."


def _interval(entry: dict[str, Any]) -> str:
    return f"{entry['median']:.2f} [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]"


def _latency(_name: str, result: dict[str, Any]) -> list[str]:
    ours = [
        [_STATES[state], f"{found['p50']:.1f}", f"{found['p95']:.1f}"]
        for state, found in result["ours_ms"].items()
    ]
    jump = result["jump_ms"]["prefix_ready"]
    ours.append([_STATES["prefix_ready-jump"], f"{jump['p50']:.1f}", f"{jump['p95']:.1f}"])
    opened = result["open_clip_ms"]
    ours.append(["opening a clip, before the question", f"{opened['p50']:.1f}", f"{opened['p95']:.1f}"])
    labels = {
        "question": "log-mel of a question",
        "clip": "eight 1350x1080 JPEGs to patches",
        "clip_of_dataset_size": "the same at 292 KB a frame, REAL-Colon's mean",
    }
    for key, spent in result.get("preparation_ms", {}).items():
        ours.append([labels[key], f"{spent['p50']:.1f}", f"{spent['p95']:.1f}"])
    peers = list(dict.fromkeys(entry["peer"] for entry in result["ratios"]))
    cells = {(entry["peer"], entry["state"]): _interval(entry) for entry in result["ratios"]}
    ratios = [[f"`{peer}`", *(cells.get((peer, state), "") for state in _STATES)] for peer in peers]
    return [
        markdown_table(["ours, ms", "p50", "p95"], ours),
        "How many times slower than ours, median of the pairs and 95 % interval:",
        markdown_table(["peer", *_STATES.values()], ratios),
    ]


def _growth(_name: str, result: dict[str, Any]) -> list[str]:
    rows = [
        [
            axis.replace("_", " "),
            f"{curve['sizes'][0]} to {curve['sizes'][-1]}",
            f"{curve['ms'][0]:.1f} to {curve['ms'][-1]:.1f}",
            f"{curve['growth']:.2f}",
            f"{curve['slope']:.3f}",
        ]
        for axis, curve in result["curves"].items()
    ]
    return [markdown_table(["axis", "from, to", "ms", "times", "log-log slope"], rows)]


def _throughput(_name: str, result: dict[str, Any]) -> list[str]:
    rates = result["samples_per_second"]
    labels = {"ours": "a clip of its own each", "ours_one_clip": "all of one clip"}
    rows = [
        [str(result["batch"]), labels[name], f"{rates[name]:.2f}", f"{rates['seed']:.2f}", _interval(entry)]
        for name, entry in zip((name for name in rates if name != "seed"), result["ratios"], strict=True)
    ]
    return [markdown_table(["batch", "questions", "ours, samples/s", "`seed`, samples/s", "times"], rows)]


def _agreement(_name: str, result: dict[str, Any]) -> list[str]:
    labels = {
        "greedy": "free greedy generation",
        "jump": "jump-forward",
        "bf16": "the tree computed in bf16",
    }
    rows = [
        [
            labels[name],
            f"{found['equal']} of {result['questions']}",
            f"{found['ci95'][0]:.3f} to {found['ci95'][1]:.3f}",
        ]
        for name, found in result["agreement"].items()
    ]
    times = ", ".join(f"{name} {spent['p50']:.1f} ms" for name, spent in result["score_ms"].items())
    return [
        markdown_table(["same sentence as the tree (ColonSim)", "questions", "95 % interval"], rows),
        f"One scoring takes: {times} (p50).",
    ]


_SHOWN = {"latency": _latency, "growth": _growth, "throughput": _throughput, "agreement": _agreement}

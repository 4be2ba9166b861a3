"""The performance page says what its results say, and a goal is met only where the interval decides."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from surgvivqa_audio.bench.figures import (
    BEGIN,
    END,
    figures_markdown,
    read_results,
    replace_figures,
    write_report,
)
from surgvivqa_audio.bench.goals import verdicts
from surgvivqa_audio.cli import app
from surgvivqa_audio.commands import bench
from surgvivqa_audio.errors import ConfigError

ROOT = Path(__file__).parents[2]
MACHINE = {
    "cpu": "Some CPU", "cores": 2, "threads": 1, "load_average": [0.5, 0.4, 0.3], "device": "cpu",
    "dtype": "float32", "git_commit": "0123456789abcdef",
}  # fmt: skip
TIMES = {"p50": 20.04, "p95": 25.0}


def latency(median: float, low: float, high: float) -> dict[str, Any]:
    return {
        "benchmark": "latency", "size": "nano", "pairs": 7, "machine": MACHINE,
        "workload": {"weights": "nano"},
        "ours_ms": dict.fromkeys(("cold", "prefix_ready", "nth"), TIMES), "jump_ms": {"prefix_ready": TIMES},
        "open_clip_ms": TIMES, "preparation_ms": {"question": TIMES, "clip": TIMES},
        "nth_over_cold": {"median": 0.25, "ci95": [0.19, 0.31]},
        "ratios": [
            {"peer": "seed", "state": "prefix_ready", "median": median, "ci95": [low, high], "pairs": 7}
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("median", "low", "high", "verdict"),
    [(12.0, 10.0, 14.0, "holds"), (11.0, 9.9, 12.0, "not decided"), (9.0, 8.0, 9.99, "missed")],
)
def test_the_interval_decides(median: float, low: float, high: float, verdict: str) -> None:
    rows = verdicts("latency-nano", latency(median, low, high))
    assert rows[0] == [
        "nano, times faster than `seed`, prefix ready: at least 10",
        f"{median:.2f} [{low:.2f}, {high:.2f}]",
        verdict,
        "`latency-nano`",
    ]
    assert [row[2] for row in rows[1:]] == ["holds", "not decided", "missed", "holds"]


def test_tables_hold_the_numbers_of_the_result(tmp_path: Path) -> None:
    growth = {
        "benchmark": "growth", "size": "slice", "repeats": 3, "machine": MACHINE,
        "workload": {"weights": "random"},
        "curves": {"frames": {"sizes": [8, 64], "ms": [10.0, 14.0], "growth": 1.4, "slope": 0.1618}},
    }  # fmt: skip
    (tmp_path / "growth-slice.json").write_text(json.dumps(growth))
    (tmp_path / "latency-nano.json").write_text(json.dumps(latency(12.0, 10.0, 14.0)))
    (tmp_path / "training.json").write_text('{"benchmark": "training"}')
    results = read_results(tmp_path)
    assert [name for name, _ in results] == ["latency-nano", "growth-slice"]
    text = figures_markdown(results, "performance")
    assert "| `seed` |  | 12.00 [10.00, 14.00] |  |  |" in text
    assert "| cold | 20.0 | 25.0 |" in text
    assert "| frames | 8 to 64 | 10.0 to 14.0 | 1.40 | 0.162 |" in text
    assert (
        "| slice, growth from 8 to 64 frames, times: at most 1.3 | 1.40 | missed | `growth-slice` |" in text
    )
    assert "load average 0.5 at the start, commit `012345678`, 7 pairs." in text
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nstale\n{END}\nbelow\n")
    assert write_report(tmp_path, page) == [tmp_path / "growth-slice.svg", page]
    written = page.read_text()
    assert written.startswith("above\n")
    assert written.endswith(f"{END}\nbelow\n")
    assert "stale" not in written
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="once each"):
        write_report(tmp_path, page)
    with pytest.raises(ConfigError, match="no results"):
        read_results(tmp_path / "empty")


def test_the_page_shows_the_results_that_are_committed() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    results = read_results(ROOT / "docs" / "performance")
    assert replace_figures(page, figures_markdown(results, "performance")) == page


@pytest.mark.parametrize("name", ["latency", "throughput", "growth"])
def test_measurements_share_their_options(name: str) -> None:
    found = {option.opts[0] for option in typer.main.get_command(app).commands["bench"].commands[name].params}  # type: ignore[attr-defined]
    assert {"--size", "--model", "--device", "--threads", "--json", "--pairs"} <= found
    assert "--work" not in found
    assert "size" not in inspect.signature(inspect.unwrap(getattr(bench, name))).parameters

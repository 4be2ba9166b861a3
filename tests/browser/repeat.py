"""Run the browser test many times, each with a new server and a new browser, and write what was measured.

``python tests/browser/repeat.py --runs 20 --json benchmarks/browser.json`` ends non-zero unless every run is
green.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from surgvivqa_audio.apps.visit import percentile
from surgvivqa_audio.bench.measure import machine
from surgvivqa_audio.files import write_json
from surgvivqa_audio.provenance import run_record

HERE = Path(__file__).parent


def once(folder: Path) -> dict[str, Any]:
    """One run in processes of its own: whether it was green, and its times where it came that far."""
    timings = folder / "timings.json"
    timings.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pytest", "-q", str(HERE), f"--basetemp={folder / 'pytest'}"]
    environment = {**os.environ, "SURGVIVQA_BROWSER": "1", "SURGVIVQA_TIMINGS": str(timings)}
    done = subprocess.run(
        words, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:])
    found = json.loads(timings.read_text(encoding="utf-8")) if timings.is_file() else {}
    return {"green": done.returncode == 0, **found}


def spread(values: list[float]) -> dict[str, Any]:
    """Median, 95th percentile and largest value, with how many there are."""
    shares = {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)}
    return {"n": len(values), **shares, "max": max(values, default=None)}


def main() -> int:
    """Repeat, summarise, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    before = machine("cpu", torch.float32)
    runs = []
    with tempfile.TemporaryDirectory(prefix="surgvivqa-browser-") as folder:
        for number in range(1, options.runs + 1):
            runs.append(once(Path(folder)))
            sys.stderr.write(f"{number}/{options.runs}: {runs[-1]}\n")
    green = sum(run["green"] for run in runs)
    timed = [run for run in runs if "answer_s" in run]
    write_json(
        options.json,
        {
            "runs": len(runs),
            "green": green,
            "first_page_s": spread([run["first_page_s"] for run in timed]),
            "model_ready_s": spread([run["model_ready_s"] for run in timed]),
            "answer_s": spread([one for run in timed for one in run["answer_s"]]),
            "engine_ms": spread([one for run in timed for one in run["engine_ms"]]),
            "each": runs,
            "machine": before | {"load_average_after": machine("cpu", torch.float32)["load_average"]},
            "record": run_record(seed=None, config={"runs": options.runs}),
        },
    )
    sys.stderr.write(f"{green} of {len(runs)} green; written to {options.json}\n")
    return 0 if green == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())

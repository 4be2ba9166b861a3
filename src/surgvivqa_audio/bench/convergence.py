"""The predecessor's recipe and ours, trained on the same ColonSim rows until the eval loss stops falling.

Makes the rows, trains every arm with every seed, asks every result the same questions about procedures that
no arm has seen, and writes benchmarks/convergence-nano.json, docs/training-dynamics/ and the table of
docs/training.md after every run. Killed, the same command continues. A smoke run does all of it with the
smallest counts and writes into its own folder alone; its figures mean nothing.

What differs from the published values, in both arms, is ``NANO`` of convergence_plan.py. The curve of the
seed arm is computed with two keys that change speed alone (``curve``); what its samples cost is measured by a
short run of the recipe without them, before every curve, whose first loss must be that of the curve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from surgvivqa_audio.answering.builder import SystemBuilder
from surgvivqa_audio.bench import convergence_figures as figures
from surgvivqa_audio.bench.convergence_plan import (
    ARMS,
    BATCH,
    FIRST,
    NANO,
    ORDER,
    Plan,
    Say,
    every_tenth,
    make_rows,
    settings,
)
from surgvivqa_audio.bench.figures import BEGIN, END
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.files import read_jsonl, sha256_file, write_json, write_text
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.scoring.score import score_file
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.begun import SUMMARY
from surgvivqa_audio.training.recipe import read_recipe, run_recipe

ALIKE = 1e-3  # relative: the first loss of a curve and of the run that is timed
JSON, PAGE = Path("benchmarks/convergence-nano.json"), Path("docs/training.md")
PICTURE = Path("docs/training-dynamics/convergence.svg")


def run_convergence(out: Path | None, say: Say, *, smoke: bool = False) -> list[Path]:
    """Run, or continue, in the root of the repository; the JSON file, the page and the picture.

    Args:
        out: run folder; None: ``runs/convergence``, or ``runs/convergence-smoke``.
        say: takes each line about how far it is.
        smoke: smallest counts, and the results too into ``out``.

    Raises:
        ConfigError: a recipe or the page is not there: this is not the root.
        ModelError: the first loss of a curve is not that of the run that is timed.
        SpeechError: a question could not be spoken.
    """
    _in_root([*(Path(arm.recipe) for arm in ARMS.values()), *([] if smoke else [PAGE])])
    # A run keeps the addresses of its base and data; absolute, they hold wherever its model is used later.
    folder = (out or Path("runs") / ("convergence-smoke" if smoke else "convergence")).resolve()
    plan = Plan(folder, 8, 3, 14, 2, 8, (42, 43, 44))
    json_file, page, picture = JSON, PAGE, PICTURE
    if smoke:
        plan = Plan(folder, 1, 1, 1, 1, 1, (42,), timed=1)
        json_file, page, picture = (folder / f"convergence.{kind}" for kind in ("json", "md", "svg"))
        write_text(page, f"{BEGIN}\n{END}\n")
    make_rows(plan, say)
    runs: list[dict[str, Any]] = []
    for names, seed in product(ORDER, plan.seeds):
        for name in names:
            runs.append(one_run(plan, name, seed, say))
            write_result(plan, runs, json_file, page, picture)
    return [json_file, page, picture]


def _in_root(needed: Iterable[Path]) -> None:
    for path in needed:
        if not path.is_file():
            raise ConfigError(f"{path}: not in {Path.cwd()}; run this in the root of the repository")


def train(plan: Plan, name: str, seed: int, say: Say, *, curve: bool = True) -> list[dict[str, Any]]:
    """Train one run unless it is there; its log."""
    folder = plan.run(name, seed) if curve else plan.out / f"{name}-{seed}-timed"
    if not (folder / SUMMARY).is_file():
        recipe = read_recipe(ARMS[name].recipe, settings(plan, ARMS[name], seed, curve=curve))
        run_recipe(recipe, folder, resume=True, progress=lambda line: say(f"{folder.name}: {line}"))
    return [row for _, row in read_jsonl(folder / "log.jsonl")]


def answer(plan: Plan, name: str, seed: int, say: Say) -> Path:
    """Ask a trained model the test rows, as ``eval run`` does; the prediction file."""
    out, model = plan.answers(name, seed), plan.run(name, seed) / "model"
    if not out.is_file():
        system = "audio" if name == "fast" else "audio+text"
        request = Request(plan.data, system, out, rows=plan.rows("test"), train=plan.rows("train"))
        run_request(
            request, load_taxonomy(), SystemBuilder(model, device="cpu"), every_tenth(say, "questions")
        )
    return out


def one_run(plan: Plan, name: str, seed: int, say: Say) -> dict[str, Any]:
    """Train, time and score one arm with one seed."""
    timed = train(plan, name, seed, say, curve=False) if ARMS[name].curve else None
    log = train(plan, name, seed, say)
    if timed is not None and abs(timed[0]["loss"] / log[0]["loss"] - 1) > ALIKE:
        raise ModelError(
            f"{name}, seed {seed}: first losses {timed[0]['loss']} (timed), {log[0]['loss']} (curve)"
        )
    rows = figures.count(plan.rows("train"))
    source, samples = (log, figures.per_update(log, rows)) if timed is None else (timed, BATCH)
    seconds = figures.cost(source, samples)
    summary = json.loads((plan.run(name, seed) / SUMMARY).read_text(encoding="utf-8"))
    best, drawn = summary["best"], figures.curves(log, rows)
    score = score_file(str(answer(plan, name, seed, say)), load_taxonomy(), plan.rows("train"))
    return {
        "arm": name,
        "seed": seed,
        "seconds_per_sample": round(seconds, 4),
        "samples_per_second": round(1 / seconds, 3),
        "curve_seconds": round(log[-1]["processor_seconds"], 1),
        "updates": summary["steps"],
        "epochs": summary["epochs"],
        "stopped": summary["stopped"],
        "best_epoch": best["epoch"],
        "best_eval_loss": round(best["eval_loss"], 4),
        "seconds_to_best": round(best["epoch"] * rows * seconds, 1),
        "last_gain": figures.last_gain(drawn["eval_loss"]),
        "accuracy": round(score["closed_set"], 4),
        "balanced": round(score["balanced"], 4),
        "floor": round(score["floor"], 4),
        "ci95": [round(bound, 4) for bound in score["ci95"]],
        **drawn,
    }


def compare(plan: Plan, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every other arm against the seed arm, over the seeds that both have."""
    rates = {(run["arm"], run["seed"]): run["samples_per_second"] for run in runs}
    taxonomy, found = load_taxonomy(), []
    for name in list(ARMS)[1:]:
        seeds = [seed for seed in plan.seeds if (name, seed) in rates and ("seed", seed) in rates]
        if not seeds:
            continue
        ratios = [rates[name, seed] / rates["seed", seed] for seed in seeds]
        answers = [
            [read_predictions(plan.answers(arm, seed), taxonomy) for arm in (name, "seed")] for seed in seeds
        ]
        speed = {"median": round(median(ratios), 2), "pairs": [round(ratio, 2) for ratio in ratios]}
        gap = figures.difference(answers, taxonomy)
        found.append(
            {"arm": name, "seeds": seeds, "samples_per_second_ratio": speed, "accuracy_difference": gap}
        )
    return found


def write_result(plan: Plan, runs: list[dict[str, Any]], json_file: Path, page: Path, picture: Path) -> None:
    """The JSON object, the table and the plot of what there is so far."""
    files = [plan.rows(part) for part in ("train", "eval", "test")]
    result = {
        "benchmark": "convergence",
        "base": sha256_file(plan.out / "base" / "model.safetensors"),
        "data": "ColonSim",
        "size": "nano",
        "rows": {path.stem: figures.count(path) for path in files},
        "epochs_at_most": plan.epochs,
        "alike": NANO,
        "arms": {name: {"recipe": arm.recipe, **arm.keys, "curve": arm.curve} for name, arm in ARMS.items()},
        "missing": figures.missing(runs, ARMS, plan.seeds),
        "runs": runs,
        "against_seed": compare(plan, runs),
        "run": run_record(seed=plan.seeds[0], config={"first": FIRST, "clips": plan.clips}, data_files=files),
    }
    write_json(json_file, result)
    figures.write_page(result, page)
    figures.plot(runs, picture)

"""The predecessor's recipe and ours, trained on the same ColonSim rows until the eval loss stops falling.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/convergence.py

Makes the rows, trains every arm with every seed, asks every result the same questions about procedures that
no arm has seen, and writes benchmarks/convergence-nano.json, docs/training-dynamics/ and the table of
docs/training.md after every run. Killed, the same command continues. `--smoke` does all of it with the
smallest counts in a folder of its own; its figures mean nothing.

What differs from the published values, in both arms, is `NANO` below. The curve of the seed arm is computed
with two keys that change speed alone (`curve`); what its samples cost is measured by a short run of the
recipe without them, before every curve, whose first loss must be that of the curve.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import convergence_figures as figures

from surgvivqa_audio.answering.builder import SystemBuilder
from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.bench.figures import BEGIN, END
from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.files import read_jsonl, sha256_file, write_json, write_jsonl
from surgvivqa_audio.processing.assemble import Staged
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.scoring.score import score_file
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.recipe import read_recipe, run_recipe

ROOT = Path(__file__).resolve().parent.parent
FIRST = 5_000_000  # ColonSim seed of the first procedure; no other figure of the project uses these
BATCH = 8  # the published effective batch
ALIKE = 1e-3  # relative: the first loss of a curve and of the run that is timed
NANO = {
    "model": "{out}/base",
    "accuracy": "never",
    "threads": 1,
    "prompt.max_side": 112,  # the nano tower's; 384 published
    "tune.quantise": "none",
    "tune.weights": "fp32",
    "trainer.bf16": False,
    "trainer.optim": "adamw_torch",
    "trainer.learning_rate": 2e-3,  # 2e-4 published, for a model 19 times as wide
    "trainer.processes": 1,
    "trainer.logging_steps": 1,
    "trainer.dataloader_num_workers": 0,
    "trainer.save_total_limit": 1,
}


@dataclass(frozen=True)
class Arm:
    """A recipe, what is set beside ``NANO``, and what may speed up its curve."""

    recipe: str
    keys: dict[str, Any]
    curve: dict[str, Any]


SEED_KEYS = {"trainer.per_device_train_batch_size": 1, "trainer.gradient_accumulation_steps": BATCH}
FAST_KEYS = {"trainer.per_device_train_batch_size": 2, "trainer.gradient_accumulation_steps": 1}
ARMS = {
    "seed": Arm(
        "recipes/seed.yaml", SEED_KEYS, {"fast.checkpointing": "never", "fast.cache": "{out}/features"}
    ),
    "fast": Arm("recipes/qlora-1xh200.yaml", {**FAST_KEYS, "fast.cache": "{out}/features"}, {}),
    # What the seed arm is given and from where it starts: the typed question too, and a new projector.
    "fast-typed": Arm(
        "recipes/qlora-1xh200.yaml",
        {
            **FAST_KEYS,
            "fast.cache": "{out}/features",
            "data.mode": "audio+text",
            "prompt.projector": "linear",
        },
        {},
    ),
}

# How much of the seed arm's accuracy is the eight pictures, a form that nano's pretraining never showed.
ARMS["seed-video"] = Arm("recipes/seed.yaml", {**SEED_KEYS, "prompt.pathway": "video"}, ARMS["seed"].curve)
ORDER = [("fast-typed", "fast", "seed"), ("seed-video",)]  # the second round when the first is complete


@dataclass(frozen=True)
class Plan:
    """Sizes of an experiment. ``train``, ``held`` and ``test`` are procedures, no two alike."""

    out: Path
    train: int
    held: int
    test: int
    clips: int
    epochs: int
    seeds: tuple[int, ...]
    timed: int = 2  # updates

    @property
    def data(self) -> Path:
        """The DATA folder."""
        return self.out / "data"

    def rows(self, part: str) -> Path:
        """A file of the split."""
        return self.out / "splits" / f"{part}.jsonl"

    def run(self, arm: str, seed: int) -> Path:
        """Folder of one run."""
        return self.out / f"{arm}-{seed}"


def say(text: str) -> None:
    """One line to whoever watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def make_rows(plan: Plan) -> None:
    """Keep the base, simulate, speak, split by procedure; again only what is missing."""
    if not (plan.out / "base").is_dir():
        with Staged(plan.out / "base") as staged:
            for path in default_model_dir().iterdir():
                if path.is_file():  # no adapter: language model, towers and stage-1 projector
                    shutil.copyfile(path, staged / path.name)
    procedures = str(plan.train + plan.held + plan.test)
    command = [sys.executable, "-m", "surgvivqa_audio.cli"]
    rows = plan.data / "in_template.jsonl"
    if not plan.rows("test").is_file():
        size = ["--clips", str(plan.clips), "--seed", str(FIRST), "--size", "112"]
        subprocess.run(
            [*command, "sim", "make", str(plan.data), "--procedures", procedures, *size], check=True
        )
        subprocess.run([*command, "speech", "make", str(rows), str(plan.data / "speech")], check=True)
        written = [row for _, row in read_jsonl(rows)]
        videos = list(dict.fromkeys(row["video_id"] for row in written))
        first, second = plan.train, plan.train + plan.held
        parts = {"train": videos[:first], "eval": videos[first:second], "test": videos[second:]}
        for part, chosen in parts.items():
            write_jsonl(plan.rows(part), [row for row in written if row["video_id"] in chosen])


def settings(plan: Plan, arm: Arm, seed: int, *, curve: bool) -> list[str]:
    """What is set on top of an arm's recipe."""
    per_epoch = -(-figures.count(plan.rows("train")) // BATCH)
    keys: dict[str, Any] = {
        **NANO,
        **arm.keys,
        "seed": seed,
        "data.folder": str(plan.data.resolve()),
        "data.train": str(plan.rows("train").resolve()),
        "data.eval": str(plan.rows("eval").resolve()),
        "trainer.num_train_epochs": plan.epochs,
        "trainer.eval_steps": per_epoch,
        "trainer.save_steps": per_epoch,
    }
    keys |= arm.curve if curve else {"trainer.max_steps": plan.timed, "data.eval_limit": 1}
    return [f"{name}={str(value).format(out=plan.out.resolve())}" for name, value in keys.items()]


def train(plan: Plan, name: str, seed: int, *, curve: bool = True) -> list[dict[str, Any]]:
    """Train one run unless it is there; its log."""
    folder = plan.run(name, seed) if curve else plan.out / f"{name}-{seed}-timed"
    if not (folder / "summary.json").is_file():
        recipe = read_recipe(ROOT / ARMS[name].recipe, settings(plan, ARMS[name], seed, curve=curve))
        run_recipe(recipe, folder, resume=True, progress=lambda line: say(f"{folder.name}: {line}"))
    return [row for _, row in read_jsonl(folder / "log.jsonl")]


def answer(plan: Plan, name: str, seed: int) -> Path:
    """Ask a trained model the test rows, as ``eval run`` does; the prediction file."""
    folder = plan.run(name, seed)
    out, model = folder / "test.jsonl", folder / "model"
    if not out.is_file():
        system = "audio" if name == "fast" else "audio+text"
        request = Request(plan.data, system, out, rows=plan.rows("test"), train=plan.rows("train"))
        run_request(request, load_taxonomy(), SystemBuilder(model, device="cpu"), _every_tenth)
    return out


def _every_tenth(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        say(f"{done}/{total} questions")


def one_run(plan: Plan, name: str, seed: int) -> dict[str, Any]:
    """Train, time and score one arm with one seed."""
    timed = train(plan, name, seed, curve=False) if ARMS[name].curve else None
    log = train(plan, name, seed)
    if timed is not None and abs(timed[0]["loss"] / log[0]["loss"] - 1) > ALIKE:
        raise ModelError(
            f"{name}, seed {seed}: first losses {timed[0]['loss']} (timed), {log[0]['loss']} (curve)"
        )
    rows = figures.count(plan.rows("train"))
    source, samples = (log, figures.per_update(log, rows)) if timed is None else (timed, BATCH)
    seconds = figures.cost(source, samples)
    summary = json.loads((plan.run(name, seed) / "summary.json").read_text(encoding="utf-8"))
    best, drawn = summary["best"], figures.curves(log, rows)
    score = score_file(str(answer(plan, name, seed)), load_taxonomy(), plan.rows("train"))
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
            [read_predictions(answer(plan, arm, seed), taxonomy) for arm in (name, "seed")] for seed in seeds
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


def main() -> None:
    """Run, or continue."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="smallest counts, into its own folder")
    parser.add_argument("--out", type=Path, help="run folder; default runs/convergence")
    chosen = parser.parse_args()
    plan = Plan(chosen.out or ROOT / "runs/convergence", 8, 3, 14, 2, 8, (42, 43, 44))
    json_file, page = ROOT / "benchmarks/convergence-nano.json", ROOT / "docs/training.md"
    picture = ROOT / "docs/training-dynamics/convergence.svg"
    if chosen.smoke:
        plan = Plan(chosen.out or ROOT / "runs/convergence-smoke", 1, 1, 1, 1, 1, (42,), timed=1)
        json_file, page, picture = (plan.out / f"convergence.{kind}" for kind in ("json", "md", "svg"))
        plan.out.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    make_rows(plan)
    runs: list[dict[str, Any]] = []
    for names, seed in product(ORDER, plan.seeds):
        for name in names:
            runs.append(one_run(plan, name, seed))
            write_result(plan, runs, json_file, page, picture)


if __name__ == "__main__":
    main()

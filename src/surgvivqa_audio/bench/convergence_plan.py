"""What the convergence benchmark trains: the arms, how large the experiment is, and its rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.bench.convergence_figures import count
from surgvivqa_audio.colonsim import make_dataset
from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.files import read_jsonl, write_jsonl
from surgvivqa_audio.processing.assemble import Staged
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.speech.make import make_speech
from surgvivqa_audio.speech.voices import Voice
from surgvivqa_audio.taxonomy import load_taxonomy

Say = Callable[[str], None]  # one line to whoever watches
FIRST = 5_000_000  # ColonSim seed of the first procedure; no other figure of the project uses these
BATCH = 8  # the published effective batch
SIDE = 112  # pixels, of the nano tower; 384 published
VOICE = Voice("en-us")
NANO = {
    "model": "{out}/base",
    "accuracy": "never",
    "threads": 1,
    "prompt.max_side": SIDE,
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

    def answers(self, arm: str, seed: int) -> Path:
        """Predictions of one run for the test rows."""
        return self.run(arm, seed) / "test.jsonl"


def settings(plan: Plan, arm: Arm, seed: int, *, curve: bool) -> list[str]:
    """What is set on top of an arm's recipe."""
    per_epoch = -(-count(plan.rows("train")) // BATCH)
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


def every_tenth(say: Say, what: str) -> Callable[[int, int], None]:
    """Progress of many small things, of which ``say`` hears every tenth and the last."""

    def report(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            say(f"{done}/{total} {what}")

    return report


def make_rows(plan: Plan, say: Say) -> None:
    """Keep the base, simulate, speak, split by procedure; again only what is missing.

    Raises:
        SpeechError: a question could not be spoken.
    """
    if not (plan.out / "base").is_dir():
        with Staged(plan.out / "base") as staged:
            for path in default_model_dir().iterdir():
                if path.is_file():  # no adapter: language model, towers and stage-1 projector
                    shutil.copyfile(path, staged / path.name)
    if plan.rows("test").is_file():
        return
    procedures = plan.train + plan.held + plan.test
    make_dataset(plan.data, procedures, plan.clips, FIRST, SIDE, progress=every_tenth(say, "clips"))
    rows, taxonomy = plan.data / "in_template.jsonl", load_taxonomy()
    spoken = make_speech(
        read_samples(rows, taxonomy),
        plan.data / "speech",
        [VOICE],
        taxonomy=taxonomy,
        progress=every_tenth(say, "recordings"),
    )
    if spoken.failed:
        raise SpeechError(f"{rows}: {len(spoken.failed)} not spoken, first: {spoken.failed[0]}; run again")
    written = [row for _, row in read_jsonl(rows)]
    videos = list(dict.fromkeys(row["video_id"] for row in written))
    first, second = plan.train, plan.train + plan.held
    parts = {"train": videos[:first], "eval": videos[first:second], "test": videos[second:]}
    for part, chosen in parts.items():
        write_jsonl(plan.rows(part), [row for row in written if row["video_id"] in chosen])

"""Recipes of runs on a data folder: published values, one change per ladder step, batch arithmetic."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.training.dry_run import updates
from surgvivqa_audio.training.recipe import read_recipe
from surgvivqa_audio.training.vqa_arguments import accumulation
from surgvivqa_audio.training.vqa_recipe import TrainerKeys, VqaRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
RUNS = (
    "align",
    "fsdp-full",
    "overfit-10",
    "overfit-50",
    "qlora-1xh200",
    "qlora-2x24gb",
    "seed",
    "vertical-slice",
)
LADDER = [
    "seed",
    "ladder/1-no-question-text",
    "ladder/2-true-length-audio",
    "ladder/3-stacking",
    "ladder/4-video-pathway",
    "ladder/5-prompt-order",
]


def recipe(name: str, *overrides: str) -> VqaRecipe:
    found = read_recipe(RECIPES / f"{name}.yaml", overrides)
    assert isinstance(found, VqaRecipe)
    return found


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    leaves: dict[str, Any] = {}
    for key, entry in value.items():
        leaves |= flat(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {f"{prefix}{key}": entry}
    return leaves


def test_seed_is_the_published_configuration_value_for_value() -> None:
    assert recipe("seed").model_dump(mode="json") == {
        "stage": "vqa",
        "taxonomy": "realcolon",
        "seed": 42,
        "threads": 0,
        "model": "models/seed",
        "data": {
            "folder": "data/real-colon-vqa",
            "train": "splits/seed/train.jsonl",
            "eval": "splits/seed/eval.jsonl",
            "frames": "frames",
            "speech": "speech",
            "variant": None,
            "mode": "audio+text",
            "target": "answer",
            "pack": 1,
            "limit": 0,
            "eval_limit": 0,
        },
        "prompt": {
            "layout": "seed",
            "audio_length": "30s",
            "pathway": "images",
            "stack": 1,
            "projector": "linear",
            "max_side": 384,
        },
        "tune": {
            "parts": "lora",
            "lora_rank": 64,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "encoder": "frozen",
            "quantise": "nf4",
            "weights": "bf16",
        },
        "fast": {
            "cache": "",
            "cache_gib": 20.0,
            "bucket": False,
            "logits": "all",
            "checkpointing": "always",
        },
        "trainer": {
            "processes": 2,
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "gradient_accumulation_steps": 4,
            "num_train_epochs": 8.0,
            "max_steps": -1,
            "optim": "adamw_8bit",
            "learning_rate": 2e-4,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.05,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "bf16": True,
            "gradient_checkpointing": None,
            "logging_steps": 20,
            "eval_steps": 100,
            "save_steps": 100,
            "save_total_limit": 3,
            "early_stopping_patience": 3,
            "dataloader_num_workers": 2,
            "report_to": [],
            "run_name": "",
            "fsdp": "",
        },
        "accuracy": "epoch",
    }


def test_the_published_batch_gives_288_updates_an_epoch() -> None:
    assert recipe("seed").trainer.effective_batch == 8
    assert updates(2302, recipe("seed")) == (288, 2304)
    assert updates(2302, recipe("seed", "trainer.max_steps=50")) == (288, 50)


@pytest.mark.parametrize(("processes", "expected"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_the_effective_batch_is_kept_on_any_number_of_processes(processes: int, expected: int) -> None:
    assert accumulation(recipe("seed").trainer, processes) == expected


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="effective batch of 8 rows does not divide among 3 processes"):
        accumulation(TrainerKeys(), 3)


@pytest.mark.parametrize("name", RUNS)
def test_shipped_recipes_are_valid(name: str) -> None:
    assert recipe(name).stage == "vqa"


def test_no_shipped_recipe_is_left_out() -> None:
    others = {"speech-seed", "align-2x24gb", "transcribe-2x24gb"}  # not of stage vqa
    here = {path.stem for path in RECIPES.glob("*.yaml")} - others
    assert here == set(RUNS)
    assert sorted(path.stem for path in (RECIPES / "ladder").iterdir()) == [
        name.removeprefix("ladder/") for name in LADDER[1:]
    ]


def test_each_step_of_the_ladder_changes_exactly_one_key() -> None:
    steps = [flat(recipe(name).model_dump(mode="json")) for name in LADDER]
    changes = []
    for before, after in pairwise(steps):
        assert before.keys() == after.keys()
        changes.append([(key, before[key], after[key]) for key in before if before[key] != after[key]])
    assert changes == [
        [("data.mode", "audio+text", "audio")],
        [("prompt.audio_length", "30s", "natural")],
        [("prompt.stack", 1, 4)],
        [("prompt.pathway", "images", "video")],
        [("prompt.layout", "seed", "stream")],
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.pack=4"], "one question a row"),
        (["data.mode=text"], "always with audio"),
        (["prompt.layout=stream"], "images exists with prompt.layout seed only"),
        (["data.target=transcript"], "transcript needs data.mode audio"),
        (["tune.parts=full"], "nf4 cannot be trained in full"),
        (["trainer.epochs=3"], r"seed\.yaml: key 'trainer\.epochs': Extra inputs"),
        (["trainer.report_to=[mail]"], r"key 'trainer\.report_to\.0'"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("seed", *overrides)

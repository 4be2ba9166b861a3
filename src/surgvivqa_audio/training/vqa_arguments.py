"""A recipe as the arguments of the stock trainer, on as many processes as there are."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from surgvivqa_audio.errors import ConfigError, MissingExtra
from surgvivqa_audio.files import dump_json, sha256_bytes, sha256_file
from surgvivqa_audio.training.callbacks import METRIC
from surgvivqa_audio.training.vqa_recipe import TrainerKeys, VqaRecipe

CHECKPOINTS = "checkpoints"
# Keys that may change between a kill and a resume: nothing that is computed depends on them.
_FREE = ("report_to", "run_name", "dataloader_num_workers", "save_total_limit", "logging_steps")
# Keys of the recipe that the stock trainer knows by the same name.
_AS_WRITTEN = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps", "optim",
    "learning_rate", "lr_scheduler_type", "weight_decay", "max_grad_norm", "bf16", "logging_steps",
    "eval_steps", "save_steps", "save_total_limit", "dataloader_num_workers",
)  # fmt: skip
_ALWAYS: dict[str, Any] = {
    "logging_nan_inf_filter": False,
    "eval_strategy": "steps",
    "metric_for_best_model": METRIC,
    "greater_is_better": False,
    "remove_unused_columns": False,
    "prediction_loss_only": True,
    "disable_tqdm": True,
}


def world_size() -> int:
    """Processes of this run, as ``torchrun`` announces them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accumulation(keys: TrainerKeys, processes: int) -> int:
    """Micro-batches per update that keep the recipe's effective batch on this many processes.

    Raises:
        ConfigError: the batch does not divide.
    """
    share = keys.per_device_train_batch_size * processes
    if keys.effective_batch % share:
        raise ConfigError(
            f"the effective batch of {keys.effective_batch} rows does not divide among {processes} processes "
            f"of {keys.per_device_train_batch_size}; change trainer.per_device_train_batch_size"
        )
    return keys.effective_batch // share


def training_arguments(recipe: VqaRecipe, out: Path, recompute: bool | None = None) -> TrainingArguments:
    """The stock arguments a recipe stands for, on this many processes.

    Args:
        recipe: see the class.
        out: run folder.
        recompute: activations are recomputed in the backward pass; None: where the recipe says so outright.

    Raises:
        ConfigError: a value that transformers refuses.
        MissingExtra: an opted-in tracker is not installed.
    """
    keys = recipe.trainer
    _check_trackers(keys)
    gpu = torch.cuda.is_available()
    sharded: dict[str, Any] = {}
    if keys.fsdp:
        layers = ["Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen3VLTextDecoderLayer"]
        sharded = {"fsdp": keys.fsdp, "fsdp_config": {"transformer_layer_cls_to_wrap": layers}}
    try:
        return TrainingArguments(
            output_dir=str(out / CHECKPOINTS),
            gradient_accumulation_steps=accumulation(keys, world_size()),
            warmup_steps=keys.warmup_ratio,
            gradient_checkpointing=bool(keys.gradient_checkpointing) if recompute is None else recompute,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            save_strategy="no" if keys.fsdp else "steps",
            report_to=list(keys.report_to),
            run_name=keys.run_name or out.name,
            label_names=["labels"],
            ddp_find_unused_parameters="audio" not in recipe.data.mode,
            use_cpu=not gpu,
            ddp_backend=None if gpu or world_size() == 1 else "gloo",
            seed=recipe.seed,
            **{name: getattr(keys, name) for name in _AS_WRITTEN},
            **_ALWAYS,
            **sharded,
        )
    except ValueError as error:
        raise ConfigError(f"recipe section 'trainer': {error}") from error


def _check_trackers(keys: TrainerKeys) -> None:
    for name in keys.report_to:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(
                f"trainer.report_to {name} is not installed; pip install {name}, or leave it out"
            )


def identity(recipe: VqaRecipe, files: Sequence[Path]) -> dict[str, str]:
    """What a run must share with the one it continues."""
    settings = recipe.model_dump(mode="json")
    settings.pop("fast")  # speed and memory alone
    for name in _FREE:
        settings["trainer"].pop(name)
    content = dump_json(settings).encode("utf-8")
    return {"recipe": sha256_bytes(content), **{path.name: sha256_file(path) for path in files}}

"""A real run at tiny size: LoRA with dropout and the projector of a random graft, a dozen steps. No tests."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from surgvivqa_audio.model.loading import add_adapter
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Example, Spoken
from surgvivqa_audio.training.checkpoints import DurableTrainer
from surgvivqa_audio.training.optim import build_optimizer, cosine_schedule
from tiny_graft import nano_graft, nano_processor, tone

ROWS = 8
STEPS = 6
SAVE_EVERY = 2
_ANSWERS = ("No, WL light is on instead.", "Yes, the scope is moving across the frames.")


class Rows(Dataset[Example]):
    """Rows by index, made once."""

    def __init__(self, first: int, count: int) -> None:
        self.rows = [_row(first + number) for number in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.rows[index]


def _row(number: int) -> Example:
    processor = nano_processor(max_side=56)
    generator = np.random.default_rng(number)
    frames = list(generator.integers(0, 255, (2, 56, 56, 3), dtype=np.uint8))
    mel = processor.mel(tone(0.2 + 0.05 * (number % 3), 300.0 + 50 * number, number))
    asked = Spoken("audio", mel, answer=_ANSWERS[number % 2])
    return processor.encode(processor.clip(frames, 6.25), [asked])


@cache
def data() -> tuple[Rows, Rows]:
    """Training and evaluation rows."""
    return Rows(0, ROWS), Rows(100, 1)


def tiny_trainer(out: Path, *, muon: bool = False, **changes: Any) -> DurableTrainer:
    """A trainer of ``STEPS`` steps in mid-epoch pieces: 4 steps an epoch, a checkpoint every 2."""
    options: dict[str, Any] = {
        "identity": changes.pop("identity", {"recipe": "tiny"}),
        "sampler": changes.pop("sampler", None),
    }
    patience = changes.pop("patience", 50)
    processor = nano_processor(max_side=56)
    model = add_adapter(nano_graft(processor), rank=4, alpha=8, dropout=0.2)
    arguments: dict[str, Any] = {
        "output_dir": str(out), "max_steps": STEPS, "per_device_train_batch_size": 1, "use_cpu": True,
        "gradient_accumulation_steps": 2, "learning_rate": 3e-3, "lr_scheduler_type": "linear",
        "warmup_steps": 1, "optim": "adamw_torch", "logging_steps": 3, "logging_first_step": True,
        "save_steps": SAVE_EVERY, "eval_steps": SAVE_EVERY, "eval_strategy": "steps", "seed": 5,
        "save_strategy": "steps", "save_total_limit": 2, "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss", "greater_is_better": False, "report_to": [],
        "remove_unused_columns": False, "prediction_loss_only": True, "disable_tqdm": True,
        "logging_nan_inf_filter": False,
    }  # fmt: skip
    arguments |= changes
    if muon:
        optimizer = build_optimizer(model, 0.02, 3e-3)
        options["optimizers"] = (optimizer, cosine_schedule(optimizer, STEPS))
    trainer = DurableTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=data()[0],
        eval_dataset=data()[1],
        data_collator=partial(collate, pad_id=processor.special.pad),
        callbacks=[EarlyStoppingCallback(patience)],
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def outcome(trainer: DurableTrainer) -> dict[str, Any]:
    """What must be the same however often a run was killed: every logged loss, the best step, the weights."""
    losses = {
        (entry["step"], name): entry[name]
        for entry in trainer.state.log_history
        for name in ("loss", "eval_loss", "train_loss", "grad_norm", "learning_rate")
        if name in entry
    }
    weights = {
        name: value.detach().clone()
        for name, value in trainer.model.named_parameters()
        if value.requires_grad
    }
    return {"losses": losses, "best": trainer.state.best_global_step, "weights": weights}


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference between two outcomes; infinite where they do not have the same entries."""
    if one["losses"].keys() != other["losses"].keys() or one["best"] != other["best"]:
        return float("inf")
    losses = [abs(value - other["losses"][key]) for key, value in one["losses"].items()]
    weights = [float((value - other["weights"][name]).abs().max()) for name, value in one["weights"].items()]
    return max(losses + weights)


def set_one_thread() -> None:
    """Sums in one order, and no second thread that a fork would lose."""
    torch.set_num_threads(1)

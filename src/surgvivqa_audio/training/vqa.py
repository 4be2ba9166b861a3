"""Training on the rows of a DATA folder: the published recipe, its variants and the alignment before it."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, distributed
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from surgvivqa_audio.errors import ConfigError, MissingExtra, ModelError
from surgvivqa_audio.files import dump_json, sha256_bytes, sha256_file, write_json
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.accuracy import Accuracy
from surgvivqa_audio.training.callbacks import (
    METRIC,
    BestKeeper,
    Progress,
    RunLog,
    peak_gib,
    stop_reason,
)
from surgvivqa_audio.training.checkpoints import DurableTrainer
from surgvivqa_audio.training.plots import draw
from surgvivqa_audio.training.vqa_data import Collator, Media, VqaRows, recipe_samples
from surgvivqa_audio.training.vqa_model import finish, load_trained, prepare, save_parts
from surgvivqa_audio.training.vqa_recipe import TrainerKeys, VqaRecipe

MODEL, BEST, CHECKPOINTS, SUMMARY = "model", "best", "checkpoints", "summary.json"
# Keys that may change between a kill and a resume: nothing that is computed depends on them.
_FREE = ("report_to", "run_name", "dataloader_num_workers", "save_total_limit", "logging_steps")


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


def training_arguments(recipe: VqaRecipe, out: Path) -> TrainingArguments:
    """The stock arguments a recipe stands for, on this many processes.

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
            per_device_train_batch_size=keys.per_device_train_batch_size,
            per_device_eval_batch_size=keys.per_device_eval_batch_size,
            gradient_accumulation_steps=accumulation(keys, world_size()),
            num_train_epochs=keys.num_train_epochs,
            max_steps=keys.max_steps,
            optim=keys.optim,
            learning_rate=keys.learning_rate,
            lr_scheduler_type=keys.lr_scheduler_type,
            warmup_steps=keys.warmup_ratio,
            weight_decay=keys.weight_decay,
            max_grad_norm=keys.max_grad_norm,
            bf16=keys.bf16,
            gradient_checkpointing=keys.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            logging_steps=keys.logging_steps,
            logging_nan_inf_filter=False,
            eval_strategy="steps",
            eval_steps=keys.eval_steps,
            save_strategy="no" if keys.fsdp else "steps",
            save_steps=keys.save_steps,
            save_total_limit=keys.save_total_limit,
            metric_for_best_model=METRIC,
            greater_is_better=False,
            dataloader_num_workers=keys.dataloader_num_workers,
            report_to=list(keys.report_to),
            run_name=keys.run_name or out.name,
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=True,
            ddp_find_unused_parameters="audio" not in recipe.data.mode,
            use_cpu=not gpu,
            ddp_backend=None if gpu or world_size() == 1 else "gloo",
            seed=recipe.seed,
            disable_tqdm=True,
            **sharded,
        )
    except ValueError as error:
        raise ConfigError(f"recipe section 'trainer': {error}") from error


def _check_trackers(keys: TrainerKeys) -> None:
    import importlib.util

    for name in keys.report_to:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(
                f"trainer.report_to {name} is not installed; pip install {name}, or leave it out"
            )


class VqaTrainer(DurableTrainer):
    """Counts tokens, and stops at a loss that is not finite with the keys of its rows."""

    tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch. Raises ModelError when the loss is not finite."""
        keys = inputs.pop("keys")
        self.tokens += inputs.pop("tokens")
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._finite(loss, keys, "training")
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """One eval batch. Raises ModelError when the loss is not finite."""
        keys = inputs.pop("keys")
        inputs.pop("tokens")
        result = super().prediction_step(model, inputs, *args, **options)
        self._finite(result[0], keys, "eval")
        return result

    def _finite(self, loss: Tensor, keys: list[str], part: str) -> None:
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"update {self.state.global_step + 1}: the {part} loss is {loss.item()} on "
                f"{', '.join(keys)}; look at these rows with `surgvivqa data view`, or lower "
                "trainer.learning_rate"
            )


class EpochAccuracy(TrainerCallback):  # type: ignore[misc]
    """Measures eval accuracy per question type at the end of every epoch and of the run."""

    def __init__(self, accuracy: Accuracy) -> None:
        self.accuracy = accuracy
        self.trainer: VqaTrainer | None = None
        self.last: dict[str, float] = {}
        self.step = -1

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer, in every process."""
        if self.trainer is None or self.step == state.global_step:
            return
        self.step = state.global_step
        self.last = self.accuracy.measure(self.trainer.model, args.process_index, args.world_size)
        self.trainer.log(dict(self.last))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The state in which the run ended, where that is not the end of an epoch."""
        self.on_epoch_end(args, state, control)


def run_vqa(
    recipe: VqaRecipe, out: Path, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and write ``model/`` (ready for every ``--model``), log, plots and ``summary.json`` into ``out``.

    Under ``torchrun`` every process calls this; the first one writes.

    Raises:
        SurgVivqaError: rows, media or checkpoint cannot be used; the message names what.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    taxonomy = load_taxonomy(recipe.taxonomy)
    train, held, files = recipe_samples(recipe.data, taxonomy)
    media = Media(recipe.data, frames=recipe.data.target == "answer")
    media.check([*train, *held])
    arguments = training_arguments(recipe, out)
    with arguments.main_process_first(local=False, desc="base checkpoint"):
        fresh = prepare(recipe, out / MODEL) if not (out / MODEL).is_dir() else None
    torch.manual_seed(recipe.seed)  # the adapter starts alike in every process
    trained = load_trained(recipe, out / MODEL)
    processor = AudioGraftProcessor.from_pretrained(out / MODEL)
    accuracy = None
    if recipe.accuracy == "epoch" and recipe.data.target == "answer":
        accuracy = EpochAccuracy(Accuracy(held, media, processor, taxonomy, bf16=recipe.trainer.bf16))
    trainer = _trainer(
        recipe, out, arguments, trained, accuracy, progress, files, [train, held], media, processor
    )
    started = monotonic()
    try:
        result = trainer.train(resume_from_checkpoint=resume)
        if not _evaluated_last(trainer):
            trainer.evaluate()
    finally:
        if arguments.process_index == 0:
            draw(out, f"{out.name}: training", _keeper(trainer).step or None)
    summary = {
        "rows": {"train": len(train), "eval": len(held)},
        "projector": "as it was" if not fresh else "new",
        "train_loss": result.training_loss,
        "accuracy": accuracy.last if accuracy else {},
        "minutes": round((monotonic() - started) / 60, 2),
        **_facts(trainer, arguments),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump(mode="json"), data_files=files),
    }
    if arguments.process_index == 0:
        finish(out / MODEL, _keeper(trainer).path, recipe)
        write_json(out / SUMMARY, summary)
    if arguments.world_size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return summary


def _trainer(
    recipe: VqaRecipe,
    out: Path,
    arguments: TrainingArguments,
    trained: Any,
    accuracy: EpochAccuracy | None,
    progress: Progress | None,
    files: list[Path],
    rows: list[Any],
    media: Media,
    processor: AudioGraftProcessor,
) -> VqaTrainer:
    packed = recipe.data.pack > 1
    callbacks: list[Any] = [BestKeeper(out / BEST, lambda folder: save_parts(trained, folder))]
    if recipe.trainer.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.trainer.early_stopping_patience))
    if accuracy is not None:
        callbacks.append(accuracy)
    trainer = VqaTrainer(
        model=trained,
        args=arguments,
        train_dataset=VqaRows(rows[0], media, processor),
        eval_dataset=VqaRows(rows[1], media, processor),
        data_collator=Collator(processor.special.pad, packed),
        callbacks=callbacks,
        identity=_identity(recipe, files),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunLog(out / "log.jsonl", lambda: trainer.tokens, progress))
    if accuracy is not None:
        accuracy.trainer = trainer
    return trainer


def _identity(recipe: VqaRecipe, files: list[Path]) -> dict[str, str]:
    settings = recipe.model_dump(mode="json")
    for name in _FREE:
        settings["trainer"].pop(name)
    content = dump_json(settings).encode("utf-8")
    return {"recipe": sha256_bytes(content), **{path.name: sha256_file(path) for path in files}}


def _keeper(trainer: VqaTrainer) -> BestKeeper:
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, BestKeeper))


def _evaluated_last(trainer: VqaTrainer) -> bool:
    steps = [entry["step"] for entry in trainer.state.log_history if METRIC in entry]
    return bool(steps) and steps[-1] == trainer.state.global_step


def _facts(trainer: VqaTrainer, arguments: TrainingArguments) -> dict[str, Any]:
    state, keeper = trainer.state, _keeper(trainer)
    stopper = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    evals = [entry[METRIC] for entry in state.log_history if METRIC in entry]
    peaks, tokens = [round(peak_gib(), 3)], [trainer.tokens]
    if arguments.world_size > 1:
        peaks, tokens = gather_object(peaks), gather_object(tokens)
    return {
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 3),
        "best": {"step": keeper.step, "epoch": round(keeper.epoch, 3), "eval_loss": keeper.loss},
        "eval_loss": evals[-1],
        "stopped": stop_reason(stopper[0] if stopper else None, state),
        "processes": arguments.world_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "tokens": sum(tokens),
        "peak_memory_gib": {f"{arguments.device.type}:{rank}": peak for rank, peak in enumerate(peaks)},
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }

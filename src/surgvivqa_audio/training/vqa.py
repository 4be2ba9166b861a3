"""Training on the rows of a DATA folder: the published recipe, its variants and the alignment before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import distributed
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import write_json
from surgvivqa_audio.model.device import find_device
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy
from surgvivqa_audio.training.accuracy import Accuracy
from surgvivqa_audio.training.begun import SUMMARY
from surgvivqa_audio.training.budget import recomputes
from surgvivqa_audio.training.callbacks import METRIC, BestKeeper, RunLog, peak_gib, stop_reason
from surgvivqa_audio.training.feature_cache import (
    CachingCollate,
    FeatureCache,
    Towers,
    fill_cache,
    tower_names,
)
from surgvivqa_audio.training.loop import Progress
from surgvivqa_audio.training.plots import draw
from surgvivqa_audio.training.vqa_arguments import identity, training_arguments
from surgvivqa_audio.training.vqa_data import Collator, Media, VqaRows, recipe_samples
from surgvivqa_audio.training.vqa_model import bare, finish, load_trained, prepare, save_parts
from surgvivqa_audio.training.vqa_recipe import VqaRecipe
from surgvivqa_audio.training.vqa_trainer import EpochAccuracy, VqaTrainer, WholeUpdates

MODEL, BEST = "model", "best"
ACCURACY = ("eval_accuracy", "eval_balanced")


@dataclass
class Session:
    """What a recipe needs besides its model: rows, media, where it writes."""

    recipe: VqaRecipe
    out: Path
    taxonomy: Taxonomy
    train: list[Sample]
    held: list[Sample]
    files: list[Path]
    media: Media

    @classmethod
    def open(cls, recipe: VqaRecipe, out: Path) -> Session:
        """Read the rows and look for every frame and recording. Raises SurgVivqaError."""
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        out.mkdir(parents=True, exist_ok=True)
        taxonomy = load_taxonomy(recipe.taxonomy)
        train, held, files = recipe_samples(recipe.data, taxonomy)
        media = Media(recipe.data, frames=recipe.data.target == "answer")
        media.check([*train, *held])
        return cls(recipe, out, taxonomy, train, held, files, media)

    def collator(self, processor: AudioGraftProcessor, trained: Any, cache: FeatureCache | None) -> Any:
        """Rows to batches, with stored features where a cache is on."""
        plain = Collator(processor.special.pad, self.recipe.data.pack > 1)
        if cache is None:
            return plain
        dtype = torch.bfloat16 if self.recipe.trainer.bf16 else None
        return CachingCollate(plain, cache, tower_names(bare(trained), dtype))


def run_vqa(
    recipe: VqaRecipe, out: Path, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and write ``model/`` (ready for every ``--model``), log, plots and ``summary.json`` into ``out``.

    Under ``torchrun`` every process calls this; the first one writes.

    Raises:
        SurgVivqaError: rows, media or checkpoint cannot be used; the message names what.
    """
    session = Session.open(recipe, out)
    arguments = training_arguments(recipe, out, recomputes(recipe, session.train, session.media))
    with arguments.main_process_first(local=False, desc="base checkpoint"):
        fresh = prepare(recipe, out / MODEL) if not (out / MODEL).is_dir() else None
    torch.manual_seed(recipe.seed)  # the adapter starts alike in every process
    trainer = _trainer(session, arguments, load_trained(recipe, out / MODEL), progress)
    started = monotonic()
    try:
        result = trainer.train(resume_from_checkpoint=resume)
        if not evaluated_last(trainer):
            trainer.evaluate()
    finally:
        if arguments.process_index == 0:
            draw(out, f"{out.name}: training", keeper_of(trainer).step or None)
    summary = {
        "rows": {"train": len(session.train), "eval": len(session.held)},
        "projector": "new" if fresh else "as it was",
        "train_loss": result.training_loss,
        "minutes": round((monotonic() - started) / 60, 2),
        **_facts(trainer, arguments),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump(mode="json"), data_files=session.files),
    }
    if arguments.process_index == 0:
        finish(out / MODEL, keeper_of(trainer).path, recipe)
        write_json(out / SUMMARY, summary)
    if arguments.world_size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return summary


def fill_features(
    recipe: VqaRecipe, out: Path, shard: tuple[int, int], progress: Progress | None = None
) -> dict[str, Any]:
    """Compute the frozen towers' features of one share of the rows, training nothing.

    Raises:
        ConfigError: the recipe has no cache, or not 0 <= i < n.
    """
    cache = recipe.fast.open_cache()
    if cache is None:
        raise ConfigError("recipe key 'fast.cache': name the folder of the feature cache")
    session = Session.open(recipe, out)
    if not (out / MODEL).is_dir():
        prepare(recipe, out / MODEL)
    trained = load_trained(recipe, out / MODEL)
    device = find_device()
    trained.to(device)
    processor = AudioGraftProcessor.from_pretrained(out / MODEL)
    rows = VqaRows([*session.train, *session.held], session.media, processor)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress({"step": done, "of": total})

    with torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.trainer.bf16):
        towers = Towers(bare(trained), cache)
        collate = session.collator(processor, trained, cache)
        done = fill_cache(rows, collate, towers, shard=shard, device=device, progress=report)
    return {"rows": done, "of": len(rows), "bytes": cache.nbytes}


def _trainer(
    session: Session, arguments: TrainingArguments, trained: Any, progress: Progress | None
) -> VqaTrainer:
    recipe, out = session.recipe, session.out
    processor = AudioGraftProcessor.from_pretrained(out / MODEL)
    callbacks: list[Any] = [BestKeeper(out / BEST, lambda folder: save_parts(trained, folder))]
    if recipe.trainer.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.trainer.early_stopping_patience))
    accuracy = None
    if recipe.accuracy == "epoch" and recipe.data.target == "answer":
        bf16 = recipe.trainer.bf16
        accuracy = EpochAccuracy(
            Accuracy(session.held, session.media, processor, session.taxonomy, bf16=bf16)
        )
        callbacks.append(accuracy)
    rows = VqaRows(session.train, session.media, processor)
    cache = recipe.fast.open_cache()
    alike: dict[str, Any] = {}
    if recipe.fast.bucket:
        batch = arguments.per_device_train_batch_size * arguments.world_size
        alike = {"lengths": rows.lengths(), "batch": batch}
    trainer = VqaTrainer(
        model=trained,
        args=arguments,
        train_dataset=rows,
        eval_dataset=VqaRows(session.held, session.media, processor),
        data_collator=session.collator(processor, trained, cache),
        callbacks=callbacks,
        identity=identity(recipe, session.files),
        sampler=WholeUpdates(len(rows), recipe.seed, update=recipe.trainer.effective_batch, **alike),
        towers=None if cache is None else Towers(bare(trained), cache),
        all_logits=recipe.fast.logits == "all",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunLog(out / "log.jsonl", lambda: trainer.tokens, progress))
    if accuracy is not None:
        accuracy.trainer = trainer
    return trainer


def keeper_of(trainer: VqaTrainer) -> BestKeeper:
    """The callback that keeps a trainer's best state."""
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, BestKeeper))


def evaluated_last(trainer: VqaTrainer) -> bool:
    """Whether the newest step has been evaluated."""
    steps = [entry["step"] for entry in trainer.state.log_history if METRIC in entry]
    return bool(steps) and steps[-1] == trainer.state.global_step


def outcome(trainer: VqaTrainer) -> dict[str, Any]:
    """Of a finished training: its best step, how many there were, why it stopped, what was trained."""
    state, keeper = trainer.state, keeper_of(trainer)
    stopper = [one for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
    return {
        "best": {"step": keeper.step, "epoch": round(keeper.epoch, 3), "eval_loss": keeper.loss},
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 3),
        "stopped": stop_reason(stopper[0] if stopper else None, state),
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }


def _facts(trainer: VqaTrainer, arguments: TrainingArguments) -> dict[str, Any]:
    state = trainer.state
    evals = [entry[METRIC] for entry in state.log_history if METRIC in entry]
    peaks, tokens = [round(peak_gib(), 3)], [trainer.tokens]
    if arguments.world_size > 1:
        peaks, tokens = gather_object(peaks), gather_object(tokens)
    return {
        **outcome(trainer),
        "eval_loss": evals[-1],
        "accuracy": {k: v for row in state.log_history for k, v in row.items() if k.startswith(ACCURACY)},
        "processes": arguments.world_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
        "tokens": sum(tokens),
        "peak_memory_gib": {f"{arguments.device.type}:{rank}": peak for rank, peak in enumerate(peaks)},
    }

"""Alignment on a corpus of speech: the model learns to write down what it hears.

A new projector, or one of another stack than the checkpoint's, needs this before it is trained to answer. Two
runs of one stage: the projector alone, then LoRA with it (``tune.parts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import distributed
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import dump_json, sha256_bytes, write_json
from surgvivqa_audio.model.loading import load_graft, parse_dtype
from surgvivqa_audio.processing.assemble import SHARD_SIZE, Staged
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.processing.transcribe import transcription
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.speech.corpora import Recording, choose, read_corpus
from surgvivqa_audio.training.begun import SUMMARY
from surgvivqa_audio.training.callbacks import BestKeeper, RunLog
from surgvivqa_audio.training.loop import Progress
from surgvivqa_audio.training.vqa import BEST, MODEL, evaluated_last, keeper_of, outcome
from surgvivqa_audio.training.vqa_arguments import training_arguments
from surgvivqa_audio.training.vqa_data import Collator, Row
from surgvivqa_audio.training.vqa_model import finish, load_trained, prepare, save_parts
from surgvivqa_audio.training.vqa_recipe import PromptKeys, TrainerKeys, TuneKeys, VqaRecipe
from surgvivqa_audio.training.vqa_trainer import VqaTrainer

MERGED = "merged"
_STRICT = ConfigDict(extra="forbid", frozen=True)


class CorpusKeys(BaseModel):
    """Two corpora that ``read_corpus`` reads. Recordings over ``max_seconds`` are left out and counted.

    ``utterances`` and ``eval_utterances`` are drawn by seed; 0 is all.
    """

    model_config = _STRICT
    train: str
    eval: str
    utterances: int = Field(default=20_000, ge=0)
    eval_utterances: int = Field(default=400, ge=0)
    max_seconds: float = Field(default=20.0, gt=0, le=30)


class TranscribeRecipe(BaseModel):
    """A run on transcripts; ``model``, ``prompt``, ``tune`` and ``trainer`` are those of stage ``vqa``."""

    model_config = _STRICT
    stage: Literal["transcribe"]
    seed: int = 42
    threads: int = Field(default=0, ge=0)
    model: str = "nano"
    corpus: CorpusKeys
    prompt: PromptKeys = PromptKeys()
    tune: TuneKeys = TuneKeys(parts="projector")
    trainer: TrainerKeys = TrainerKeys(num_train_epochs=4, learning_rate=1e-3)

    @model_validator(mode="after")
    def _fits(self) -> TranscribeRecipe:
        if self.prompt.layout == "seed":
            raise ValueError(
                "prompt.layout seed is imported, already aligned, by `surgvivqa model import-seed`"
            )
        self.shared()
        return self

    def shared(self) -> VqaRecipe:
        """What this stage has in common with training on questions."""
        return VqaRecipe(
            stage="vqa", seed=self.seed, threads=self.threads, model=self.model, prompt=self.prompt,
            tune=self.tune, trainer=self.trainer, accuracy="never",
        )  # fmt: skip


class TranscriptRows(Dataset[Row]):
    """One recording a row, named by file and row of its list."""

    def __init__(self, recordings: Sequence[Recording], processor: AudioGraftProcessor) -> None:
        self.recordings, self.processor = list(recordings), processor

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> Row:
        recording = self.recordings[index]
        mel = self.processor.mel(recording.wave())
        return Row(transcription(self.processor, mel, recording.text), (recording.where,))


def recipe_recordings(keys: CorpusKeys, seed: int) -> tuple[list[Recording], list[Recording], int]:
    """Training and eval recordings, and how many of both were too long.

    Raises:
        SurgVivqaError: a corpus cannot be read; names file and row.
        ConfigError: a recording is in both.
    """
    drawn, skipped = [], 0
    for source, count in ((keys.train, keys.utterances), (keys.eval, keys.eval_utterances)):
        chosen, long = choose(read_corpus(source), count or None, max_seconds=keys.max_seconds, seed=seed)
        drawn.append(chosen)
        skipped += long
    train, held = drawn
    shared = {each.path.resolve() for each in train} & {each.path.resolve() for each in held}
    if shared:
        raise ConfigError(f"{keys.eval}: {len(shared)} recordings are trained on too, first {min(shared)}")
    return train, held, skipped


def _digest(recordings: Sequence[Recording]) -> str:
    return sha256_bytes(dump_json([[str(each.path), each.text] for each in recordings]).encode("utf-8"))


def merge(folder: Path, out: Path, recipe: TranscribeRecipe) -> None:
    """Fold the adapter of a finished run into its base, so that the next stage can start from both."""
    model = load_graft(folder, stage="tuned", dtype=parse_dtype(recipe.tune.weights))
    with Staged(out) as staged:
        model.save_pretrained(staged, max_shard_size=SHARD_SIZE)
        AudioGraftProcessor.from_pretrained(folder).save_pretrained(staged)


def run_transcription(
    recipe: TranscribeRecipe, out: Path, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and write ``model/`` (ready for every ``--model``), log and ``summary.json`` into ``out``.

    After LoRA, ``merged/`` holds one model without an adapter, from which training on questions starts.

    Under ``torchrun`` every process calls this; the first one writes.

    Raises:
        SurgVivqaError: a corpus or the checkpoint cannot be used; the message names what.
    """
    shared = recipe.shared()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    train, held, skipped = recipe_recordings(recipe.corpus, recipe.seed)
    arguments = training_arguments(shared, out)
    with arguments.main_process_first(local=False, desc="base checkpoint"):
        fresh = prepare(shared, out / MODEL) if not (out / MODEL).is_dir() else None
    torch.manual_seed(recipe.seed)  # the adapter starts alike in every process
    trainer = _trainer(recipe, out, arguments, train, held)
    trainer.add_callback(RunLog(out / "log.jsonl", lambda: trainer.tokens, progress))
    started = monotonic()
    result = trainer.train(resume_from_checkpoint=resume)
    if not evaluated_last(trainer):
        trainer.evaluate()
    summary = {
        "utterances": {"train": len(train), "eval": len(held), "too_long": skipped},
        "projector": "new" if fresh else "as it was",
        "train_loss": result.training_loss,
        "minutes": round((monotonic() - started) / 60, 2),
        **outcome(trainer),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump(mode="json")),
    }
    if arguments.process_index == 0:
        finish(out / MODEL, keeper_of(trainer).path, shared)
        if recipe.tune.parts == "lora" and not (out / MERGED).is_dir():
            merge(out / MODEL, out / MERGED, recipe)
        write_json(out / SUMMARY, summary)
    if arguments.world_size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return summary


def _trainer(
    recipe: TranscribeRecipe,
    out: Path,
    arguments: TrainingArguments,
    train: Sequence[Recording],
    held: Sequence[Recording],
) -> VqaTrainer:
    trained = load_trained(recipe.shared(), out / MODEL)
    processor = AudioGraftProcessor.from_pretrained(out / MODEL)
    callbacks: list[Any] = [BestKeeper(out / BEST, lambda folder: save_parts(trained, folder))]
    if recipe.trainer.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.trainer.early_stopping_patience))
    settings = recipe.model_dump(mode="json", exclude={"trainer": {"report_to", "run_name"}})
    trainer = VqaTrainer(
        model=trained,
        args=arguments,
        train_dataset=TranscriptRows(train, processor),
        eval_dataset=TranscriptRows(held, processor),
        data_collator=Collator(processor.special.pad, packed=False),
        callbacks=callbacks,
        identity={
            "recipe": sha256_bytes(dump_json(settings).encode("utf-8")),
            "rows": _digest([*train, *held]),
        },
    )
    trainer.remove_callback(PrinterCallback)
    return trainer

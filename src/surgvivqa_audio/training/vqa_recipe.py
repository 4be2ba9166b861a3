"""The recipe of a run on a DATA folder: every key typed, every default written in one place.

The keys of ``trainer`` are those of transformers' ``TrainingArguments`` under their own names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.training.fast_path import FastPath


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataKeys(_Keys):
    """Which rows, from which folder. Paths that are not absolute lie in ``folder``.

    ``target`` is what the model learns to say: the answer sentence, or the question it heard (alignment).
    ``pack`` puts up to so many questions of one clip behind one visual prefix (``stream`` layout only).
    ``limit`` and ``eval_limit`` keep the first rows; 0 is all.
    """

    folder: str = ""
    train: str = "splits/seed/train.jsonl"
    eval: str = "splits/seed/eval.jsonl"
    frames: str = "frames"
    speech: str = "speech"
    variant: str | None = None
    mode: QuestionMode = "audio"
    target: Literal["answer", "transcript"] = "answer"
    pack: int = Field(default=1, ge=1)
    limit: int = Field(default=0, ge=0)
    eval_limit: int = Field(default=0, ge=0)

    def path(self, name: str) -> Path:
        """A path of this section."""
        return Path(self.folder) / name


class PromptKeys(_Keys):
    """How a row becomes tokens. A projector of another ``stack`` or kind than the model's starts afresh."""

    layout: Literal["seed", "stream"] = "stream"
    audio_length: Literal["30s", "natural"] = "natural"
    pathway: Literal["images", "video"] = "video"
    stack: Literal[1, 2, 4, 8] = 4
    projector: Literal["linear", "mlp"] = "mlp"
    max_side: int = Field(default=384, ge=28)


class TuneKeys(_Keys):
    """What is trained: ``lora`` (with the projector), ``projector`` alone, or ``full``.

    ``weights`` is the precision of what is frozen; trained parameters are always fp32, except in ``full``.
    """

    parts: Literal["lora", "projector", "full"] = "lora"
    lora_rank: int = Field(default=64, ge=1)
    lora_alpha: int = 16
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    encoder: Literal["frozen", "trainable", "lora"] = "frozen"
    quantise: Literal["none", "nf4"] = "none"
    weights: Literal["bf16", "fp32"] = "bf16"


class TrainerKeys(_Keys):
    """``TrainingArguments`` by their own names; ``processes`` is what the batch was planned for.

    The effective batch is per_device_train_batch_size x gradient_accumulation_steps x processes, whatever
    the number of processes that really run: the accumulation follows.
    """

    processes: int = Field(default=1, ge=1)
    per_device_train_batch_size: int = Field(default=1, ge=1)
    per_device_eval_batch_size: int = Field(default=1, ge=1)
    gradient_accumulation_steps: int = Field(default=8, ge=1)
    num_train_epochs: float = 8
    max_steps: int = -1
    optim: str = "adamw_torch"
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = True
    gradient_checkpointing: bool | None = None  # None: as fast.checkpointing says
    logging_steps: int = Field(default=20, ge=1)
    eval_steps: int = Field(default=100, ge=1)
    save_steps: int = Field(default=100, ge=1)
    save_total_limit: int = Field(default=3, ge=1)
    early_stopping_patience: int = Field(default=3, ge=0)
    dataloader_num_workers: int = Field(default=0, ge=0)
    report_to: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()
    run_name: str = ""
    fsdp: str = ""

    @property
    def effective_batch(self) -> int:
        """Rows of one update."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.processes


class VqaRecipe(_Keys):
    """A run on the rows of a DATA folder. ``model`` is a grafted checkpoint, or ``nano``.

    ``accuracy``: when eval accuracy per question type is measured.
    """

    stage: Literal["vqa"]
    taxonomy: str = "realcolon"
    seed: int = 42
    threads: int = Field(default=0, ge=0)
    model: str = "nano"
    data: DataKeys = DataKeys()
    prompt: PromptKeys = PromptKeys()
    tune: TuneKeys = TuneKeys()
    fast: FastPath = FastPath()
    trainer: TrainerKeys = TrainerKeys()
    accuracy: Literal["epoch", "never"] = "epoch"

    @model_validator(mode="after")
    def _fits(self) -> VqaRecipe:
        seed = self.prompt.layout == "seed"
        if not seed and self.prompt.pathway == "images":
            raise ValueError("prompt.pathway images exists with prompt.layout seed only")
        if seed and (self.data.pack > 1 or self.data.mode == "text"):
            raise ValueError("prompt.layout seed takes one question a row (data.pack 1), always with audio")
        if self.data.target == "transcript" and (self.data.mode != "audio" or seed):
            raise ValueError("data.target transcript needs data.mode audio and prompt.layout stream")
        if self.tune.quantise == "nf4" and self.tune.parts == "full":
            raise ValueError("tune.quantise nf4 cannot be trained in full; use tune.parts lora")
        return self

"""Stage 1 (align the projector) and stage 2 (LoRA + projector) on the stock ``Trainer``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.files import write_json
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import ADAPTER, add_adapter, graft, load_graft
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy
from surgvivqa_audio.training.asr_data import PoolConfig as SpeechPoolConfig
from surgvivqa_audio.training.asr_data import make_pool, plan_pool
from surgvivqa_audio.training.clip_pool import read_pool
from surgvivqa_audio.training.nano_tokenizer import common_words
from surgvivqa_audio.training.optim import build_optimizer, cosine_schedule
from surgvivqa_audio.training.spoken import SpokenConfig, SpokenQuestions, index_voices
from surgvivqa_audio.training.stages import Progress


class LoraSettings(BaseModel):
    """Size of the adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


class SpokenRecipe(BaseModel):
    """One of the two spoken stages.

    ``align`` grafts ``vlm`` and ``whisper`` and trains the projector alone; ``finetune`` starts from the
    aligned folder ``base`` and trains LoRA on the language model together with the projector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: Literal["align", "finetune"]
    taxonomy: str = "realcolon"
    seed: int = 0
    threads: int = 1
    vlm: str = ""
    whisper: str = ""
    base: str = ""
    clips: str = "runs/nano/clips"
    speech: str = "runs/nano/asr/speech"
    speech_pool: SpeechPoolConfig = SpeechPoolConfig()
    data: SpokenConfig = SpokenConfig()
    stack: int = 4
    projector_width: int = 256
    lora: LoraSettings = LoraSettings()
    steps: int = 400
    batch: int = 16
    lr_muon: float = 0.01
    lr_adamw: float = 2e-3
    bf16: bool = True
    workers: int = 0


class JsonlLog(TrainerCallback):  # type: ignore[misc]
    """Append the trainer's log entries to ``log.jsonl`` and pass them on."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self.path, self.progress = path, progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Called by the trainer."""
        record = {"step": state.global_step, **(logs or {})}
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if self.progress is not None:
            self.progress(record)


def freeze_all_but_projector(model: AudioGraft) -> None:
    """Stage 1: towers, language model and head are frozen."""
    model.requires_grad_(False)
    model.audio_projector.requires_grad_(True)


def _start(recipe: SpokenRecipe) -> tuple[AudioGraft, AudioGraftProcessor]:
    if recipe.stage == "finetune":
        if not recipe.base:
            raise ConfigError("recipe key 'base': the folder of the aligned model is needed")
        return load_graft(recipe.base, stage="base"), AudioGraftProcessor.from_pretrained(recipe.base)
    if not recipe.vlm or not recipe.whisper:
        raise ConfigError("recipe keys 'vlm' and 'whisper': the folders of both pretrained models are needed")
    processor = AudioGraftProcessor.from_pretrained(recipe.vlm)
    torch.manual_seed(recipe.seed)
    model = graft(
        recipe.vlm,
        recipe.whisper,
        audio_token_id=processor.special.audio,
        stack=recipe.stack,
        projector_width=recipe.projector_width,
        max_side=processor.max_side,
    )
    fast_vision(model.vlm)
    return model, processor


def _dataset(recipe: SpokenRecipe, processor: AudioGraftProcessor, taxonomy: Taxonomy) -> SpokenQuestions:
    bank = phrasing_bank(taxonomy)
    plan = plan_pool(recipe.speech_pool, taxonomy, bank, common_words())
    voices = index_voices(make_pool(Path(recipe.speech), plan, recipe.speech_pool.shard), taxonomy)
    clips = read_pool(Path(recipe.clips))
    return SpokenQuestions(
        clips, voices, processor, taxonomy, recipe.data, rows=recipe.steps * recipe.batch, seed=recipe.seed
    )


def run_spoken(recipe: SpokenRecipe, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train one spoken stage and save it.

    ``align`` writes a complete grafted checkpoint into ``out``; ``finetune`` writes the adapter (LoRA and
    projector) into ``out/adapter``, beside a copy of nothing: the base stays where it is.
    """
    torch.set_num_threads(recipe.threads)
    taxonomy = load_taxonomy(recipe.taxonomy)
    out.mkdir(parents=True, exist_ok=True)
    model, processor = _start(recipe)
    trained: nn.Module = model
    if recipe.stage == "align":
        freeze_all_but_projector(model)
    else:
        lora = recipe.lora
        trained = add_adapter(model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout)
    optimizer = build_optimizer(trained, recipe.lr_muon, recipe.lr_adamw)
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=recipe.workers,
        max_grad_norm=1.0,
        seed=recipe.seed,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=trained,
        args=arguments,
        train_dataset=_dataset(recipe, processor, taxonomy),
        data_collator=partial(collate, pad_id=processor.special.pad, packed=True),
        optimizers=(optimizer, cosine_schedule(optimizer, recipe.steps)),
        callbacks=[JsonlLog(out / "log.jsonl", progress)],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    if not torch.isfinite(torch.tensor(result.training_loss)):
        raise ModelError(f"{out}: the training loss is not finite; lower lr_muon or lr_adamw")
    if recipe.stage == "align":
        model.save_pretrained(out)
        processor.save_pretrained(out)
    else:
        trained.save_pretrained(str(out / ADAPTER))  # type: ignore[operator]
    summary = {
        "loss": result.training_loss,
        "trainable": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump()),
    }
    write_json(out / "summary.json", summary)
    return summary

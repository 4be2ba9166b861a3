"""Stages 1 and 2 of the nano model: align the projector, then LoRA and projector, on cached tower features.

Both towers are frozen in both stages, so their features are computed once and a step is the language model
alone.
The stages on real data are in ``vqa.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import write_json
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import (
    ADAPTER,
    add_adapter,
    freeze_all_but_projector,
    graft,
    load_graft,
    read_model,
)
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy
from surgvivqa_audio.training.answer_loss import answer_loss
from surgvivqa_audio.training.asr_data import PoolConfig, make_pool, plan_pool
from surgvivqa_audio.training.begun import SUMMARY
from surgvivqa_audio.training.clip_pool import read_pool
from surgvivqa_audio.training.cpu import use_threads
from surgvivqa_audio.training.lean import lean_adapter, lean_attention
from surgvivqa_audio.training.loop import Loop, LoopConfig, Progress
from surgvivqa_audio.training.nano import NanoSize
from surgvivqa_audio.training.nano_tokenizer import common_words
from surgvivqa_audio.training.rows import RowConfig, Rows, Typed, Voiced, with_features
from surgvivqa_audio.training.stages import nano_processor
from surgvivqa_audio.training.utterances import Heard, UtteranceConfig, hear, plan_chatter


class LoraSize(BaseModel):
    """Size of the adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int = 16
    alpha: int = 32


class NanoSpokenRecipe(BaseModel):
    """One spoken stage; ``nano-align`` grafts ``vlm`` and ``whisper``, ``nano-finetune`` continues."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: Literal["nano-align", "nano-finetune"]
    taxonomy: str = "realcolon"
    seed: int = 0
    threads: int = 1
    vlm: str = ""
    whisper: str = ""
    base: str = ""
    clips: tuple[str, ...] = ("runs/nano/clips", "runs/nano/clips16")
    features: str = "runs/nano/features"
    speech: str = "runs/nano/asr/pool"
    heard: str = "runs/nano/heard"
    speech_pool: PoolConfig = PoolConfig()
    utterances: UtteranceConfig = UtteranceConfig()
    stack: int = 4
    projector_width: int = 256
    lora: LoraSize = LoraSize()
    train: LoopConfig = LoopConfig(steps=800)
    rows: RowConfig = RowConfig(nothing_said=0.03, typed=0.1)


def read_heard(
    recipe: NanoSpokenRecipe, encoder: Any, processor: AudioGraftProcessor, taxonomy: Taxonomy
) -> Heard:
    """The speech pool, off-topic sentences beside it, and their encoder states."""
    settings, folder = recipe.speech_pool, Path(recipe.heard)
    plan = plan_pool(settings, taxonomy, phrasing_bank(taxonomy), common_words())
    pool = make_pool(Path(recipe.speech), plan, settings.shard)
    off_topic = plan_chatter(recipe.utterances, settings)
    extra = make_pool(folder / "chatter", off_topic, settings.shard)
    return hear(encoder, processor, pool, extra, taxonomy, recipe.utterances, folder)


def fill_heard(recipe: NanoSpokenRecipe) -> dict[str, Any]:
    """Compute what the spoken stages hear before the language model is there: it needs the ear alone."""
    use_threads(recipe.threads)
    taxonomy = load_taxonomy(recipe.taxonomy)
    whisper = read_model(WhisperForConditionalGeneration, Path(recipe.whisper))
    encoder = whisper.model.encoder.eval()
    heard = read_heard(recipe, encoder, nano_processor(taxonomy, NanoSize()), taxonomy)
    return {"utterances": len(heard.states)}


def _start(recipe: NanoSpokenRecipe) -> tuple[AudioGraft, AudioGraftProcessor]:
    if recipe.stage == "nano-finetune":
        if not recipe.base:
            raise ConfigError("recipe key 'base': the folder of the aligned model is needed")
        return load_graft(recipe.base, stage="base"), AudioGraftProcessor.from_pretrained(recipe.base)
    if not recipe.vlm or not recipe.whisper:
        raise ConfigError("recipe keys 'vlm' and 'whisper': the folders of both pretrained models are needed")
    processor = AudioGraftProcessor.from_pretrained(recipe.vlm)
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


def run_nano_spoken(
    recipe: NanoSpokenRecipe, out: Path, resume: bool, progress: Progress | None = None
) -> dict[str, Any]:
    """Train one spoken stage and save it.

    ``nano-align`` writes a complete grafted checkpoint into ``out``, ``nano-finetune`` the adapter (LoRA and
    projector) into ``out/adapter``.
    """
    use_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    taxonomy = load_taxonomy(recipe.taxonomy)
    model, processor = _start(recipe)
    pools = ((Path(folder).name, read_pool(Path(folder))) for folder in recipe.clips)
    seen = with_features(model.vlm, processor, pools, Path(recipe.features))
    heard = read_heard(recipe, model.audio_encoder, processor, taxonomy)
    voiced = Voiced(heard, model.config.audio_config.num_mel_bins)
    rows = Rows(seen, Typed(taxonomy, common_words()), voiced, processor, taxonomy, recipe.rows)
    lean_attention(model.vlm)
    freeze_all_but_projector(model)
    trained: nn.Module = model
    if recipe.stage == "nano-finetune":
        size = recipe.lora
        trained = add_adapter(model, rank=size.rank, alpha=size.alpha, dropout=0.0)
        lean_adapter(trained)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        answers, _, logged = answer_loss(model, rows.batch(step))
        return answers, logged

    loop = Loop(trained, recipe.train, out, loss)
    if resume:
        loop.resume()
    loop.run(progress)
    if recipe.stage == "nano-align":
        model.save_pretrained(out)
        processor.save_pretrained(out)
    else:
        trained.save_pretrained(str(out / ADAPTER))  # type: ignore[operator]
    summary = {
        "steps": loop.step,
        "trainable": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "run": run_record(seed=recipe.seed, config=recipe.model_dump()),
    }
    write_json(out / SUMMARY, summary)
    return summary

"""From a grafted checkpoint to the model a recipe trains, and back to a folder that can be asked.

``prepare`` writes a complete base checkpoint in the recipe's prompt form; the adapter is put beside it when
the run ends, so that the folder works with every ``--model``. A base that is trained in 4 bit is stored
with the values 4 bit left of it, because those are the weights the adapter belongs to.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.families import get_family
from surgvivqa_audio.model.graft import AudioGraft, new_projector
from surgvivqa_audio.model.loading import ADAPTER, add_adapter, load_graft, parse_dtype
from surgvivqa_audio.model.quantize import dequantise, load_4bit
from surgvivqa_audio.model.source import resolve
from surgvivqa_audio.processing.assemble import SHARD_SIZE, Staged
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.training.vqa_recipe import PromptKeys, VqaRecipe

_PROJECTOR = "projector.safetensors"


def source_folder(recipe: VqaRecipe) -> Path:
    """The checkpoint a recipe starts from. Raises ModelError."""
    return default_model_dir() if recipe.model == "nano" else resolve(recipe.model)


def recipe_processor(source: Path, prompt: PromptKeys) -> AudioGraftProcessor:
    """The checkpoint's processor in the recipe's prompt form."""
    stored = AudioGraftProcessor.from_pretrained(source)
    family = get_family(stored.family)
    return AudioGraftProcessor(
        stored.feature_extractor,
        stored.tokenizer,
        patch=stored.patch,
        merge=stored.merge,
        temporal=stored.temporal,
        max_side=prompt.max_side,
        stack=prompt.stack,
        mean=family.mean,
        std=family.std,
        family=stored.family,
        layout=prompt.layout,
        audio_token_id=stored.audio_token_id,
        audio_length=prompt.audio_length,
        pathway=prompt.pathway,
    )


def reshape(model: AudioGraft, prompt: PromptKeys, seed: int) -> bool:
    """Write the prompt form into the config; True if that needed a new, untrained projector."""
    config = model.config
    fresh = (config.stack, config.projector) != (prompt.stack, prompt.projector)
    config.layout, config.max_side = prompt.layout, prompt.max_side
    config.stack, config.projector = prompt.stack, prompt.projector
    if fresh:
        torch.manual_seed(seed)
        model.audio_projector = new_projector(config).to(next(model.audio_projector.parameters()).dtype)
        model.start_projector()
    return fresh


def prepare(recipe: VqaRecipe, folder: Path) -> bool:
    """Write the base checkpoint of a run, complete or not at all; True if its projector starts afresh.

    Raises:
        ModelError: the checkpoint a recipe starts from is incomplete.
    """
    source, kind = source_folder(recipe), parse_dtype(recipe.tune.weights)
    if recipe.tune.quantise == "nf4":
        model = dequantise(load_4bit(source, compute=kind), kind)
    else:
        model = load_graft(source, stage="base", dtype=kind)
    fresh = reshape(model, recipe.prompt, recipe.seed)
    with Staged(folder) as staged:
        model.save_pretrained(staged, max_shard_size=SHARD_SIZE)
        recipe_processor(source, recipe.prompt).save_pretrained(staged)
        save_file(_tensors(model.audio_projector), staged / _PROJECTOR)
    return fresh


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def load_trained(recipe: VqaRecipe, folder: Path) -> Any:
    """The model of a prepared run with its trainable parts; LoRA comes as a ``PeftModel``.

    Raises:
        ModelError: the prepared folder is damaged.
        MissingExtra: 4 bit without its library.
    """
    if recipe.tune.quantise == "nf4":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
        kind = parse_dtype(recipe.tune.weights)
        model = load_4bit(source_folder(recipe), compute=kind, device=device)
        reshape(model, recipe.prompt, recipe.seed)
        model.audio_projector.load_state_dict(load_file(folder / _PROJECTOR))
        model.audio_projector.to(device)
    else:
        model = load_graft(folder, stage="base", dtype=parse_dtype(recipe.tune.weights))
    model.config.use_cache = False
    return _trainable(model, recipe)


def _trainable(model: AudioGraft, recipe: VqaRecipe) -> Any:
    tune = recipe.tune
    trained: Any = model
    if tune.parts == "lora":
        trained = add_adapter(
            model,
            rank=tune.lora_rank,
            alpha=tune.lora_alpha,
            dropout=tune.lora_dropout,
            encoder=tune.encoder,
        )
    elif tune.encoder != "frozen":
        raise ConfigError(f"tune.encoder {tune.encoder} needs tune.parts lora; leave it frozen")
    elif tune.parts == "projector":
        model.requires_grad_(False)
        model.audio_projector.requires_grad_(True)
    else:
        model.vlm.model.language_model.requires_grad_(True)
        model.audio_projector.requires_grad_(True)
        model.vlm.model.visual.requires_grad_(False)
        model.audio_encoder.requires_grad_(False)
        return model
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trained


def bare(trained: Any) -> AudioGraft:
    """The graft inside, adapter included in its layers."""
    model: AudioGraft = trained.get_base_model() if isinstance(trained, PeftModel) else trained
    return model


def save_parts(trained: Any, folder: Path) -> None:
    """Write what a recipe trains into a folder: the adapter, or the whole of a model without one."""
    if isinstance(trained, PeftModel):
        trained.save_pretrained(str(folder), safe_serialization=True)
    elif any(parameter.requires_grad for parameter in trained.vlm.parameters()):
        trained.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    else:
        save_file(_tensors(trained.audio_projector), folder / _PROJECTOR)


def finish(folder: Path, best: Path, recipe: VqaRecipe) -> None:
    """Put the best state of a run into its model folder.

    Raises:
        ModelError: the best state is not there.
    """
    if not best.is_dir():
        raise ModelError(f"{best}: the run kept no state; its first evaluation comes after the last step")
    if recipe.tune.parts == "lora":
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        with Staged(folder / ADAPTER) as staged:
            shutil.copytree(best, staged, dirs_exist_ok=True)
        return
    if recipe.tune.parts == "projector":
        model = load_graft(folder, stage="base", dtype=parse_dtype(recipe.tune.weights))
        model.audio_projector.load_state_dict(load_file(best / _PROJECTOR))
        model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
        shutil.copyfile(best / _PROJECTOR, folder / _PROJECTOR)
        return
    for path in best.iterdir():
        shutil.copyfile(path, folder / path.name)

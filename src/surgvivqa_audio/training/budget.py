"""What a run costs, from the model's config and a few of its rows: tokens, arithmetic, memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import mean

import torch

from surgvivqa_audio.host_memory import available_memory
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.counts import Parts, count_parts
from surgvivqa_audio.model.memory import GIB, PRECISIONS, RUNTIME_GIB
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.training.fast_path import activation_bytes
from surgvivqa_audio.training.vqa_data import Media, Row, VqaRows
from surgvivqa_audio.training.vqa_model import recipe_processor, source_folder
from surgvivqa_audio.training.vqa_recipe import VqaRecipe

_SAMPLE = 16
_LONGER = 1.2  # the longest row of all against the longest of a sample
_BYTES = {"bf16": 2, "fp32": 4}


def recipe_config(recipe: VqaRecipe) -> AudioGraftConfig:
    """The config of the model a recipe starts from, in the recipe's prompt form."""
    config = AudioGraftConfig.from_folder(source_folder(recipe))
    config.layout, config.stack = recipe.prompt.layout, recipe.prompt.stack
    config.projector, config.max_side = recipe.prompt.projector, recipe.prompt.max_side
    return config


def sample_rows(rows: VqaRows) -> list[Row]:
    """Up to 16 rows spread over the whole."""
    step = max(1, len(rows) // _SAMPLE)
    return [rows[index] for index in range(0, len(rows), step)][:_SAMPLE]


def recomputes(recipe: VqaRecipe, samples: Sequence[Sample], media: Media) -> bool:
    """Whether activations are recomputed: as the recipe says, or (``auto``) when they would not fit."""
    if recipe.trainer.gradient_checkpointing is not None:
        return recipe.trainer.gradient_checkpointing
    if recipe.fast.checkpointing != "auto":
        return recipe.fast.checkpointing == "always"
    config = recipe_config(recipe)
    rows = VqaRows(samples, media, recipe_processor(source_folder(recipe), recipe.prompt))
    longest = max(len(row.example.ids) for row in sample_rows(rows)) * _LONGER
    tokens = round(longest * recipe.trainer.per_device_train_batch_size)
    free = memory_of_device() - resident_bytes(config, count_parts(config), recipe)
    return recipe.fast.recompute(config, tokens, int(free))


def memory_of_device() -> float:
    """Bytes: all of this process's GPU, or its share of the memory to be had (file caches can be)."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return available_memory() / local


def token_counts(rows: Sequence[Row], processor: AudioGraftProcessor) -> dict[str, float]:
    """Mean tokens of a row: ``visual``, ``audio``, ``text``, ``answer`` (supervised), ``all``; and what the
    towers see, ``patches`` and ``encoder`` frames."""
    special = processor.special
    counted: list[dict[str, int]] = []
    for row in rows:
        ids = row.example.ids
        visual = sum(ids.count(token) for token in (special.image_pad, special.video_pad))
        audio = ids.count(special.audio)
        answer = sum(label != -100 for label in row.example.labels)
        counted.append(
            {
                "visual": visual,
                "audio": audio,
                "text": len(ids) - visual - audio - answer,
                "answer": answer,
                "all": len(ids),
                "patches": visual * processor.merge**2,
                "encoder": audio * processor.stack,
            }
        )
    return {name: round(mean(one[name] for one in counted), 1) for name in counted[0]}


def row_flops(
    config: AudioGraftConfig, parts: Parts, tokens: dict[str, float], recipe: VqaRecipe, recompute: bool
) -> float:
    """Floating-point operations of one row of the batch, forward and backward.

    Frozen towers run forward once. The language layers run forward, backward to their inputs, again
    forward where activations are recomputed, and backward to their weights where those are trained in full.
    """
    text = config.get_text_config()
    passes = 2 + recompute + (recipe.tune.parts == "full")
    attention = 2.0 * tokens["all"] ** 2 * text.hidden_size * text.num_hidden_layers
    language = (2.0 * parts.projections * tokens["all"] + attention) * passes
    towers = 2.0 * parts.vision * tokens["patches"] + 2.0 * parts.audio_encoder * tokens["encoder"]
    head = 2.0 * (parts.head or parts.embedding) * tokens["answer"] * 2
    return language + towers + head


def resident_bytes(config: AudioGraftConfig, parts: Parts, recipe: VqaRecipe) -> float:
    """Weights, and of what is trained the gradient, the moments and the fp32 copy."""
    tune = recipe.tune
    width = _BYTES[tune.weights]
    projections = PRECISIONS["nf4"] if tune.quantise == "nf4" else width
    weights = parts.projections * projections + (parts.total - parts.projections) * width
    moments = 2 if "8bit" in recipe.trainer.optim else 8
    if tune.parts == "full":
        trained = float(parts.total - parts.vision - parts.audio_encoder) * (width + moments)
    else:
        lora = tune.lora_rank * parts.sides if tune.parts == "lora" else 0
        trained = float(lora + parts.audio_projector) * (4 + 4 + moments)
    return float(weights + trained) + RUNTIME_GIB * GIB


def memory_gib(
    config: AudioGraftConfig, parts: Parts, longest: int, recipe: VqaRecipe, recompute: bool
) -> float:
    """Peak memory of a training step on one device; sharding (FSDP) is not taken into account."""
    text, tokens = config.get_text_config(), longest * recipe.trainer.per_device_train_batch_size
    kept = activation_bytes(config, tokens)
    if recompute:
        kept = kept // text.num_hidden_layers + tokens * 2 * text.num_hidden_layers * text.hidden_size
    if not recipe.trainer.bf16:
        kept *= 2
    return (resident_bytes(config, parts, recipe) + kept) / GIB

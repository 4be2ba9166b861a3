"""What a run will be, before it starts: updates, tokens, memory and time. Nothing is loaded or written.

Updates and tokens are exact (tokens from a sample of rows). Memory and time are estimates: weights, trained
parameters with gradient and moments, kept activations; arithmetic at a stated share of a GPU's peak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.counts import Parts, count_parts
from surgvivqa_audio.model.info import GPUS
from surgvivqa_audio.model.memory import GIB, PRECISIONS, RUNTIME_GIB
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.vqa_data import Media, Row, VqaRows, recipe_samples
from surgvivqa_audio.training.vqa_model import recipe_processor, source_folder
from surgvivqa_audio.training.vqa_recipe import VqaRecipe

UTILISATION = 0.35  # of the published peak; what a tuned training step of this size reaches
_SAMPLE = 16
_BYTES = {"bf16": 2, "fp32": 4}


def updates(groups: int, recipe: VqaRecipe) -> tuple[int, int]:
    """Updates of an epoch and of the whole run for this many rows of the batch."""
    epoch = math.ceil(groups / recipe.trainer.effective_batch)
    if recipe.trainer.max_steps > 0:
        return epoch, recipe.trainer.max_steps
    return epoch, math.ceil(epoch * recipe.trainer.num_train_epochs)


def plan(recipe: VqaRecipe) -> dict[str, Any]:
    """Everything ``train --dry-run`` prints about a run.

    Raises:
        SurgVivqaError: rows, media or checkpoint are missing; the message names what.
    """
    taxonomy = load_taxonomy(recipe.taxonomy)
    train, held, _ = recipe_samples(recipe.data, taxonomy)
    media = Media(recipe.data, frames=recipe.data.target == "answer")
    media.check([*train, *held])
    source = source_folder(recipe)
    processor = recipe_processor(source, recipe.prompt)
    rows = VqaRows(train, media, processor)
    step = max(1, len(rows) // _SAMPLE)
    sample = [rows[index] for index in range(0, len(rows), step)][:_SAMPLE]
    config = _config(source_folder(recipe), recipe)
    tokens = token_counts(sample, processor)
    epoch, total = updates(len(rows), recipe)
    longest = max(len(row.example.ids) for row in sample)
    flops = row_flops(config, count_parts(config), tokens, recipe)
    seconds = {
        name: flops * recipe.trainer.effective_batch / recipe.trainer.processes / (gpu.flops * UTILISATION)
        for name, gpu in GPUS.items()
    }
    return {
        "rows": {"train": len(train), "eval": len(held), "of_the_batch": len(rows)},
        "effective_batch": recipe.trainer.effective_batch,
        "updates": {"epoch": epoch, "total": total, "warmup": math.ceil(total * recipe.trainer.warmup_ratio)},
        "evaluations": total // recipe.trainer.eval_steps,
        "tokens_per_row": tokens,
        "tokens_per_epoch": round(tokens["all"] * len(rows)),
        "estimates": {
            "memory_gib": round(memory_gib(config, count_parts(config), longest, recipe), 2),
            "teraflop_per_row": round(flops / 1e12, 3),
            "utilisation": UTILISATION,
            "seconds_per_update": {name: round(value, 3) for name, value in seconds.items()},
            "hours": {name: round(value * total / 3600, 3) for name, value in seconds.items()},
        },
    }


def _config(source: Any, recipe: VqaRecipe) -> AudioGraftConfig:
    config = AudioGraftConfig.from_folder(source)
    config.layout, config.stack = recipe.prompt.layout, recipe.prompt.stack
    config.projector, config.max_side = recipe.prompt.projector, recipe.prompt.max_side
    return config


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


def row_flops(config: AudioGraftConfig, parts: Parts, tokens: dict[str, float], recipe: VqaRecipe) -> float:
    """Floating-point operations of one row of the batch, forward and backward.

    Frozen towers run forward once. The language layers run forward, backward to their inputs, again
    forward where activations are recomputed, and backward to their weights where those are trained in full.
    """
    text = config.get_text_config()
    passes = 2 + recipe.trainer.gradient_checkpointing + (recipe.tune.parts == "full")
    attention = 2.0 * tokens["all"] ** 2 * text.hidden_size * text.num_hidden_layers
    language = (2.0 * parts.projections * tokens["all"] + attention) * passes
    towers = 2.0 * parts.vision * tokens["patches"] + 2.0 * parts.audio_encoder * tokens["encoder"]
    head = 2.0 * (parts.head or parts.embedding) * tokens["answer"] * 2
    return language + towers + head


def memory_gib(config: AudioGraftConfig, parts: Parts, longest: int, recipe: VqaRecipe) -> float:
    """Peak memory of a training step on one device; sharding (FSDP) is not taken into account."""
    text, tune = config.get_text_config(), recipe.tune
    width = _BYTES[tune.weights]
    projections = PRECISIONS["nf4"] if tune.quantise == "nf4" else width
    weights = parts.projections * projections + (parts.total - parts.projections) * width
    moments = 2 if "8bit" in recipe.trainer.optim else 8
    if tune.parts == "full":
        trained = float(parts.total - parts.vision - parts.audio_encoder) * (width + moments)
    else:
        lora = tune.lora_rank * parts.sides if tune.parts == "lora" else 0
        trained = float(lora + parts.audio_projector) * (4 + 4 + moments)
    compute = 2 if recipe.trainer.bf16 else 4
    tokens = longest * recipe.trainer.per_device_train_batch_size
    layer = tokens * compute * (16 * text.hidden_size + 8 * text.intermediate_size)
    kept = tokens * compute * text.num_hidden_layers * text.hidden_size
    activations = kept + layer if recipe.trainer.gradient_checkpointing else layer * text.num_hidden_layers
    return float(weights + trained + activations) / GIB + RUNTIME_GIB

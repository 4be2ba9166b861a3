"""What a run will be, before it starts: updates, tokens, memory and time. Nothing is loaded or written.

Updates and tokens are exact (tokens from a sample of rows). Memory and time are estimates: weights, trained
parameters with gradient and moments, kept activations; arithmetic at a stated share of a GPU's peak.
"""

from __future__ import annotations

import math
from typing import Any

from surgvivqa_audio.model.counts import count_parts
from surgvivqa_audio.model.info import GPUS
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.budget import (
    memory_gib,
    recipe_config,
    recomputes,
    row_flops,
    sample_rows,
    token_counts,
)
from surgvivqa_audio.training.vqa_data import Media, VqaRows, recipe_samples
from surgvivqa_audio.training.vqa_model import recipe_processor, source_folder
from surgvivqa_audio.training.vqa_recipe import VqaRecipe

UTILISATION = 0.35  # of the published peak; what a tuned training step of this size reaches


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
    processor = recipe_processor(source_folder(recipe), recipe.prompt)
    rows = VqaRows(train, media, processor)
    sample = sample_rows(rows)
    config, recompute = recipe_config(recipe), recomputes(recipe, train, media)
    parts, tokens = count_parts(config), token_counts(sample, processor)
    epoch, total = updates(len(rows), recipe)
    longest = max(len(row.example.ids) for row in sample)
    flops = row_flops(config, parts, tokens, recipe, recompute)
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
        "recompute_activations": recompute,
        "estimates": {
            "memory_gib": round(memory_gib(config, parts, longest, recipe, recompute), 2),
            "teraflop_per_row": round(flops / 1e12, 3),
            "utilisation": UTILISATION,
            "seconds_per_update": {name: round(value, 3) for name, value in seconds.items()},
            "hours": {name: round(value * total / 3600, 3) for name, value in seconds.items()},
        },
    }

"""The loss of a step's answers: each clip's prefix is read once and lent to the questions about it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.training.feature_cache import joined
from surgvivqa_audio.training.rows import Batch

_PARTS = 2  # passes of a step: half of the padding; more of them cost more than they save


def answer_loss(model: AudioGraft, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Weighted loss of the answer tokens; the prefixes' last hidden states (b, p, d); what to log.

    The language model must attend in the lean way (:func:`lean_attention`). The prefix is read once and its
    keys and values are lent to every question about the clip: short sequences, in parts of similar length,
    instead of one long packed row, whose attention would cost the square of its length.
    """
    prefix: dict[str, Any] = {**batch.prefix, "vision_features": batch.visual.flatten(0, 3)}
    length = batch.prefix["input_ids"].shape[1]
    positions, after = model.positions(**batch.prefix)
    read = model.hidden_states(
        **prefix, position_ids=positions, attention_mask=_causal(length, length), use_cache=True
    )
    chosen, kept = batch.labels[:, 1:] != IGNORE, read.past_key_values.layers
    states, logits = iter(batch.states), []
    for part in torch.arange(len(batch.ids)).chunk(_PARTS):
        size = int(chosen[part].nonzero()[:, 1].max()) + 2  # up to the longest answer's end
        ids, owner = batch.ids[part, :size], batch.owner[part]
        # index_select: the backward pass of plain indexing is several times slower
        lent = DynamicCache(
            [(layer.keys.index_select(0, owner), layer.values.index_select(0, owner)) for layer in kept]
        )
        spoken = int((ids == model.config.audio_token_id).any(dim=1).sum())
        sound = list(islice(states, spoken))
        heard: dict[str, Any] = joined(sound, [len(each) for each in sound]) if sound else {}
        places = after[owner][:, None] + torch.arange(size)
        outputs = model.hidden_states(
            ids,
            **heard,
            position_ids=places.expand(3, -1, -1),
            attention_mask=_causal(size, length + size),
            past_key_values=lent,
        )
        answers = outputs.last_hidden_state[:, :-1][chosen[part, : size - 1]]
        logits.append(model.get_output_embeddings()(answers).float())
    scores = torch.cat(logits)
    wanted = batch.labels[:, 1:][chosen]
    each = nn.functional.cross_entropy(scores, wanted, reduction="none")
    loss = (each * batch.weights).sum() / batch.weights.sum()
    decides = batch.weights == 1.0
    right = (scores.argmax(-1) == wanted)[decides].float().mean()
    logged = {"loss": round(loss.item(), 4), "right": round(right.item(), 4)}
    return loss, read.last_hidden_state, logged


def _causal(size: int, total: int) -> Any:
    """The last ``size`` of ``total`` tokens see what is before them; additive, (1, 1, size, total)."""
    later = torch.ones(size, total, dtype=torch.bool).triu(total - size + 1)
    mask = torch.zeros(size, total).masked_fill(later, torch.finfo(torch.float32).min)
    return {"full_attention": mask[None, None]}

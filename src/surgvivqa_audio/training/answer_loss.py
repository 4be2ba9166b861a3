"""The loss of a step's answers: each clip's prefix is read once and lent to the questions about it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.training.feature_cache import joined
from surgvivqa_audio.training.rows import Batch, Questions

_PARTS = 2  # passes of a step: half of the padding; more of them cost more than they save


def answer_loss(model: AudioGraft, batch: Batch) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """Weighted loss of the answer tokens; what it was read off; what to log.

    The language model must attend in the lean way (:func:`lean_attention`). The prefix is read once and its
    keys and values are lent to every question about the clip: short sequences, in parts of similar length,
    instead of one long packed row, whose attention would cost the square of its length.

    Returns:
        the loss; the prefixes' last hidden states (b, p, d); those before every answer token (tokens, d);
        what to log.
    """
    read, after = read_prefixes(model, batch)
    states = answer_states(model, batch.questions, read.past_key_values, after)
    scores = model.get_output_embeddings()(states).float()
    wanted = batch.questions.labels[batch.questions.labels != IGNORE]
    each = nn.functional.cross_entropy(scores, wanted, reduction="none")
    loss = (each * batch.weights).sum() / batch.weights.sum()
    decides = batch.weights == 1.0
    right = (scores.argmax(-1) == wanted)[decides].float().mean()
    logged = {"loss": round(loss.item(), 4), "right": round(right.item(), 4)}
    return loss, read.last_hidden_state, states, logged


def twin_loss(model: AudioGraft, batch: Batch, states: Tensor) -> Tensor:
    """How far the states before the answers to heard questions are from those to the same questions typed.

    Squared distance relative to the typed state, which is taken as it is; an answer token counts as much as
    the typed question makes it probable, so that nothing wrong is copied. What the wording tells the language
    model is the target for the sound of it; nothing is transcribed (after Held et al. 2024, "Distilling an
    End-to-End Voice Assistant Without Instruction Training Data", arXiv:2410.02678).

    Args:
        model: with the weights that answer typed questions, no adapter.
        batch: of the step.
        states: (tokens, d), as :func:`answer_loss` returns them.
    """
    if batch.twins is None:
        return states.new_zeros(())
    with torch.no_grad():
        read, after = read_prefixes(model, batch)
        typed = answer_states(model, batch.twins, read.past_key_values, after).float()
        wanted = batch.twins.labels[batch.twins.labels != IGNORE]
        scores = model.get_output_embeddings()(typed).float()
        trust = scores.softmax(-1).gather(1, wanted[:, None])[:, 0]
    answered = batch.questions.labels != IGNORE
    spoken = states[batch.twinned.repeat_interleave(answered.sum(dim=1))].float()
    apart = (spoken - typed).square().sum(-1) / typed.square().sum(-1)
    return (trust * apart).sum() / trust.sum()


def read_prefixes(model: AudioGraft, batch: Batch) -> tuple[Any, Tensor]:
    """The stock output for the prefixes of a step, with their cache; the positions after them, (b,)."""
    length = batch.prefix["input_ids"].shape[1]
    positions, after = model.positions(**batch.prefix)
    prefix: dict[str, Any] = {**batch.prefix, "vision_features": batch.visual.flatten(0, 3)}
    read = model.hidden_states(
        **prefix,
        position_ids=positions,
        attention_mask=_causal(length, length),
        use_cache=True,
    )
    return read, after


def answer_states(model: AudioGraft, questions: Questions, read: Any, after: Tensor) -> Tensor:
    """Last hidden states before every answer token, one question after the other, (tokens, d)."""
    chosen = questions.labels[:, 1:] != IGNORE
    length = read.get_seq_length()
    sounds, found = iter(questions.states), []
    for part in torch.arange(len(questions.ids)).chunk(_PARTS):
        size = int(chosen[part].nonzero()[:, 1].max()) + 2  # up to the longest answer's end
        ids, owner = questions.ids[part, :size], questions.owner[part]
        lent = DynamicCache([(layer.keys[owner], layer.values[owner]) for layer in read.layers])
        spoken = int((ids == model.config.audio_token_id).any(dim=1).sum())
        sound = list(islice(sounds, spoken))
        heard: Any = joined(sound, [len(each) for each in sound]) if sound else {}
        places = after[owner][:, None] + torch.arange(size)
        outputs = model.hidden_states(
            ids,
            **heard,
            position_ids=places.expand(3, -1, -1),
            attention_mask=_causal(size, length + size),
            past_key_values=lent,
        )
        found.append(outputs.last_hidden_state[:, :-1][chosen[part, : size - 1]])
    return torch.cat(found)


def _causal(size: int, total: int) -> Any:
    """The last ``size`` of ``total`` tokens see what is before them; additive, (1, 1, size, total)."""
    later = torch.ones(size, total, dtype=torch.bool).triu(total - size + 1)
    mask = torch.zeros(size, total).masked_fill(later, torch.finfo(torch.float32).min)
    return {"full_attention": mask[None, None]}

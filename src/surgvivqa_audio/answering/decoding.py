"""Other ways to an answer than the whole tree: its first branch, a greedy walk, free text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa_audio.answering.prefix import device_of
from surgvivqa_audio.answering.questions import Asked, hear, tree_states
from surgvivqa_audio.answering.trie import Trie
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.text import Layers, run_text
from surgvivqa_audio.processing.processor import AudioGraftProcessor


@dataclass(frozen=True)
class Jump:
    """A sentence and its log-probability among the choices the tree left open."""

    sentence: int
    log_prob: float


def jump_forward(
    model: AudioGraft, processor: AudioGraftProcessor, trie: Trie, asked: Asked, bucket: int = 0
) -> Jump:
    """Greedy decoding that may write only sentences of the tree, in one pass.

    All choices that the walk can meet are read together, behind the few nodes that lead to them (35 of the
    239 inner nodes of our answers); what has no alternative is neither predicted nor run, and at a choice
    only the head's rows of the allowed tokens are multiplied. Not exact as a search: a sentence that starts
    badly and ends well is lost, as in any greedy decoding.
    """
    hidden = tree_states(model, processor, trie.forks, [asked], bucket)[0]
    rows = {-1: 0} | {int(node): 1 + place for place, node in enumerate(trie.forking)}
    head: Any = model.get_output_embeddings()
    node, log_prob = -1, 0.0
    while choices := trie.children[node + 1]:
        best = 0
        if len(choices) > 1:
            allowed = head.weight[trie.tokens[list(choices)].to(hidden.device)]
            steps = (allowed @ hidden[rows[node]]).float().log_softmax(dim=0)
            best = int(steps.argmax())
            log_prob += float(steps[best])
        node = choices[best]
    ends = {path[-1]: index for index, path in enumerate(trie.paths)}
    return Jump(ends[node], log_prob)


def first_branch(
    model: AudioGraft, processor: AudioGraftProcessor, trie: Trie, asked: Asked, bucket: int = 0
) -> Tensor:
    """Exact log-probability (sentences,) of each sentence up to and including the tree's first choice.

    Sentences that part later share a value, which bounds the probability of each from above.
    """
    stem, choices = [], trie.children[0]
    while len(choices) == 1:
        stem.append(choices[0])
        choices = trie.children[choices[0] + 1]
    shared = trie.part(torch.tensor(stem, dtype=torch.int64))
    hidden = tree_states(model, processor, shared, [asked], bucket)[0]
    log_probs = model.get_output_embeddings()(hidden).float().log_softmax(dim=-1).cpu()
    depth = len(stem)
    before = log_probs[torch.arange(depth), shared.tokens].sum()
    if not choices:
        return before.expand(len(trie.paths))
    return before + log_probs[depth, trie.tokens[[path[depth] for path in trie.paths]]]


def generate(
    model: AudioGraft, processor: AudioGraftProcessor, asked: Asked, max_tokens: int, bucket: int = 0
) -> list[int]:
    """Greedy ids over the whole vocabulary, without the end token."""
    head, device = model.get_output_embeddings(), device_of(model)
    audio = None if asked.mel is None else hear(model, [asked.mel], bucket)
    past: Layers = asked.prefix.layers
    position, pending = asked.prefix.position, asked.ids
    written: list[int] = []
    while len(written) < max_tokens:
        embeddings = model.embed(torch.tensor([pending], device=device), audio)
        positions = torch.arange(position, position + len(pending), device=device)[None]
        hidden, past = run_text(model.vlm, embeddings, positions, past, keep=1)
        token = int(head(hidden[0, 0]).argmax())
        if token == processor.special.im_end:
            break
        written.append(token)
        position += len(pending)
        pending, audio = [token], None  # the sound has been read with the question
    return written

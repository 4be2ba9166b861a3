"""Other ways to an answer than the whole tree: its first branch, a greedy walk, free text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa_audio.answering.prefix import device_of
from surgvivqa_audio.answering.questions import Asked, hear
from surgvivqa_audio.answering.trie import Trie
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.text import Layers, run_text
from surgvivqa_audio.processing.processor import AudioGraftProcessor


@dataclass(frozen=True)
class Jump:
    """A sentence, its log-probability among the choices the tree left open, and the passes it took."""

    sentence: int
    log_prob: float
    passes: int


class _Writer:
    """Writes tokens behind a question; keys and values grow by what is written."""

    def __init__(self, model: AudioGraft, asked: Asked, bucket: int) -> None:
        self.model = model
        self.past: Layers = asked.prefix.layers
        self.position = asked.prefix.position
        self.audio = None if asked.mel is None else hear(model, [asked.mel], bucket)

    def write(self, ids: Sequence[int], last: int = 1) -> Tensor:
        """Hidden states (last, d) of the last of the new tokens."""
        device, size = device_of(self.model), len(ids)
        embeddings = self.model.embed(torch.tensor([list(ids)], device=device), self.audio)
        self.audio = None
        positions = torch.arange(self.position, self.position + size, device=device)[None]
        self.position += size
        keep = torch.arange(size - last, size, device=device)[None]
        hidden, self.past = run_text(self.model.vlm, embeddings, positions, self.past, keep=keep)
        return hidden[0]


def _forced(trie: Trie, node: int) -> tuple[list[int], int]:
    """Tokens that follow a node (-1: the root) without a choice, and the node where they end."""
    tokens = []
    while len(trie.children[node + 1]) == 1:
        node = trie.children[node + 1][0]
        tokens.append(int(trie.tokens[node]))
    return tokens, node


def jump_forward(
    model: AudioGraft, processor: AudioGraftProcessor, trie: Trie, asked: Asked, bucket: int = 0
) -> Jump:
    """Greedy decoding that may write only sentences of the tree.

    Tokens without an alternative are not predicted but written along with the next pass, and at a choice only
    the head's rows of the allowed tokens are multiplied. Not exact as a search: a sentence that starts
    badly and ends well is lost, as in any greedy decoding.
    """
    ends = {path[-1]: index for index, path in enumerate(trie.paths)}
    head: Any = model.get_output_embeddings()
    weight: Tensor = head.weight
    writer = _Writer(model, asked, bucket)
    forced, node = _forced(trie, -1)
    pending, log_prob, passes = [*asked.ids, *forced], 0.0, 0
    while trie.children[node + 1]:
        hidden = writer.write(pending)[0]
        passes += 1
        choices = list(trie.children[node + 1])
        allowed = weight[trie.tokens[choices].to(weight.device)]
        steps = (allowed @ hidden).float().log_softmax(dim=0)
        best = int(steps.argmax())
        log_prob += float(steps[best])
        forced, end = _forced(trie, choices[best])
        pending, node = [int(trie.tokens[choices[best]]), *forced], end
    return Jump(ends[node], log_prob, passes)


def first_branch(
    model: AudioGraft, processor: AudioGraftProcessor, trie: Trie, asked: Asked, bucket: int = 0
) -> Tensor:
    """Exact log-probability (sentences,) of each sentence up to and including the tree's first choice.

    Sentences that part later share a value, which bounds the probability of each from above.
    """
    forced, node = _forced(trie, -1)
    writer = _Writer(model, asked, bucket)
    hidden = writer.write([*asked.ids, *forced], last=1 + len(forced))
    log_probs = model.get_output_embeddings()(hidden).float().log_softmax(dim=-1)
    shared = sum(float(log_probs[at, token]) for at, token in enumerate(forced))
    choices = {int(child): int(trie.tokens[child]) for child in trie.children[node + 1]}
    if not choices:
        return torch.full((len(trie.paths),), shared)
    depth = len(forced)
    return torch.stack([log_probs[-1, choices[path[depth]]] + shared for path in trie.paths]).cpu()


def generate(
    model: AudioGraft, processor: AudioGraftProcessor, asked: Asked, max_tokens: int, bucket: int = 0
) -> list[int]:
    """Greedy ids over the whole vocabulary, without the end token."""
    writer = _Writer(model, asked, bucket)
    head = model.get_output_embeddings()
    written: list[int] = []
    pending = asked.ids
    while len(written) < max_tokens:
        token = int(head(writer.write(pending)).argmax())
        if token == processor.special.im_end:
            break
        written.append(token)
        pending = [token]
    return written

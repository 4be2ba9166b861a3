"""All answer sentences as one tree of tokens, scored in a single pass with a tree mask.

Every node sees the prefix, the question and its own ancestors, so its logits equal those of the sentence
alone; the probability of a sentence is the product along its path, end token included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trie:
    """Nodes in breadth-first order; node 0 would be the root, which is the question's last token.

    ``tokens`` (n,), ``parents`` (n,) with -1 for children of the root, ``depths`` (n,) starting at 0,
    ``visible`` (n, n) bool: row sees column. ``paths``: node indices of every sentence.
    """

    tokens: Tensor
    parents: Tensor
    depths: Tensor
    visible: Tensor
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)


def build_trie(sentences: Sequence[Sequence[int]]) -> Trie:
    """Token sequences (each with its end token) -> one tree that shares common beginnings."""
    index: dict[tuple[int, ...], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    for depth in range(max(len(sentence) for sentence in sentences)):
        for sentence in sentences:
            if depth >= len(sentence):
                continue
            path = tuple(sentence[: depth + 1])
            if path not in index:
                index[path] = len(tokens)
                tokens.append(path[-1])
                parents.append(index[path[:-1]] if depth else -1)
                depths.append(depth)
    visible = torch.eye(len(tokens), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    paths = tuple(
        tuple(index[tuple(sentence[: depth + 1])] for depth in range(len(sentence))) for sentence in sentences
    )
    return Trie(torch.tensor(tokens), torch.tensor(parents), torch.tensor(depths), visible, paths)


def tree_mask(prefix: int, question: int, trie: Trie) -> Tensor:
    """(question + n, prefix + question + n) bool: question causal, nodes see their ancestors."""
    nodes = len(trie)
    mask = torch.zeros(question + nodes, prefix + question + nodes, dtype=torch.bool)
    mask[:, :prefix] = True
    mask[:question, prefix : prefix + question] = torch.ones(question, question, dtype=torch.bool).tril()
    mask[question:, prefix : prefix + question] = True
    mask[question:, prefix + question :] = trie.visible
    return mask


def sentence_log_probs(logits: Tensor, trie: Trie) -> Tensor:
    """Log-probability of every sentence.

    Args:
        logits: (1 + n, vocabulary): at the question's last token, then at every node.
        trie: the tree the logits belong to.

    Returns:
        (sentences,) float32.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    rows = (trie.parents + 1).to(logits.device)
    steps = log_probs[rows, trie.tokens.to(logits.device)]
    return torch.stack([steps[list(path)].sum() for path in trie.paths])

"""All answer sentences as one tree of tokens, scored in a single pass with a tree mask.

Every node sees the prefix, the question and its own ancestors, so its logits equal those of the sentence
alone; the probability of a sentence is the product along its path, end token included. Nodes without
children predict nothing that is asked for and are not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

_LOGITS = 2_000_000  # most of them at a time, 8 MB in fp32: 6,369 words of the vocabulary for 314 rows


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

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Children of the root, then of every node: entry ``i + 1`` belongs to node ``i``."""
        found: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents.tolist()):
            found[parent + 1].append(node)
        return tuple(tuple(row) for row in found)

    @cached_property
    def inner(self) -> Tensor:
        """Nodes that have children, (i,): all that must be run."""
        return torch.tensor([node for node in range(len(self)) if self.children[node + 1]], dtype=torch.int64)

    @cached_property
    def trunk(self) -> Trie:
        """The tree of the inner nodes alone."""
        return self.part(self.inner)

    @cached_property
    def forking(self) -> Tensor:
        """Nodes at which, or below which, there is a choice, (f,): what a walk down the tree looks at."""
        leads = [len(row) > 1 for row in self.children[1:]]
        for node in reversed(range(len(self))):  # a parent comes before its children
            parent = int(self.parents[node])
            if parent >= 0:
                leads[parent] = leads[parent] or leads[node]
        return torch.tensor([node for node, one in enumerate(leads) if one], dtype=torch.int64)

    @cached_property
    def forks(self) -> Trie:
        """The tree of the forking nodes alone."""
        return self.part(self.forking)

    def part(self, keep: Tensor) -> Trie:
        """The tree of some nodes (k,), of each all that stand above it; it has no paths."""
        place = {int(node): index for index, node in enumerate(keep)}
        parents = torch.tensor([place.get(int(self.parents[node]), -1) for node in keep], dtype=torch.int64)
        return Trie(self.tokens[keep], parents, self.depths[keep], self.visible[keep][:, keep], ())

    @cached_property
    def rows(self) -> Tensor:
        """For every node the row whose logits predict it, (n,): 0 the root, 1 + i the i-th inner node."""
        place = torch.zeros(len(self) + 1, dtype=torch.int64)
        place[self.inner + 1] = torch.arange(1, len(self.inner) + 1)
        return place[self.parents + 1]

    @cached_property
    def by_token(self) -> tuple[Tensor, Tensor]:
        """Nodes ordered by their token, (n,), and those tokens in order: so the nodes of a stretch of the
        vocabulary can be read off together."""
        order = self.tokens.argsort()
        return order, self.tokens[order]

    @cached_property
    def table(self) -> Tensor:
        """``paths`` as (sentences, longest), filled with n, the index of a step of log-probability 0."""
        longest = max(len(path) for path in self.paths)
        return torch.tensor([[*path, *[len(self)] * (longest - len(path))] for path in self.paths])


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


def tree_mask(prefix: int, question: int, trie: Trie, length: int | None = None) -> Tensor:
    """(question + n, prefix + question + n) bool: question causal, nodes see their ancestors.

    ``length``: true tokens of a question that is padded to ``question``; nodes do not see the padding.
    """
    nodes = len(trie)
    mask = torch.zeros(question + nodes, prefix + question + nodes, dtype=torch.bool)
    mask[:, :prefix] = True
    mask[:question, prefix : prefix + question] = torch.ones(question, question, dtype=torch.bool).tril()
    mask[question:, prefix : prefix + (question if length is None else length)] = True
    mask[question:, prefix + question :] = trie.visible
    return mask


def sentence_log_probs(hidden: Tensor, head: Tensor, trie: Trie) -> Tensor:
    """Exact log-probability of every sentence over the whole vocabulary.

    The head is multiplied by stretches of the vocabulary, so that its weights are read once for all rows and
    the logits of a stretch stay in the cache; what is kept of it is its part of every row's normaliser.

    Args:
        hidden: (b, 1 + i, d): at the question's last token, then at every inner node.
        head: weights of the head, (vocabulary, d).
        trie: the tree that the states belong to.

    Returns:
        (b, sentences) float32.
    """
    batch, count = hidden.shape[:2]
    order, tokens = (part.to(hidden.device) for part in trie.by_token)
    rows = trie.rows.to(hidden.device)[order]
    steps = hidden.new_zeros(batch, len(trie) + 1, dtype=torch.float32)
    size = max(1, _LOGITS // (batch * count))
    starts = range(0, len(head), size)
    edges = torch.searchsorted(trie.by_token[1], torch.tensor([*starts, len(head)])).tolist()
    parts = []
    for start, first, last in zip(starts, edges, edges[1:], strict=False):
        logits = functional.linear(hidden, head[start : start + size]).float()
        parts.append(logits.logsumexp(dim=-1))
        steps[:, order[first:last]] = logits[:, rows[first:last], tokens[first:last] - start]
    normaliser = torch.stack(parts).logsumexp(dim=0)
    steps[:, order] -= normaliser[:, rows]
    return steps[:, trie.table.to(hidden.device)].sum(dim=-1)

"""All answer sentences as one tree of tokens, scored in a single pass with a tree mask.

Every node sees the prefix, the question and its own ancestors, so its logits equal those of the sentence
alone; the probability of a sentence is the product along its path, end token included. Nodes without
children predict nothing that is asked for and are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_LOGITS = 10_000_000  # most of them at a time, 40 MB in fp32: 65 rows of a vocabulary of 152k, all of nano's


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
        """The tree of the inner nodes alone; it has no paths."""
        keep = self.inner
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
    def by_row(self) -> tuple[Tensor, list[int]]:
        """Nodes ordered by the row that predicts them, (n,), and where each row's begin, 2 + i numbers: so
        the nodes of neighbouring rows can be read off together."""
        order = self.rows.argsort()
        starts = torch.searchsorted(self.rows[order], torch.arange(len(self.inner) + 2))
        return order, starts.tolist()

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


def sentence_log_probs(
    hidden: Tensor, head: Callable[[Tensor], Tensor], trie: Trie, vocabulary: int
) -> Tensor:
    """Exact log-probability of every sentence over the whole vocabulary.

    Args:
        hidden: (b, 1 + i, d): at the question's last token, then at every inner node.
        head: (rows, d) -> (rows, vocabulary).
        trie: the tree that the states belong to.
        vocabulary: how many logits the head gives for a row.

    Returns:
        (b, sentences) float32.
    """
    batch, count = hidden.shape[:2]
    rows, tokens = trie.rows.to(hidden.device), trie.tokens.to(hidden.device)
    order, starts = trie.by_row
    order = order.to(hidden.device)
    steps = hidden.new_zeros(batch, len(trie) + 1, dtype=torch.float32)
    size = max(1, _LOGITS // (batch * vocabulary))
    for start in range(0, count, size):
        stop = min(start + size, count)
        known = head(hidden[:, start:stop]).float().log_softmax(dim=-1)
        nodes = order[starts[start] : starts[stop]]
        steps[:, nodes] = known[:, rows[nodes] - start, tokens[nodes]]
    return steps[:, trie.table.to(hidden.device)].sum(dim=-1)

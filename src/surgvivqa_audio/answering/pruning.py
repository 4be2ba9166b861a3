"""The whole tree without its hopeless parts: the same answer, every probability within a stated error.

A sentence is never more probable than its beginning. Once one sentence is scored to its end, every branch
whose beginning is already ``epsilon`` times less probable can be left out. What is left out keeps the
log-probability of its beginning, an upper bound, so no option's probability is off by more than the number
of sentences times ``epsilon``. A trained model needs two short passes instead of one over all nodes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.answering.prefix import device_of
from surgvivqa_audio.answering.questions import Asked, hear
from surgvivqa_audio.answering.trie import Trie
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.packing import additive_mask

EPSILON = 1e-7
_FIRST_MASS = 0.999  # branches that together hold this share of the first choice are run before the others


class _Search:
    """Scores of one question, grown branch by branch. ``steps`` (n,): log-probability of every node, NaN
    where it is not known yet."""

    def __init__(self, model: AudioGraft, trie: Trie, asked: Asked, bucket: int) -> None:
        self.model, self.trie, self.asked = model, trie, asked
        self.cache: DynamicCache = asked.prefix.fork()
        self.audio = None if asked.mel is None else hear(model, [asked.mel], bucket)
        self.steps = torch.full((len(trie),), torch.nan)
        self.run: list[int] = []  # nodes in the order in which they stand in the cache, behind the question
        self.tokens, self.depths = trie.tokens.tolist(), trie.depths.tolist()

    def extend(self, nodes: list[int], ids: list[int]) -> None:
        """Run ``ids`` (the question, or nothing) and tree nodes in one pass; note what they predict."""
        device, prefix = device_of(self.model), self.asked.prefix
        asked = len(self.asked.ids)
        row = torch.tensor([[*ids, *(self.tokens[node] for node in nodes)]], device=device)
        embeddings = self.model.embed(row, self.audio)
        self.audio = None
        offsets = [*range(len(ids)), *(asked + self.depths[node] for node in nodes)]
        positions = prefix.position + torch.tensor(offsets, device=device)
        earlier, self.run = self.run, [*self.run, *nodes]
        mask = torch.zeros(len(ids) + len(nodes), prefix.length + asked + len(self.run), dtype=torch.bool)
        mask[:, : prefix.length] = True
        first = prefix.length + asked
        if ids:
            mask[:asked, prefix.length : first] = torch.ones(asked, asked, dtype=torch.bool).tril()
        mask[len(ids) :, prefix.length : first] = True
        mask[len(ids) :, first:] = self.trie.visible[nodes][:, earlier + nodes]
        outputs = self.model.vlm.model(
            inputs_embeds=embeddings,
            position_ids=positions.expand(3, 1, -1),
            attention_mask=additive_mask(mask[None, None].to(device), embeddings.dtype),
            past_key_values=self.cache,
            use_cache=True,
        )
        rows = list(range(len(ids) - 1 if ids else 0, len(ids) + len(nodes)))
        logits = self.model.get_output_embeddings()(outputs.last_hidden_state[0, rows]).float()
        self._note([-1, *nodes] if ids else nodes, logits)

    def _note(self, nodes: list[int], logits: Tensor) -> None:
        pairs = [(at, child) for at, node in enumerate(nodes) for child in self.trie.children[node + 1]]
        at = torch.tensor([row for row, _ in pairs], device=logits.device)
        children = torch.tensor([child for _, child in pairs])
        picked = logits[at, self.trie.tokens[children].to(logits.device)] - logits.logsumexp(dim=-1)[at]
        self.steps[children] = picked.cpu()

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Sum (sentences,) of the known beginning of every sentence, and whether that is all of it."""
        known = torch.cat([self.steps, torch.zeros(1)])[self.trie.table]
        missing = known.isnan()
        return known.masked_fill(missing, 0).sum(dim=-1), ~missing.any(dim=-1)

    def below(self, sentences: list[int]) -> list[int]:
        """Inner nodes of these sentences that have not run, in the order of the tree."""
        done = set(self.run)
        wanted = {node for index in sentences for node in self.trie.paths[index][:-1]}
        return sorted(wanted - done)


def score_pruned(
    model: AudioGraft,
    trie: Trie,
    asked: Asked,
    *,
    temperature: float = 1.0,
    epsilon: float = EPSILON,
    bucket: int = 0,
) -> Tensor:
    """Log-probability (sentences,) of every sentence: exact, or an upper bound for the hopeless.

    Args:
        model: the graft.
        trie: all sentences.
        asked: question and prefix.
        temperature: by which log-probabilities will be divided; a higher one keeps more branches.
        epsilon: share of the best sentence's probability below which a branch is left out.
        bucket: see :func:`~surgvivqa_audio.answering.questions.hear`.
    """
    search = _Search(model, trie, asked, bucket)
    first = [node for node in trie.children[0] if trie.children[node + 1]]
    search.extend(first, list(asked.ids))
    bound, complete = search.bounds()
    share = (bound / temperature).softmax(dim=0)
    order = share.argsort(descending=True)
    count = int((share[order].cumsum(dim=0) < _FIRST_MASS).sum()) + 1
    margin = temperature * math.log(epsilon)
    wanted = [int(index) for index in order[:count] if not complete[index]]
    while wanted:
        nodes = search.below(wanted)
        search.extend(nodes, [])
        bound, complete = search.bounds()
        best = bound[complete].max()
        wanted = [int(index) for index in ((bound > best + margin) & ~complete).nonzero()[:, 0]]
    return bound

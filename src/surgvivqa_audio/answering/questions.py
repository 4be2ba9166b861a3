"""Questions behind their prefixes: sound to features, one pass over question and tree, sentence scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surgvivqa_audio.answering.prefix import Prefix, device_of, joined
from surgvivqa_audio.answering.trie import Trie, sentence_log_probs, tree_mask
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.text import run_text
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Mel, Spoken


@dataclass(frozen=True)
class Asked:
    """One question behind one prefix. ``ids``: [question][assistant]; ``mel`` (m, t) or None."""

    prefix: Prefix
    ids: list[int]
    mel: Mel | None

    @classmethod
    def of(cls, processor: AudioGraftProcessor, prefix: Prefix, question: Spoken) -> Asked:
        """Token ids of a question; the sound is kept only where the mode listens."""
        mel = question.mel if "audio" in question.mode else None
        return cls(prefix, processor.question_ids(question), mel)

    @property
    def mel_frames(self) -> int:
        """Log-mel frames, 0 without sound."""
        return 0 if self.mel is None else int(self.mel.shape[-1])


def hear(model: AudioGraft, mels: Sequence[Mel], bucket: int = 0) -> list[Tensor]:
    """Audio features (a, d) of every recording; a bucket pads them to a multiple of its log-mel frames.

    The encoder masks what was padded, so the features are those of the true length.
    """
    features, lengths = batch_mels(mels)
    if bucket:
        limit = 2 * model.audio_encoder.max_source_positions
        size = min(-(-features.shape[-1] // bucket) * bucket, limit)
        features = torch.nn.functional.pad(features, (0, max(0, size - features.shape[-1])))
    device = device_of(model)
    return model.get_audio_features(features.to(device), lengths.to(device))


def score_rows(
    model: AudioGraft, processor: AudioGraftProcessor, trie: Trie, asked: Sequence[Asked], bucket: int = 0
) -> Tensor:
    """Log-probability of every sentence for every question, (b, sentences), in one pass."""
    hidden = tree_states(model, processor, trie.trunk, asked, bucket)
    head: Any = model.get_output_embeddings()
    return sentence_log_probs(hidden, head.weight, trie)


def tree_states(
    model: AudioGraft, processor: AudioGraftProcessor, tree: Trie, asked: Sequence[Asked], bucket: int = 0
) -> Tensor:
    """Hidden states (b, 1 + n, d) of every question's last token and of the n nodes of a tree behind it.

    The prefixes must have one length. Questions are padded between question and tree; nothing sees the
    padding, and positions skip it.
    """
    device = device_of(model)
    prefix = asked[0].prefix.length
    lengths = [len(one.ids) for one in asked]
    size, nodes = max(lengths), len(tree)
    pad = processor.special.pad
    tokens = tree.tokens.tolist()
    ids = torch.tensor([[*one.ids, *[pad] * (size - len(one.ids)), *tokens] for one in asked])
    offsets = torch.stack([torch.cat([torch.arange(size), length + tree.depths]) for length in lengths])
    positions = torch.tensor([[one.prefix.position] for one in asked]) + offsets
    equal = min(lengths) == size
    masks = [tree_mask(prefix, size, tree, length) for length in (lengths[:1] if equal else lengths)]
    mels = [one.mel for one in asked if one.mel is not None]
    embeddings = model.embed(ids.to(device), hear(model, mels, bucket) if mels else None)
    rows: Tensor | int = 1 + nodes  # the question's last token and the tree, which follows it
    if not equal:
        chosen = [[length - 1, *range(size, size + nodes)] for length in lengths]
        rows = torch.tensor(chosen, device=device)
    hidden, _ = run_text(
        model.vlm,
        embeddings,
        positions.to(device),
        joined([one.prefix for one in asked]),
        torch.stack(masks).to(device),
        rows,
    )
    return hidden

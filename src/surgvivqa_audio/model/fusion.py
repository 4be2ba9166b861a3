"""Audio features take the place of their placeholder tokens: a pure function with a check per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from surgvivqa_audio.errors import PlaceholderMismatch


def splice_audio(embeddings: Tensor, ids: Tensor, features: list[Tensor], audio_token_id: int) -> Tensor:
    """Replace placeholder embeddings by audio features.

    Args:
        embeddings: (b, s, d).
        ids: token ids, (b, s).
        features: one (a, d) tensor per recording, in the order in which their placeholders stand in the
            batch (row by row). A row may hold several recordings (packed questions) or none.
        audio_token_id: the placeholder.

    Returns:
        (b, s, d), a new tensor.

    Raises:
        PlaceholderMismatch: the runs of placeholders of a row do not have exactly the lengths of its
            recordings.
    """
    mask = ids == audio_token_id
    runs = placeholder_runs(mask)
    lengths = [feature.shape[0] for feature in features]
    if [length for _, length in runs] != lengths:
        for index, (row, length) in enumerate(runs):
            given = lengths[index] if index < len(lengths) else 0
            if given != length:
                raise PlaceholderMismatch(
                    f"row {row} of the batch: {length} audio placeholders for {given} audio features "
                    f"(recording {index})"
                )
        raise PlaceholderMismatch(f"{len(features)} recordings for {len(runs)} runs of audio placeholders")
    if not features:
        return embeddings
    return embeddings.masked_scatter(mask[..., None], torch.cat(features).to(embeddings.dtype))


def placeholder_runs(mask: Tensor) -> list[tuple[int, int]]:
    """Runs of true values of (b, s), row by row, as ``(row, length)``."""
    runs: list[tuple[int, int]] = []
    for row, flags in enumerate(mask.tolist()):
        length = 0
        for flag in [*flags, False]:
            if flag:
                length += 1
            elif length:
                runs.append((row, length))
                length = 0
    return runs

"""Several questions behind one visual prefix: who may see whom, and where positions restart.

``segments`` (b, s) names the block of each token: 0 the shared prefix, 1, 2, … the questions with their
answers, -1 padding. Prefix tokens are causal; a question sees the prefix and itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_mask(segments: Tensor) -> Tensor:
    """(b, s) segments -> (b, 1, s, s) bool, true where a query (row) may see a key (column).

    Padding sees itself only, so that no softmax row is empty.
    """
    size = segments.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = causal & ((key == 0) | (key == query)) & (key >= 0) & (query >= 0)
    diagonal = torch.eye(size, dtype=torch.bool, device=segments.device)
    return (allowed | diagonal)[:, None]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool mask -> additive mask: 0 where allowed, the lowest finite value elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def packed_positions(prefix_positions: Tensor, prefix_next: Tensor, segments: Tensor) -> Tensor:
    """Continue the prefix's M-RoPE positions into every question, each from the same start.

    Args:
        prefix_positions: (3, b, s), valid where ``segments == 0``.
        prefix_next: first position after the prefix, (b,).
        segments: (b, s).

    Returns:
        (3, b, s) position ids.
    """
    batch, size = segments.shape
    index = torch.arange(size, device=segments.device).expand(batch, size)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    first = torch.where(starts, index, torch.zeros_like(index)).cummax(dim=1).values
    offsets = prefix_next[:, None] + index - first
    return torch.where(segments[None] == 0, prefix_positions, offsets[None].expand(3, -1, -1))

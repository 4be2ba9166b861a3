"""What the vision tower is asked for while it is pretrained; these heads are not shipped.

Every visual token predicts what its cell holds, how it moves and where it is; pooled tokens answer every
question type of the clip. Both reach the tower directly, long before the language model can read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip

_FLOW_PX = 1.5  # typical motion between two frames, so that the target is of order 1
_MAX_SLICES = 8
# Share of a cell from which on a lesion, a tool or fluid is in it; and that from which on the cell says which
# lesion or tool it is. A lesion below 5 mm covers 5 to 15 % of one cell, or a part of that of two.
_PRESENT = torch.tensor([0.015, 0.04, 0.04])
_OCCUPIED = (0.03, 0.08)
_KIND_WEIGHT, _FLOW_WEIGHT = 0.3, 2.0
_FOUND_WEIGHT = torch.tensor([4.0, 2.0, 1.0])  # lesion, tool and fluid cells against empty ones
# What the cells of a thing, or all cells, say about the whole: question type -> column of the occupancy.
_CELL_TYPES = {
    "lesion_histology_extended": 0,
    "lesion_size_range": 0,
    "tool_identification": 1,
    "lesion_site": None,
}
_MIRROR = {"left": "right", "right": "left"}
_REVERSE = {
    "lesion_motion_direction": {"up": "down", "down": "up", "left": "right", "right": "left"},
    "scope_motion_type": {"advancing": "withdrawing", "withdrawing": "advancing"},
    "scope_forward_motion": {"yes": "no", "no": "yes"},
    "scope_backward_motion": {"yes": "no", "no": "yes"},
}


def mirror(clip: PoolClip) -> PoolClip:
    """The clip seen in a mirror: left and right change places, in the answers too."""
    answers = dict(clip.answers)
    for name in ("lesion_screen_position", "lesion_motion_direction"):
        if name in answers:
            *row, side = answers[name].split("-")
            answers[name] = "-".join([*row, _MIRROR.get(side, side)])
    flow = clip.flow[:, :, ::-1] * np.array([-1, 1], dtype=np.float32)
    centre = np.stack([clip.frames.shape[2] - 1 - clip.centre[:, 0], clip.centre[:, 1]], axis=-1)
    return replace(
        clip,
        frames=clip.frames[:, :, ::-1],
        answers=answers,
        occupancy=clip.occupancy[:, :, ::-1],
        flow=flow,
        centre=centre.astype(np.float32),
    )


def reverse(clip: PoolClip) -> PoolClip:
    """The clip played backwards: every motion is the opposite one."""
    answers = {name: _REVERSE.get(name, {}).get(short, short) for name, short in clip.answers.items()}
    return replace(
        clip,
        frames=clip.frames[::-1],
        answers=answers,
        occupancy=clip.occupancy[::-1],
        flow=-clip.flow[::-1],
        centre=clip.centre[::-1],
    )


def displace(clip: PoolClip, right: int, down: int, gains: NDArray[np.float64]) -> PoolClip:
    """The clip moved on the screen by so many px, black where nothing is left, and its three channels
    brightened by ``gains`` (3,). For a few px: the answers stay, cells take a share of their neighbours."""
    _, height, width, _ = clip.frames.shape
    table = np.clip(np.arange(256) * gains[:, None], 0, 255).astype(np.uint8).ravel().tolist()
    kept = clip.frames[:, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    frames = np.zeros_like(clip.frames)
    rows, columns = max(down, 0), max(right, 0)
    stacked = Image.fromarray(np.ascontiguousarray(kept).reshape(-1, kept.shape[2], 3))
    frames[:, rows : rows + kept.shape[1], columns : columns + kept.shape[2]] = np.asarray(
        stacked.point(table)
    ).reshape(kept.shape)
    occupancy = clip.occupancy
    for axis, pixels, side in ((1, down, height), (2, right, width)):
        share = np.float32(abs(pixels) / (side / occupancy.shape[axis]))
        occupancy = (1 - share) * occupancy + share * _neighbour(occupancy, axis, 1 if pixels > 0 else -1)
    moved = np.array([right, down], dtype=np.float32)
    return replace(clip, frames=frames, occupancy=occupancy, centre=clip.centre + moved)


def _neighbour(cells: NDArray[np.float32], axis: int, step: int) -> NDArray[np.float32]:
    """Every cell's neighbour on the side the picture comes from; nothing past the border."""
    rolled = np.roll(cells, step, axis)
    border = [slice(None)] * cells.ndim
    border[axis] = slice(0, 1) if step > 0 else slice(-1, None)
    rolled[tuple(border)] = 0
    return rolled


class TokenHeads(nn.Module):
    """What every token says: occupancy (3), flow (2), row (4), column (4), lesion centre (2) and drift (2);
    and, where a lesion or a tool is, which one."""

    def __init__(self, width: int, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.place = nn.Linear(width, 3 + 2 + 4 + 4 + 2 + 2)
        self.kinds = {name: [answer.short for answer in taxonomy.types[name].answers] for name in _CELL_TYPES}
        self.kind = nn.ModuleDict({name: nn.Linear(width, len(each)) for name, each in self.kinds.items()})

    def loss(self, tokens: Tensor, clips: Sequence[PoolClip], kinds: float = 1.0) -> Tensor:
        """Mean loss over the targets of all visual tokens (b, slices, grid, grid, d).

        ``kinds`` scales what is asked of lesion and tool cells. From the first step at full weight it drowns
        the motion targets: a tower trained so named every lesion and no motion.
        """
        total = place_loss(self.place(tokens).float(), clips)
        occupancy = torch.from_numpy(np.stack([clip.occupancy for clip in clips]))
        for name, column in _CELL_TYPES.items():
            shorts = self.kinds[name]
            answers = [clip.answers.get(name) for clip in clips]
            rows = torch.tensor([answer is not None for answer in answers])
            if column is None:
                cells = torch.ones(occupancy.shape[:-1], dtype=torch.bool)
            else:
                cells = occupancy[..., column] > _OCCUPIED[column]
            cells = cells & rows[:, None, None, None]
            if cells.any():
                number = torch.tensor([0 if each is None else shorts.index(each) for each in answers])
                wanted = number[:, None, None, None].expand_as(cells)[cells]
                logits = self.kind[name](tokens[cells]).float()
                total = total + kinds * _KIND_WEIGHT * nn.functional.cross_entropy(logits, wanted)
        return total


def place_loss(predicted: Tensor, clips: Sequence[PoolClip]) -> Tensor:
    """Occupancy, motion and position; ``predicted`` (b, slices, grid, grid, outputs)."""
    grid, size = predicted.shape[2], clips[0].frames.shape[1]
    occupancy = torch.from_numpy(np.stack([clip.occupancy for clip in clips]))
    flow = torch.from_numpy(np.stack([clip.flow for clip in clips])).nan_to_num().clamp(-8, 8)
    centre = torch.from_numpy(np.stack([clip.centre for clip in clips]))
    present = (occupancy > _PRESENT).float()
    loss = nn.functional.binary_cross_entropy_with_logits(
        predicted[..., :3], present, pos_weight=_FOUND_WEIGHT
    )
    loss = loss + _FLOW_WEIGHT * nn.functional.smooth_l1_loss(predicted[..., 3:5], flow / _FLOW_PX)
    index = torch.arange(grid).expand(*predicted.shape[:2], grid, grid)
    for start, target in ((5, index.transpose(2, 3)), (9, index)):
        logits = predicted[..., start : start + 4]
        loss = loss + 0.25 * nn.functional.cross_entropy(logits.reshape(-1, 4), target.reshape(-1))
    place = (centre[:, 0::2] + centre[:, 1::2]) / 2
    drift = (place - centre[:, :1]) / (size * 0.1)
    wanted = torch.cat([place / size - 0.5, drift], dim=-1)[:, :, None, None, :].expand(
        -1, -1, grid, grid, -1
    )
    known = ~wanted.isnan()
    if known.any():
        loss = loss + nn.functional.smooth_l1_loss(predicted[..., 13:17][known], wanted[known])
    return loss


class TypeHeads(nn.Module):
    """One attention-pooled classifier per question type over the visual tokens of a clip."""

    def __init__(self, width: int, grid: int, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.labels = {
            name: {answer.short: index for index, answer in enumerate(kind.answers)}
            for name, kind in taxonomy.types.items()
        }
        self.place = nn.Parameter(torch.zeros(_MAX_SLICES, grid, grid, width))
        self.value = nn.Linear(width, width)
        self.query = nn.Linear(width, len(self.labels))
        self.answer = nn.ModuleList(nn.Linear(width, len(shorts)) for shorts in self.labels.values())

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (b, slices, grid, grid, d) -> logits (b, answers) of every type."""
        placed = (tokens + self.place[: tokens.shape[1]]).flatten(1, 3)
        weights = self.query(placed).softmax(dim=1)
        pooled = torch.einsum("bnk,bnd->kbd", weights, nn.functional.gelu(self.value(placed)))
        return [head(each) for head, each in zip(self.answer, pooled, strict=True)]

    def targets(self, clips: Sequence[PoolClip]) -> list[Tensor]:
        """Per type, the answer's number (b,), -100 where the clip does not say."""
        return [
            torch.tensor([shorts.get(clip.answers.get(name, ""), -100) for clip in clips])
            for name, shorts in self.labels.items()
        ]

    def loss(
        self, tokens: Tensor, clips: Sequence[PoolClip], counts: Counter[tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over what is known, rare answers weighted up; and the share that is right."""
        total, right, known = tokens.new_zeros(()), 0, 0
        weight_sum = 0.0
        for (name, shorts), logits, target in zip(
            self.labels.items(), self(tokens), self.targets(clips), strict=True
        ):
            rows = target != -100
            if not rows.any():
                continue
            present = [max(counts[name, short], 1) for short in shorts]
            mean = sum(counts[name, short] for short in shorts) / len(shorts)
            weights = torch.tensor([(mean / count) ** 0.75 for count in present])
            total = total + nn.functional.cross_entropy(
                logits[rows].float(), target[rows], weight=weights, reduction="sum"
            )
            weight_sum += float(weights[target[rows]].sum())
            right += int((logits[rows].argmax(-1) == target[rows]).sum())
            known += int(rows.sum())
        return total / weight_sum, torch.tensor(right / known)

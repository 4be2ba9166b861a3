"""Stage 0b, first half: the vision tower learns from what the simulator knows, without any language.

A tower step costs a third of a step through the language model, and its targets say *where* in the clip the
answer is; motion, tools and colours leave their floor within 250 steps instead of 900.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from surgvivqa_audio.colonsim import CLIP_FPS
from surgvivqa_audio.files import write_bytes
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip, answer_counts
from surgvivqa_audio.training.cpu import frozen
from surgvivqa_audio.training.feature_cache import tower_digest
from surgvivqa_audio.training.lean import lean_vision
from surgvivqa_audio.training.loop import Loop, LoopConfig, Progress
from surgvivqa_audio.training.vision_heads import TokenHeads, TypeHeads, displace, mirror, reverse

VIEWS = 4  # as it is, mirrored, backwards, both


class TowerConfig(LoopConfig):
    """The tower's own run. The targets of lesion and tool cells start at ``kinds_from`` of it and have their
    full weight at ``kinds_at``."""

    steps: int = 1300
    shift_px: int = 5  # at most, each way; under the margin within which no quadrant is asked for
    gain: tuple[float, float] = (0.12, 0.04)  # brightness of the clip, and of its channels one by one
    kinds_from: float = 0.22
    kinds_at: float = 0.34
    batch: int = 32
    seed: int = 0


def view_of(clip: PoolClip, view: int) -> PoolClip:
    """One of the :data:`VIEWS` of a clip, with the answers that are true of it."""
    if view & 1:
        clip = mirror(clip)
    return reverse(clip) if view & 2 else clip


def _disturbed(clip: PoolClip, config: TowerConfig, rng: np.random.Generator) -> PoolClip:
    """The clip a little aside, in a little other light: small lesions are learned wherever in a patch."""
    right, down = (int(px) for px in rng.integers(-config.shift_px, config.shift_px + 1, 2))
    whole, each = config.gain
    gains = (1 + rng.uniform(-whole, whole)) * (1 + rng.uniform(-each, each, 3))
    return displace(clip, right, down, gains)


def see(vlm: Any, processor: AudioGraftProcessor, clips: Sequence[PoolClip]) -> Tensor:
    """Features of every visual token, (b, slices, grid, grid, d)."""
    inputs = [processor.clip(list(clip.frames), CLIP_FPS) for clip in clips]
    pixels = torch.from_numpy(np.concatenate([each.pixels for each in inputs]))
    grid = torch.tensor([each.grid for each in inputs])  # type: ignore[union-attr]
    seen = vlm.get_video_features(pixels, grid, return_dict=True).pooler_output
    slices, rows, columns = (int(side) for side in grid[0])
    merge = processor.merge
    return torch.cat(list(seen)).float().reshape(len(clips), slices, rows // merge, columns // merge, -1)


def train_tower(
    vlm: Any,
    processor: AudioGraftProcessor,
    taxonomy: Taxonomy,
    clips: Sequence[PoolClip],
    grid: int,
    config: TowerConfig,
    out: Path,
    resume: bool,
    progress: Progress | None = None,
) -> None:
    """Train ``vlm.model.visual`` in place; the heads stay in the checkpoint.

    ``grid`` cells a side have targets in ``clips``, of which a finished run needs none.
    """
    torch.manual_seed(config.seed)
    width = vlm.config.get_text_config().hidden_size
    tokens, types = TokenHeads(width, taxonomy), TypeHeads(width, grid, taxonomy)
    counts = answer_counts(clips)
    lean_vision(vlm)

    def ramp(progress: float) -> float:
        return (progress - config.kinds_from) / (config.kinds_at - config.kinds_from)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((config.seed, 4, step))
        drawn = [
            _disturbed(view_of(clips[int(index)], int(rng.integers(VIEWS))), config, rng)
            for index in rng.integers(len(clips), size=config.batch)
        ]
        features = see(vlm, processor, drawn)
        cells = tokens.loss(features, drawn, min(max(ramp(step / config.steps), 0.0), 1.0))
        answers, right = types.loss(features, drawn, counts)
        logged = {
            "answers": round(answers.item(), 4),
            "tokens": round(cells.item(), 4),
            "right": round(float(right), 4),
        }
        return answers + cells, logged

    trained = nn.ModuleDict({"visual": vlm.model.visual, "tokens": tokens, "types": types})
    loop = Loop(trained, config, out, loss)
    if resume:
        loop.resume()
    loop.run(progress)


def clip_features(
    vlm: Any, processor: AudioGraftProcessor, clips: Sequence[PoolClip], cache: Path, batch: int = 32
) -> Tensor:
    """Features of all views of all clips, (views, clips, slices, grid, grid, d) bfloat16.

    Kept in ``cache`` under the hash of the tower's weights, so that a changed tower is never read as the old.
    """
    weights = tower_digest(vlm.model.visual)
    if cache.exists():
        with safe_open(cache, framework="pt") as handle:
            if handle.metadata() == {"tower": weights, "clips": str(len(clips))}:
                return load_file(cache)["features"]
    views = []
    with frozen():
        for view in range(VIEWS):
            views.append(torch.cat(list(_seen(vlm, processor, clips, view, batch))))
    features = torch.stack(views)
    write_bytes(cache, save({"features": features}, metadata={"tower": weights, "clips": str(len(clips))}))
    return features


def _seen(
    vlm: Any, processor: AudioGraftProcessor, clips: Sequence[PoolClip], view: int, batch: int
) -> Iterator[Tensor]:
    for start in range(0, len(clips), batch):
        part = [view_of(clip, view) for clip in clips[start : start + batch]]
        yield see(vlm, processor, part).bfloat16()

"""A pool of simulated clips with per-token ground truth, rendered once and reused by every step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from surgvivqa_audio.colonsim import Procedure, RenderedClip, render
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import atomic_writer, write_json
from surgvivqa_audio.processing.video import resize
from surgvivqa_audio.training.begun import begin, same

SHARD = 256
POOL = "pool.json"  # there once all shards are
_MASKS = ("lesion", "tool", "fluid")


class PoolConfig(BaseModel):
    """Which clips: procedures ``first_seed`` … with ``clips`` each. Every ``hires_every``-th clip is
    rendered at twice the size and reduced, as frames on disk are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    procedures: int = 150
    clips: int = 40
    first_seed: int = 1_000_000
    size: int = 112
    frames: int = 8
    difficulty: float = 0.5
    hires_every: int = 4
    grid: int = 4


@dataclass(frozen=True)
class PoolClip:
    """One clip: ``frames`` (f, h, w, 3) uint8, every answer it shows, and targets per visual token.

    ``occupancy`` (f / 2, grid, grid, 3) is the share of lesion, tool and fluid pixels of a cell;
    ``flow`` (f / 2, grid, grid, 2) the mean displacement in px between the two frames of a slice;
    ``centre`` (f, 2) the lesion's centre in px, NaN without a lesion.
    """

    frames: NDArray[np.uint8]
    answers: dict[str, str]
    unanswerable: tuple[str, ...]
    occupancy: NDArray[np.float32]
    flow: NDArray[np.float32]
    centre: NDArray[np.float32]


def _cells(values: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """(f, h, w, c) -> mean per cell, (f, grid, grid, c)."""
    frames, height, width, channels = values.shape
    blocks = values.reshape(frames, grid, height // grid, grid, width // grid, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def targets(clip: RenderedClip, grid: int) -> tuple[NDArray[np.float32], ...]:
    """Occupancy, flow and centre of a rendered clip; see :class:`PoolClip`."""
    masks = np.stack([clip.masks[name] for name in _MASKS], axis=-1).astype(np.float32)
    occupancy = _cells(masks, grid)
    occupancy = (occupancy[0::2] + occupancy[1::2]) * np.float32(0.5)
    if clip.flow is None:
        raise ConfigError("the pool needs clips rendered with truth=True")
    flow = _cells(clip.flow[0::2].astype(np.float32), grid)
    rows, columns = np.mgrid[: masks.shape[1], : masks.shape[2]].astype(np.float32)
    area = masks[..., 0].sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.stack(
            [(masks[..., 0] * axis).sum(axis=(1, 2)) / area for axis in (columns, rows)], axis=-1
        )
    return occupancy, flow, centre.astype(np.float32)


def _render(config: PoolConfig, procedure: Procedure, index: int) -> dict[str, object]:
    spec = procedure.clip(index, frames=config.frames)
    double = config.hires_every and index % config.hires_every == 0
    clip = render(spec, size=config.size * 2 if double else config.size, truth=True)
    occupancy, flow, centre = targets(clip, config.grid)
    frames = clip.frames
    if double:
        frames = np.stack([resize(frame, (config.size, config.size)) for frame in frames])
        flow, centre = flow * np.float32(0.5), centre * np.float32(0.5)
    facts = {"answers": spec.known, "unanswerable": list(spec.unanswerable)}
    return {"frames": frames, "occupancy": occupancy, "flow": flow, "centre": centre, "facts": facts}


def build_pool(
    config: PoolConfig,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    backwards: bool = False,
) -> None:
    """Render the pool into ``out`` as shards; finished shards are kept, so a kill costs one shard.

    Two processes may render one pool, the second ``backwards``: they meet where both have been.

    Raises:
        ConfigError: the clips there are those of another configuration.
    """
    if (out / POOL).is_file():
        same(out / POOL, json.loads((out / POOL).read_text("utf-8")), config)
    begin(config, out)
    jobs = [(p, c) for p in range(config.procedures) for c in range(config.clips)]
    # Neighbouring shards hold whole procedures, so that per-procedure textures are computed once.
    starts = range(0, len(jobs), SHARD)
    for start in reversed(starts) if backwards else starts:
        path = out / f"pool-{start // SHARD:04d}.npz"
        if path.exists():
            continue
        _write_shard(config, jobs[start : start + SHARD], path)
        if progress is not None:
            done = len(list(out.glob("pool-*.npz")))
            progress(min(done * SHARD, len(jobs)), len(jobs))
    write_json(out / POOL, config.model_dump())


def _write_shard(config: PoolConfig, jobs: list[tuple[int, int]], path: Path) -> None:
    procedures: dict[int, Procedure] = {}
    clips = []
    for number, index in jobs:
        if number not in procedures:
            procedures = {number: Procedure(config.first_seed + number, config.difficulty)}
        clips.append(_render(config, procedures[number], index))
    arrays = {
        name: np.stack([np.asarray(clip[name]) for clip in clips])
        for name in ("frames", "occupancy", "flow", "centre")
    }
    facts = np.frombuffer(json.dumps([clip["facts"] for clip in clips]).encode(), dtype=np.uint8)
    with atomic_writer(path) as stream:
        np.savez(stream, facts=facts, **arrays)  # type: ignore[arg-type]


def read_pool(folder: Path) -> list[PoolClip]:
    """All clips of a finished pool, in memory.

    Raises:
        ConfigError: the pool was never finished.
    """
    if not (folder / POOL).exists():
        raise ConfigError(f"{folder}: no finished clip pool ({POOL} is missing); build it first")
    clips: list[PoolClip] = []
    for path in sorted(folder.glob("pool-*.npz")):
        with np.load(path, allow_pickle=False) as shard:
            arrays = {name: shard[name] for name in shard.files}
        for row, facts in enumerate(json.loads(arrays["facts"].tobytes())):
            clips.append(
                PoolClip(
                    arrays["frames"][row],
                    facts["answers"],
                    tuple(facts["unanswerable"]),
                    arrays["occupancy"][row],
                    arrays["flow"][row],
                    arrays["centre"][row],
                )
            )
    return clips


def answer_counts(clips: Iterable[PoolClip]) -> Counter[tuple[str, str]]:
    """How often each (type, answer) occurs, to draw rare ones more often."""
    return Counter(pair for clip in clips for pair in clip.answers.items())

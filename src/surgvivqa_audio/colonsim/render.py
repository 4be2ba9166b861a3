"""From a clip's parameters to frames and per-pixel truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.colonsim import overlays, views
from surgvivqa_audio.colonsim.anatomy import Floats, Look, make_look
from surgvivqa_audio.colonsim.camera import Lens, Path, make_lens, make_path, project
from surgvivqa_audio.colonsim.recorder import record
from surgvivqa_audio.colonsim.spec import CLOSE_UP, FLOODED, OUTSIDE, RETROFLEXION, ClipSpec, Scene
from surgvivqa_audio.colonsim.tunnel import Hits, cast, make_anatomy
from surgvivqa_audio.colonsim.wall import paint_wall

_CHUNK = 160_000  # rays cast at once: larger chunks fall out of the cache


@dataclass
class RenderedClip:
    """Frames of a clip; truth only when asked for.

    ``frames`` uint8 (F, size, size, 3) RGB. ``masks`` bool (F, size, size) for ``lesion``, ``tool`` and
    ``fluid``. ``flow`` float32 (F - 1, size, size, 2): pixels (x, y) by which the wall seen at a pixel
    moves until the next frame, 0 outside the mask. ``grid`` float32 (size, size, 2): each pixel's own
    position, -1 to 1.
    """

    frames: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    flow: NDArray[np.float32] | None = None
    grid: NDArray[np.float32] | None = None


def _moments(spec: ClipSpec) -> NDArray[np.float64]:
    count = len(spec.frame_numbers)
    return np.arange(count) / max(count - 1, 1)


def _lumen(
    scene: Scene, look: Look, path: Path, lens: Lens
) -> tuple[Floats, dict[str, NDArray[np.bool_]], Hits]:
    """The inside of the colon with everything in it: linear colour (3, F, N) and masks."""
    anatomy = make_anatomy(scene, look, path)
    hits = cast(scene, look, path, anatomy, lens.rays)
    colour, relief = paint_wall(scene, look, hits, path, anatomy, lens.size > 160)
    facing = np.clip(hits.facing, 0, 1)
    bump = relief + np.float32(0.5)
    squared = hits.distance * hits.distance
    light = hits.crease * (np.float32(0.34) + np.float32(0.66) * facing) * bump
    light *= np.float32(2.15 * look.gain) / (np.float32(0.85) + squared * np.float32(look.falloff))
    colour = colour * light
    glint = np.clip(facing * np.float32(0.8) + (relief - np.float32(0.5)) * np.float32(1.5) - 1, 0, 0.3)
    colour += (glint * np.float32(7.0 * look.wetness)) / (np.float32(0.5) + squared)
    masks: dict[str, NDArray[np.bool_]] = {}
    shape = light.shape
    masks["fluid"] = np.zeros(shape, dtype=np.bool_)
    if scene.fluid == "partial":
        masks["fluid"] = views.pool(colour, scene, look, hits, path)
    masks["lesion"] = np.zeros(shape, dtype=np.bool_)
    if scene.size_mm:
        masks["lesion"] = overlays.draw_lesion(colour, scene, look, path, lens.xy, light)
    return colour, masks, hits


def _draw(
    scene: Scene, look: Look, path: Path, lens: Lens
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], Hits | None]:
    """Frames and masks (F, N) of one stretch of a path."""
    shape = (len(path.moment), lens.index.size)
    masks = {name: np.zeros(shape, dtype=np.bool_) for name in ("lesion", "tool", "fluid")}
    hits = None
    if scene.kind == OUTSIDE:
        colour = views.room(scene, path, lens)
    elif scene.kind == CLOSE_UP:
        colour = views.close_up(scene, look, path, lens)
    elif scene.kind == FLOODED:
        colour = views.flooded(scene, look, path, lens)
        masks["fluid"][:] = True
    else:
        colour, found, hits = _lumen(scene, look, path, lens)
        masks |= found
        if scene.kind == RETROFLEXION:
            overlays.draw_shaft(colour, scene, path, lens.xy)
    if scene.tool:
        masks["tool"] = overlays.draw_tool(colour, scene, path, lens.xy, 0.8 if scene.nbi else 1.0)
        masks["lesion"] &= ~masks["tool"]
    if scene.flush:
        overlays.draw_flush(colour, scene, path, lens.xy, 0.9)
    return record(colour, scene, look, path.moment, lens), masks, hits


def _spread(values: NDArray[np.bool_], lens: Lens) -> NDArray[np.bool_]:
    full = np.zeros((len(values), lens.size * lens.size), dtype=np.bool_)
    full[:, lens.index] = values
    return full.reshape(-1, lens.size, lens.size)


def _flow(scene: Scene, path: Path, lens: Lens, hits: Hits | None) -> NDArray[np.float32]:
    """Motion of what each pixel shows until the next frame, in pixels."""
    frames, half = len(path.moment), lens.size / 2
    flow = np.zeros((frames - 1, lens.size * lens.size, 2), dtype=np.float32)
    for frame in range(frames - 1):
        if hits is None:
            moved = np.zeros((lens.index.size, 2))
        else:
            step = np.zeros(3)
            step[:2] = path.offset[frame] - path.offset[frame + 1]
            step[2] = path.along[frame] - path.along[frame + 1]
            points = np.stack([ray[frame] for ray in hits.rays], -1) * hits.distance[frame][:, None] + step
            moved = project(points @ path.rotation[frame + 1]) - lens.xy.T
        flow[frame, lens.index] = moved * half
    return flow.reshape(frames - 1, lens.size, lens.size, 2)


def _part(path: Path, rows: slice) -> Path:
    return Path(*(getattr(path, name)[rows] for name in Path.__dataclass_fields__))


def render(spec: ClipSpec, size: int = 112, truth: bool = False) -> RenderedClip:
    """Draw a clip at ``size`` pixels; the same spec gives the same bytes, with or without ``truth``."""
    scene, look = spec.scene, make_look(spec.procedure_seed)
    lens = make_lens(size, look.octagon, look.mask_radius)
    path = make_path(scene, look, _moments(spec))
    count = len(spec.frame_numbers)
    step = max(1, _CHUNK // max(lens.index.size, 1))
    parts = [_draw(scene, look, _part(path, slice(at, at + step)), lens) for at in range(0, count, step)]
    clip = RenderedClip(np.concatenate([frames for frames, _, _ in parts]))
    if truth:
        for name in ("lesion", "tool", "fluid"):
            clip.masks[name] = _spread(np.concatenate([masks[name] for _, masks, _ in parts]), lens)
        hits = None
        if scene.kind not in (OUTSIDE, CLOSE_UP, FLOODED):
            hits = cast(scene, look, path, make_anatomy(scene, look, path), lens.rays)
        clip.flow = _flow(scene, path, lens, hits)
        axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
        clip.grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    return clip

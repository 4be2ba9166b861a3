"""From a clip's parameters to frames and per-pixel truth."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter1d

from surgvivqa_audio.colonsim import overlays
from surgvivqa_audio.colonsim.anatomy import NOISE, SIZE, Floats, Look, make_look, make_textures, noise_bank
from surgvivqa_audio.colonsim.camera import Lens, Path, make_lens, make_path, project
from surgvivqa_audio.colonsim.overlays import narrow_band, sample_noise
from surgvivqa_audio.colonsim.spec import CLOSE_UP, FLOODED, OUTSIDE, RETROFLEXION, ClipSpec, Scene
from surgvivqa_audio.colonsim.tunnel import Hits, cast, make_anatomy

_CHUNK = 160_000  # rays cast at once: larger chunks fall out of the cache
_MEAN_BRIGHTNESS = np.float32(0.46)
_TEXELS = np.float32(SIZE / (2 * np.pi))


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


def _wall_colour(
    scene: Scene, look: Look, hits: Hits, along: NDArray[np.float64], fine: bool
) -> tuple[Floats, Floats]:
    """Albedo (3, F, N) and relief (F, N) of the wall from the procedure's texture."""
    textures = make_textures(look.seed)
    table = textures.veined if scene.site == "rectum" else textures.wall
    u = np.arctan2(hits.y, hits.x) * _TEXELS + np.float32(4 * SIZE)
    start = (along % (2 * np.pi)).astype(np.float32)[:, None]
    v = (hits.depth + start) * _TEXELS + np.float32(4 * SIZE)
    if hits.flat.any():
        np.copyto(u, hits.x * _TEXELS + np.float32(4 * SIZE), where=hits.flat)
        np.copyto(v, hits.y * _TEXELS + np.float32(4 * SIZE), where=hits.flat)
    if fine:
        rgba = _bilinear(table, u, v)
    else:
        index = (v.astype(np.int32) & (SIZE - 1)) * SIZE + (u.astype(np.int32) & (SIZE - 1))
        rgba = table.take(index.ravel()).view(np.uint8).reshape(-1, 4).T.astype(np.float32)
    rgba = rgba.reshape(4, *u.shape) * np.float32(1 / 255)
    return rgba[:3], rgba[3]


def _bilinear(table: NDArray[np.uint32], u: Floats, v: Floats) -> Floats:
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = (u - column).ravel(), (v - row).ravel()
    total = np.zeros((4, u.size), dtype=np.float32)
    for step_v, weight_v in ((0, 1 - fv), (1, fv)):
        for step_u, weight_u in ((0, 1 - fu), (1, fu)):
            index = ((row + step_v) & (SIZE - 1)) * SIZE + ((column + step_u) & (SIZE - 1))
            texel = table.take(index.ravel()).view(np.uint8).reshape(-1, 4).T
            total += texel * (weight_u * weight_v).astype(np.float32)
    return total


def _lumen(
    scene: Scene, look: Look, path: Path, lens: Lens
) -> tuple[Floats, dict[str, NDArray[np.bool_]], Hits]:
    """The inside of the colon with everything in it: linear colour (3, F, N) and masks."""
    rng = np.random.default_rng([scene.seed, 41])
    anatomy = make_anatomy(scene, look, path)
    hits = cast(scene, look, path, anatomy, lens.rays)
    colour, relief = _wall_colour(scene, look, hits, path.along, lens.size > 160)
    if anatomy.site.pouches:
        colour *= _pouches(scene, look, hits, path)
    if anatomy.site.shadow:
        side = hits.x * np.float32(np.cos(anatomy.shadow)) + hits.y * np.float32(np.sin(anatomy.shadow))
        side /= np.sqrt(hits.x * hits.x + hits.y * hits.y) + np.float32(1e-4)
        ripple = sample_noise(1, hits.depth * 18 + 900, side * 40 + 300) * np.float32(0.10)
        inside = np.clip((side - np.float32(np.cos(anatomy.site.shadow)) + ripple) * 5, 0, 1)
        inside *= np.clip((hits.along - 0.15) * 4, 0, 1)
        tint = np.asarray(anatomy.site.shadow_colour, dtype=np.float32).reshape(3, 1, 1)
        colour *= 1 - inside * (1 - tint)
    if scene.dye:
        around = np.where(hits.flat, hits.x * 40, np.arctan2(hits.y, hits.x) * np.float32(40.74)) + 512
        down = np.where(hits.flat, hits.y * 30, hits.depth * 30) + np.float32(256 + rng.uniform(0, 256))
        pool = sample_noise(1, down, around)
        pool = pool + np.float32(2.6) * (np.float32(0.5) - relief) + np.float32(rng.uniform(0.0, 0.5))
        inside = np.clip(pool * np.float32(0.8), 0, 1) * np.float32(0.85)
        colour *= 1 - inside * (1 - np.array([0.22, 0.52, 1.45], dtype=np.float32).reshape(3, 1, 1))
    if scene.nbi:
        colour = narrow_band(colour)
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
        masks["fluid"] = _pool(colour, scene, look, hits, path)
    masks["lesion"] = np.zeros(shape, dtype=np.bool_)
    if scene.size_mm:
        masks["lesion"] = overlays.draw_lesion(colour, scene, look, path, lens.xy, light)
    return colour, masks, hits


def _pouches(scene: Scene, look: Look, hits: Hits, path: Path) -> Floats:
    """Diverticula: dark round openings in the wall."""
    cell = np.float32(0.62)
    start = (path.along % (cell * 40)).astype(np.float32)[:, None]
    u = np.arctan2(hits.y, hits.x) * np.float32(6 / (2 * np.pi)) + 20
    v = (hits.depth + start) / cell + 20
    row, column = np.floor(v), np.floor(u)
    pick = (
        np.sin(row * np.float32(12.99) + np.mod(column, 6) * np.float32(78.2) + np.float32(look.seed % 97))
        * 437.5
    )
    pick = pick - np.floor(pick)
    size = np.float32(0.15) + np.float32(0.09) * pick
    offset = np.float32(0.5) + (pick - np.float32(0.5)) * np.float32(0.4)
    reach = np.sqrt((u - column - offset) ** 2 + ((v - row - offset) * np.float32(0.62)) ** 2) / size
    dark = np.clip((reach - np.float32(0.75)) * 3, 0, 1)
    return np.where(pick < 0.26, np.float32(0.12) + np.float32(0.88) * dark, np.float32(1)).astype(np.float32)


def _pool(colour: Floats, scene: Scene, look: Look, hits: Hits, path: Path) -> NDArray[np.bool_]:
    """Turbid fluid lying in the lumen up to a level, with bubbles at its surface."""
    rng = np.random.default_rng([scene.seed, 43])
    angle = np.pi / 2 + rng.uniform(-1.2, 1.2)
    gx, gy = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    level = np.float32(rng.uniform(0.10, 0.30))
    dx, dy, dz = hits.rays
    down = dx * gx + dy * gy
    above = (path.offset @ np.array([gx, gy])).astype(np.float32)[:, None]
    distance = np.maximum(level - above, 0.05) / np.maximum(down, np.float32(1e-3))
    mask: NDArray[np.bool_] = (distance < hits.distance) & (down > 1e-3)
    where = np.flatnonzero(mask.ravel())
    if not len(where):
        return mask
    far = distance.ravel()[where]
    px = (distance * (dx * gy - dy * gx)).ravel()[where]
    along = (path.along % 50).astype(np.float32)[:, None]
    pz = (distance * dz + along).ravel()[where]
    drift = np.broadcast_to((path.moment * 9).astype(np.float32)[:, None], mask.shape).ravel()[where]
    ripple = sample_noise(1, px * 40 + drift + 700, pz * 40 + 300)
    foam = sample_noise(2, px * 150 + 900, pz * 150 + drift * 0.5)
    light = np.float32(1.25) / (np.float32(0.55) + far * far * np.float32(0.8))
    base = _fluid_colour(scene, look)
    paint = base[:, None] * (light * (1 + np.float32(0.16) * ripple))
    bubbles = np.clip(foam - np.float32(1.9), 0, 0.6) * np.float32(0.7)
    sheen = np.clip(ripple - np.float32(1.6), 0, 1) * np.float32(0.4)
    paint = paint + (bubbles + sheen) * np.minimum(light, 1.2)
    flat = colour.reshape(3, -1)
    under = (hits.distance.ravel()[where] - far) * down.ravel()[where]
    alpha = np.float32(0.92) - np.float32(0.72) * np.exp(under * np.float32(-7.0))
    flat[:, where] += alpha * (paint - flat[:, where])
    return mask


def _fluid_colour(scene: Scene, look: Look) -> Floats:
    base = np.asarray(look.fluid, dtype=np.float32)
    return narrow_band(base[:, None])[:, 0] * np.float32(1.25) if scene.nbi else base


def _flooded(scene: Scene, look: Look, path: Path, lens: Lens) -> Floats:
    """A view full of turbid fluid: swirls, specks and bubbles, no wall."""
    rng = np.random.default_rng([scene.seed, 47])
    x, y = lens.xy
    ox, oy = rng.uniform(0, NOISE, 2)
    way = rng.uniform(-1, 1, 2) * 20
    t = path.moment.astype(np.float32)[:, None]
    warp = sample_noise(0, x * 50 + ox + t * way[0], y * 50 + oy + t * way[1]) * 9
    swirl = sample_noise(1, x * 34 + warp + oy + t * way[1], y * 34 + warp + ox - t * way[0])
    fine = sample_noise(2, x * 52 + warp + ox - t * 2 * way[0], y * 52 - warp + t * way[1] * 2)
    bubbles = np.clip(fine - np.float32(1.75), 0, 0.8)
    glow = np.float32(1.3) - np.float32(0.35) * (x * x + y * y)
    shade = glow * (1 + np.float32(0.20) * swirl + np.float32(0.08) * fine)
    base = _fluid_colour(scene, look) * np.float32(rng.uniform(0.75, 1.1))
    return np.asarray(base[:, None, None] * shade + bubbles, dtype=np.float32)


def _close_up(scene: Scene, look: Look, path: Path, lens: Lens) -> Floats:
    """The wall against the lens: a blurred red glow with a shadowed side."""
    rng = np.random.default_rng([scene.seed, 53])
    x, y = lens.xy
    ox, oy = rng.uniform(0, NOISE, 2)
    way = rng.uniform(-1, 1, 2) * 14
    t = path.moment.astype(np.float32)[:, None]
    blush = sample_noise(0, x * 30 + ox + t * way[0], y * 30 + oy + t * way[1])
    veil = sample_noise(1, x * 9 + oy + t * way[0] * 0.3, y * 9 + ox + t * way[1] * 0.3)
    angle = rng.uniform(0, 2 * np.pi)
    side = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    tilt = np.float32(rng.uniform(0.15, 0.6))
    shade = np.float32(0.88) + tilt * side + np.float32(0.13) * blush + np.float32(0.11) * veil
    deep = np.asarray(look.mucosa, dtype=np.float32) * np.array([1.0, 0.62, 0.58], dtype=np.float32)
    pale = np.array([0.03, 0.16, 0.16], dtype=np.float32)
    deep = deep + pale * np.float32(rng.uniform(-0.4, 1))
    ruddy = np.array([0.04, 0.22, 0.22], dtype=np.float32).reshape(3, 1, 1)
    u, v = x * 30 + 600 + t * way[0], y * 30 + 600 + t * way[1]
    near = _bilinear(make_textures(look.seed).wall, u, v)[1].reshape(u.shape) * np.float32(1 / 255)
    faint = np.float32(0.62) + np.float32(0.38) * near / np.float32(look.mucosa[1])
    colour = deep[:, None, None] * np.maximum(shade, 0.12) * (1 - ruddy * blush) * faint
    if scene.nbi:
        colour = narrow_band(colour)
    return np.asarray(colour, dtype=np.float32)


def _room(scene: Scene, path: Path, lens: Lens) -> Floats:
    """The endoscopy room out of focus: walls, drapes, a lamp, a monitor."""
    rng = np.random.default_rng([scene.seed, 59])
    side = 192
    ramp = np.linspace(-1, 1, side, dtype=np.float32)[:, None, None]
    tones = np.array(
        [[0.62, 0.66, 0.68], [0.30, 0.48, 0.58], [0.32, 0.52, 0.46], [0.60, 0.50, 0.42], [0.5, 0.42, 0.40]]
    )
    picks = tones[rng.integers(len(tones), size=2)] * rng.uniform(0.7, 1.15, (2, 1))
    room = np.broadcast_to(picks[0] * (1 - ramp) / 2 + picks[1] * (1 + ramp) / 2, (side, side, 3)).copy()
    paints = np.array(
        [
            [0.9, 0.92, 0.95],
            [0.15, 0.17, 0.2],
            [0.3, 0.45, 0.58],
            [0.25, 0.5, 0.42],
            [0.75, 0.6, 0.5],
            [0.8, 0.8, 0.78],
        ]
    )
    for largest in np.linspace(110, 24, int(rng.integers(9, 15))):
        top, left = rng.integers(-20, side - 20, 2).clip(0)
        high, wide = (largest * rng.uniform(0.4, 1.0, 2)).astype(int)
        paint = paints[rng.integers(len(paints))] * rng.uniform(0.6, 1.1)
        patch = room[top : top + high, left : left + wide]
        patch += rng.uniform(0.35, 0.8) * (paint - patch)
    rows, columns = np.mgrid[0:side, 0:side]
    lamp = (rows - rng.integers(20, 90)) ** 2 + (columns - rng.integers(30, 160)) ** 2 < rng.integers(
        9, 20
    ) ** 2
    room[lamp] = 1.25
    soft = int(rng.integers(7, 13))
    for axis in (0, 1, 0, 1):
        room = uniform_filter1d(room, soft, axis=axis, mode="nearest")
    way = rng.uniform(-1, 1, 2) * 26
    spin = rng.uniform(-0.5, 0.5)
    t = path.moment.astype(np.float32)[:, None] - 0.5
    cosine, sine = np.cos(spin * t), np.sin(spin * t)
    x, y = lens.xy
    column = np.clip((x * cosine - y * sine) * 88 + side / 2 + way[0] * t, 0, side - 1).astype(np.int32)
    row = np.clip((x * sine + y * cosine) * 88 + side / 2 + way[1] * t, 0, side - 1).astype(np.int32)
    return np.moveaxis(room.astype(np.float32).reshape(-1, 3).take(row * side + column, axis=0), -1, 0)


def _finish(
    colour: Floats, scene: Scene, look: Look, moments: NDArray[np.float64], lens: Lens
) -> NDArray[np.uint8]:
    """Exposure, vignette, tone curve, noise and blur; uint8 (F, size, size, 3)."""
    rng = np.random.default_rng([scene.seed, 61])
    hard = scene.difficulty
    exposure = rng.uniform(1 - 0.36 * hard - 0.05, 1 + 0.30 * hard + 0.05)
    balance = np.asarray(look.white_balance) * (1 + rng.uniform(-0.10, 0.10, 3) * (0.5 + hard))
    flicker = 1 + 0.02 * hard * rng.standard_normal(8)[(np.round(moments * 31) % 8).astype(int)]
    x, y = lens.xy
    vignette = (1 - np.float32(look.vignette) * (x * x + y * y)) * lens.edge
    # automatic exposure: scopes hold the mean brightness, so a dark shaft or a white jet hardly shows in it
    bright = (
        np.float32(0.3) * colour[0].mean(1)
        + np.float32(0.6) * colour[1].mean(1)
        + np.float32(0.1) * (colour[2].mean(1))
    )
    exposure = exposure * (_MEAN_BRIGHTNESS / np.maximum(bright, np.float32(0.05))) ** np.float32(0.85)
    gain = (flicker * exposure)[:, None].astype(np.float32) * vignette
    colour *= gain * balance.astype(np.float32).reshape(3, 1, 1)
    # a shoulder instead of hard clipping, then display gamma (approximated by a square root blend)
    colour = np.maximum(colour, 0)
    colour = colour * (1 + colour * np.float32(0.10)) / (1 + colour * np.float32(0.32)) * np.float32(1.12)
    noise = noise_bank()[3].ravel()
    strength = np.float32(0.005 + 0.034 * hard * rng.random())
    soften, quality = rng.random() < 0.6 * hard, int(rng.integers(45, 85))
    quality = quality if rng.random() < 0.5 * hard else 0
    count = lens.index.size
    for frame, moment in enumerate(moments):
        starts = np.random.default_rng([scene.seed, 67, round(float(moment) * 1000)])
        for channel, start in enumerate(starts.integers(0, noise.size, 3)):
            colour[channel, frame] += strength * _wrap(noise, int(start), count)
    pixels = np.zeros((colour.shape[1], lens.size * lens.size, 3), dtype=np.uint8)
    pixels[:, lens.index] = np.moveaxis(np.clip(colour * 255 + np.float32(0.5), 0, 255), 0, -1).astype(
        np.uint8
    )
    frames = pixels.reshape(-1, lens.size, lens.size, 3)
    if soften:
        for _ in range(max(1, round(lens.size / 112))):
            frames = _soften(frames)
    return np.stack([_compress(frame, quality) for frame in frames]) if quality else frames


def _soften(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Out of focus: a three-tap binomial filter both ways."""
    wide = frames.astype(np.uint16)
    wide[:, 1:-1] = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:] + 2) >> 2
    wide[:, :, 1:-1] = (wide[:, :, :-2] + 2 * wide[:, :, 1:-1] + wide[:, :, 2:] + 2) >> 2
    return wide.astype(np.uint8)


def _compress(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One frame through a JPEG encoder and back."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _wrap(noise: Floats, start: int, count: int) -> Floats:
    end = start + count
    if end > noise.size:
        noise = np.tile(noise, -(-end // noise.size))
    return noise[start:end]


def _draw(
    scene: Scene, look: Look, path: Path, lens: Lens
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], Hits | None]:
    """Frames and masks (F, N) of one stretch of a path."""
    shape = (len(path.moment), lens.index.size)
    masks = {name: np.zeros(shape, dtype=np.bool_) for name in ("lesion", "tool", "fluid")}
    hits = None
    if scene.kind == OUTSIDE:
        colour = _room(scene, path, lens)
    elif scene.kind == CLOSE_UP:
        colour = _close_up(scene, look, path, lens)
    elif scene.kind == FLOODED:
        colour = _flooded(scene, look, path, lens)
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
    return _finish(colour, scene, look, path.moment, lens), masks, hits


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

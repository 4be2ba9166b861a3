"""Things in front of the wall: lesions, tools, water, the scope's own shaft.

All draw into ``colour`` (3, F, N) in linear display units and return a mask (F, N) of what they cover.
Screen lengths are half image sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.colonsim.anatomy import NOISE, PITS, Floats, Look, noise_bank, pit_patterns
from surgvivqa_audio.colonsim.camera import HALF_FIELD, Path
from surgvivqa_audio.colonsim.spec import Scene

Mask = NDArray[np.bool_]
MM_PER_PIXEL_AT = 1.0 / HALF_FIELD  # screen length of one radian


def sample_noise(layer: int, x: Floats, y: Floats) -> Floats:
    """Look up shared noise ``layer`` at texel coordinates that wrap around."""
    column = x.astype(np.int32) & (NOISE - 1)
    row = y.astype(np.int32) & (NOISE - 1)
    return np.asarray(noise_bank()[layer].ravel().take(row * NOISE + column), dtype=np.float32)


def _blend(colour: Floats, where: NDArray[np.intp], alpha: Floats, paint: Floats) -> None:
    """Mix (3, n) ``paint`` into the pixels ``where`` of the flattened colour."""
    flat = colour.reshape(3, -1)
    flat[:, where] += alpha * (paint - flat[:, where])


def lesion_radius(scene: Scene) -> float:
    """Screen radius of the lesion mid clip."""
    return scene.size_mm / 2 / scene.lesion_mm * MM_PER_PIXEL_AT


_PAINT = {  # relative to the mucosa: (white light, narrow band)
    "hyperplastic": ((1.13, 1.28, 1.34), (1.32, 1.34, 1.30)),
    "adenoma": ((0.98, 0.62, 0.60), (0.66, 0.50, 0.46)),
    "sessile serrated": ((1.00, 1.06, 0.62), (1.12, 0.80, 0.78)),
}


def draw_lesion(colour: Floats, scene: Scene, look: Look, path: Path, xy: Floats, light: Floats) -> Mask:
    """A polyp: a dome with the colour and surface pattern of its histology."""
    rng = np.random.default_rng([scene.seed, 17])
    serrated = scene.histology == "sessile serrated"
    radius = (lesion_radius(scene) * path.zoom).astype(np.float32)[:, None]
    centre = path.lesion.astype(np.float32)
    dx, dy = xy[0] - centre[:, :1], xy[1] - centre[:, 1:]
    tilt = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    across, down = (dx * cosine + dy * sine) / radius, (dy * cosine - dx * sine) / radius
    squash = np.float32(rng.uniform(1.0, 1.3))
    reach = across * across + squash * down * down
    mask: Mask = np.zeros(reach.shape, dtype=np.bool_)
    where = np.flatnonzero(reach.ravel() < 2.6)
    if not len(where):
        return mask
    a, b, q = across.ravel()[where], down.ravel()[where], reach.ravel()[where]
    lobes = np.float32(0.30 if serrated else 0.12) * rng.uniform(0.6, 1.0)
    phase = rng.uniform(0, 2 * np.pi, 2)
    angle = np.arctan2(b, a)
    q = q * (1 + np.float32(lobes) * (np.cos(3 * angle + phase[0]) + np.cos(5 * angle + phase[1])) / 2)
    q = q.astype(np.float32)
    edge = np.float32(4.0 if serrated else 9.0)
    alpha = np.clip((1 - q) * edge * np.float32(0.5) + np.float32(0.5), 0, 1)
    dome = np.sqrt(np.maximum(1 - q, 0))
    flatness = 0.38 if scene.histology == "adenoma" else 0.62
    shade = flatness + (1.16 - flatness) * dome**0.8
    texel = np.clip((np.stack([a, b]) * 0.42 + 0.5) * PITS, 0, PITS - 1).astype(np.int32)
    pits = pit_patterns()[scene.histology][texel[1], texel[0]]
    contrast = 1 - 0.35 * scene.difficulty
    tint = np.asarray(_PAINT[scene.histology][scene.nbi], dtype=np.float32)
    tint = 1 + (tint - 1) * np.float32(contrast * rng.uniform(0.85, 1.2))
    base = np.asarray(look.mucosa, dtype=np.float32)
    if scene.nbi:
        base = narrow_band(base[:, None])[:, 0]
    lit = np.clip(light.ravel()[where], 0.72, 1.25)
    paint = (base * tint)[:, None] * (lit * shade * (1 + np.float32(0.13) * pits))
    if serrated:  # a rim of debris and bubbles
        rim = np.clip(1 - abs(q - 0.85) * 5, 0, 1) * (np.cos(angle * 9 + phase[0] * 3) > 0)
        paint = paint * (1 - 0.4 * rim)
    glint = np.clip((dome - 0.9) * 9, 0, 1) * np.clip(np.cos((a - 0.2) * 9) * np.cos((b + 0.25) * 9), 0, 1)
    paint = paint + 0.5 * look.wetness * glint
    halo = np.clip((2.0 - q) / 1.0, 0, 1) * (0.34 if not serrated else 0.16)
    flat = colour.reshape(3, -1)
    flat[:, where] *= 1 - halo
    _blend(colour, where, alpha, paint.astype(np.float32))
    mask.ravel()[where] = alpha > 0.5
    return mask


def narrow_band(colour: Floats) -> Floats:
    """White-light colour (3, …) as narrow-band imaging shows it: green and blue reflectance only."""
    red, green, blue = colour
    deep = green * green * np.float32(1.05) + np.float32(0.16) * green
    return np.stack(
        [
            np.float32(1.15) * deep + np.float32(0.16) * green,
            np.float32(0.95) * deep + np.float32(0.52) * blue + np.float32(0.03) * red,
            np.float32(0.45) * deep + np.float32(0.70) * blue,
        ]
    )


def _capsule(x: Floats, y: Floats, start: Floats, end: Floats) -> tuple[Floats, Floats, Floats]:
    """Distance to segments, position along them (0 to 1) and the signed side; (F, 2) end points."""
    sx, sy = start[:, :1], start[:, 1:]
    ex, ey = end[:, :1] - sx, end[:, 1:] - sy
    squared = np.maximum(ex * ex + ey * ey, np.float32(1e-6))
    along = ((x - sx) * ex + (y - sy) * ey) / squared
    place = np.clip(along, 0, 1)
    ax, ay = x - sx - place * ex, y - sy - place * ey
    side = (ax * -ey + ay * ex) / np.sqrt(squared)
    return np.sqrt(ax * ax + ay * ay), place, side


def _tube(
    colour: Floats, mask: Mask, xy: Floats, start: Floats, end: Floats, widths: tuple[float, float],
    paint: Floats, stripes: float = 0.0, shine: float = 0.6, bands: tuple[float, ...] = (), band: float = 0.2,
) -> None:  # fmt: skip
    """A round, shaded tube that narrows from ``start`` to ``end``."""
    distance, place, side = _capsule(xy[0], xy[1], start.astype(np.float32), end.astype(np.float32))
    width = np.float32(widths[0]) + np.float32(widths[1] - widths[0]) * place
    where = np.flatnonzero((distance < width).ravel())
    if not len(where):
        return
    edge = (distance / width).ravel()[where]
    turn = (side / width).ravel()[where]
    shade = 0.35 + 0.75 * np.sqrt(np.maximum(1 - edge * edge, 0))
    if stripes:
        shade = shade * (1 - 0.30 * (np.sin(place.ravel()[where] * stripes) > 0.2))
    gleam = np.clip(1 - abs(turn + 0.3) * 4.5, 0, 1) * shine
    lit = np.repeat(paint[:, None], len(where), axis=1)
    for spot in bands:
        lit[:, abs(place.ravel()[where] - spot) < 0.025] = band
    lit = lit * shade + gleam
    alpha = np.clip((1 - edge) * 5, 0, 1)
    _blend(colour, where, alpha.astype(np.float32), lit.astype(np.float32))
    mask.ravel()[where] |= edge < 0.95


def _rotated(vector: Floats, angle: float) -> Floats:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [vector[:, 0] * cosine - vector[:, 1] * sine, vector[:, 0] * sine + vector[:, 1] * cosine], 1
    )


_SHEATHS = (
    (0.30, 0.45, 0.75),
    (0.80, 0.80, 0.78),
    (0.35, 0.62, 0.45),
    (0.78, 0.68, 0.36),
    (0.55, 0.56, 0.60),
)


def tool_place(scene: Scene) -> tuple[Floats, Floats]:
    """Where the tool enters the view and where its tip is, mid clip; away from a lesion."""
    rng = np.random.default_rng([scene.seed, 23])
    for _ in range(40):
        angle = rng.uniform(0.1, 0.9) * np.pi if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
        start = 1.25 * np.array([np.cos(angle), np.sin(angle)])
        tip = start * rng.uniform(0.05, 0.42) / 1.25 + rng.uniform(-0.12, 0.12, 2)
        gap = np.linalg.norm(tip - np.asarray(scene.lesion)) - lesion_radius(scene)
        if not scene.size_mm or gap > 0.45:
            break
    return start.astype(np.float32), tip.astype(np.float32)


def draw_tool(colour: Floats, scene: Scene, path: Path, xy: Floats, bright: float) -> Mask:
    """Forceps with two open jaws, a snare's wire loop, or a plain catheter."""
    rng = np.random.default_rng([scene.seed, 29])
    mask: Mask = np.zeros((len(path.moment), xy.shape[1]), dtype=np.bool_)
    start, tip = tool_place(scene)
    phase = rng.uniform(0, 2 * np.pi, 2)
    wave = 0.03 * np.sin(path.moment[:, None] * 5 + phase)
    ends = (tip + wave).astype(np.float32)
    starts = np.broadcast_to(start, ends.shape)
    heading = ends - starts
    heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
    sheath = np.asarray(_SHEATHS[rng.integers(len(_SHEATHS))], dtype=np.float32)
    sheath = np.clip(sheath + rng.uniform(-0.06, 0.06, 3), 0.1, 0.95).astype(np.float32) * np.float32(bright)
    steel = np.full(3, 0.72 * bright, dtype=np.float32)
    thick = rng.uniform(0.085, 0.11)
    if scene.tool == "catheter":
        _tube(colour, mask, xy, starts, ends, (thick, thick * 0.8), sheath, bands=(0.8, 0.92))
    elif scene.tool == "forceps":
        _tube(colour, mask, xy, starts, ends - 0.05 * heading, (thick, thick * 0.8), sheath, stripes=60)
        spread = 0.5 + 0.22 * np.sin(float(phase[0]))
        for sign in (-1, 1):
            knee = ends + 0.16 * _rotated(heading, sign * spread)
            jaw = knee + 0.17 * _rotated(heading, -sign * 0.12)
            _tube(colour, mask, xy, ends - 0.06 * heading, knee, (0.045, 0.055), steel)
            _tube(colour, mask, xy, knee, jaw, (0.055, 0.06), steel * 1.1, shine=0.9)
    else:
        _tube(colour, mask, xy, starts, ends - 0.02 * heading, (thick * 0.8, thick * 0.6), sheath)
        _loop(colour, mask, xy, ends, heading, float(rng.uniform(0.17, 0.23)), steel)
    return mask


def _loop(
    colour: Floats, mask: Mask, xy: Floats, ends: Floats, heading: Floats, half: float, paint: Floats
) -> None:
    """The oval wire of a snare in front of its sheath."""
    middle = (ends + heading * half * 1.45).astype(np.float32)
    dx, dy = xy[0] - middle[:, :1], xy[1] - middle[:, 1:]
    along = (dx * heading[:, :1] + dy * heading[:, 1:]) / np.float32(half * 1.5)
    across = (dy * heading[:, :1] - dx * heading[:, 1:]) / np.float32(half)
    ring = abs(np.sqrt(along * along + across * across) - 1) * np.float32(half)
    where = np.flatnonzero((ring < 0.036).ravel())
    if len(where):
        near = ring.ravel()[where]
        lit = np.where(near < 0.023, 1.25, 0.25).astype(np.float32)
        alpha = np.clip((0.036 - near) * 80, 0, 1).astype(np.float32)
        _blend(colour, where, alpha, paint[:, None] * lit)
        mask.ravel()[where] = True


def draw_flush(colour: Floats, scene: Scene, path: Path, xy: Floats, bright: float) -> None:
    """A flickering jet of water from the rim that splashes on the wall, with drops on the lens."""
    rng = np.random.default_rng([scene.seed, 31])
    frames = len(path.moment)
    for _ in range(40):  # the jet is aimed beside a lesion, so that both can be seen
        angle = rng.uniform(0, 2 * np.pi)
        start = 1.15 * np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
        target = (-0.12 * start + rng.uniform(-0.2, 0.2, 2)).astype(np.float32)
        way = (target - start) / np.linalg.norm(target - start)
        apart = np.asarray(scene.lesion) - start
        reach_along = float(np.clip(apart @ way, 0, np.linalg.norm(target - start) + 0.25))
        gap = float(np.linalg.norm(apart - reach_along * way))
        if not scene.size_mm or gap > 0.22 + lesion_radius(scene):
            break
    ticks = np.round(path.moment * 97).astype(np.int32)
    aim = (target + 0.05 * np.sin(ticks[:, None] * 1.9 + np.arange(2))).astype(np.float32)
    distance, place, side = _capsule(xy[0], xy[1], np.broadcast_to(start, aim.shape), aim)
    width = np.float32(0.07) + np.float32(0.13) * place
    running = (ticks[:, None] * 53).astype(np.float32)
    streak = sample_noise(2, side * 190 + 400, place * 60 - running)
    jet = np.clip(1.15 - distance / width, 0, 1) * np.clip(0.62 + 0.4 * streak, 0, 1)
    dx, dy = xy[0] - aim[:, :1], xy[1] - aim[:, 1:]
    reach = np.sqrt(dx * dx + dy * dy)
    spray = sample_noise(2, xy[0] * 90 + running * 7, xy[1] * 90 + running * 3)
    splash = np.clip(1 - reach / np.float32(0.42), 0, 1) * np.clip(spray - 0.1, 0, 1)
    drops = np.clip(sample_noise(2, xy[0] * 70 + running, xy[1] * 70 - running * 5) - 1.9, 0, 1) * 1.4
    alpha = np.clip(jet * 0.9 + splash * 0.8 + drops, 0, 0.9).reshape(1, frames, -1)
    white = np.array([0.86, 0.90, 0.92], dtype=np.float32).reshape(3, 1, 1) * np.float32(bright)
    colour += alpha.astype(np.float32) * (white - colour)


def draw_shaft(colour: Floats, scene: Scene, path: Path, xy: Floats) -> None:
    """The scope's own black shaft, seen when the tip looks back."""
    rng = np.random.default_rng([scene.seed, 37])
    angle = rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)
    across = np.array([-way[1], way[0]], dtype=np.float32)
    shift = path.shift.astype(np.float32)
    middle = shift + 0.55 * way + rng.uniform(-0.2, 0.2) * across
    foot = shift + np.asarray(scene.centre, dtype=np.float32) * 0.6
    rim = shift + 1.5 * way + rng.uniform(-0.5, 0.5) * across
    black = np.full(3, 0.075, dtype=np.float32)
    mask: Mask = np.zeros((len(shift), xy.shape[1]), dtype=np.bool_)
    wide = rng.uniform(0.23, 0.30)
    _tube(colour, mask, xy, foot, middle, (wide * 0.75, wide), black, shine=0.22, bands=(0.3, 0.75), band=0.6)
    _tube(colour, mask, xy, middle, rim, (wide, wide * 1.35), black, shine=0.22, bands=(0.4,), band=0.6)

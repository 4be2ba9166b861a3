"""What fills the view: turbid fluid, the wall against the lens, or the room outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from surgvivqa_audio.colonsim.anatomy import NOISE, Floats, Look, make_textures
from surgvivqa_audio.colonsim.camera import Lens, Path
from surgvivqa_audio.colonsim.overlays import narrow_band, sample_noise
from surgvivqa_audio.colonsim.spec import Scene
from surgvivqa_audio.colonsim.tunnel import Hits
from surgvivqa_audio.colonsim.wall import bilinear


def pool(colour: Floats, scene: Scene, look: Look, hits: Hits, path: Path) -> NDArray[np.bool_]:
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


def flooded(scene: Scene, look: Look, path: Path, lens: Lens) -> Floats:
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


def close_up(scene: Scene, look: Look, path: Path, lens: Lens) -> Floats:
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
    near = bilinear(make_textures(look.seed).wall, u, v)[1].reshape(u.shape) * np.float32(1 / 255)
    faint = np.float32(0.62) + np.float32(0.38) * near / np.float32(look.mucosa[1])
    colour = deep[:, None, None] * np.maximum(shade, 0.12) * (1 - ruddy * blush) * faint
    if scene.nbi:
        colour = narrow_band(colour)
    return np.asarray(colour, dtype=np.float32)


def room(scene: Scene, path: Path, lens: Lens) -> Floats:
    """The endoscopy room out of focus: walls, drapes, a lamp, a monitor."""
    rng = np.random.default_rng([scene.seed, 59])
    side = 192
    ramp = np.linspace(-1, 1, side, dtype=np.float32)[:, None, None]
    tones = np.array(
        [[0.62, 0.66, 0.68], [0.30, 0.48, 0.58], [0.32, 0.52, 0.46], [0.60, 0.50, 0.42], [0.5, 0.42, 0.40]]
    )
    picks = tones[rng.integers(len(tones), size=2)] * rng.uniform(0.7, 1.15, (2, 1))
    scenery = np.broadcast_to(picks[0] * (1 - ramp) / 2 + picks[1] * (1 + ramp) / 2, (side, side, 3)).copy()
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
        patch = scenery[top : top + high, left : left + wide]
        patch += rng.uniform(0.35, 0.8) * (paint - patch)
    rows, columns = np.mgrid[0:side, 0:side]
    lamp = (rows - rng.integers(20, 90)) ** 2 + (columns - rng.integers(30, 160)) ** 2 < rng.integers(
        9, 20
    ) ** 2
    scenery[lamp] = 1.25
    soft = int(rng.integers(7, 13))
    for axis in (0, 1, 0, 1):
        scenery = uniform_filter1d(scenery, soft, axis=axis, mode="nearest")
    way = rng.uniform(-1, 1, 2) * 26
    spin = rng.uniform(-0.5, 0.5)
    t = path.moment.astype(np.float32)[:, None] - 0.5
    cosine, sine = np.cos(spin * t), np.sin(spin * t)
    x, y = lens.xy
    column = np.clip((x * cosine - y * sine) * 88 + side / 2 + way[0] * t, 0, side - 1).astype(np.int32)
    row = np.clip((x * sine + y * cosine) * 88 + side / 2 + way[1] * t, 0, side - 1).astype(np.int32)
    return np.moveaxis(scenery.astype(np.float32).reshape(-1, 3).take(row * side + column, axis=0), -1, 0)

"""The wall of the lumen: its texture, diverticula, organ shadows and dye."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.colonsim.anatomy import SIZE, Floats, Look, make_textures
from surgvivqa_audio.colonsim.camera import Path
from surgvivqa_audio.colonsim.overlays import narrow_band, sample_noise
from surgvivqa_audio.colonsim.spec import Scene
from surgvivqa_audio.colonsim.tunnel import Anatomy, Hits

TEXELS = np.float32(SIZE / (2 * np.pi))


def _wall_colour(
    scene: Scene, look: Look, hits: Hits, along: NDArray[np.float64], fine: bool
) -> tuple[Floats, Floats]:
    """Albedo (3, F, N) and relief (F, N) of the wall from the procedure's texture."""
    textures = make_textures(look.seed)
    table = textures.veined if scene.site == "rectum" else textures.wall
    u = np.arctan2(hits.y, hits.x) * TEXELS + np.float32(4 * SIZE)
    start = (along % (2 * np.pi)).astype(np.float32)[:, None]
    v = (hits.depth + start) * TEXELS + np.float32(4 * SIZE)
    if hits.flat.any():
        np.copyto(u, hits.x * TEXELS + np.float32(4 * SIZE), where=hits.flat)
        np.copyto(v, hits.y * TEXELS + np.float32(4 * SIZE), where=hits.flat)
    if fine:
        rgba = bilinear(table, u, v)
    else:
        index = (v.astype(np.int32) & (SIZE - 1)) * SIZE + (u.astype(np.int32) & (SIZE - 1))
        rgba = table.take(index.ravel()).view(np.uint8).reshape(-1, 4).T.astype(np.float32)
    rgba = rgba.reshape(4, *u.shape) * np.float32(1 / 255)
    return rgba[:3], rgba[3]


def bilinear(table: NDArray[np.uint32], u: Floats, v: Floats) -> Floats:
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = (u - column).ravel(), (v - row).ravel()
    total = np.zeros((4, u.size), dtype=np.float32)
    for step_v, weight_v in ((0, 1 - fv), (1, fv)):
        for step_u, weight_u in ((0, 1 - fu), (1, fu)):
            index = ((row + step_v) & (SIZE - 1)) * SIZE + ((column + step_u) & (SIZE - 1))
            texel = table.take(index.ravel()).view(np.uint8).reshape(-1, 4).T
            total += texel * (weight_u * weight_v).astype(np.float32)
    return total


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


def paint_wall(
    scene: Scene, look: Look, hits: Hits, path: Path, anatomy: Anatomy, fine: bool
) -> tuple[Floats, Floats]:
    """Unlit colour (3, F, N) of the wall under the clip's lamp, and its relief (F, N)."""
    rng = np.random.default_rng([scene.seed, 41])
    colour, relief = _wall_colour(scene, look, hits, path.along, fine)
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
    return colour, relief

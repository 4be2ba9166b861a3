"""Rays, mask and path of the scope's camera.

Camera axes: x right, y down, z forward. The lens is equidistant: a point at screen radius r (in half
image sides) is seen at ``r * HALF_FIELD`` radians from the optical axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.colonsim.anatomy import SITES, Floats, Look
from surgvivqa_audio.colonsim.spec import CLOSE_UP, Scene

HALF_FIELD = 1.22  # radians from the axis to the edge of the image
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Lens:
    """The pixels inside the mask of a scope: flat indices, screen positions and rays."""

    size: int
    index: NDArray[np.intp]  # (N,) into size * size
    xy: Floats  # (2, N) in half image sides
    rays: Floats  # (3, N), unit length
    edge: Floats  # (N,) 0 at the mask's border, 1 well inside


@lru_cache(maxsize=64)
def make_lens(size: int, octagon: bool, radius: float) -> Lens:
    """The lens of a scope at an image size."""
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    reach = np.hypot(x, y)
    if octagon:
        away = np.maximum(np.maximum(abs(x), abs(y)) / radius, (abs(x) + abs(y)) / (1.46 * radius))
    else:
        away = reach / radius
    index = np.flatnonzero(away.ravel() < 1)
    xy = np.stack([x.ravel()[index], y.ravel()[index]])
    edge = np.clip((1 - away.ravel()[index]) / 0.03, 0, 1)
    return Lens(size, index, xy, directions(xy.T).T.astype(np.float32).copy(), edge.astype(np.float32))


def directions(points: Doubles | Floats) -> Doubles:
    """Unit rays (…, 3) of screen points (…, 2)."""
    radius = np.linalg.norm(points, axis=-1, keepdims=True)
    angle = radius * HALF_FIELD
    side = np.sinc(angle / np.pi) * HALF_FIELD
    return np.concatenate([points * side, np.cos(angle)], axis=-1)


def project(vectors: Doubles | Floats) -> Doubles:
    """Screen points (…, 2) of camera-space vectors (…, 3)."""
    flat = np.hypot(vectors[..., 0], vectors[..., 1])
    angle = np.arctan2(flat, vectors[..., 2])
    return vectors[..., :2] * (angle / (np.maximum(flat, 1e-9) * HALF_FIELD))[..., None]


def turn(source: Doubles, target: Doubles) -> Doubles:
    """The smallest rotations (…, 3, 3) that carry unit vectors ``source`` to ``target``."""
    cross = np.cross(source, target)
    cosine = (source * target).sum(-1)[..., None, None]
    skew = np.zeros((*cross.shape[:-1], 3, 3))
    skew[..., 0, 1], skew[..., 0, 2] = -cross[..., 2], cross[..., 1]
    skew[..., 1, 0], skew[..., 1, 2] = cross[..., 2], -cross[..., 0]
    skew[..., 2, 0], skew[..., 2, 1] = -cross[..., 1], cross[..., 0]
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + cosine))


@dataclass(frozen=True)
class Path:
    """Where the camera and the lesion are in each of F frames."""

    moment: Doubles  # (F,) 0 at the first frame of the clip, 1 at the last
    along: Doubles  # (F,) position along the lumen, radii
    offset: Doubles  # (F, 2) from the axis, radii
    rotation: Doubles  # (F, 3, 3) camera to world
    shift: Doubles  # (F, 2) of the view on the screen
    lesion: Doubles  # (F, 2) on the screen
    zoom: Doubles  # (F,) lesion's distance mid clip over its distance now


def make_path(scene: Scene, look: Look, moments: Doubles) -> Path:
    """The path at the given moments of the clip (0 first frame, 1 last frame)."""
    rng = np.random.default_rng([scene.seed, 3])
    count = len(moments)
    sway_size = 0.005 + 0.020 * scene.difficulty
    phase, speed = rng.uniform(0, 2 * np.pi, (2, 3)), rng.uniform(3, 9, (2, 3))
    sway = sway_size * np.sin(moments[:, None, None] * speed + phase).mean(-1)
    middle = sway_size * np.sin(0.5 * speed + phase).mean(-1)
    shift = (moments[:, None] - 0.5) * np.asarray(scene.drift) + sway - middle
    along = rng.uniform(4, 400) + scene.axial * (moments - 0.5)
    away = rng.uniform(-0.16, 0.16, 2)
    offset = away + 0.015 * np.sin(moments[:, None] * speed[:, 0] + phase[:, 0])
    still = scene.axial == 0 and bool(scene.size_mm)
    pivot = np.asarray(scene.lesion if still else scene.centre)
    home = turn(directions(np.asarray(scene.centre)), np.array([0.0, 0.0, 1.0]))
    anchor = directions(pivot + shift)
    rotation = home @ turn(anchor, np.broadcast_to(directions(pivot), (count, 3)))
    lesion, zoom = np.zeros((count, 2)), np.ones(count)
    if scene.size_mm:
        ray = home @ directions(np.asarray(scene.lesion))
        distance = 1 / max(float(np.hypot(ray[0], ray[1])), 0.3)
        end = SITES[scene.site].end
        if end and scene.kind != CLOSE_UP:
            distance = min(distance, end / max(float(ray[2]), 0.1))
        point = ray * distance
        moved = (
            np.broadcast_to(point, (count, 3))
            - np.array([0, 0, 1.0]) * (scene.axial * (moments - 0.5))[:, None]
        )
        lesion = project(np.einsum("fji,fj->fi", rotation, moved))
        zoom = distance / np.linalg.norm(moved, axis=-1)
    return Path(moments, along, offset, rotation, shift, lesion, zoom)

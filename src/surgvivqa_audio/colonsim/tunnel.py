"""Ray casting of the lumen: a bent tube with a row of folds, optionally closed at its end.

Arrays are (F, N) float32: F frames by N pixels inside the mask. Lengths are lumen radii.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.colonsim.anatomy import SITES, Floats, Look, Site
from surgvivqa_audio.colonsim.camera import Path
from surgvivqa_audio.colonsim.spec import Scene

REACH = 3.6  # folds further than this are in the dark
_TINY = np.float32(1e-5)


@dataclass
class Hits:
    """Where each ray meets the wall."""

    distance: Floats
    x: Floats  # in the cross-section, around the (bent) axis
    y: Floats
    along: Floats  # from the camera
    facing: Floats  # cosine between the ray and the surface normal
    crease: Floats  # 1 in the open, less in corners
    rays: tuple[Floats, Floats, Floats]
    depth: Floats  # texture row coordinate, radii
    flat: NDArray[np.bool_]  # where the texture follows (x, y) instead of (angle, depth)


@dataclass(frozen=True)
class Fold:
    """One fold of the clip."""

    position: float  # along the lumen, radii
    side: float  # angle of its crescent
    deep: float
    index: int


@dataclass(frozen=True)
class Anatomy:
    """The stretch of colon one clip shows."""

    site: Site
    folds: tuple[Fold, ...]
    bend: tuple[float, float]
    turn: float  # phase of triangles
    end: float  # position of the closed end, 0 for none
    shadow: float  # angle of the organ shadow


def make_anatomy(scene: Scene, look: Look, path: Path) -> Anatomy:
    """Folds and bends of a clip; the folds are a property of the procedure and the position."""
    site = SITES[scene.site]
    rng = np.random.default_rng([scene.seed, 5])
    way, turn = rng.uniform(0, 2 * np.pi, 2)
    spacing = site.spacing * look.fold_scale
    middle = float(path.along[0]) + scene.axial * (0.5 - float(path.moment[0]))
    end = middle + site.end if site.end else 0.0
    first = int((middle - 1.0) / spacing)
    last = int(((end - 0.25) if end else middle + REACH + 0.8) / spacing)
    folds = []
    for index in range(first, last + 1):
        fold = np.random.default_rng([look.seed, 13, index])
        side = turn + index * 2.4 + fold.uniform(-0.4, 0.4)
        if scene.site == "rectum":
            side = turn + index * np.pi + fold.uniform(-0.3, 0.3)
        place = (index + 0.26 * fold.uniform(-1, 1)) * spacing
        folds.append(Fold(place, side, site.depth * fold.uniform(0.8, 1.15), index))
    bend = site.bend * rng.uniform(0.9, 1.15)
    return Anatomy(
        site,
        tuple(folds),
        (bend * np.cos(way), bend * np.sin(way)),
        turn,
        end,
        way + np.pi + rng.uniform(-0.4, 0.4),
    )


def _rays(rays: Floats, path: Path) -> tuple[Floats, Floats, Floats]:
    world = path.rotation.astype(np.float32) @ rays
    return world[:, 0].copy(), world[:, 1].copy(), world[:, 2].copy()


def _wall(anatomy: Anatomy, rays: tuple[Floats, Floats, Floats], path: Path) -> Hits:
    """Hits with the tube itself."""
    dx, dy, dz = rays
    ox, oy = path.offset.astype(np.float32).T[:, :, None]
    square = dx * dx + dy * dy + _TINY
    cross = ox * dx + oy * dy
    distance = (np.sqrt(np.maximum(cross * cross - square * (ox * ox + oy * oy - 1), 0)) - cross) / square
    px, py = ox, oy
    if anatomy.site.bend > 0.05:
        along = _bent(anatomy, rays, (ox, oy), distance)
        distance = np.where(along > 0, along / np.maximum(dz, np.float32(0.05)), distance)
        bow = np.float32(0.5) * np.maximum(along, 0) ** 2
        px = ox - np.float32(anatomy.bend[0]) * bow
        py = oy - np.float32(anatomy.bend[1]) * bow
    x, y = px + distance * dx, py + distance * dy
    if anatomy.site.section:
        cosine = (x * x - 3 * y * y) * x * np.float32(np.cos(3 * anatomy.turn))
        sine = (3 * x * x - y * y) * y * np.float32(np.sin(3 * anatomy.turn))
        distance = distance * (1 + np.float32(anatomy.site.section) * (cosine + sine))
        x, y = px + distance * dx, py + distance * dy
    along = distance * dz
    flat = np.zeros(x.shape, dtype=np.bool_)
    return Hits(distance, x, y, along, dx * x + dy * y, np.ones_like(x), rays, along.copy(), flat)


def _bent(
    anatomy: Anatomy, rays: tuple[Floats, Floats, Floats], offset: tuple[Floats, Floats], straight: Floats
) -> Floats:
    """Where along a bent tube each ray leaves it: cross-sections are tried from near to far."""
    dx, dy, dz = rays
    found = np.where(dz > 0.05, np.float32(3.4), straight * dz).astype(np.float32)
    open_rays = np.flatnonzero(dz > 0.05)
    slope = 1 / dz.ravel()[open_rays]
    sx, sy = dx.ravel()[open_rays] * slope, dy.ravel()[open_rays] * slope
    row = open_rays // dx.shape[1]
    ox, oy = offset[0].ravel()[row], offset[1].ravel()[row]
    before, last = ox * ox + oy * oy - 1, 0.0
    for plane in (0.2, 0.4, 0.6, 0.8, 1.05, 1.35, 1.7, 2.1, 2.7, 3.4):
        x = ox - np.float32(0.5 * anatomy.bend[0] * plane**2) + np.float32(plane) * sx
        y = oy - np.float32(0.5 * anatomy.bend[1] * plane**2) + np.float32(plane) * sy
        now = x * x + y * y - 1
        out = now > 0
        part = np.float32(last) - before[out] * np.float32(plane - last) / (now[out] - before[out] + _TINY)
        found.ravel()[open_rays[out]] = part
        stay = ~out
        open_rays, sx, sy, ox, oy = (values[stay] for values in (open_rays, sx, sy, ox, oy))
        before, last = now[stay], plane
    return found


def _close_end(anatomy: Anatomy, hits: Hits, path: Path) -> None:
    """The caecal pole: a shallow bowl across the lumen."""
    dx, dy, dz = hits.rays
    ahead = (anatomy.end - path.along).astype(np.float32)[:, None]
    ox, oy = path.offset.astype(np.float32).T[:, :, None]
    distance = ahead / np.maximum(dz, np.float32(0.05))
    x, y = ox + distance * dx, oy + distance * dy
    radius = x * x + y * y
    # a bowl: the pole bulges away from the camera in its middle
    distance = distance * (1 + np.float32(0.22) * np.maximum(1 - radius, 0) / np.maximum(ahead, 0.4))
    hit = (distance < hits.distance) & (dz > 0.05)
    x, y = ox + distance * dx, oy + distance * dy
    rho = np.sqrt(x * x + y * y)
    corner = 1 - np.float32(0.35) * np.clip((rho - np.float32(0.72)) * 4, 0, 1)
    arms = np.arctan2(y, x) * 3 + np.float32(anatomy.turn)
    ridge = np.cos(arms) * np.clip(rho * 3, 0, 1)
    corner = corner * (1 - np.float32(0.42) * np.clip(-ridge * 2 - np.float32(0.9), 0, 1))
    # the appendix: a dark crescent slit beside the centre
    angle = anatomy.turn
    ax = (x - np.float32(0.2 * np.cos(angle))) * np.float32(np.cos(angle)) + (
        y - np.float32(0.2 * np.sin(angle))
    ) * np.float32(np.sin(angle))
    ay = -x * np.float32(np.sin(angle)) + y * np.float32(np.cos(angle))
    slit = ((ax + 1.6 * ay * ay) / np.float32(0.062)) ** 2 + (ay / np.float32(0.19)) ** 2
    corner = corner * (np.float32(0.13) + np.float32(0.87) * np.clip(slit - np.float32(0.7), 0, 1))
    np.copyto(hits.distance, distance, where=hit)
    np.copyto(hits.x, x, where=hit)
    np.copyto(hits.y, y, where=hit)
    np.copyto(hits.along, distance * dz, where=hit)
    np.copyto(hits.facing, np.maximum(dz, 0) * (1 + np.float32(0.22) * ridge), where=hit)
    np.copyto(hits.crease, corner, where=hit)
    np.copyto(hits.flat, True, where=hit)


def _fold(anatomy: Anatomy, fold: Fold, hits: Hits, path: Path) -> None:
    """Put one fold in front of what is there: a diaphragm with a shaped opening and a rounded lip."""
    ahead_of = (fold.position - path.along).astype(np.float32)
    if float(ahead_of.max()) < 0.08 or float(ahead_of.min()) > REACH:
        return
    passing = (hits.along > ahead_of[:, None]) & (ahead_of > 0.08)[:, None]
    where = np.flatnonzero(passing)  # only rays that get as far as the fold
    row = where // hits.along.shape[1]
    bow = np.float32(0.5) * np.clip(ahead_of, 0, 2.6) ** 2
    ox = (path.offset[:, 0] - anatomy.bend[0] * bow).astype(np.float32)[row]
    oy = (path.offset[:, 1] - anatomy.bend[1] * bow).astype(np.float32)[row]
    dx, dy, dz = (ray.ravel()[where] for ray in hits.rays)
    ahead = ahead_of[row]
    distance = ahead / np.maximum(dz, np.float32(0.04))
    x, y = ox + distance * dx, oy + distance * dy
    rho = np.sqrt(x * x + y * y) + _TINY
    height = _lip(anatomy, fold, x / rho, y / rho)
    inside = rho - (1 - height)
    hit = np.flatnonzero(inside > 0)
    where, distance, x, y, rho = where[hit], distance[hit], x[hit], y[hit], rho[hit]
    near, height, dz, ahead = inside[hit], height[hit], dz[hit], ahead[hit]
    round_lip = np.exp(near * np.float32(-11.0))
    hits.distance.ravel()[where] = distance
    hits.x.ravel()[where] = x
    hits.y.ravel()[where] = y
    hits.along.ravel()[where] = distance * dz
    hits.facing.ravel()[where] = np.float32(0.36) + np.float32(0.5) * dz + np.float32(0.10) * round_lip
    corner = np.minimum(near / (height + np.float32(0.05)), 1)
    hits.crease.ravel()[where] = 1 - np.float32(0.45) * corner * corner
    hits.flat.ravel()[where] = anatomy.site.crescent > 1
    hits.depth.ravel()[where] = ahead + rho - 1


def _lip(anatomy: Anatomy, fold: Fold, cosine: Floats, sine: Floats) -> Floats:
    """How far a fold reaches into the lumen in the direction (cosine, sine)."""
    site = anatomy.site
    shape = np.float32(0.75) + np.float32(site.crescent * np.cos(fold.side)) * cosine
    shape += np.float32(site.crescent * np.sin(fold.side)) * sine
    if site.triangle:
        three = 3 * anatomy.turn + np.pi
        wave = (4 * cosine * cosine - 3) * cosine * np.float32(np.cos(three))
        wave += (3 - 4 * sine * sine) * sine * np.float32(np.sin(three))
        shape += np.float32(0.6 * site.triangle) * wave
    # a gentle unevenness, so that no two lips are alike
    shape += np.float32(0.32 * np.cos(fold.index * 1.7)) * cosine * sine
    height = np.float32(fold.deep) * np.maximum(shape, 0)
    return np.asarray(height + np.float32(site.section * 0.5), dtype=np.float32)


def cast(scene: Scene, look: Look, path: Path, anatomy: Anatomy, rays: Floats) -> Hits:
    """Cast (3, N) camera rays in every frame of the path."""
    hits = _wall(anatomy, _rays(rays, path), path)
    if anatomy.end:
        _close_end(anatomy, hits, path)
    for fold in reversed(anatomy.folds):
        _fold(anatomy, fold, hits, path)
    return hits

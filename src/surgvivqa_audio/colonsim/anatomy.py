"""What one procedure looks like: mucosa, vessels, colours, scope; and how the colon differs by site.

Textures are made once per procedure and cached. A wall texture is periodic in both directions: columns
run around the lumen, rows along it, at the same scale (``SIZE`` texels are 2*pi lumen radii).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 512  # texels of a wall texture, both ways
NOISE = 256  # texels of a shared noise texture, both ways
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Site:
    """Shape of one part of the colon; lengths in lumen radii."""

    spacing: float  # between folds
    depth: float  # how far a fold reaches into the lumen
    triangle: float  # share of the fold that follows a triangle
    crescent: float  # share of the fold that stands on one side only
    section: float  # triangularity of the wall itself
    bend: float  # curvature of the axis
    end: float = 0.0  # distance of the closed end, 0 for none
    veins: float = 0.0  # strength of the submucosal veins
    pouches: int = 0  # diverticula
    shadow: float = 0.0  # half-angle of the organ shadow on the wall, radians
    shadow_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


SITES: dict[str, Site] = {
    "cecum": Site(0.95, 0.22, 0.0, 0.4, 0.02, 0.0, end=1.75),
    "ascending": Site(0.62, 0.40, 0.25, 0.45, 0.03, 0.06),
    "hepatic flexure": Site(0.85, 0.26, 0.1, 0.5, 0.0, 0.75, shadow=1.25, shadow_colour=(0.56, 0.63, 0.84)),
    "transverse": Site(0.55, 0.34, 1.0, 0.0, 0.12, 0.03),
    "splenic flexure": Site(0.60, 0.18, 0.1, 0.3, 0.0, 0.60, shadow=0.6, shadow_colour=(0.46, 0.38, 0.66)),
    "descending": Site(1.15, 0.15, 0.0, 0.15, 0.0, 0.02),
    "sigma": Site(0.42, 0.46, 0.0, 0.7, 0.0, 0.34, pouches=9),
    "rectum": Site(1.7, 0.50, 0.0, 1.6, 0.0, 0.05, veins=1.0),
}


@dataclass(frozen=True)
class Look:
    """Appearance of one procedure: everything that stays the same along its time line."""

    seed: int
    octagon: bool
    mask_radius: float
    mucosa: tuple[float, float, float]
    vessel_density: float
    vessel_contrast: float
    relief: float
    gain: float
    falloff: float
    wetness: float
    vignette: float
    white_balance: tuple[float, float, float]
    gamma: float
    fluid: tuple[float, float, float]
    fold_scale: float


def make_look(seed: int) -> Look:
    """Draw the appearance of a procedure from its seed."""
    rng = np.random.default_rng([seed, 7])
    tone = np.array([0.86, 0.50, 0.40]) + rng.uniform(-1, 1) * np.array([0.05, 0.08, 0.07])
    tone = tone + rng.uniform(-0.03, 0.03, 3)
    fluids = ((0.62, 0.50, 0.20), (0.48, 0.44, 0.18), (0.55, 0.36, 0.18), (0.66, 0.60, 0.38))
    fluid = np.array(fluids[rng.integers(len(fluids))]) + rng.uniform(-0.05, 0.05, 3)
    balance = 1 + rng.uniform(-0.05, 0.05, 3)
    return Look(
        seed=seed,
        octagon=bool(rng.random() < 0.6),
        mask_radius=float(rng.uniform(0.94, 1.0)),
        mucosa=(float(tone[0]), float(tone[1]), float(tone[2])),
        vessel_density=float(rng.uniform(0.5, 1.4)),
        vessel_contrast=float(rng.uniform(0.5, 1.0)),
        relief=float(rng.uniform(0.6, 1.3)),
        gain=float(rng.uniform(0.9, 1.15)),
        falloff=float(rng.uniform(0.75, 1.05)),
        wetness=float(rng.uniform(0.5, 1.2)),
        vignette=float(rng.uniform(0.15, 0.4)),
        white_balance=(float(balance[0]), float(balance[1]), float(balance[2])),
        gamma=float(rng.uniform(0.85, 1.05)),
        fluid=(float(fluid[0]), float(fluid[1]), float(fluid[2])),
        fold_scale=float(rng.uniform(0.88, 1.14)),
    )


def smooth_noise(rng: np.random.Generator, size: int, scale: float, power: float = 2.0) -> Floats:
    """Periodic Gaussian noise of unit variance, (size, size); ``scale`` is a wavelength in texels."""
    white = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    radius = np.sqrt(rows**2 + columns**2) * scale
    noise = np.fft.irfft2(white * np.exp(-(radius**power)), (size, size))
    return np.asarray(((noise - noise.mean()) / noise.std()), dtype=np.float32)


@lru_cache(maxsize=1)
def noise_bank() -> Floats:
    """Four shared noises (4, NOISE, NOISE): broad, middle, fine, and white."""
    rng = np.random.default_rng(20251)
    bank = [smooth_noise(rng, NOISE, scale) for scale in (90.0, 34.0, 12.0, 0.5)]
    return np.stack(bank)


def _wander(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, count: int, width: float, length: int
) -> None:
    """Draw branching, wrapping vessels."""
    branches = [
        (rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), width * rng.uniform(0.6, 1.2), length)
        for _ in range(count)
    ]
    while branches:
        point, angle, thick, steps = branches.pop()
        points = [tuple(point)]
        for _ in range(steps):
            angle += rng.normal(0, 0.33)
            point = point + 9.0 * np.array([np.cos(angle), np.sin(angle)])
            points.append(tuple(point))
            if rng.random() < 0.09 and thick > 1.4:
                turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)
                branches.append((point, angle + turn, thick * 0.65, max(4, steps // 2)))
        for shift_x in (-size, 0, size):
            for shift_y in (-size, 0, size):
                moved = [(x + shift_x, y + shift_y) for x, y in points]
                draw.line(
                    moved, fill=int(110 + min(thick, 4) * 35), width=max(1, round(thick)), joint="curve"
                )


def _vessels(rng: np.random.Generator, count: int, width: float, length: int, blur: float) -> Floats:
    """A periodic vessel map in [0, 1], (SIZE, SIZE)."""
    canvas = Image.new("L", (SIZE, SIZE), 0)
    _wander(ImageDraw.Draw(canvas), rng, SIZE, count, width, length)
    tiled = np.pad(np.asarray(canvas), 16, mode="wrap")
    blurred = Image.fromarray(tiled).filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(blurred, dtype=np.float32)[16:-16, 16:-16] / 255.0


@dataclass(frozen=True)
class Textures:
    """Packed RGBA wall textures, uint32 (SIZE * SIZE,): alpha is the relief; with and without veins."""

    wall: NDArray[np.uint32]
    veined: NDArray[np.uint32]


def _pack(colour: Floats, relief: Floats) -> NDArray[np.uint32]:
    rgba = np.concatenate([colour, relief[..., None]], axis=-1)
    return np.ascontiguousarray(np.clip(rgba * 255, 0, 255).astype(np.uint8)).view(np.uint32).reshape(-1)


@lru_cache(maxsize=48)
def make_textures(seed: int) -> Textures:
    """Wall textures of a procedure; about 0.1 s, then cached."""
    look = make_look(seed)
    rng = np.random.default_rng([seed, 11])
    base = np.asarray(look.mucosa, dtype=np.float32)
    broad, fine = smooth_noise(rng, SIZE, 130.0), smooth_noise(rng, SIZE, 14.0)
    blotch = smooth_noise(rng, SIZE, 45.0)
    tone = 1 + 0.07 * broad + 0.045 * blotch + 0.025 * fine
    colour = base * tone[..., None]
    colour[..., 0] *= 1 + 0.02 * blotch
    colour[..., 1:] *= (1 - 0.05 * blotch)[..., None]
    thin = _vessels(rng, int(26 * look.vessel_density), 3.0, 34, 0.8) * look.vessel_contrast
    absorb = np.array([0.30, 0.62, 0.55], dtype=np.float32)
    wall = colour * (1 - thin[..., None] * absorb)
    thick = _vessels(rng, 16, 8.0, 46, 2.0)
    veins = colour * (1 - thick[..., None] * np.array([0.62, 0.60, 0.38], dtype=np.float32))
    veins *= 1 - 0.5 * thin[..., None] * absorb
    height = smooth_noise(rng, SIZE, 42.0) + 0.14 * fine
    slope = np.gradient(height)[0] + np.gradient(height)[1]
    relief = (0.5 + 0.16 * look.relief * slope / slope.std()).astype(np.float32)
    return Textures(_pack(wall, relief), _pack(veins, relief))


PITS = 96  # texels across a lesion texture


@lru_cache(maxsize=1)
def pit_patterns() -> dict[str, Floats]:
    """Surface pattern of each histology, (PITS, PITS) around 0."""
    rng = np.random.default_rng(41)
    rows, columns = np.mgrid[0:PITS, 0:PITS].astype(np.float32)
    dots = np.cos(rows * 0.95) * np.cos(columns * 0.95 + 0.9 * np.sin(rows * 0.3))
    warp = smooth_noise(rng, PITS, 30.0) * 2.6
    gyri = np.cos((rows + 0.5 * columns) * 0.42 + warp)
    clouds = smooth_noise(rng, PITS, 22.0)
    return {
        "hyperplastic": np.asarray(np.where(dots > 0.45, 0.6, -0.1), dtype=np.float32),
        "adenoma": np.asarray(gyri, dtype=np.float32),
        "sessile serrated": np.asarray(np.clip(clouds, -1.5, 1.5), dtype=np.float32),
    }

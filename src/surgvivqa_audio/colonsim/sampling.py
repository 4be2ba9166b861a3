"""Drawing the scene of a clip: what is in it, so that a wanted answer is true."""

from __future__ import annotations

import numpy as np

from surgvivqa_audio.colonsim.anatomy import SITES
from surgvivqa_audio.colonsim.camera import directions
from surgvivqa_audio.colonsim.spec import (
    CLOSE_UP,
    DRIFTS,
    FLOODED,
    LESION_TYPES,
    LUMEN,
    OUTSIDE,
    RETROFLEXION,
    TOOL_TYPES,
    Scene,
)

HISTOLOGIES = ("hyperplastic", "adenoma", "sessile serrated")
SIZES = {"<5": (3.4, 4.6), "5-9": (5.8, 8.2), ">9": (11.0, 17.0)}
TOOLS = ("forceps", "snare", "catheter")
QUADRANTS = {"upper-left": (-1, -1), "upper-right": (1, -1), "lower-left": (-1, 1), "lower-right": (1, 1)}

Want = tuple[str, str] | None


def _needs_lumen(want: Want) -> bool:
    if want is None:
        return False
    name = want[0]
    if name in LESION_TYPES + TOOL_TYPES or name.startswith("scope_motion") or name.endswith("ward_motion"):
        return True
    return want in {
        ("mucosa_visibility", "yes"),
        ("occlusion_check", "no"),
        ("endoscope_visibility", "no"),
        ("fluid_occlusion_level", "absent"),
        ("fluid_occlusion_level", "partial"),
    } or name in ("blue_dye_presence", "flush_action")


_KINDS = {
    ("endoscope_visibility", "yes"): RETROFLEXION,
    ("occlusion_check", "yes"): CLOSE_UP,
    ("fluid_occlusion_level", "complete"): FLOODED,
    ("scope_outside", "yes"): OUTSIDE,
}


RARE = tuple(_KINDS) * 2


def _kind(rng: np.random.Generator, want: Want) -> str:
    kind = str(
        rng.choice([LUMEN, OUTSIDE, CLOSE_UP, RETROFLEXION, FLOODED], p=[0.32, 0.17, 0.17, 0.17, 0.17])
    )
    if want in _KINDS:
        return _KINDS[want]
    return LUMEN if _needs_lumen(want) else kind


def _motion(rng: np.random.Generator, want: Want, lesion: bool) -> str:
    """Motion of the scope, or drift of the lesion."""
    if lesion:
        names = ["up", "down", "left", "right", "stable", "advancing", "withdrawing"]
        motion = str(rng.choice(names, p=[0.13, 0.13, 0.13, 0.13, 0.18, 0.15, 0.15]))
    else:
        motion = str(rng.choice(["advancing", "withdrawing", "still"], p=[0.35, 0.35, 0.3]))
    if want is None:
        return motion
    name, answer = want
    ahead = {
        ("scope_motion_type", answer): answer == "advancing",
        ("scope_forward_motion", answer): answer == "yes",
        ("scope_backward_motion", answer): answer == "no",
        ("scope_motion", "yes"): bool(rng.random() < 0.5),
    }.get((name, answer))
    if ahead is not None:
        return "advancing" if ahead else "withdrawing"
    if name == "scope_motion":
        return "stable" if lesion else "still"
    return answer if name == "lesion_motion_direction" else motion


def _choose(rng: np.random.Generator, want: Want, name: str, options: tuple[str, ...]) -> str:
    pick = str(options[rng.integers(len(options))])
    return want[1] if want is not None and want[0] == name else pick


def _framing(
    rng: np.random.Generator, want: Want, motion: str, lesion: bool, difficulty: float
) -> tuple[float, tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Axial travel, drift of the view, lumen centre and lesion position."""
    reach = rng.uniform(0, 0.34)
    turn = rng.uniform(0, 2 * np.pi)
    centre = reach * np.array([np.cos(turn), np.sin(turn)])
    quadrant = _choose(rng, want, "lesion_screen_position", tuple(QUADRANTS))
    spot = rng.uniform(0.16, 0.52, 2) * QUADRANTS[quadrant]
    drift = np.zeros(2)
    if motion in DRIFTS:
        way = np.asarray(DRIFTS[motion])
        length = rng.uniform(0.24, 0.42) - 0.03 * difficulty
        drift = way * length + rng.uniform(-0.05, 0.05) * way[::-1]
    axial = 0.0
    if motion in ("advancing", "withdrawing"):
        axial = rng.uniform(0.55, 1.15) * (0.62 if lesion else 1.0) * (1.15 - 0.3 * difficulty)
        axial = axial if motion == "advancing" else -axial
    return (
        float(axial),
        (float(drift[0]), float(drift[1])),
        (float(centre[0]), float(centre[1])),
        (float(spot[0]), float(spot[1])),
    )


def draw_scene(rng: np.random.Generator, want: Want, difficulty: float) -> Scene:
    kind = _kind(rng, want)
    lumen = kind == LUMEN
    looking = kind in (LUMEN, RETROFLEXION)
    wants_lesion = want is not None and want[0] in LESION_TYPES
    wants_tool = want is not None and want[0] in TOOL_TYPES
    lesion = lumen and (wants_lesion or bool(rng.random() < 0.5))
    tool = lumen and (wants_tool or bool(rng.random() < 0.40))
    motion = _motion(rng, want, lesion)
    axial, drift, centre, spot = _framing(rng, want, motion, lesion, difficulty)
    which = TOOLS[rng.integers(3)]
    if want == ("tool_catheter_check", "no"):
        which = TOOLS[rng.integers(2)]
    elif want == ("tool_catheter_check", "yes"):
        which = "catheter"
    which = _choose(rng, want, "tool_identification", (which,))
    nbi = bool(rng.random() < 0.42)
    if want is not None and want[0] in ("nbi_status", "lighting_mode"):
        nbi = want[1] in ("yes", "NBI")
    dye = bool(rng.random() < 0.3)
    if want is not None and want[0] == "blue_dye_presence":
        nbi, dye = False, want[1] == "yes"
    flush = bool(rng.random() < 0.24)
    partial = bool(rng.random() < 0.23)
    if want is not None and want[0] == "flush_action":
        flush = want[1] == "yes"
    if want in (("mucosa_visibility", "yes"), ("occlusion_check", "no"), ("fluid_occlusion_level", "absent")):
        flush = partial = False
    if want == ("fluid_occlusion_level", "partial"):
        partial = True
    fluid = "complete" if kind == FLOODED else "partial" if lumen and partial else "absent"
    size = _choose(rng, want, "lesion_size_range", tuple(SIZES))
    sites = tuple(SITES) if kind != RETROFLEXION else ("cecum", "rectum", "ascending")
    spread = 0.05 + 0.10 * difficulty
    return Scene(
        kind=kind,
        seed=int(rng.integers(1 << 31)),
        difficulty=difficulty,
        site=_choose(rng, want, "lesion_site", sites),
        nbi=nbi and kind != OUTSIDE,
        dye=dye and lumen and not nbi,
        fluid=fluid,
        flush=flush and lumen,
        tool=which if tool else "",
        motion=motion if looking else "still",
        axial=axial if looking else 0.0,
        drift=drift if lumen else (0.0, 0.0),
        centre=centre,
        histology=_choose(rng, want, "lesion_histology_extended", HISTOLOGIES) if lesion else "",
        size_mm=float(rng.uniform(*SIZES[size])) if lesion else 0.0,
        lesion=spot if lesion else (0.0, 0.0),
        lesion_mm=float(16.5 * (1 + rng.uniform(-spread, spread))),
    )


def well_placed(scene: Scene, path: list[tuple[float, float]]) -> bool:
    """Whether a lesion stays in view, away from the lumen's centre, and drifts as it should."""
    if not scene.size_mm:
        return True
    places = np.asarray(path)
    apart = directions(np.asarray(scene.lesion)) @ directions(np.asarray(scene.centre))
    if apart > np.cos(0.45) or (np.hypot(*places.T) > 0.78).any():
        return False
    moved = places[-1] - places[0]
    if scene.motion == "stable":
        return bool(np.hypot(*moved) < 0.06)
    if scene.motion in DRIFTS:
        way = np.asarray(DRIFTS[scene.motion])
        ahead = float(moved @ way)
        return ahead > 0.19 and ahead > 2.5 * float(np.linalg.norm(moved - ahead * way))
    return True

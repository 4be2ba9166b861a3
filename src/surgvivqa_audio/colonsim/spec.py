"""The parameters of one clip and the ground truth that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

STRIDE = 4  # video frames between two frames of a clip
FPS = 25.0
CLIP_FPS = FPS / STRIDE  # of a clip's frames
LUMEN, OUTSIDE, CLOSE_UP, RETROFLEXION, FLOODED = "lumen", "outside", "close-up", "retroflexion", "flooded"
DRIFTS = {"up": (0.0, -1.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0)}
LESION_TYPES = (
    "lesion_size_range",
    "lesion_histology_extended",
    "lesion_site",
    "lesion_screen_position",
    "lesion_motion_direction",
)
TOOL_TYPES = ("tool_catheter_check", "tool_identification")


@dataclass(frozen=True)
class Scene:
    """What is in front of the lens; screen lengths in half image sides, x right and y down."""

    kind: str
    seed: int
    difficulty: float
    site: str
    nbi: bool
    dye: bool
    fluid: str
    flush: bool
    tool: str
    motion: str  # advancing, withdrawing, still, or the direction of a lesion's drift
    axial: float  # lumen radii advanced over the clip
    drift: tuple[float, float]  # of the whole view over the clip
    centre: tuple[float, float]  # of the lumen on the screen, mid clip
    histology: str = ""
    size_mm: float = 0.0
    lesion: tuple[float, float] = (0.0, 0.0)  # on the screen, mid clip
    lesion_mm: float = 17.0  # distance from the lens, mid clip


@dataclass(frozen=True)
class ClipSpec:
    """One clip: which frames of which video, what is true of it, and how to draw it.

    ``known`` holds every question that has a clear answer; ``answers`` those that are asked, thinned so
    that over a procedure each answer of a type occurs about equally often.
    """

    video_id: str
    procedure_seed: int
    index: int
    frame_numbers: tuple[int, ...]
    answers: dict[str, str]
    known: dict[str, str]
    unanswerable: tuple[str, ...]
    scene: Scene


def size_bracket(millimetres: float) -> str:
    """The size answer of a diameter in mm."""
    return "<5" if millimetres < 5 else "5-9" if millimetres <= 9 else ">9"


def _view_answers(scene: Scene) -> dict[str, str]:
    """Questions about the view as a whole."""
    inside = scene.kind != OUTSIDE
    clean = scene.kind == LUMEN and scene.fluid == "absent" and not scene.flush
    known = {"scope_outside": "no" if inside else "yes"}
    if scene.kind in (LUMEN, RETROFLEXION):
        known["endoscope_visibility"] = "yes" if scene.kind == RETROFLEXION else "no"
    if clean:
        known["mucosa_visibility"] = "yes"
    elif scene.kind in (OUTSIDE, CLOSE_UP, FLOODED):
        known["mucosa_visibility"] = "no"
    if inside:
        known["nbi_status"] = "yes" if scene.nbi else "no"
        known["lighting_mode"] = "NBI" if scene.nbi else "WL"
    if scene.kind == LUMEN and not scene.nbi:
        known["blue_dye_presence"] = "yes" if scene.dye else "no"
    if clean or scene.kind == CLOSE_UP:
        known["occlusion_check"] = "no" if clean else "yes"
    if clean or scene.kind == FLOODED or (scene.kind == LUMEN and scene.fluid == "partial"):
        known["fluid_occlusion_level"] = scene.fluid
    if scene.kind == LUMEN:
        known["flush_action"] = "yes" if scene.flush else "no"
    return known


def _motion_answers(scene: Scene) -> dict[str, str]:
    """Questions about the scope's motion; a tip that only turns is neither still nor advancing."""
    if scene.kind != LUMEN or scene.motion in DRIFTS:
        return {}
    if scene.motion not in ("advancing", "withdrawing"):
        return {"scope_motion": "no"}
    ahead = scene.motion == "advancing"
    return {
        "scope_motion": "yes",
        "scope_forward_motion": "yes" if ahead else "no",
        "scope_backward_motion": "no" if ahead else "yes",
        "scope_motion_type": scene.motion,
    }


def known_answers(scene: Scene, lesion_path: list[tuple[float, float]]) -> dict[str, str]:
    """Every question of the taxonomy that this scene answers clearly.

    ``lesion_path`` is where the lesion is on the screen in the first, middle and last frame.
    """
    known = _view_answers(scene) | _motion_answers(scene)
    if scene.tool:
        known["tool_identification"] = scene.tool
        known["tool_catheter_check"] = "yes" if scene.tool == "catheter" else "no"
    if scene.size_mm:
        known["lesion_size_range"] = size_bracket(scene.size_mm)
        known["lesion_histology_extended"] = scene.histology
        known["lesion_site"] = scene.site
        if scene.motion in DRIFTS or scene.motion == "stable":
            known["lesion_motion_direction"] = scene.motion
        margin = 0.09
        quadrants = {(y < 0, x < 0) for x, y in lesion_path}
        clear = all(abs(x) > margin and abs(y) > margin for x, y in lesion_path)
        if clear and len(quadrants) == 1:
            upper, left = quadrants.pop()
            known["lesion_screen_position"] = f"{'upper' if upper else 'lower'}-{'left' if left else 'right'}"
    return known


def unanswerable_types(scene: Scene) -> tuple[str, ...]:
    """Types whose lesion or tool is not there."""
    absent = () if scene.size_mm else LESION_TYPES
    return absent + (() if scene.tool else TOOL_TYPES)

"""A simulated procedure: a seed, and clips cut from its time line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from surgvivqa_audio.colonsim.anatomy import make_look
from surgvivqa_audio.colonsim.camera import make_path
from surgvivqa_audio.colonsim.sampling import RARE, draw_scene, well_placed
from surgvivqa_audio.colonsim.spec import (
    STRIDE,
    ClipSpec,
    known_answers,
    unanswerable_types,
)
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import load_taxonomy

SLOT = 96  # video frames between the starts of two clips: room for 16 frames and a pause
_TRIES = 200

# How often an answer that comes along by itself is asked, so that each answer of a type is about as
# frequent as the others over a procedure. Answers not listed are always asked.
KEEP: dict[tuple[str, str], float] = {
    ("endoscope_visibility", "no"): 0.19,
    ("tool_catheter_check", "no"): 0.55,
    ("lesion_size_range", "<5"): 0.78,
    ("lesion_size_range", "5-9"): 0.78,
    ("lesion_size_range", ">9"): 0.78,
    ("lesion_histology_extended", "hyperplastic"): 0.78,
    ("lesion_histology_extended", "adenoma"): 0.78,
    ("lesion_histology_extended", "sessile serrated"): 0.78,
    ("lesion_site", "cecum"): 0.78,
    ("lesion_site", "ascending"): 0.78,
    ("lesion_site", "hepatic flexure"): 0.78,
    ("lesion_site", "transverse"): 0.78,
    ("lesion_site", "splenic flexure"): 0.78,
    ("lesion_site", "descending"): 0.78,
    ("lesion_site", "sigma"): 0.78,
    ("lesion_site", "rectum"): 0.78,
    ("lesion_screen_position", "upper-left"): 0.80,
    ("lesion_screen_position", "upper-right"): 0.80,
    ("lesion_screen_position", "lower-left"): 0.80,
    ("lesion_screen_position", "lower-right"): 0.80,
    ("mucosa_visibility", "yes"): 0.41,
    ("mucosa_visibility", "no"): 0.36,
    ("nbi_status", "yes"): 0.33,
    ("nbi_status", "no"): 0.23,
    ("lighting_mode", "NBI"): 0.33,
    ("lighting_mode", "WL"): 0.23,
    ("blue_dye_presence", "no"): 0.58,
    ("occlusion_check", "no"): 0.41,
    ("fluid_occlusion_level", "absent"): 0.27,
    ("fluid_occlusion_level", "partial"): 0.60,
    ("fluid_occlusion_level", "complete"): 0.73,
    ("flush_action", "yes"): 0.86,
    ("flush_action", "no"): 0.31,
    ("scope_motion", "yes"): 0.43,
    ("scope_forward_motion", "yes"): 0.95,
    ("scope_forward_motion", "no"): 0.89,
    ("scope_backward_motion", "yes"): 0.89,
    ("scope_backward_motion", "no"): 0.95,
    ("scope_motion_type", "advancing"): 0.95,
    ("scope_motion_type", "withdrawing"): 0.89,
    ("scope_outside", "no"): 0.11,
    ("lesion_motion_direction", "stable"): 0.70,
}


@dataclass(frozen=True)
class Procedure:
    """One simulated colonoscopy: its own anatomy, colours and scope, from its seed."""

    seed: int
    difficulty: float = 0.5

    def __post_init__(self) -> None:
        if self.seed < 0 or not 0 <= self.difficulty <= 1:
            raise ConfigError(
                f"simulator: seed {self.seed} must be 0 or more, difficulty {self.difficulty} within 0 to 1"
            )

    @property
    def video_id(self) -> str:
        """Name of the video, unique per seed."""
        return f"sim-{self.seed:06d}"

    def first_frame(self, index: int) -> int:
        """Number of the first frame of a clip."""
        jitter = np.random.default_rng([self.seed, 19, index])
        return (
            1000 * int(np.random.default_rng([self.seed, 18]).integers(1, 9))
            + index * SLOT
            + int(jitter.integers(30))
        )

    def target(self, index: int) -> tuple[str, str]:
        """The question and answer that a clip of the time line is made for.

        Every 28 clips name each type once and each rare view twice more; a type's answers take turns.
        """
        types = tuple(load_taxonomy().types.values())
        cycle, place = divmod(index, len(types) + len(RARE))
        order = np.random.default_rng([self.seed, 21, cycle]).permutation(len(types) + len(RARE))
        which = int(order[place])
        if which >= len(types):
            return RARE[which - len(types)]
        question_type = types[which]
        answers = question_type.answers
        shuffled = np.random.default_rng([self.seed, 22, which]).permutation(len(answers))
        return question_type.name, answers[int(shuffled[cycle % len(answers)])].short

    def clip(self, index: int, frames: int = 8, want: tuple[str, str] | None = None) -> ClipSpec:
        """Clip ``index`` of the time line; ``want`` asks for one whose truth has that answer.

        Raises:
            ConfigError: a negative index, fewer than 2 or more than 16 frames, or an answer that is not in
                the taxonomy.
        """
        if index < 0 or not 2 <= frames <= 16:
            raise ConfigError(
                f"simulator: clip index {index} must be 0 or more and frames {frames} within 2 to 16"
            )
        if want is not None:
            load_taxonomy().type_of(want[0]).answer(want[1])
        aim = self.target(index) if want is None else want
        rng = np.random.default_rng([self.seed, 23, index, _code(aim)])
        look = make_look(self.seed)
        for _ in range(_TRIES):
            scene = draw_scene(rng, aim, self.difficulty)
            path: list[tuple[float, float]] = []
            if scene.size_mm:
                spots = make_path(scene, look, np.array([0.0, 0.5, 1.0])).lesion
                path = [(float(x), float(y)) for x, y in spots]
            known = known_answers(scene, path)
            if known.get(aim[0]) == aim[1] and well_placed(scene, path):
                break
        else:
            raise ConfigError(
                f"simulator: no scene answers {aim[0]} with '{aim[1]}'; this is a defect, report it"
            )
        asked = {
            name: answer
            for name, answer in known.items()
            if (name, answer) == aim or rng.random() < KEEP.get((name, answer), 1.0)
        }
        first = self.first_frame(index)
        return ClipSpec(
            video_id=self.video_id,
            procedure_seed=self.seed,
            index=index,
            frame_numbers=tuple(first + STRIDE * step for step in range(frames)),
            answers=asked,
            known=known,
            unanswerable=unanswerable_types(scene),
            scene=scene,
        )


@lru_cache(maxsize=1)
def _codes() -> dict[tuple[str, str], int]:
    pairs = [(t.name, a.short) for t in load_taxonomy().types.values() for a in t.answers]
    return {pair: number for number, pair in enumerate(pairs)}


def _code(want: tuple[str, str]) -> int:
    return _codes()[want]

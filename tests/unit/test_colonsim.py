"""The simulator's promises that hold for every clip: truth, repeatability, balance of what is asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from surgvivqa_audio.colonsim import ClipSpec, Procedure, render
from surgvivqa_audio.colonsim.spec import size_bracket
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import load_taxonomy

PAIRS = [(t.name, a.short) for t in load_taxonomy().types.values() for a in t.answers]


@pytest.mark.parametrize(("question_type", "answer"), PAIRS)
def test_a_wanted_answer_is_true_and_asked(question_type: str, answer: str) -> None:
    spec = Procedure(31).clip(4, want=(question_type, answer))
    assert spec.answers[question_type] == answer
    assert spec.known[question_type] == answer
    assert set(spec.answers) <= set(spec.known)
    assert not set(spec.known) & set(spec.unanswerable)


def test_same_seed_gives_the_same_clip_and_the_same_bytes() -> None:
    first, again = Procedure(5).clip(3), Procedure(5).clip(3)
    assert first == again
    assert render(first, 48).frames.tobytes() == render(again, 48).frames.tobytes()


def test_truth_does_not_change_the_frames() -> None:
    spec = Procedure(6).clip(0, want=("lesion_site", "sigma"))
    assert np.array_equal(render(spec, 48).frames, render(spec, 48, truth=True).frames)


def test_procedures_and_clips_differ() -> None:
    frames = [render(Procedure(seed).clip(0, frames=2), 32).frames.tobytes() for seed in (1, 2)]
    assert frames[0] != frames[1]
    assert Procedure(1).video_id == "sim-000001"
    assert Procedure(123456).video_id == "sim-123456"


def test_frame_numbers_go_up_by_four_and_clips_do_not_overlap() -> None:
    video = Procedure(9)
    for frames in (8, 16):
        last = -1
        for index in range(12):
            numbers = video.clip(index, frames).frame_numbers
            assert len(numbers) == frames
            assert {b - a for a, b in pairwise(numbers)} == {4}
            assert numbers[0] > last
            last = numbers[-1]


@pytest.mark.parametrize(
    ("index", "frames", "want"), [(-1, 8, None), (0, 1, None), (0, 17, None), (0, 8, ("lesion_site", "moon"))]
)
def test_a_clip_that_cannot_be_is_refused(index: int, frames: int, want: tuple[str, str] | None) -> None:
    with pytest.raises(ConfigError):
        Procedure(1).clip(index, frames, want)


@pytest.mark.parametrize(("seed", "difficulty"), [(-1, 0.5), (1, 1.5), (1, -0.1)])
def test_a_procedure_out_of_range_is_refused(seed: int, difficulty: float) -> None:
    with pytest.raises(ConfigError, match="difficulty"):
        Procedure(seed, difficulty)


def test_size_brackets_are_those_of_the_taxonomy() -> None:
    assert [size_bracket(mm) for mm in (3.0, 4.9, 5.0, 9.0, 9.1)] == ["<5", "<5", "5-9", "5-9", ">9"]


def test_answers_that_say_the_same_agree() -> None:
    for index in range(40):
        known = Procedure(77).clip(index).known
        if "scope_motion_type" in known:
            ahead = known["scope_motion_type"] == "advancing"
            assert known["scope_motion"] == "yes"
            assert (known["scope_forward_motion"] == "yes") is ahead
            assert (known["scope_backward_motion"] == "no") is ahead
        else:
            assert known.get("scope_motion") != "yes"
        if "tool_identification" in known:
            assert (known["tool_catheter_check"] == "yes") is (known["tool_identification"] == "catheter")
        if "lighting_mode" in known:
            assert (known["lighting_mode"] == "NBI") is (known["nbi_status"] == "yes")


def test_types_and_answers_are_asked_about_equally_often() -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    specs = [Procedure(seed).clip(index) for seed in range(400, 408) for index in range(56)]
    for spec in specs:
        for name, answer in spec.answers.items():
            counts[name][answer] += 1
    assert set(counts) == set(load_taxonomy().types)
    totals = {name: sum(counter.values()) / len(specs) for name, counter in counts.items()}
    assert max(totals.values()) < 2.5 * min(totals.values())
    for question_type in load_taxonomy().types.values():
        shares = [counts[question_type.name][a.short] for a in question_type.answers]
        assert max(shares) < 4 * min(shares), (question_type.name, shares)


def _clip(question_type: str, answer: str, seed: int) -> ClipSpec:
    return Procedure(seed).clip(1, want=(question_type, answer))


@pytest.mark.parametrize(
    ("answer", "axis", "sign"), [("up", 1, -1), ("down", 1, 1), ("left", 0, -1), ("right", 0, 1)]
)
def test_a_drifting_lesion_moves_ten_pixels_that_way(answer: str, axis: int, sign: int) -> None:
    masks = render(_clip("lesion_motion_direction", answer, 8), 112, truth=True).masks["lesion"]
    places = [np.argwhere(mask).mean(0)[::-1] for mask in (masks[0], masks[-1])]
    moved = (places[1] - places[0])[axis] * sign
    assert moved > 10


def test_a_stable_lesion_stays() -> None:
    masks = render(_clip("lesion_motion_direction", "stable", 12), 112, truth=True).masks["lesion"]
    places = [np.argwhere(mask).mean(0) for mask in (masks[0], masks[-1])]
    assert float(np.linalg.norm(places[1] - places[0])) < 4


@pytest.mark.parametrize(
    ("answer", "column", "row"),
    [("upper-left", -1, -1), ("upper-right", 1, -1), ("lower-left", -1, 1), ("lower-right", 1, 1)],
)
def test_the_lesion_is_in_its_quadrant(answer: str, column: int, row: int) -> None:
    masks = render(_clip("lesion_screen_position", answer, 14), 64, truth=True).masks["lesion"]
    y, x = np.argwhere(masks[4]).mean(0) - 31.5
    assert x * column > 2
    assert y * row > 2


def test_size_brackets_do_not_overlap_on_the_screen() -> None:
    across: dict[str, list[float]] = {}
    for answer in ("<5", "5-9", ">9"):
        for seed in (3, 4, 5):
            masks = render(_clip("lesion_size_range", answer, seed), 112, truth=True).masks["lesion"]
            area = float(np.median(masks.reshape(8, -1).sum(1)))
            across.setdefault(answer, []).append(2 * (area / np.pi) ** 0.5)
    assert min(across["<5"]) >= 8
    assert max(across["<5"]) < min(across["5-9"])
    assert max(across["5-9"]) < min(across[">9"])


@pytest.mark.parametrize(("answer", "sign"), [("advancing", 1), ("withdrawing", -1)])
def test_advancing_expands_and_withdrawing_contracts(answer: str, sign: int) -> None:
    clip = render(_clip("scope_motion_type", answer, 21), 64, truth=True)
    assert clip.flow is not None
    assert clip.grid is not None
    assert clip.flow.shape == (7, 64, 64, 2)
    outward = (clip.flow * clip.grid).sum(-1).mean()
    assert outward * sign > 0.05


def test_masks_show_the_tool_and_the_fluid() -> None:
    tool = render(_clip("tool_identification", "forceps", 3), 64, truth=True)
    assert tool.masks["tool"].mean() > 0.01
    flooded = render(_clip("fluid_occlusion_level", "complete", 3), 64, truth=True)
    assert flooded.masks["fluid"].mean() > 0.6
    absent = render(_clip("fluid_occlusion_level", "absent", 3), 64, truth=True)
    assert not absent.masks["fluid"].any()


def test_narrow_band_light_takes_the_red_out() -> None:
    for seed in (1, 2, 3):
        white = render(_clip("lighting_mode", "WL", seed), 48).frames.reshape(-1, 3).mean(0)
        narrow = render(_clip("lighting_mode", "NBI", seed), 48).frames.reshape(-1, 3).mean(0)
        assert white[0] > white[1]
        assert narrow[1] > narrow[0]

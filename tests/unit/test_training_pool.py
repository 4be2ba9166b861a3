"""What the pretraining of the nano model is shown: targets per visual token, questions, decisive tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2VLForConditionalGeneration
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.colonsim import RenderedClip
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.phrasing import phrasing_bank, words
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training import clip_pool
from surgvivqa_audio.training.chatter import chatter
from surgvivqa_audio.training.clip_pool import PoolClip, PoolConfig, build_pool, read_pool, targets
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from surgvivqa_audio.training.rows import Typed, decisive_tokens, with_features
from surgvivqa_audio.training.stages import VlmRecipe, split_pools
from surgvivqa_audio.training.utterances import OUT_OF_SCOPE
from surgvivqa_audio.training.vision_heads import displace, mirror, reverse
from tiny_graft import nano_processor


def _clip(answers: dict[str, str], unanswerable: tuple[str, ...] = ()) -> PoolClip:
    return PoolClip(
        np.zeros((8, 112, 112, 3), np.uint8),
        answers,
        unanswerable,
        np.zeros((4, 4, 4, 3), np.float32),
        np.zeros((4, 4, 4, 2), np.float32),
        np.full((8, 2), np.nan, np.float32),
    )


def test_targets_are_means_per_cell_and_the_lesions_centre() -> None:
    masks = {name: np.zeros((4, 8, 8), bool) for name in ("lesion", "tool", "fluid")}
    masks["lesion"][0, 0:2, 6:8] = True  # fills the upper right cell of a 4 x 4 grid in the first frame
    flow = np.zeros((3, 8, 8, 2), np.float32)
    flow[2, :, :, 0] = 3.0
    occupancy, motion, centre = targets(RenderedClip(np.zeros((4, 8, 8, 3), np.uint8), masks, flow), 4)
    assert occupancy.shape == (2, 4, 4, 3)
    assert occupancy[0, 0, 3, 0] == 0.5  # one of the two frames of the slice
    assert occupancy.sum() == 0.5
    assert motion.shape == (2, 4, 4, 2)
    assert motion[0].max() == 0.0
    assert (motion[1, :, :, 0] == 3.0).all()
    assert centre[0].tolist() == [6.5, 0.5]
    assert np.isnan(centre[1:]).all()


def test_pool_is_read_back_as_it_was_rendered_and_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    config = PoolConfig(procedures=1, clips=2, first_seed=3, size=56, hires_every=0)
    with pytest.raises(ConfigError, match=r"pool\.json is missing"):
        read_pool(tmp_path)
    build_pool(config, tmp_path)
    clips = read_pool(tmp_path)
    assert len(clips) == 2
    assert clips[0].frames.shape == (8, 56, 56, 3)
    assert clips[0].flow.shape == (4, 4, 4, 2)
    first = (tmp_path / "pool-0000.npz").read_bytes()
    (tmp_path / "pool-0000.npz").unlink()
    build_pool(config, tmp_path)
    again = read_pool(tmp_path)
    assert np.array_equal(clips[1].frames, again[1].frames)
    assert len((tmp_path / "pool-0000.npz").read_bytes()) == len(first)


def test_two_processes_render_a_pool_from_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_pool, "SHARD", 1)
    written: list[str] = []
    write = clip_pool._write_shard

    def noted(config: PoolConfig, jobs: list[tuple[int, int]], path: Path) -> None:
        written.append(path.name)
        write(config, jobs, path)

    monkeypatch.setattr(clip_pool, "_write_shard", noted)
    config = PoolConfig(procedures=1, clips=3, first_seed=3, size=56, hires_every=0)
    seen: list[int] = []

    def other(done: int, of: int) -> None:  # the second process arrives after the first shard
        seen.append(done)
        if done == 1:
            build_pool(config, tmp_path, other)

    build_pool(config, tmp_path, other, backwards=True)
    assert written == ["pool-0002.npz", "pool-0000.npz", "pool-0001.npz"]
    assert seen == [1, 2, 3]
    assert len(read_pool(tmp_path)) == 3


def test_the_tower_never_trains_on_clips_that_the_language_model_reads() -> None:
    pools = {name: PoolConfig(procedures=1, clips=1) for name in ("clips", "more", "unseen")}
    assert split_pools(VlmRecipe(stage="vlm", pools=pools, language=("unseen",))) == (
        ["clips", "more"],
        ["unseen"],
    )
    assert split_pools(VlmRecipe(stage="vlm", pools=pools)) == (["clips"], ["clips", "more", "unseen"])


def test_the_eye_is_trained_in_advance(tmp_path: Path) -> None:
    recipe = tmp_path / "vlm.yaml"
    pool = "{ procedures: 1, clips: 2, hires_every: 0, first_seed: 3 }"
    recipe.write_text(
        f"stage: vlm\npool_folder: {tmp_path}\nfeatures: {tmp_path}\npools: {{ a: {pool}, b: {pool} }}\n"
        "language: [b]\ntower: { steps: 1, batch: 2 }\n",
        "utf-8",
    )
    fill = ["train", str(recipe), "--out", str(tmp_path / "run"), "--fill-cache"]
    done = CliRunner().invoke(app, [*fill, "--set", "render=[b]"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"out": str(tmp_path / "run"), "pools": "b"}
    assert (tmp_path / "b/pool.json").is_file()
    assert not (tmp_path / "a").exists()
    done = CliRunner().invoke(app, fill)
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"out": str(tmp_path / "run"), "steps": 1, "clips": 2}
    assert len(read_pool(tmp_path / "b")) == 2
    assert (tmp_path / "run/tower/checkpoint/step-000001.safetensors").is_file()
    assert (tmp_path / "b.safetensors").is_file()
    assert not (tmp_path / "a.safetensors").exists()


def test_typed_questions_are_training_wordings_and_off_topic_ones_are_in_no_test_bank(
    taxonomy: Taxonomy,
) -> None:
    typed, rng = Typed(taxonomy, ["lamp", "river"]), np.random.default_rng(0)
    bank = phrasing_bank(taxonomy)
    kept = {words(text) for text in (*taxonomy.out_of_scope.test, *taxonomy.out_of_scope.eval)}
    assert len(kept) > 100
    for _ in range(50):
        asked = typed.ask("nbi_status", "an answer", rng).spoken
        assert asked.mode == "text"
        assert asked.text in bank["nbi_status"].train
        assert asked.answer == "an answer"
    assert not kept & {words(text) for text in chatter()}
    assert len(chatter()) == 956
    off_topic = {typed.ask(OUT_OF_SCOPE, "", rng).spoken.text for _ in range(200)}
    assert off_topic & set(chatter())
    assert off_topic & set(taxonomy.out_of_scope.train)
    assert any(text not in (*chatter(), *taxonomy.out_of_scope.train) for text in off_topic)


def test_a_mirrored_clip_swaps_left_and_right_in_pictures_targets_and_answers() -> None:
    clip = _clip(
        {"lesion_screen_position": "upper-left", "lesion_motion_direction": "right", "nbi_status": "no"}
    )
    clip.frames[0, 5, 2] = 9
    clip.flow[0, 1, 0] = (2.0, 3.0)
    clip.centre[0] = (10.0, 20.0)
    seen = mirror(clip)
    assert seen.answers == {
        "lesion_screen_position": "upper-right",
        "lesion_motion_direction": "left",
        "nbi_status": "no",
    }
    assert seen.frames[0, 5, 109].tolist() == [9, 9, 9]
    assert seen.flow[0, 1, 3].tolist() == [-2.0, 3.0]
    assert seen.centre[0].tolist() == [101.0, 20.0]
    assert clip.answers["lesion_screen_position"] == "upper-left"


def test_a_reversed_clip_moves_the_other_way() -> None:
    moving = {"scope_motion": "yes", "scope_motion_type": "advancing", "scope_forward_motion": "yes"}
    clip = _clip({**moving, "scope_backward_motion": "no", "lesion_motion_direction": "stable"})
    clip.frames[0] = 7
    clip.flow[0, :, :, 0] = 1.5
    seen = reverse(clip)
    assert seen.answers == {
        "scope_motion": "yes",
        "scope_motion_type": "withdrawing",
        "scope_forward_motion": "no",
        "scope_backward_motion": "yes",
        "lesion_motion_direction": "stable",
    }
    assert (seen.frames[7] == 7).all()
    assert (seen.flow[3, :, :, 0] == -1.5).all()
    assert reverse(_clip({"lesion_motion_direction": "up"})).answers == {"lesion_motion_direction": "down"}


def test_a_displaced_clip_keeps_its_answers_and_moves_pictures_cells_and_centre() -> None:
    clip = _clip({"lesion_screen_position": "upper-left"})
    clip.frames[:, 20, 30] = (100, 200, 240)
    clip.occupancy[:, 0, 1, 0] = 0.7
    clip.occupancy[:, 1, 3, 2] = 1.0
    clip.centre[:] = (30.0, 20.0)
    seen = displace(clip, 4, -7, np.array([1.0, 0.5, 1.2]))
    assert seen.answers == clip.answers
    assert seen.frames[:, 13, 34].tolist() == [[100, 100, 255]] * 8  # the last channel saturates
    assert seen.frames.astype(int).sum() == 8 * (100 + 100 + 255)
    assert seen.centre.tolist() == [[34.0, 13.0]] * 8
    # 4 of 28 px to the right, 7 of 28 up: a seventh of the cell to its neighbour, a quarter over the border
    assert seen.occupancy[0, 0, :, 0].tolist() == pytest.approx([0.0, 0.45, 0.075, 0.0])
    assert seen.occupancy[0, :, 3, 2].tolist() == pytest.approx([3 / 14, 9 / 14, 0.0, 0.0])
    assert clip.frames[0, 20, 30].tolist() == [100, 200, 240]


def test_the_last_row_does_not_come_back_at_the_first() -> None:
    clip = _clip({})
    clip.occupancy[:, 3, 0, 0] = 1.0
    seen = displace(clip, -5, 14, np.ones(3))
    assert seen.occupancy[0, :, :, 0].sum() == pytest.approx(0.5 * 23 / 28)
    assert seen.occupancy[0, 3, 0, 0] == pytest.approx(0.5 * 23 / 28)


def test_decisive_tokens_are_those_where_sentences_part(taxonomy: Taxonomy) -> None:
    processor = nano_processor()
    flags = decisive_tokens(processor, taxonomy)
    sentence = "The scope is primarily advancing."
    ids = processor.answer_ids(sentence)
    assert len(flags[sentence]) == len(ids)
    assert flags[sentence][0]  # the first word already excludes other types
    assert not flags[sentence][-1]  # the end token follows from what stands before it
    twin = processor.answer_ids("The scope is primarily withdrawing.")
    parting = next(at for at, (a, b) in enumerate(zip(ids, twin, strict=False)) if a != b)
    assert flags[sentence][parting]
    spelled = [processor.answer_ids(each) for each in flags]
    for ids, decides in zip(spelled, flags.values(), strict=True):
        for at, token in enumerate(ids):
            others = {other[at] for other in spelled if other[:at] == ids[:at]}
            assert decides[at] is bool(others - {token})


def test_pictures_are_let_go_once_the_tower_has_seen_them(taxonomy: Taxonomy, tmp_path: Path) -> None:
    processor = nano_processor()
    vlm = Qwen2VLForConditionalGeneration(nano_vlm_config(NanoSize(), processor))
    clips = [_clip({"nbi_status": "no"}), _clip({"nbi_status": "yes"})]
    (seen,) = with_features(vlm, processor, [("clips", clips)], tmp_path)
    assert tuple(seen.features.shape) == (4, 2, 4, 2, 2, 192)  # views, clips, slices, grid, grid, width
    assert [clip.frames.shape for clip in seen.clips] == [(0, 112, 112, 3)] * 2
    assert [clip.frames.base for clip in seen.clips] == [None, None]  # no view of the pool's own array
    assert [reverse(mirror(clip)).answers["nbi_status"] for clip in seen.clips] == ["no", "yes"]

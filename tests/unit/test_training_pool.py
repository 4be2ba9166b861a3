"""What the pretraining of the nano model is shown: targets per visual token, questions, decisive tokens."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tiny_graft import nano_processor

from surgvivqa_audio.colonsim import RenderedClip
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip, PoolConfig, build_pool, read_pool, targets
from surgvivqa_audio.training.vlm import QuestionSampler, VlmConfig, decisive_tokens


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


def test_sampler_asks_training_wordings_only_and_gives_their_sentence(taxonomy: Taxonomy) -> None:
    clip = _clip({"nbi_status": "no", "scope_motion": "yes"}, ("lesion_site",))
    sampler = QuestionSampler([clip], taxonomy, VlmConfig(questions=2, refusals=0.5), random.Random(0))
    bank = phrasing_bank(taxonomy)
    refusals = 0
    for _ in range(50):
        drawn, pairs = sampler.draw()
        assert drawn is clip
        for question, answer in pairs:
            if question in bank["nbi_status"].train:
                assert answer == "No, WL light is on instead."
            elif question in bank["scope_motion"].train:
                assert answer == "Yes, the scope is moving across the frames."
            else:
                assert question in (*bank["lesion_site"].train, *taxonomy.out_of_scope.train)
                assert answer == taxonomy.refusal.sentence
                refusals += 1
    assert refusals == 50  # one in every draw, as 0.5 x 2 questions says


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

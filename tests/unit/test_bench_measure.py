"""Figures of the benchmarks: literal medians, intervals and slopes, and the form of the JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from surgvivqa_audio.answering.decision import Decision
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.bench.growth import AXES, run_growth
from surgvivqa_audio.bench.latency import run_latency
from surgvivqa_audio.bench.measure import percentiles, ratio, slope
from surgvivqa_audio.bench.peers import SeedPeer, build_peers
from surgvivqa_audio.bench.throughput import run_throughput
from surgvivqa_audio.bench.workload import Workload
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone, whisper_config


def test_ratios_are_medians_of_pairs() -> None:
    found = ratio([10.0, 30.0, 80.0], [1.0, 2.0, 4.0])
    assert (found["median"], found["pairs"]) == (15.0, 3)
    assert found["ci95"] == [10.0, 20.0]
    assert ratio([5.0] * 4, [2.0] * 4) == {"median": 2.5, "ci95": [2.5, 2.5], "pairs": 4}
    with pytest.raises(ConfigError, match="3 and 2"):
        ratio([1.0, 2.0, 3.0], [1.0, 2.0])
    assert percentiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9}
    with pytest.raises(ConfigError, match="nothing was timed"):
        percentiles([])


def test_slope_is_the_exponent() -> None:
    assert slope([8, 16, 32, 64], [3.0, 6.0, 12.0, 24.0]) == 1.0
    assert slope([8, 64], [5.0, 5.0]) == 0.0
    assert slope([2, 4, 8], [4.0, 16.0, 64.0]) == 2.0


@pytest.fixture(scope="module")
def work() -> Workload:
    processor = nano_processor()
    engine = AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")
    torch.manual_seed(1)
    whisper = WhisperForConditionalGeneration(whisper_config()).eval()
    whisper.model.encoder = engine.model.audio_encoder
    waves = [tone(0.5), tone(0.8)]
    texts = ["Is a polyp visible?", "How clear is it?"]
    return Workload("nano", engine, whisper, 96, 128, texts, waves, "random", "cpu", False)


def test_clips_are_distinct_and_repeatable(work: Workload) -> None:
    assert work.jpegs(3) == work.jpegs(3)
    assert work.jpegs(3) != work.jpegs(4)
    assert len(work.jpegs(0, frames=16)) == 16


def test_the_seed_recipe_has_1500_audio_tokens_and_eight_pictures(work: Workload) -> None:
    peer = SeedPeer(work)
    clip = peer.prepare(work.jpegs(1))
    row = peer._example(clip, Spoken("audio", peer.processor.mel(work.waves[0])))
    special = peer.processor.special
    assert row.ids.count(special.audio) == 1500
    assert row.ids.index(special.audio) < row.ids.index(special.image_pad)
    assert len(clip.grids) == 8
    assert row.mels[0].shape[-1] == 3000
    paired = SeedPeer(work, video=True)
    row = paired._example(paired.prepare(work.jpegs(1)), Spoken("audio", peer.processor.mel(work.waves[0])))
    assert (row.ids.count(special.image_pad), row.types.count(2)) == (0, row.ids.count(special.video_pad))
    assert row.types.count(2) * 2 == sum(grid[1] * grid[2] // 4 for grid in clip.grids)
    with pytest.raises(ConfigError, match="'fast' is unknown"):
        build_peers(work, ["fast"])


def test_latency_gives_the_fields_of_the_contract(work: Workload) -> None:
    found: dict[str, Any] = run_latency(work, ["seed", "asr"], 1, warm_up=0, prepare=1)
    assert set(found["ours_ms"]) == {"cold", "prefix_ready", "nth"}
    assert all(set(times) == {"p50", "p95"} and times["p50"] > 0 for times in found["ours_ms"].values())
    seen = [(entry["peer"], entry["state"]) for entry in found["ratios"]]
    assert seen[:3] == [("seed", "cold"), ("seed", "prefix_ready"), ("seed", "nth")]
    assert ("asr", "prefix_ready") in seen
    assert all(entry["ci95"][0] <= entry["median"] <= entry["ci95"][1] for entry in found["ratios"])
    assert found["size"] == "nano"
    assert set(found["preparation_ms"]) == {"question", "clip", "clip_of_dataset_size"}
    assert {"cpu", "cores", "threads", "load_average", "device"} <= set(found["machine"])
    assert found["workload"]["sentences"] == len(load_taxonomy().sentences())


def test_throughput_and_growth_cover_their_axes(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_throughput(work, 1, batch=2)
    assert found["samples_per_second"]["ours"] > 0
    assert found["samples_per_second"]["ours_one_clip"] > 0
    assert [entry["state"] for entry in found["ratios"]] == ["batched", "batched-one-clip"]
    assert {entry["peer"] for entry in found["ratios"]} == {"seed"}
    assert list(AXES) == ["frames", "questions", "speech_seconds", "options"]
    monkeypatch.setitem(AXES, "frames", (2, 4))
    monkeypatch.setitem(AXES, "questions", (1, 2))
    monkeypatch.setitem(AXES, "speech_seconds", (1, 2))
    monkeypatch.setitem(AXES, "options", (2, 4))
    # A rule that weighs question types must follow the tree when only some sentences are left.
    monkeypatch.setattr(work.engine, "decision", Decision(refuse_at=0.5))
    grown = run_growth(work, 1)
    for curve in grown["curves"].values():
        assert len(curve["ms"]) == 2
        assert np.isfinite(curve["slope"])
    assert len(work.engine.sentences) == len(load_taxonomy().sentences())
    assert list(run_growth(work, 1, axes=["frames"])["curves"]) == ["frames"]
    with pytest.raises(ConfigError, match="'height' is unknown"):
        run_growth(work, 1, axes=["height"])

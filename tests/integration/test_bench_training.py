"""The ways that are compared differ in one switch each, and give one loss where only speed differs."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.bench.training import fits, run_training
from surgvivqa_audio.bench.training_variants import Rig, ladder
from surgvivqa_audio.bench.workload import Workload
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import Taxonomy
from tiny_graft import nano_graft, nano_processor, tone, whisper_config


def _workload(taxonomy: Taxonomy) -> Workload:
    processor = nano_processor(max_side=56)
    engine = AnswerEngine(nano_graft(processor), processor, taxonomy, name="tiny")
    whisper = WhisperForConditionalGeneration(whisper_config())
    texts = [kind.in_template for kind in taxonomy.types.values()][:2]
    waves = [tone(0.4, 300.0), tone(0.6, 500.0)]
    return Workload("nano", engine, whisper, 56, 56, texts, waves, "random", "cpu", False)


def test_each_step_of_the_ladder_changes_one_switch() -> None:
    steps = [asdict(variant) for variant in ladder(4)]
    assert [step["name"] for step in steps] == [
        "seed", "answer logits", "no recomputing", "no typed question", "true-length audio", "stacked frames",
        "video pathway", "prompt order", "rows in one batch", "packed questions", "fast",
    ]  # fmt: skip
    for before, after in itertools.pairwise(steps):
        changed = [key for key in after if key != "name" and after[key] != before[key]]
        assert len(changed) == 1, changed
    assert "packed questions" not in [variant.name for variant in ladder(1)]


def test_switches_of_speed_leave_the_loss_alone(taxonomy: Taxonomy) -> None:
    torch.set_num_threads(1)
    rig = Rig(_workload(taxonomy), clips=1, questions=2)
    for module in rig.base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for variant in ladder(2):
        rig.model(variant.stack)  # its projector joins the optimizer
    for part in rig.optimizer.param_groups:
        part["lr"] = 0.0
    losses = {variant.name: rig.step(variant, rig.group(0))["loss"] for variant in ladder(2)}
    losses["hit"] = rig.step(ladder(2)[-1], rig.group(0))["loss"]
    assert losses["answer logits"] == pytest.approx(losses["seed"], abs=1e-5)
    assert losses["no recomputing"] == pytest.approx(losses["seed"], abs=1e-5)
    for name in ("rows in one batch", "packed questions", "fast", "hit"):
        assert losses[name] == pytest.approx(losses["prompt order"], abs=1e-5), name
    assert abs(losses["no typed question"] - losses["seed"]) > 1e-4
    assert len(rig.cache.entries()) == 3  # one clip, two recordings


def test_result_names_both_ends_and_counts_the_work(taxonomy: Taxonomy) -> None:
    work = _workload(taxonomy)
    with pytest.raises(ConfigError, match="--questions 3: use a divisor of --samples, 2"):
        run_training(work, 1, questions=3, samples=2)
    found = run_training(work, 1, questions=2, samples=2, whole_ladder=False)
    assert [entry["state"] for entry in found["ratios"]] == ["fast"]
    assert [step["name"] for step in found["steps"]] == ["seed", "fast"]
    assert set(found["samples_per_second"]) == {"seed", "fast", "cache miss", "cache hit"}
    # 30 s of sound are 1,500 tokens; the two questions share the picture and are a few tokens each.
    assert found["steps"][0]["tokens_per_sample"] > 1500
    assert found["steps"][1]["tokens_per_sample"] < 100
    assert found["steps"][0]["gflop_per_sample"] > 5 * found["steps"][1]["gflop_per_sample"]


def test_a_round_that_would_end_too_late_is_not_begun() -> None:
    assert fits([], 9e9, 1.0)  # one round there always is
    assert fits([20e3, 10e3], 40e3, 1.0)
    assert not fits([20e3, 10e3], 41e3, 1.0)
    assert fits([20e3], 9e9, None)

"""Pretraining that was killed goes on from its newest complete checkpoint to the same weights."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_graft import nano_processor, whisper_config

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from surgvivqa_audio.training.vlm import VlmConfig, VlmTrainer

SIZE = NanoSize(
    hidden=48, layers=1, heads=3, kv_heads=1, ffn=64, vision_width=32, vision_layers=1, vision_heads=2
)


def _clips(taxonomy: Taxonomy) -> list[PoolClip]:
    rng, chooser = np.random.default_rng(0), random.Random(0)
    clips = []
    for _ in range(3):
        answers = {name: chooser.choice(kind.answers).short for name, kind in taxonomy.types.items()}
        clips.append(
            PoolClip(
                rng.integers(0, 255, (8, 112, 112, 3), dtype=np.uint8),
                answers,
                (),
                rng.random((4, 4, 4, 3), dtype=np.float32),
                rng.random((4, 4, 4, 2), dtype=np.float32),
                rng.random((8, 2), dtype=np.float32) * 112,
            )
        )
    return clips


def _trainer(taxonomy: Taxonomy, out: Path, **changes: float) -> VlmTrainer:
    torch.manual_seed(0)
    processor = nano_processor(max_side=112)
    model = AudioGraft(
        AudioGraftConfig(
            vlm_config=nano_vlm_config(SIZE, processor),
            audio_config=whisper_config(),
            audio_token_id=processor.special.audio,
            max_side=112,
        )
    )
    config = VlmConfig.model_validate(
        {"steps": 4, "batch": 2, "questions": 2, "checkpoint_every": 2, **changes}
    )
    return VlmTrainer(model, processor, taxonomy, _clips(taxonomy), config, out)


def test_resumed_run_ends_with_the_same_weights(taxonomy: Taxonomy, tmp_path: Path) -> None:
    whole = _trainer(taxonomy, tmp_path)
    start = {name: value.clone() for name, value in whole.trained.state_dict().items()}
    whole.run()
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["step-000002.safetensors", "step-000004.safetensors"]
    (tmp_path / "checkpoint" / "step-000004.safetensors").unlink()
    again = _trainer(taxonomy, tmp_path)
    assert again.resume()
    assert again.step == 2
    again.run()
    expected, found = whole.trained.state_dict(), again.trained.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(start[name], found[name]) for name in start)


def test_nothing_to_resume_is_said(taxonomy: Taxonomy, tmp_path: Path) -> None:
    assert not _trainer(taxonomy, tmp_path).resume()


def test_diverging_run_stops_with_a_remedy(taxonomy: Taxonomy, tmp_path: Path) -> None:
    trainer = _trainer(taxonomy, tmp_path)
    with torch.no_grad():
        trainer.heads.low.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="step 0: the loss is not finite; lower lr_muon or lr_adamw"):
        trainer.run()

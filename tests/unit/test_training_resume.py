"""Pretraining that was killed goes on from its newest complete checkpoint to the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.language import LanguageConfig, train_language
from surgvivqa_audio.training.loop import Loop, LoopConfig, steps_done
from surgvivqa_audio.training.rows import Seen
from surgvivqa_audio.training.tower import TowerConfig, clip_features, train_tower
from tiny_stages import tiny_clips, tiny_model


def _run(taxonomy: Taxonomy, out: Path, resume: bool) -> dict[str, torch.Tensor]:
    """Tower and language model, four steps each with a checkpoint after two."""
    model, processor = tiny_model()
    clips = tiny_clips(taxonomy)
    short = {"steps": 4, "checkpoint_every": 2}
    tower = TowerConfig.model_validate({**short, "batch": 2})
    # A finished tower is read back without its clips.
    shown = [] if resume and steps_done(out / "tower") == 4 else clips
    train_tower(model.vlm, processor, taxonomy, shown, 4, tower, out / "tower", resume)
    seen = [Seen(clips, clip_features(model.vlm, processor, clips, out / "features.safetensors"))]
    config = LanguageConfig.model_validate({**short, "rows": {"batch": 2, "questions": 2}})
    train_language(model, processor, taxonomy, seen, ["word"], config, out / "language", resume)
    return dict(model.vlm.state_dict())


def test_resumed_run_ends_with_the_same_weights(taxonomy: Taxonomy, tmp_path: Path) -> None:
    start = dict(tiny_model()[0].vlm.state_dict())
    whole = _run(taxonomy, tmp_path, resume=False)
    for part in ("tower", "language"):
        names = sorted(path.name for path in (tmp_path / part / "checkpoint").iterdir())
        assert names == ["step-000002.safetensors", "step-000004.safetensors"]
        (tmp_path / part / "checkpoint" / "step-000004.safetensors").unlink()
    again = _run(taxonomy, tmp_path, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(start[name], whole[name])}
    assert any("visual" in name for name in moved)
    assert any("language_model" in name for name in moved)
    assert steps_done(tmp_path / "tower") == 4
    finished = _run(taxonomy, tmp_path, resume=True)
    assert all(torch.equal(whole[name], finished[name]) for name in whole)


def _loop(out: Path, loss: Any) -> Loop:
    return Loop(torch.nn.Linear(2, 2), LoopConfig(steps=1), out, loss)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    assert steps_done(tmp_path) == 0
    assert not _loop(tmp_path, None).resume()


def test_diverging_run_stops_with_a_remedy(tmp_path: Path) -> None:
    loop = _loop(tmp_path, lambda step: (torch.tensor(float("nan")), {}))
    with pytest.raises(ModelError, match="the loss of step 0 is not finite; lower lr_muon or lr_adamw"):
        loop.run()
    assert not (tmp_path / "checkpoint").exists()


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    first = _loop(tmp_path, None)
    first.save()
    other = Loop(torch.nn.Linear(2, 2, bias=False), LoopConfig(steps=1), tmp_path, lambda step: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match=r"step-000000\.safetensors: was written for other parameters"):
        other.resume()

"""A stage goes on with the recipe it was begun with, and a finished one is left alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import write_json
from surgvivqa_audio.training.begun import begin
from surgvivqa_audio.training.clip_pool import PoolConfig, build_pool
from surgvivqa_audio.training.loop import LoopConfig
from surgvivqa_audio.training.nano_spoken import NanoSpokenRecipe
from surgvivqa_audio.training.recipe import run_recipe


def _recipe(steps: int, threads: int = 1) -> NanoSpokenRecipe:
    return NanoSpokenRecipe(stage="nano-align", threads=threads, train=LoopConfig(steps=steps))


def test_a_run_goes_on_with_its_recipe_and_with_no_other(tmp_path: Path) -> None:
    begin(_recipe(7), tmp_path)
    begin(_recipe(7, threads=2), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["threads"] == 1
    wrong = f"{tmp_path}/recipe.json: 'train.steps' was 7, is 8 now; restore it, or delete {tmp_path}"
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        begin(_recipe(8), tmp_path)
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        run_recipe(_recipe(8), tmp_path, resume=True)


def test_a_finished_stage_is_left_alone_unless_its_recipe_has_changed(tmp_path: Path) -> None:
    summary = {"steps": 7, "run": {"config": _recipe(7).model_dump(mode="json")}}
    write_json(tmp_path / "summary.json", summary)
    assert run_recipe(_recipe(7, threads=2), tmp_path, resume=True) == summary
    with pytest.raises(ConfigError, match=r"summary\.json: 'train.steps' was 7, is 8 now"):
        run_recipe(_recipe(8), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("kept", ["pool.json", "recipe.json"], ids=["finished", "begun"])
def test_clips_of_another_configuration_are_refused(tmp_path: Path, kept: str) -> None:
    config = PoolConfig(procedures=1, clips=1, size=28, hires_every=0)
    build_pool(config, tmp_path)
    for name in {"pool.json", "recipe.json"} - {kept}:
        (tmp_path / name).unlink()
    before = (tmp_path / "pool-0000.npz").stat().st_mtime_ns
    build_pool(config, tmp_path)
    (tmp_path / ({"pool.json", "recipe.json"} - {kept}).pop()).unlink()
    with pytest.raises(ConfigError, match=rf"{kept}: 'clips' was 1, is 2 now; restore it, or delete "):
        build_pool(config.model_copy(update={"clips": 2}), tmp_path)
    assert (tmp_path / "pool-0000.npz").stat().st_mtime_ns == before

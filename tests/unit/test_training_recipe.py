"""Recipes: every shipped file is valid, and a wrong one is refused with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.training.recipe import read_recipe

NANO = sorted((Path(__file__).parents[2] / "recipes" / "nano").glob("*.yaml"))


@pytest.mark.parametrize("path", NANO, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    expected = {
        "asr": "asr",
        "vlm": "vlm",
        "align": "nano-align",
        "finetune": "nano-finetune",
        "bundle": "bundle",
    }
    assert read_recipe(path).model_dump()["stage"] == expected[path.stem]


def test_override_replaces_a_nested_value() -> None:
    path = next(path for path in NANO if path.stem == "vlm")
    recipe = read_recipe(path, ["train.steps=7", "size.hidden=64"])
    assert recipe.model_dump()["train"]["steps"] == 7
    assert recipe.model_dump()["size"]["hidden"] == 64


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stage: vlm\nsteps: 3\n", (), r"bad\.yaml: key 'steps': Extra inputs"),
        ("stage: vlm\nlanguage: [fresh]\n", (), r"bad\.yaml: .*language names no pool of this recipe: fresh"),
        ("stage: fly\n", (), r"bad\.yaml: key 'stage' must be one of asr, vlm, nano-align"),
        ("- 1\n", (), r"bad\.yaml: key 'stage'"),
        ("a: [\n", (), r"bad\.yaml: cannot be read as YAML"),
        ("stage: vlm\nlanguage: [clips]\n", (), r"bad\.yaml: .*none is left for the tower"),
        ("stage: vlm\n", ("train.steps",), r"--set train\.steps: write key=value"),
        ("stage: vlm\n", ("train.steps=many",), r"bad\.yaml: key 'train\.steps'"),
        ("stage: vlm\n", ("stage.x=1",), r"'stage' is not a group of keys"),
    ],
)
def test_wrong_recipes_name_file_and_key(
    tmp_path: Path, text: str, overrides: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path, overrides)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_recipe(tmp_path / "absent.yaml")

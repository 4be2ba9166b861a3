"""Recipes: one YAML file per run, checked by the model of its stage, with ``key=value`` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.training.asr import AsrConfig, run_asr
from surgvivqa_audio.training.begun import begin, finished
from surgvivqa_audio.training.bundle import BundleRecipe, run_bundle
from surgvivqa_audio.training.loop import Progress
from surgvivqa_audio.training.nano_spoken import NanoSpokenRecipe, run_nano_spoken
from surgvivqa_audio.training.stages import VlmRecipe, run_vlm
from surgvivqa_audio.training.transcription import TranscribeRecipe, run_transcription
from surgvivqa_audio.training.vqa import run_vqa
from surgvivqa_audio.training.vqa_recipe import VqaRecipe

_STAGES: dict[str, type[BaseModel]] = {
    "asr": AsrConfig,
    "vlm": VlmRecipe,
    "nano-align": NanoSpokenRecipe,
    "nano-finetune": NanoSpokenRecipe,
    "transcribe": TranscribeRecipe,
    "bundle": BundleRecipe,
    "vqa": VqaRecipe,
}


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> BaseModel:
    """Read and check a recipe.

    Args:
        path: YAML file with a ``stage`` key.
        overrides: ``a.b=value`` strings; values are YAML.

    Raises:
        ConfigError: names the file and the key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(raw, dict) or raw.get("stage") not in _STAGES:
        raise ConfigError(f"{path}: key 'stage' must be one of {', '.join(_STAGES)}")
    for item in overrides:
        _override(raw, item)
    try:
        return _STAGES[raw["stage"]].model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: key '{key}': {first['msg']}") from error


def _override(raw: dict[str, Any], item: str) -> None:
    name, separator, value = item.partition("=")
    if not separator:
        raise ConfigError(f"--set {item}: write key=value, for example --set train.steps=100")
    *parents, last = name.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {item}: '{parent}' is not a group of keys")
    try:
        raw[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {item}: the value is not YAML ({error})") from error


def run_recipe(
    recipe: BaseModel, out: Path, *, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the stage a recipe belongs to and return its summary.

    With ``resume`` a finished stage of the nano model is left as it is, and an unfinished one goes on with
    the recipe that it was begun with.

    Raises:
        SurgVivqaError: what the stage raises.
    """
    if resume and isinstance(recipe, (AsrConfig, VlmRecipe, NanoSpokenRecipe)):
        summary = finished(recipe, out)
        if summary is not None:
            return summary
    if isinstance(recipe, (VlmRecipe, NanoSpokenRecipe)):
        begin(recipe, out)
    if isinstance(recipe, AsrConfig):
        return run_asr(
            recipe, out, resume, None if progress is None else lambda line: progress({"asr": line})
        )
    if isinstance(recipe, VlmRecipe):
        return run_vlm(recipe, out, resume, progress)
    if isinstance(recipe, NanoSpokenRecipe):
        return run_nano_spoken(recipe, out, resume, progress)
    if isinstance(recipe, VqaRecipe):
        return run_vqa(recipe, out, resume, progress)
    if isinstance(recipe, TranscribeRecipe):
        return run_transcription(recipe, out, resume, progress)
    if isinstance(recipe, BundleRecipe):
        return run_bundle(recipe, out)
    raise ConfigError(f"no stage runs a {type(recipe).__name__}")

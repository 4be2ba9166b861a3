"""A run goes on as the run that was begun: with its recipe, on its clips, and not again once it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import write_json

RECIPE, SUMMARY = "recipe.json", "summary.json"
# What a recipe may say otherwise when it goes on: who computes, and for how long, not what.
_FREE = ("threads", "workers", "render", "minutes")


def same(path: Path, recorded: Mapping[str, Any], wanted: BaseModel) -> None:
    """Hold what ``path`` records against what is wanted now.

    Raises:
        ConfigError: they differ; names the file, the first key that does, and both values.
    """
    then, now = (_flat(each) for each in (recorded, wanted.model_dump(mode="json")))
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            raise ConfigError(
                f"{path}: '{key}' was {json.dumps(then.get(key))}, is {json.dumps(now.get(key))} now; "
                f"restore it, or delete {path.parent} to begin anew"
            )


def _flat(values: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Nested groups as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key not in _FREE:
            inner = isinstance(value, Mapping)
            flat |= _flat(value, f"{parent}{key}.") if inner else {f"{parent}{key}": value}
    return flat


def begin(recipe: BaseModel, out: Path) -> None:
    """Write the resolved recipe into ``out``, or check that it is the one the run there was begun with.

    Raises:
        ConfigError: it is another one.
    """
    path = out / RECIPE
    if path.is_file():
        same(path, json.loads(path.read_text("utf-8")), recipe)
    else:
        write_json(path, recipe.model_dump(mode="json"))


def finished(recipe: BaseModel, out: Path) -> dict[str, Any] | None:
    """The summary of the finished run in ``out``, None while there is none.

    Raises:
        ConfigError: it is that of another recipe.
    """
    path = out / SUMMARY
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text("utf-8"))
    same(path, summary["run"]["config"], recipe)
    return summary

"""A ``speech make`` run as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.make import Phrasings


class SpeechRecipe(BaseModel):
    """Options of ``speech make``; an option given on the command line wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    engine: Literal["espeak", "flite", "edge", "human"] = "espeak"
    voices: tuple[str, ...] = ()
    rates: tuple[int, ...] = ()
    phrasings: Phrasings = "row"
    spread: bool = False
    noises: tuple[str, ...] = ()


def read_recipe(path: str | Path) -> SpeechRecipe:
    """Read a YAML recipe.

    Raises:
        ConfigError: missing, not YAML, or an unknown or wrong key; names file and key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    try:
        return SpeechRecipe.model_validate(raw or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: key '{key}': {first['msg']}") from error

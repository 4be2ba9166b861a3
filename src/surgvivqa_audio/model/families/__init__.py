"""The vision-language families that can be grafted, one small module each."""

from __future__ import annotations

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.families.base import Family
from surgvivqa_audio.model.families.qwen2_5_vl import Qwen25VL
from surgvivqa_audio.model.families.qwen2_vl import Qwen2VL
from surgvivqa_audio.model.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {"qwen2_vl": Qwen2VL(), "qwen2_5_vl": Qwen25VL(), "qwen3_vl": Qwen3VL()}


def get_family(model_type: str) -> Family:
    """The family of a config's ``model_type``.

    Raises:
        ConfigError: not one of :data:`FAMILIES`.
    """
    if model_type not in FAMILIES:
        raise ConfigError(
            f"vision-language family '{model_type}' is not supported; use one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]

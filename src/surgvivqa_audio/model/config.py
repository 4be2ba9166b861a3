"""Configuration of a grafted model: a stock vision-language config, a stock Whisper config, and the joint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.families import get_family

LAYOUTS = ("stream", "seed")
STACKS = (1, 2, 4, 8)


class AudioGraftConfig(PretrainedConfig):  # type: ignore[misc]
    """Everything that decides shapes and placeholder counts.

    ``stack`` encoder frames make one audio token. ``layout`` is ``stream`` (video first, audio at its true
    length) or ``seed`` (the predecessor's: audio first, 30 s, eight separate images).
    """

    model_type = "surgvivqa_audio_graft"
    sub_configs = {"vlm_config": AutoConfig, "audio_config": WhisperConfig}  # noqa: RUF012
    has_no_defaults_at_init = True

    def __init__(
        self,
        vlm_config: Any = None,
        audio_config: Any = None,
        audio_token_id: int | None = None,
        stack: int = 4,
        projector: str = "mlp",
        projector_width: int = 0,
        layout: str = "stream",
        max_side: int = 384,
        **kwargs: Any,
    ) -> None:
        if isinstance(vlm_config, dict):
            fields = dict(vlm_config)
            vlm_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        if isinstance(audio_config, dict):
            audio_config = WhisperConfig(**audio_config)
        if stack not in STACKS:
            raise ConfigError(f"stack {stack} is not possible; use one of {', '.join(map(str, STACKS))}")
        if layout not in LAYOUTS:
            raise ConfigError(f"layout '{layout}' is unknown; use one of {', '.join(LAYOUTS)}")
        if vlm_config is not None:
            get_family(vlm_config.model_type)
        self.vlm_config = vlm_config
        self.audio_config = audio_config
        self.audio_token_id = audio_token_id
        self.stack = stack
        self.projector = projector
        self.projector_width = projector_width
        self.layout = layout
        self.max_side = max_side
        super().__init__(**kwargs)

    @classmethod
    def from_folder(cls, folder: Path) -> AudioGraftConfig:
        """Read ``config.json`` of a grafted checkpoint.

        Raises:
            ModelError: it is missing, broken or of another model.
        """
        try:
            fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            kind = fields.get("model_type")
            if kind == cls.model_type:
                config: AudioGraftConfig = cls.from_dict(fields)
                return config
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise ModelError(f"{folder / 'config.json'}: cannot be read ({error})") from error
        raise ModelError(f"{folder}: a '{kind}' model, not a graft; make one with `surgvivqa model graft`")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """The language model's config, which transformers asks for vocabulary and cache sizes."""
        return self if self.vlm_config is None else self.vlm_config.get_text_config()

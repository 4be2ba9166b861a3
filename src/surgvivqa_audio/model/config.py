"""Configuration of a grafted model: a stock vision-language config, a stock Whisper config, and the joint."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.families import get_family

LAYOUTS = ("stream", "seed")


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

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """The language model's config, which transformers asks for vocabulary and cache sizes."""
        return self if self.vlm_config is None else self.vlm_config.get_text_config()

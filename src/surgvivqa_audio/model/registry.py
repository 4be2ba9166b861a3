"""Make the graft known to the Auto classes of transformers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft


def register() -> None:
    """Register configuration and model; calling it again changes nothing."""
    AutoConfig.register(AudioGraftConfig.model_type, AudioGraftConfig, exist_ok=True)
    AutoModel.register(AudioGraftConfig, AudioGraft, exist_ok=True)

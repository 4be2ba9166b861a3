"""Make configuration, model and processor known to the Auto classes of transformers."""

from __future__ import annotations

from transformers import AutoProcessor

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.registry import register as register_model
from surgvivqa_audio.processing.processor import AudioGraftProcessor


def register() -> None:
    """Register all three; calling it again changes nothing."""
    register_model()
    AutoProcessor.register(AudioGraftConfig, AudioGraftProcessor, exist_ok=True)

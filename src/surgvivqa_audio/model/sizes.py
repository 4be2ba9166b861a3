"""The configurations behind the names ``7b`` and ``slice``: true widths, written down, nothing downloaded."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2VLConfig, WhisperConfig

from surgvivqa_audio.model.config import AudioGraftConfig

SLICE_LAYERS = 4


def qwen2_vl_7b_config(layers: int = 28, vision_layers: int = 32) -> Qwen2VLConfig:
    """Qwen2-VL-7B-Instruct as published, or with fewer layers."""
    return Qwen2VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": layers,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={"depth": vision_layers, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
        tie_word_embeddings=False,
    )


def whisper_turbo_config(layers: int = 32) -> WhisperConfig:
    """whisper-large-v3-turbo as published, or with fewer encoder layers."""
    return WhisperConfig(
        vocab_size=51866,
        num_mel_bins=128,
        d_model=1280,
        encoder_layers=layers,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_layers=4,
        decoder_attention_heads=20,
        decoder_ffn_dim=5120,
        max_source_positions=1500,
    )


def named_config(size: str, layout: str = "stream") -> AudioGraftConfig:
    """``7b`` or ``slice`` (four layers per tower), in our layout or the predecessor's."""
    layers: tuple[int, ...] = (28, 32, 32) if size == "7b" else (SLICE_LAYERS,) * 3
    joint: dict[str, Any] = {"layout": layout}
    if layout == "seed":
        joint |= {"stack": 1, "projector": "linear"}
    vlm = qwen2_vl_7b_config(layers[0], layers[1])
    return AudioGraftConfig(
        vlm_config=vlm,
        audio_config=whisper_turbo_config(layers[2]),
        # the published tokenizer ends with the video placeholder, so the next id is free
        audio_token_id=vlm.video_token_id + 1,
        **joint,
    )

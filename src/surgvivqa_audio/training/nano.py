"""The nano size: the same classes at a few million parameters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import Qwen2VLConfig

from surgvivqa_audio.processing.processor import AudioGraftProcessor


class NanoSize(BaseModel):
    """Widths and depths of the nano Qwen2-VL (about 3 M parameters by default)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 512
    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    patch: int = 14
    max_side: int = 112
    initializer_range: float = 0.06


def nano_vlm_config(size: NanoSize, processor: AudioGraftProcessor) -> Qwen2VLConfig:
    """A stock Qwen2-VL config at nano size with the ids of the nano tokenizer."""
    special = processor.special
    half = size.hidden // size.heads // 2
    text: dict[str, Any] = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
        "initializer_range": size.initializer_range,
        "bos_token_id": special.pad,
        "eos_token_id": special.im_end,
        "pad_token_id": special.pad,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            # Frequencies for (time, height, width), in Qwen2-VL's proportion of 2 : 3 : 3.
            "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
        },
    }
    vision = {
        "depth": size.vision_layers,
        "embed_dim": size.vision_width,
        "hidden_size": size.hidden,
        "num_heads": size.vision_heads,
        "patch_size": size.patch,
        "initializer_range": size.initializer_range,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=special.image_pad,
        video_token_id=special.video_pad,
        vision_start_token_id=special.vision_start,
        vision_end_token_id=special.vision_end,
        tie_word_embeddings=True,
    )

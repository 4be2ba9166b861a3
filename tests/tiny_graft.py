"""Tiny random models of all three families, the nano tokenizer, and small inputs. No tests here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.families import get_family
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.nano_tokenizer import build_nano_tokenizer, nano_corpus

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PATCH = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
# Ids of the model-level tests; the processor-level tests take theirs from the nano tokenizer.
IDS = {"image": 60, "video": 61, "vision_start": 62, "vision_end": 63, "audio": 59, "im_end": 58, "pad": 57}
_SPREAD = 0.1  # large weights, so that a wrong position or mask moves the logits far more than 1e-5


def vlm_config(
    family: str = "qwen2_vl", vocab: int = 64, ids: dict[str, int] | None = None
) -> PretrainedConfig:
    """A stock config of this family with a few thousand parameters."""
    ids = ids or IDS
    text: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "initializer_range": _SPREAD, "bos_token_id": ids["pad"], "eos_token_id": ids["im_end"],
        "pad_token_id": ids["pad"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": PATCH[family],
        "initializer_range": 0.1,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 64}
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "window_size": 56,
                   "fullatt_block_indexes": [1], "tokens_per_second": 4}  # fmt: skip
    else:
        text |= {"head_dim": 16}
        vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64,
                   "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}  # fmt: skip
    return AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )


def whisper_config(positions: int = 1500, mel_bins: int = 80) -> WhisperConfig:
    """A stock Whisper config with two narrow layers per side."""
    return WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, num_mel_bins=mel_bins,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=64, init_std=_SPREAD,
        max_source_positions=positions, max_target_positions=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip


def tiny_config(family: str = "qwen2_vl", **joint: Any) -> AudioGraftConfig:
    """Vocabulary of 64 ids, see ``IDS``."""
    fields: dict[str, Any] = {"audio_token_id": IDS["audio"], **joint}
    return AudioGraftConfig(vlm_config=vlm_config(family), audio_config=whisper_config(), **fields)


def tiny_graft(family: str = "qwen2_vl", seed: int = 0, **joint: Any) -> AudioGraft:
    """A random grafted model, fp32, in eval mode."""
    torch.manual_seed(seed)
    model = AudioGraft(tiny_config(family, **joint))
    model.start_projector()
    return model.eval()


@cache
def nano_tokenizer() -> Any:
    """The 1,024-id tokenizer of the nano models."""
    taxonomy = load_taxonomy()
    return build_nano_tokenizer(taxonomy, nano_corpus(taxonomy))


def nano_processor(family: str = "qwen2_vl", max_side: int = 64) -> AudioGraftProcessor:
    """Processor on the nano tokenizer with the patch size of the family."""
    look = get_family(family)
    return AudioGraftProcessor(
        make_feature_extractor(), nano_tokenizer(), patch=PATCH[family], max_side=max_side, family=family,
        mean=look.mean, std=look.std,
    )  # fmt: skip


def nano_graft(processor: AudioGraftProcessor, family: str = "qwen2_vl", seed: int = 0) -> AudioGraft:
    """A random model that fits the processor's tokenizer."""
    special = processor.special
    ids = {
        "image": special.image_pad, "video": special.video_pad, "vision_start": special.vision_start,
        "vision_end": special.vision_end, "im_end": special.im_end, "pad": special.pad,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = AudioGraftConfig(
        vlm_config=vlm_config(family, len(processor.tokenizer), ids),
        audio_config=whisper_config(),
        audio_token_id=special.audio,
    )
    model = AudioGraft(config)
    model.start_projector()
    return model.eval()


def tone(seconds: float, pitch: float = 440.0, seed: int = 0) -> NDArray[np.float32]:
    """A tone with a little noise, mono, 16 kHz, float32."""
    count = round(seconds * 16_000)
    noise = np.random.default_rng(seed).normal(0, 0.01, count)
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(count) / 16_000) + noise).astype(np.float32)


def vision_rows(
    family: str, kind: str, grid: tuple[int, int, int], seed: int = 0
) -> tuple[list[int], Tensor]:
    """Placeholder ids (with start and end) and random patches for one picture or clip of this grid."""
    patch = PATCH[family]
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(grid[0] * grid[1] * grid[2], 3 * 2 * patch * patch, generator=generator)
    count = grid[1] * grid[2] // 4
    slices = grid[0] if family == "qwen3_vl" and kind == "video" else 1
    per_slice = count * grid[0] // slices
    ids: list[int] = []
    for index in range(slices):
        stamp = [20 + index] if slices > 1 else []
        ids += [*stamp, IDS["vision_start"], *[IDS[kind]] * per_slice, IDS["vision_end"]]
    return ids, patches


def pad_rows(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask``, ``mm_token_type_ids`` of rows padded on one side."""
    size = max(map(len, rows))
    ids, mask, types = [], [], []
    for row in rows:
        gap = size - len(row)
        before, after = (gap, 0) if side == "left" else (0, gap)
        kinds = [1 if t == IDS["image"] else 2 if t == IDS["video"] else 0 for t in row]
        ids.append([IDS["pad"]] * before + row + [IDS["pad"]] * after)
        mask.append([0] * before + [1] * len(row) + [0] * after)
        types.append([0] * before + kinds + [0] * after)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": torch.tensor(types),
    }

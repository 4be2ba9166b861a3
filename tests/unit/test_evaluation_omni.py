"""A tiny random Qwen2.5-Omni thinker as a system, saved and loaded like the real one."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from surgvivqa_audio.answering.base import Clip, Query
from surgvivqa_audio.answering.builder import SystemBuilder
from surgvivqa_audio.answering.omni import OmniSystem, load_omni
from surgvivqa_audio.errors import ConfigError, ModelError
from tiny_graft import nano_tokenizer

MARKS = ["<|vision_bos|>", "<|VIDEO|>", "<|vision_eos|>", "<|IMAGE|>"]


def checkpoint(folder: Path) -> Path:
    tokenizer = deepcopy(nano_tokenizer())
    tokenizer.add_tokens(MARKS, special_tokens=True)
    at = tokenizer.convert_tokens_to_ids
    config = Qwen2_5OmniThinkerConfig(
        audio_config={"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "n_window": 50,
                      "encoder_ffn_dim": 32, "num_mel_bins": 80, "output_dim": 64},
        vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
                       "out_hidden_size": 64, "fullatt_block_indexes": [0]},
        text_config={"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64,
                     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "eos_token_id": at("<|im_end|>"), "pad_token_id": at("<|endoftext|>"),
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0,
                                         "mrope_section": [2, 3, 3]}},
        audio_token_id=at("<|AUDIO|>"), video_token_id=at("<|VIDEO|>"), image_token_id=at("<|IMAGE|>"),
        vision_start_token_id=at("<|vision_bos|>"), vision_end_token_id=at("<|vision_eos|>"),
        audio_start_token_id=at("<|audio_bos|>"), audio_end_token_id=at("<|audio_eos|>"),
        pad_token_id=at("<|endoftext|>"),
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> OmniSystem:
    return load_omni(str(checkpoint(tmp_path_factory.mktemp("omni"))))


def sound(seconds: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (0.3 * np.sin(np.arange(round(16_000 * seconds)) * 0.1)).astype(np.float32)


FRAMES = tuple(np.full((56, 84, 3), 20 * number, np.uint8) for number in range(8))


def test_placeholders_match_the_features(omni: OmniSystem) -> None:
    for seconds in (0.5, 1.23):
        inputs = omni.processor(FRAMES, 6.25, sound(seconds))
        ids = inputs["input_ids"][0].tolist()
        assert ids.count(omni.processor.ids["<|VIDEO|>"]) == 4 * 2 * 3
        frames = round(100 * seconds)
        assert ids.count(omni.processor.ids["<|AUDIO|>"]) == pytest.approx(frames / 4, abs=1)
        assert inputs["video_second_per_grid"].tolist() == pytest.approx([2 / 6.25])


def test_it_hears_sees_and_repeats_itself(omni: OmniSystem) -> None:
    logits = []
    for wave, frames in ((sound(0.5), FRAMES), (sound(0.6), FRAMES), (sound(0.5), FRAMES[::-1])):
        with torch.no_grad():
            logits.append(omni.model(**omni.processor(frames, 6.25, wave)).logits[0, -1])
    assert float((logits[0] - logits[1]).abs().max()) > 1e-6
    assert float((logits[0] - logits[2]).abs().max()) > 1e-6
    query = Query("q", Clip(FRAMES, 6.25), sound(0.5))
    first, second = omni.predict([query, query])
    assert (first.answer, first.options, first.log_probs) == (second.answer, (), ())
    assert first.extra == {"free_text": True}
    assert set(first.timings_ms) == {"audio", "answer", "total"}


def test_weights_are_named_by_flag_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--omni FOLDER"):
        SystemBuilder()("omni")
    with pytest.raises(ModelError, match=r"no Qwen2\.5-Omni checkpoint"):
        SystemBuilder(omni=str(tmp_path))("omni")
    with pytest.raises(ConfigError, match="question-only, omni"):
        SystemBuilder()("nobody")
    with pytest.raises(ConfigError, match="--prompt theirs: one of ours, seed"):
        SystemBuilder(prompt="theirs")

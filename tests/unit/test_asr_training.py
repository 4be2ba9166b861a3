"""The tiny Whisper: its size, its losses, and what its runs refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.training.asr import AsrConfig, run_asr
from surgvivqa_audio.training.asr_model import AsrModel, WhisperSize, build_whisper
from tiny_graft import nano_tokenizer

_SIZE = WhisperSize(d_model=16, encoder_layers=1, decoder_layers=1, heads=2, ffn=32)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return nano_tokenizer()


def test_the_default_size_fits_the_budget(tokenizer: PreTrainedTokenizerFast) -> None:
    whisper = build_whisper(WhisperSize(), tokenizer)
    assert sum(parameter.numel() for parameter in whisper.parameters()) == 1_733_120


def test_losses_reach_encoder_decoder_and_letters(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = AsrModel(build_whisper(_SIZE, tokenizer))
    features, lengths = torch.randn(2, 80, 40), torch.tensor([40, 31])
    written, heard = model.losses(features, lengths, [[1, 30, 40, 2], [1, 2]], [[3, 4], []], 0.0)
    (written + heard).backward()
    missing = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert missing == []
    assert 6.0 < written.item() < 8.5
    assert heard.item() > 1.0


def test_padding_does_not_change_the_losses(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = AsrModel(build_whisper(_SIZE, tokenizer)).eval()
    features, lengths = torch.randn(2, 80, 41), torch.tensor([41, 25])
    short = model.losses(features[1:, :, :25], lengths[1:], [[1, 30, 40, 2]], [[3, 4]], 0.0)
    tokens, letters = [[1, 30, 40, 2], [1, 30, 40, 2]], [[3, 4], [3, 4]]
    both = model.losses(features, lengths, tokens, letters, 0.0)
    long = model.losses(features[:1], lengths[:1], tokens[:1], letters[:1], 0.0)
    for pair, one, two in zip(both, long, short, strict=True):
        assert pair.item() == pytest.approx((one.item() + two.item()) / 2, abs=1e-5)


def test_bfloat16_changes_the_losses_by_its_rounding_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = AsrModel(build_whisper(_SIZE, tokenizer)).eval()
    asked = (torch.randn(2, 80, 40), torch.tensor([40, 31]), [[1, 30, 40, 2], [1, 2]], [[3, 4], [5]], 0.0)
    exact = model.losses(*asked)
    model.whisper.set_attn_implementation("eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.losses(*asked)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert 0 < abs(other.item() - one.item()) < 0.01 * one.item()


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    about = {"config": AsrConfig(seed=3).model_dump_json()}
    save_file({"model|x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata=about)
    with pytest.raises(ConfigError, match="pass --resume"):
        run_asr(AsrConfig(), tmp_path)
    with pytest.raises(ConfigError, match="'seed' was 3, is 0 now"):
        run_asr(AsrConfig(), tmp_path, resume=True)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be resumed"):
        run_asr(AsrConfig(), tmp_path, resume=True)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        AsrConfig.model_validate({"learning_rate": 1})

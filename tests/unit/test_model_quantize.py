"""4-bit: what is quantised, what trains, and that merging into the dequantised base is exact."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.loading import ADAPTER, add_adapter, load_adapter, load_graft
from surgvivqa_audio.model.quantize import check_4bit, dequantise, load_4bit, quantised
from tiny_graft import IDS, pad_rows, tiny_graft, vision_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with an adapter that moves the logits."""
    target = tmp_path_factory.mktemp("graft")
    tiny_graft().save_pretrained(target)
    tuned = add_adapter(tiny_graft(), rank=4, alpha=8, dropout=0.0)
    torch.manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tuned.save_pretrained(str(target / ADAPTER))
    return target


def _batch() -> dict[str, Any]:
    ids, pixels = vision_rows("qwen2_vl", "video", (2, 4, 4))
    row = [1, *ids, 2, *[IDS["audio"]] * 5, 3, 4]
    features = torch.randn(1, 80, 40, generator=torch.Generator().manual_seed(0))
    return {
        **pad_rows([row], "right"),
        "pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[2, 4, 4]]),
        "input_features": features, "audio_lengths": torch.tensor([40]),
    }  # fmt: skip


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**_batch()).logits.float()


def test_language_layers_are_quantised_and_nothing_else(folder: Path) -> None:
    model = load_4bit(folder)
    names = quantised(model)
    assert len(names) == 3 * 7
    assert all(name.startswith("vlm.model.language_model.layers.") for name in names)
    kept = {
        name: p.dtype
        for name, p in model.named_parameters()
        if name.startswith(("audio_", "vlm.model.visual"))
    }
    assert set(kept.values()) == {torch.bfloat16}
    assert not any(layer.support_avx512bf16_for_cpu for layer in names.values())
    model.audio_projector.up = copy.deepcopy(next(iter(names.values())))
    with pytest.raises(ModelError, match=r"1 parts quantised that must stay"):
        check_4bit(model)


def test_train_eval_train_keeps_its_gradients(folder: Path) -> None:
    tuned = add_adapter(load_4bit(folder), rank=2, alpha=4, dropout=0.0)
    batch = _batch()
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -2:] = batch["input_ids"][:, -2:]

    def gradients() -> dict[str, torch.Tensor]:
        tuned.train().zero_grad()
        tuned(**batch, labels=labels).loss.backward()
        return {name: p.grad.clone() for name, p in tuned.named_parameters() if p.requires_grad}

    first = gradients()
    _logits(tuned.eval())
    second = gradients()
    assert any(bool(grad.abs().sum() > 0) for name, grad in first.items() if "lora_B" in name)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_merging_into_the_dequantised_base_is_exact_and_the_bf16_shift_is_small(folder: Path) -> None:
    beside = _logits(load_4bit(folder, stage="tuned", compute=torch.float32))
    base = dequantise(load_4bit(folder, compute=torch.float32))
    assert not quantised(base)
    merged = load_adapter(base, folder / ADAPTER, merge=True).eval()
    exact = _logits(merged)
    assert float((exact - beside).abs().max()) <= 1e-4
    shift = float((_logits(merged.to(torch.bfloat16)) - exact).abs().max())
    assert 1e-4 < shift < 0.1 * float(exact.std())
    quantisation = float((exact - _logits(load_graft(folder))).abs().max())
    assert quantisation > 1e-2  # merging into the original weights would not be the model that was trained


def test_attention_implementations_agree(folder: Path) -> None:
    fused = _logits(load_graft(folder, stage="base"))
    assert float((fused - _logits(load_graft(folder, stage="base", attention="eager"))).abs().max()) <= 1e-5
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_graft(folder, stage="base", attention="flash_attention_2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_fp32(folder: Path, dtype: torch.dtype) -> None:
    exact = _logits(load_graft(folder, stage="base"))
    model = load_graft(folder, stage="base", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    difference = float((_logits(model) - exact).abs().max())
    assert 0 < difference < 0.1 * float(exact.std())

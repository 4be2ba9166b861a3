"""What a step of the nano stages asks, how often, and what its losses compare."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from surgvivqa_audio.model.encoder import encode_audio
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import add_adapter
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.answer_loss import answer_loss
from surgvivqa_audio.training.lean import lean_adapter, lean_attention, lean_vision
from surgvivqa_audio.training.loop import LoopConfig
from surgvivqa_audio.training.rows import Odds, RowConfig, Rows, Seen, Typed, Voiced
from surgvivqa_audio.training.tower import VIEWS, see, view_of
from surgvivqa_audio.training.utterances import Heard
from tiny_stages import tiny_clips, tiny_model


def test_every_type_is_asked_equally_often_and_every_answer_of_it(taxonomy: Taxonomy) -> None:
    plain = tiny_clips(taxonomy)[0]
    known = (
        {"scope_outside": "yes"},
        {"scope_outside": "no", "blue_dye_presence": "no"},
        {"scope_outside": "no", "blue_dye_presence": "no"},
        {"scope_outside": "no", "blue_dye_presence": "yes"},
    )
    clips = [replace(plain, answers=answers) for answers in known]
    odds = Odds(clips)
    # 1 / (2 answers * clips with it): outside 1/2, inside 1/6, dye 1/2, none 1/4; a clip sums its own.
    assert odds.of_views.tolist() == pytest.approx([3 / 12, 5 / 24, 5 / 24, 4 / 12])
    assert odds.of_questions(clips[1]).tolist() == pytest.approx([2 / 5, 3 / 5])
    share: Counter[tuple[str, str]] = Counter()
    for clip, shown in zip(clips, odds.of_views, strict=True):
        for pair, asked in zip(clip.answers.items(), odds.of_questions(clip), strict=True):
            share[pair] += shown * asked
    assert set(share) == {(name, answer) for name in known[1] for answer in ("yes", "no")}
    assert list(share.values()) == pytest.approx([1 / 4] * 4)


def test_questions_that_share_a_prefix_have_the_loss_of_whole_rows(taxonomy: Taxonomy) -> None:
    model, processor = tiny_model()
    model.eval()
    clips = tiny_clips(taxonomy)[:1]
    waves = [np.random.default_rng(seed).normal(0, 0.1, 8_000 + 700 * seed) for seed in range(3)]
    mels = [processor.mel(wave.astype(np.float32)) for wave in waves]
    with torch.no_grad():
        states = [_states(model, mel) for mel in mels]
        views = [see(model.vlm, processor, [view_of(clips[0], view)]) for view in range(VIEWS)]
    heard = Heard(states, [mel.shape[-1] for mel in mels], {name: [0, 1, 2] for name in taxonomy.types})
    config = RowConfig(batch=2, questions=3, out_of_scope=0.0, typed=0.5, other_branch=1.0)
    typed, voiced = Typed(taxonomy, ["word"]), Voiced(heard, 80)
    rows = Rows([Seen(clips, torch.stack(views))], typed, voiced, processor, taxonomy, config)
    batch = rows.batch(0)
    assert 0 < len(batch.states) < 6
    order = [next(i for i, each in enumerate(states) if each is state) for state in batch.states]
    features, lengths = batch_mels([mels[index] for index in order])
    pixels = [processor.clip(list(batch.clips[row].frames), 6.25).pixels for row in batch.owner.tolist()]
    ids = torch.cat([batch.prefix["input_ids"][batch.owner], batch.ids], dim=1)
    prefix_length = batch.prefix["input_ids"].shape[1]
    with torch.no_grad():
        whole = model(
            ids,
            labels=nn.functional.pad(batch.labels, (prefix_length, 0), value=-100),
            attention_mask=(ids != processor.special.pad).long(),
            mm_token_type_ids=nn.functional.pad(
                batch.prefix["mm_token_type_ids"][batch.owner], (0, batch.ids.shape[1])
            ),
            pixel_values_videos=torch.from_numpy(np.concatenate(pixels)),
            video_grid_thw=batch.prefix["video_grid_thw"][batch.owner],
            input_features=features,
            audio_lengths=lengths,
        ).loss
        lean_attention(model.vlm)
        shared, _, _ = answer_loss(model, batch)
    assert float(whole) > 1.0
    assert abs(float(shared) - float(whole)) <= 1e-5


def _states(model: AudioGraft, mel: Any) -> torch.Tensor:
    """Encoder states (n, d) of one recording."""
    return encode_audio(model.audio_encoder, torch.from_numpy(mel)[None], torch.tensor([mel.shape[-1]]))[0]


def test_the_lean_norm_is_the_stock_norm_and_so_are_its_gradients() -> None:
    vlm: Any = tiny_model()[0].vlm
    norm = vlm.model.language_model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    hidden, target = torch.randn(2, 3, 5, norm.weight.numel(), generator=torch.Generator().manual_seed(0))
    hidden.requires_grad_()

    def gradients() -> list[torch.Tensor]:
        normed = norm(hidden)
        return [normed, *torch.autograd.grad((normed * target).sum(), (hidden, norm.weight))]

    stock = gradients()
    lean_attention(vlm)
    assert "forward" in vars(norm)
    for found, expected in zip(gradients(), stock, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(hidden).dtype == torch.bfloat16
        assert torch.equal(norm(hidden), type(norm).forward(norm, hidden).bfloat16())


def test_the_lean_adapter_is_the_stock_adapter_and_so_are_its_gradients() -> None:
    tuned = add_adapter(tiny_model()[0], rank=4, alpha=8, dropout=0.0)
    layers = [module for module in tuned.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 7  # every projection of the one layer
    layer: Any = layers[0]
    factors = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    torch.nn.init.normal_(factors[1], generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(3, 5, layer.in_features, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        found = layer(hidden)
        return [found, *torch.autograd.grad(found.square().mean(), factors)]

    stock = gradients()
    lean_adapter(tuned)
    assert "forward" in vars(layer)
    for found, expected in zip(gradients(), stock, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert layer.get_base_layer().weight.grad is None


@pytest.mark.parametrize(
    ("said", "wanted"), [({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({}, False)]
)
def test_bfloat16_is_taken_where_the_processor_has_units_for_it(
    said: dict[str, bool], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said, raising=False)
    assert LoopConfig(steps=1).bf16 is wanted
    assert LoopConfig(steps=1, bf16=not wanted).bf16 is not wanted  # a recipe may say otherwise
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert LoopConfig(steps=1).bf16 is False  # an older torch


def test_numbers_too_small_for_a_normal_float_count_as_nothing_on_every_thread() -> None:
    code = (
        "import torch; from surgvivqa_audio.training.cpu import use_threads; use_threads(2);"
        "print(torch.get_num_threads(), int((torch.full((1_000_000,), 1e-39) * 1.5).count_nonzero()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2", "0"]  # 1000000 without the setting


@pytest.mark.parametrize("grids", [[[2, 4, 4], [3, 4, 4]], [[2, 4, 4], [1, 2, 4]]], ids=["lean", "stock"])
def test_the_lean_tower_is_the_stock_tower_and_so_are_its_gradients(grids: list[list[int]]) -> None:
    vlm: Any = tiny_model()[0].vlm
    visual, grid = vlm.model.visual, torch.tensor(grids)
    patch = visual.patch_embed.proj.weight[0].numel()
    pixels = torch.randn(int(grid.prod(1).sum()), patch, generator=torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor]:
        seen = visual(pixels, grid_thw=grid).pooler_output
        weights = [weight for weight in visual.parameters() if weight.requires_grad]
        return [seen, *torch.autograd.grad(seen.square().mean(), weights)]

    visual.requires_grad_(True)
    stock = gradients()
    lean_vision(vlm)
    assert "forward" in vars(visual.blocks[0].mlp)
    for found, expected in zip(gradients(), stock, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

"""Packed questions behave as if each were asked alone; gradients reach exactly what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa_audio.model.loading import add_adapter, freeze_all_but_projector, load_adapter
from surgvivqa_audio.model.packing import packed_mask, packed_positions
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Spoken
from tiny_graft import nano_graft, nano_processor, tiny_graft, tone


def test_mask_of_a_small_example() -> None:
    mask = packed_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))
    assert mask.shape == (1, 1, 6, 6)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_positions_of_a_small_example_restart_after_the_prefix() -> None:
    prefix = torch.tensor([[[0, 1, 5, 0, 0, 0, 0]]]).expand(3, 1, -1)
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, -1]])
    positions = packed_positions(prefix, torch.tensor([6]), segments)
    assert positions.shape == (3, 1, 7)
    assert positions[1, 0, :6].tolist() == [0, 1, 5, 6, 7, 6]


def _questions(processor: Any) -> list[Spoken]:
    return [
        Spoken("audio", processor.mel(tone(0.31)), answer="No polyp is visible."),
        Spoken("text", text="Is there a lesion?", answer="Yes."),
        Spoken("audio+text", processor.mel(tone(0.5, 880)), "What is the tool?", "A catheter is used."),
    ]


@torch.no_grad()
def test_packed_logits_and_loss_equal_each_question_alone(make_frames: Any) -> None:
    processor = nano_processor()
    model = nano_graft(processor)
    pad = processor.special.pad
    clips = [processor.clip(make_frames(4, 64, seed), 6.25) for seed in (0, 1)]
    questions = _questions(processor)
    rows = [processor.encode(clips[0], questions), processor.encode(clips[1], questions[:1])]
    for side in ("right", "left"):
        packed = collate(rows, pad, side=side, packed=True)  # type: ignore[arg-type]
        logits = model(**{name: value for name, value in packed.items() if name != "labels"}).logits
        total, count = 0.0, 0
        for index, (clip, row) in enumerate(zip(clips, rows, strict=True)):
            start = packed["input_ids"].shape[1] - len(row.ids) if side == "left" else 0
            for number, question in enumerate(questions[: len(row.mels) + 1 if index == 0 else 1], start=1):
                single = collate([processor.encode(clip, [question])], pad)
                labels = single.pop("labels")
                alone = model(**single).logits[0]
                length = int((torch.tensor(row.segments) == number).sum())
                first = start + row.segments.index(number)
                together = logits[index, first : first + length]
                assert float((together - alone[-length:]).abs().max()) <= 1e-5
                supervised = int((labels != -100).sum())
                total += float(model(**single, labels=labels).loss) * supervised
                count += supervised
        assert abs(float(model(**packed).loss) - total / count) <= 1e-5


def _trained_names(model: torch.nn.Module) -> tuple[set[str], set[str]]:
    """Names that ask for a gradient, and names that have a gradient other than zero."""
    named = list(model.named_parameters())
    wanted = {name for name, parameter in named if parameter.requires_grad}
    reached = {name for name, p in named if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert all(p.grad is None for _, p in named if not p.requires_grad)
    return wanted, reached


def _backward(model: torch.nn.Module, processor: Any, make_frames: Any) -> None:
    example = processor.encode(processor.clip(make_frames(2, 64), 6.25), _questions(processor))
    model(**collate([example], processor.special.pad, packed=True)).loss.backward()


def test_alignment_trains_the_projector_and_nothing_else(make_frames: Any) -> None:
    processor = nano_processor()
    model = nano_graft(processor)
    freeze_all_but_projector(model)
    _backward(model, processor, make_frames)
    wanted, reached = _trained_names(model)
    parts = ("norm_in", "gate", "up", "down", "norm_out")
    assert wanted == {f"audio_projector.{part}.weight" for part in parts}
    assert reached == wanted


def test_fine_tuning_trains_lora_of_the_language_model_and_the_projector(make_frames: Any) -> None:
    processor = nano_processor()
    tuned = add_adapter(nano_graft(processor), rank=2, alpha=4, dropout=0.0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide lora_A from the gradient
            torch.nn.init.normal_(parameter, std=0.02)
    _backward(tuned, processor, make_frames)
    wanted, reached = _trained_names(tuned)
    assert reached == wanted
    lora = {name for name in wanted if ".lora_" in name}
    assert len(lora) == 3 * 7 * 2  # layers, projections, two matrices
    assert all(".language_model.layers." in name for name in lora)
    rest = {name.removeprefix("base_model.model.") for name in wanted - lora}
    parts = ("norm_in", "gate", "up", "down", "norm_out")
    assert rest == {f"audio_projector.modules_to_save.default.{part}.weight" for part in parts}


@pytest.mark.parametrize("projector", ["mlp", "linear"])
def test_a_projector_trained_in_fp32_stands_in_a_bf16_model(projector: str) -> None:
    tuned = add_adapter(tiny_graft(projector=projector).bfloat16(), rank=2, alpha=4, dropout=0.0)
    tuned.get_base_model().audio_projector.modules_to_save["default"].float()
    model = tuned.get_base_model()
    (features,) = model.get_audio_features(torch.randn(1, 80, 31), torch.tensor([31]))
    assert (features.shape, features.dtype) == ((4, 64), torch.float32)
    ids = torch.tensor([[1, *[model.config.audio_token_id] * 4, 2]])
    assert model.embed(ids, [features]).dtype == torch.bfloat16


@pytest.mark.parametrize(("encoder", "count"), [("lora", 2 * 6 * 2), ("trainable", 37)])
def test_the_encoder_can_be_trained_too(encoder: Any, count: int, make_frames: Any, tmp_path: Path) -> None:
    processor = nano_processor()
    tuned = add_adapter(nano_graft(processor), rank=2, alpha=4, dropout=0.0, encoder=encoder)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    _backward(tuned, processor, make_frames)
    wanted, reached = _trained_names(tuned)
    # keys have no effect on a softmax when they are all shifted alike, so a key bias has no gradient
    assert {name for name in wanted - reached if "k_proj" not in name} == set()
    assert len({name for name in wanted if "audio_encoder" in name}) == count
    tuned.save_pretrained(str(tmp_path))
    loaded = load_adapter(nano_graft(processor), tmp_path, merge=True).eval()
    example = processor.encode(None, _questions(processor)[:1])
    batch = collate([example], processor.special.pad)
    with torch.no_grad():
        difference = loaded(**batch).loss - tuned.eval()(**batch).loss
    assert abs(float(difference)) <= 1e-5


def test_untouched_adapter_changes_nothing(make_frames: Any) -> None:
    model = tiny_graft()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = model(ids).logits
        after = add_adapter(model, rank=2, alpha=4, dropout=0.0).eval()(ids).logits
    assert torch.equal(before, after)

"""Without audio the graft is the stock model; with audio, batching, padding and caches change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.patches import fast_vision
from tiny_graft import FAMILIES, IDS, pad_rows, tiny_graft, vision_rows

TOLERANCE = 1e-5
GRIDS = [(4, 4, 6), (2, 6, 4)]


def _batch(family: str, kind: str, side: str) -> dict[str, Any]:
    """Two rows of different lengths, each with one clip (or two pictures)."""
    rows, patches, grids = [], [], []
    for index, grid in enumerate(GRIDS):
        row = [1, 2, 3 + index]
        for part in range(2 if kind == "image" else 1):
            size = (1, *grid[1:]) if kind == "image" else grid
            ids, pixels = vision_rows(family, kind, size, seed=10 * index + part)
            row += ids
            patches.append(pixels)
            grids.append(size)
        rows.append([*row, *range(5, 9 + 2 * index)])
    batch: dict[str, Any] = pad_rows(rows, side)
    name = (
        ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    )
    batch |= {name[0]: torch.cat(patches), name[1]: torch.tensor(grids)}
    if family == "qwen2_5_vl" and kind == "video":
        batch["second_per_grid_ts"] = torch.tensor([0.32, 1.0])
    return batch


@torch.no_grad()
def _difference(model: AudioGraft, batch: dict[str, Any]) -> float:
    stock = model.vlm(**batch).logits
    ours = model(**batch).logits
    valid = batch["attention_mask"].bool()
    assert float(stock[valid].std()) > 0.1  # the comparison is not between two flat lines
    return float((stock - ours)[valid].abs().max())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_audio_logits_equal_the_stock_model(family: str, kind: str, side: str) -> None:
    assert _difference(tiny_graft(family), _batch(family, kind, side)) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_equals_the_stock_model(family: str) -> None:
    batch = pad_rows([[1, 2, 3, 4, 5], [6, 7, 8]], "left")
    assert _difference(tiny_graft(family), batch) <= TOLERANCE


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trained", [False, True])
def test_rearranged_vision_equals_the_stock_vision_tower(family: str, kind: str, trained: bool) -> None:
    with torch.set_grad_enabled(trained):
        _compare_vision(family, kind)


def _compare_vision(family: str, kind: str) -> None:
    model, rearranged = tiny_graft(family), tiny_graft(family)
    fast_vision(rearranged.vlm)
    batch = _batch(family, kind, "right")
    pixels, grid = (
        ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    )
    equal_slices = {pixels: batch[pixels][: 2 * 24], grid: torch.tensor([[2, 4, 6]])}
    for values in (batch, equal_slices):  # slices of several lengths, and of one
        stock = model.vlm.model.visual(values[pixels], grid_thw=values[grid]).pooler_output.detach()
        fast = rearranged.vlm.model.visual(values[pixels], grid_thw=values[grid]).pooler_output.detach()
        assert float(stock.std()) > 1e-3
        assert torch.allclose(fast, stock, atol=TOLERANCE, rtol=0)
    assert sorted(rearranged.state_dict()) == sorted(model.state_dict())
    ours, theirs = rearranged(**batch).logits.detach(), model.vlm(**batch).logits.detach()
    valid = batch["attention_mask"].bool()
    assert float((ours - theirs)[valid].abs().max()) <= TOLERANCE


def _spoken(family: str, seconds: list[int]) -> tuple[dict[str, Any], list[list[int]]]:
    """Rows with a clip and a recording of so many mel frames; their audio placeholders stand last but two."""
    rows, patches, mels = [], [], []
    generator = torch.Generator().manual_seed(3)
    for index, frames in enumerate(seconds):
        ids, pixels = vision_rows(family, "video", (2, 4, 4), seed=index)
        rows.append([1, *ids, 2, *[IDS["audio"]] * -(-((frames + 1) // 2) // 4), 3, 4])
        patches.append(pixels)
        mels.append(torch.randn(80, frames, generator=generator))
    features = torch.zeros(len(mels), 80, max(seconds))
    for row, mel in zip(features, mels, strict=True):
        row[:, : mel.shape[1]] = mel
        row[:, mel.shape[1] :] = 1e6  # whatever stands in the padding must not matter
    audio = {"input_features": features, "audio_lengths": torch.tensor(seconds)}
    vision = {
        "pixel_values_videos": torch.cat(patches),
        "video_grid_thw": torch.tensor([[2, 4, 4]] * len(rows)),
        "second_per_grid_ts": torch.full((len(rows),), 0.32),
    }
    return {**audio, **vision}, rows


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_batch_of_spoken_questions_equals_each_alone(family: str, side: str) -> None:
    lengths = [37, 101, 8]
    model = tiny_graft(family)
    inputs, rows = _spoken(family, lengths)
    together = pad_rows(rows, side)
    logits = model(**together, **inputs).logits
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = model(
            **pad_rows([row], side),
            input_features=inputs["input_features"][index : index + 1, :, :length],
            audio_lengths=torch.tensor([length]),
            pixel_values_videos=inputs["pixel_values_videos"].chunk(3)[index],
            video_grid_thw=inputs["video_grid_thw"][index : index + 1],
            second_per_grid_ts=inputs["second_per_grid_ts"][index : index + 1],
        ).logits[0]
        valid = together["attention_mask"][index].bool()
        assert float((logits[index][valid] - alone).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_sound_matters(family: str) -> None:
    model = tiny_graft(family)
    inputs, rows = _spoken(family, [40])
    first = model(**pad_rows(rows, "right"), **inputs).logits[0, -1]
    inputs["input_features"] = inputs["input_features"].flip(1)
    assert float((model(**pad_rows(rows, "right"), **inputs).logits[0, -1] - first).abs().max()) > 1e-2


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_reuse_with_interleaved_clips_equals_cold_runs(family: str, static: bool) -> None:
    assert prefix_difference(family, static) <= TOLERANCE


@torch.no_grad()
def prefix_difference(family: str, static: bool) -> float:
    """Largest difference between questions on reused prefixes and the same questions run cold."""
    model = tiny_graft(family)
    grids = [(4, 4, 6), (2, 6, 8)]
    clips = []
    for index, grid in enumerate(grids):
        ids, pixels = vision_rows(family, "video", grid, seed=index)
        batch = {**pad_rows([[1, 2, *ids, 3]], "right"), "pixel_values_videos": pixels,
                 "video_grid_thw": torch.tensor([grid])}  # fmt: skip
        if family == "qwen2_5_vl":
            batch["second_per_grid_ts"] = torch.tensor([0.32 + index])
        clips.append(batch)
    questions = [[4, *[IDS["audio"]] * 5, 6], [5, *[IDS["audio"]] * 3, 7, 8]]
    sounds = [
        torch.randn(1, 80, frames, generator=torch.Generator().manual_seed(frames)) for frames in (40, 23)
    ]

    text = model.config.get_text_config()
    caches: list[Any] = []
    after = []
    for batch in clips:
        cache = StaticCache(config=text, max_cache_len=64) if static else DynamicCache(config=text)
        grid = {name: batch[name] for name in ("video_grid_thw", "second_per_grid_ts") if name in batch}
        positions, following = model.positions(batch["input_ids"], batch["mm_token_type_ids"], **grid)
        model.hidden_states(**batch, position_ids=positions, past_key_values=cache, use_cache=True)
        caches.append(cache)
        after.append(int(following[0]))
    largest = 0.0
    for clip, question in [(0, 0), (1, 1), (0, 1), (1, 0), (0, 0)]:
        ids, sound = questions[question], sounds[question]
        features = {"input_features": sound, "audio_lengths": torch.tensor([sound.shape[-1]])}
        batch = clips[clip]
        whole = pad_rows([[*batch["input_ids"][0].tolist(), *ids]], "right")
        vision = {name: value for name, value in batch.items() if name not in whole}
        cold = model(**whole, **vision, **features).logits[0, -len(ids) :]
        seen = batch["input_ids"].shape[1]
        positions = (after[clip] + torch.arange(len(ids))).expand(3, 1, -1)
        warm = model(
            torch.tensor([ids]),
            position_ids=positions,
            past_key_values=caches[clip],
            use_cache=True,
            **features,
        ).logits[0]
        _rewind(caches[clip], seen)
        largest = max(largest, float((warm - cold).abs().max()))
    return largest


def _rewind(cache: Any, length: int) -> None:
    """Forget the question: a dynamic cache is cut, a static one continues writing at the old place."""
    if isinstance(cache, StaticCache):
        for layer in cache.layers:
            layer.keys[:, :, length:] = 0
            layer.values[:, :, length:] = 0
            layer.cumulative_length.fill_(length)
    else:
        cache.crop(length - cache.get_seq_length())


def test_second_per_grid_of_a_clip_reaches_the_positions_of_qwen2_5() -> None:
    model = tiny_graft("qwen2_5_vl")
    ids, _ = vision_rows("qwen2_5_vl", "video", (3, 2, 2))
    batch = pad_rows([ids], "right")
    grid = torch.tensor([[3, 2, 2]])
    positions, after = model.positions(
        batch["input_ids"],
        batch["mm_token_type_ids"],
        video_grid_thw=grid,
        second_per_grid_ts=torch.tensor([0.5]),
    )
    # start token, three slices two positions apart (4 per second x 0.5 s), end token after the largest
    assert positions[0, 0].tolist() == [0, 1, 3, 5, 2]
    assert int(after[0]) == 6
    with pytest.raises(ModelError, match="second_per_grid_ts"):
        model.positions(batch["input_ids"], batch["mm_token_type_ids"], video_grid_thw=grid)

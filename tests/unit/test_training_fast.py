"""The fast path changes speed, not the loss: packing, cached features, answer logits; the order of rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import add_adapter
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken, VideoInputs
from surgvivqa_audio.training.fast_path import FastPath, activation_bytes
from surgvivqa_audio.training.feature_cache import (
    CachingCollate,
    FeatureCache,
    TowerNames,
    Towers,
    fill_cache,
    tower_names,
)
from surgvivqa_audio.training.sampling import EpochSampler
from tiny_graft import nano_graft, nano_processor, tone

ANSWERS = ("No, WL light is on instead.", "Yes, the scope is moving across the frames.", "No.")


@pytest.fixture(scope="module")
def processor() -> AudioGraftProcessor:
    return nano_processor(max_side=56)


def _clip(processor: AudioGraftProcessor, seed: int) -> VideoInputs:
    frames = list(np.random.default_rng(seed).integers(0, 255, (4, 56, 56, 3), dtype=np.uint8))
    clip = processor.clip(frames, 6.25)
    assert isinstance(clip, VideoInputs)
    return clip


def _questions(processor: AudioGraftProcessor) -> list[Spoken]:
    lengths = (0.31, 0.5, 0.22)
    return [
        Spoken("audio", processor.mel(tone(seconds, 300.0 + 90 * n, n)), answer=answer)
        for n, (seconds, answer) in enumerate(zip(lengths, ANSWERS, strict=True))
    ]


def _frozen(processor: AudioGraftProcessor) -> tuple[AudioGraft, Any]:
    model = nano_graft(processor)
    return model, add_adapter(model, rank=4, alpha=8, dropout=0.0).train()


def _gradients(trained: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in trained.named_parameters() if value.grad is not None}


def test_packed_questions_give_the_loss_and_gradients_of_single_ones(processor: AudioGraftProcessor) -> None:
    _, trained = _frozen(processor)
    pad, rows = processor.special.pad, [_clip(processor, 1), _clip(processor, 2)]
    asked = _questions(processor)
    groups = [(rows[0], asked), (rows[1], asked[:2])]
    packed = collate([processor.encode(clip, group) for clip, group in groups], pad, packed=True)
    one = trained(**packed).loss
    one.backward()
    together = _gradients(trained)
    trained.zero_grad()
    single = collate([processor.encode(clip, [q]) for clip, group in groups for q in group], pad)
    assert single["input_ids"].shape[0] == 5
    other = trained(**single).loss
    other.backward()
    assert abs(one.item() - other.item()) <= 1e-5
    apart = _gradients(trained)
    assert max(float((together[name] - apart[name]).abs().max()) for name in apart) <= 1e-5
    # Without the mask the questions would see each other.
    leaky = {**packed, "segments": torch.where(packed["segments"] > 1, 1, packed["segments"])}
    assert abs(trained(**leaky).loss.item() - other.item()) > 1e-3


def test_answer_logits_give_the_loss_of_the_whole_table(processor: AudioGraftProcessor) -> None:
    model, _ = _frozen(processor)
    batch = collate([processor.encode(_clip(processor, 1), _questions(processor)[:1])], processor.special.pad)
    assert abs(model(**batch).loss.item() - model(**batch, all_logits=True).loss.item()) <= 1e-6


def _collator(processor: AudioGraftProcessor, cache: FeatureCache, names: TowerNames) -> CachingCollate:
    return CachingCollate(lambda rows: collate(rows, processor.special.pad, packed=True), cache, names)


def test_cached_features_give_the_same_loss(processor: AudioGraftProcessor, tmp_path: Path) -> None:
    model, trained = _frozen(processor)
    cache = FeatureCache(tmp_path, 10_000_000)
    lookup, towers = _collator(processor, cache, tower_names(model)), Towers(model, cache)
    asked = _questions(processor)
    rows = [processor.encode(_clip(processor, 1), asked), processor.encode(_clip(processor, 2), asked[:2])]
    expected = trained(**lookup.collate(rows)).loss.item()
    first = lookup(rows)
    assert {"clip_names", "utterance_names", "pixel_values_videos"} <= set(first)
    assert abs(trained(**towers.fill(first)).loss.item() - expected) <= 1e-6
    assert len(cache.entries()) == 2 + 3  # the two clips, and the three recordings once each
    second = lookup(rows)
    assert not {"pixel_values_videos", "input_features", "clip_names", "utterance_names"} & set(second)
    assert abs(trained(**towers.fill(second)).loss.item() - expected) <= 1e-6


def test_cache_entries_are_those_of_this_tower_and_this_content(processor: AudioGraftProcessor) -> None:
    model, _ = _frozen(processor)
    names, clip = tower_names(model), _clip(processor, 1)
    pixels = torch.from_numpy(clip.pixels)
    known = names.clip(pixels, clip.grid)
    assert known == names.clip(pixels.clone(), list(clip.grid))
    changed = pixels.clone()
    changed[3, 5] += 1e-3
    assert names.clip(changed, clip.grid) != known
    assert tower_names(model, torch.bfloat16).clip(pixels, clip.grid) != known
    with torch.no_grad():
        next(model.vlm.model.visual.parameters()).view(-1)[0] += 1.0
    assert tower_names(model).clip(pixels, clip.grid) != known
    next(model.audio_encoder.parameters()).requires_grad_(True)
    with pytest.raises(ConfigError, match="a tower is trained"):
        tower_names(model)


def test_shards_fill_everything_once(processor: AudioGraftProcessor, tmp_path: Path) -> None:
    model, _ = _frozen(processor)
    cache = FeatureCache(tmp_path, 10_000_000)
    lookup, towers = _collator(processor, cache, tower_names(model)), Towers(model, cache)
    rows = [processor.encode(_clip(processor, n), _questions(processor)[:1]) for n in range(5)]
    assert fill_cache(rows, lookup, towers, shard=(1, 2)) == 2
    assert len(cache.entries()) == 2 + 1
    assert fill_cache(rows, lookup, towers, shard=(0, 2)) == 3
    assert len(cache.entries()) == 5 + 1
    with pytest.raises(ConfigError, match="--shard 2/2"):
        fill_cache(rows, lookup, towers, shard=(2, 2))


def test_cache_stays_within_its_bytes_and_drops_what_was_not_read(tmp_path: Path) -> None:
    one = torch.zeros(1000)
    cache = FeatureCache(tmp_path, 5 * 4100)
    for number in range(4):
        cache.put(f"{number:064d}", one + number)
        os.utime(cache.entries()[-1][2], (number, number))
    assert cache.get(f"{0:064d}") is not None  # read last, so it stays
    for number in range(4, 12):
        cache.put(f"{number:064d}", one + number)
        assert cache.nbytes <= 5 * 4100
    kept = {path.stem.lstrip("0") for _, _, path in cache.entries()}
    assert "1" not in kept
    assert "11" in kept
    cache.put("f" * 64, torch.zeros(100_000))
    assert cache.get("f" * 64) is None
    damaged = cache.entries()[-1][2]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert cache.get(damaged.stem) is None


def test_a_staged_file_may_vanish_while_another_writer_starts(tmp_path: Path) -> None:
    staged = tmp_path / "00" / ".entry.1.tmp"
    staged.parent.mkdir()
    staged.symlink_to(tmp_path / "renamed")  # listed, but gone when it is looked at
    cache = FeatureCache(tmp_path, 10_000)
    cache.put("0" * 64, torch.ones(3))
    assert cache.get("0" * 64) is not None


def test_concurrent_writers_leave_whole_entries_and_keep_the_bound(tmp_path: Path) -> None:
    limit = 8 * 4100
    children = []
    for writer in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                cache = FeatureCache(tmp_path, limit)
                for number in range(30):
                    name = f"{number % 10:064d}"
                    found = cache.get(name)
                    if found is not None and not torch.equal(found, torch.full((1000,), float(number % 10))):
                        raise RuntimeError(f"writer {writer}: a torn entry")
                    cache.put(name, torch.full((1000,), float(number % 10)))
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    cache = FeatureCache(tmp_path, limit)
    assert 0 < cache.nbytes <= limit
    assert list(tmp_path.glob("*/.*.tmp")) == []


def test_order_depends_on_seed_and_epoch_only_and_puts_equals_together() -> None:
    plain = EpochSampler(6, 1)
    assert sorted(plain) == [0, 1, 2, 3, 4, 5]
    assert plain.order(3) == EpochSampler(6, 1).order(3)
    assert plain.order(0) != plain.order(1)
    lengths = [100 * (row % 7) + row for row in range(130)]
    sampler = EpochSampler(130, 5, lengths, batch=4)
    sampler.set_epoch(2)
    order = list(sampler)
    assert order == sampler.order(2)
    assert sorted(order) == list(range(130))
    batches = [[lengths[row] for row in order[at : at + 4]] for at in range(0, 128, 4)]
    assert sum(max(batch) - min(batch) for batch in batches) / 32 < 100  # 380 without buckets
    firsts = [batch[0] for batch in batches]
    assert firsts != sorted(firsts)
    with pytest.raises(ConfigError, match="3 lengths for 4 rows"):
        EpochSampler(4, 0, [1, 2, 3])


def test_recompute_only_when_memory_needs_it(processor: AudioGraftProcessor) -> None:
    config = nano_graft(processor).config
    need = activation_bytes(config, 1000)
    assert need == 1000 * 3 * (34 * 64 + 14 * 96)
    automatic = FastPath()
    assert not automatic.recompute(config, 1000, 2 * need)
    assert automatic.recompute(config, 1000, need)
    assert FastPath(checkpointing="always").recompute(config, 1, 10**12)
    assert not FastPath(checkpointing="never").recompute(config, 10**9, 0)

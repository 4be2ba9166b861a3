"""Opened clips are kept by content within a limit, shared, reused slice by slice, and never changed."""

from __future__ import annotations

import io
import threading
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.answering.prefix import Prefix, PrefixCache, model_digest
from surgvivqa_audio.errors import BadImage
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.video import Geometry
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import PATCH, nano_graft, nano_processor, nano_tokenizer, tone


@cache
def engine_of(family: str = "qwen2_vl") -> AnswerEngine:
    processor = AudioGraftProcessor(
        make_feature_extractor(), nano_tokenizer(), patch=PATCH[family], max_side=64, family=family
    )
    return AnswerEngine(nano_graft(processor, family), processor, load_taxonomy(), name="tiny")


def _prefix(tokens: int) -> Prefix:
    """One layer, one head of width 2, fp32: 16 bytes a token."""
    part = torch.zeros(1, 1, tokens, 2)
    return Prefix(None, ((part, part.clone()),), tokens)


def test_the_least_recently_used_prefix_goes_first() -> None:
    kept = PrefixCache(max_bytes=100)
    kept.put("a", _prefix(2))
    kept.put("b", _prefix(2))
    assert (len(kept), kept.nbytes) == (2, 64)
    assert kept.get("a") is not None
    kept.put("c", _prefix(3))
    assert (kept.get("b"), len(kept), kept.nbytes) == (None, 2, 80)
    kept.put("too large", _prefix(7))
    assert (kept.get("too large"), len(kept)) == (None, 2)
    kept.clear()
    assert (len(kept), kept.nbytes) == (0, 0)


def test_equal_frames_share_one_prefix_and_others_do_not(make_frames: Any) -> None:
    engine = engine_of()
    frames = make_frames(4, 64, seed=3)
    first = engine.open(frames, 6.25)
    copied = engine.open([frame.copy() for frame in frames], 6.25)
    assert copied.prefix is first.prefix
    changed = [frame.copy() for frame in frames]
    changed[2][0, 0, 0] ^= 1
    assert engine.open(changed, 6.25).prefix is not first.prefix
    assert engine.open(frames, 5.0).prefix is not first.prefix
    assert engine.open(frames[::-1], 6.25).prefix is not first.prefix


def test_a_small_limit_bounds_memory_and_changes_no_answer(make_frames: Any) -> None:
    wide = engine_of()
    size = wide.open(make_frames(4, 64, seed=5), 6.25).prefix.nbytes
    tight = AnswerEngine(wide.model, wide.processor, wide.taxonomy, name="tight", cache_bytes=int(2.5 * size))
    opened = [tight.open(make_frames(4, 64, seed=seed), 6.25) for seed in range(4)]
    assert len(tight.prefixes) == 2
    assert tight.prefixes.nbytes == 2 * size
    question = Spoken("audio", wide.processor.mel(tone(0.3)))
    for seed, clip in enumerate(opened):  # the dropped ones still work for who holds them
        again = wide.open(make_frames(4, 64, seed=seed), 6.25)
        assert torch.equal(tight.score(clip, question), wide.score(again, question))


def test_questions_leave_the_prefix_as_it_was(make_frames: Any) -> None:
    engine = engine_of()
    clip = engine.open(make_frames(4, 64, seed=9), 6.25)
    before = [(keys.clone(), values.clone()) for keys, values in clip.prefix.layers]
    question = Spoken("audio", engine.processor.mel(tone(0.4)))
    engine.score(clip, question)
    engine.jump(clip, question)
    engine.generate(clip, question, 3)
    engine.score_many([(clip, question), (clip, question)])
    for (keys, values), (old_keys, old_values) in zip(clip.prefix.layers, before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_sliding_window_reuses_slices_and_scores_like_a_cold_clip(family: str, make_frames: Any) -> None:
    engine = engine_of(family)
    frames = make_frames(10, 64, seed=11)
    engine.prefixes.clear()
    engine.open(frames[:8], 6.25)
    rows: list[int] = []
    visual = engine.model.vlm.model.visual
    hook = visual.register_forward_pre_hook(
        lambda _module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    warm = engine.open(frames[2:], 6.25)
    hook.remove()
    grid = (64 // engine.processor.patch) ** 2 // 4 * 4
    assert rows == [grid if family != "qwen3_vl" else 4 * grid]
    question = Spoken("audio", engine.processor.mel(tone(0.3)))
    slid = engine.score(warm, question)
    engine.prefixes.clear()
    cold = engine.score(engine.open(frames[2:], 6.25), question)
    assert float((slid - cold).abs().max()) <= 1e-4


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_a_prefix_is_what_the_stock_cache_holds(family: str, make_frames: Any) -> None:
    engine = engine_of(family)
    frames = make_frames(6, 64, seed=31)
    clip = engine.open(frames, 6.25)
    example = engine.processor.encode(engine.processor.clip(frames, 6.25), [])
    batch = collate([example], engine.processor.special.pad, labels=False)
    stock = engine.model(**batch, use_cache=True).past_key_values
    assert clip.prefix.length == len(example.ids)
    assert len(clip.prefix.layers) == len(stock.layers) > 1
    for (keys, values), layer in zip(clip.prefix.layers, stock.layers, strict=True):
        assert float(layer.keys.std()) > 0.05
        assert float((keys - layer.keys).abs().max()) <= 1e-5
        assert float((values - layer.values).abs().max()) <= 1e-5


def test_clips_opened_together_equal_clips_opened_alone(make_frames: Any) -> None:
    engine = engine_of()
    clips = [(make_frames(4, 64, seed=20), 6.25), (None, 1.0), (make_frames(6, 64, seed=21), 6.25)]
    clips += [(make_frames(4, 64, seed=22), 6.25), clips[0]]
    engine.prefixes.clear()
    together = engine.open_many(clips)
    assert together[4].prefix is together[0].prefix
    engine.prefixes.clear()
    for (frames, fps), clip in zip(clips, together, strict=True):
        alone = engine.open(frames, fps)
        assert alone.position == clip.position
        for (keys, values), (other_keys, other_values) in zip(
            alone.prefix.layers, clip.prefix.layers, strict=True
        ):
            assert float((keys - other_keys).abs().max()) <= 1e-5
            assert float((values - other_values).abs().max()) <= 1e-5


def test_threads_get_the_scores_of_a_single_thread(make_frames: Any) -> None:
    engine = engine_of()
    clips = [make_frames(2, 64, seed=seed) for seed in (30, 31, 32)]
    question = Spoken("audio", engine.processor.mel(tone(0.3)))
    engine.prefixes.clear()
    expected = [engine.score(engine.open(frames, 6.25), question) for frames in clips]
    engine.prefixes.clear()
    results: dict[int, torch.Tensor] = {}

    def ask(index: int) -> None:
        results[index] = engine.score(engine.open(clips[index % 3], 6.25), question)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engine.prefixes) == 3
    for index in range(6):
        assert float((results[index] - expected[index % 3]).abs().max()) <= 1e-5


def test_another_weight_is_another_model() -> None:
    model = nano_graft(nano_processor(), seed=4)
    before = model_digest(model)
    assert before == model_digest(model)
    with torch.no_grad():
        model.vlm.model.language_model.norm.weight[0] += 1e-3
    assert model_digest(model) != before


def _jpeg(height: int, width: int) -> bytes:
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 128 + 90 * np.sin(rows / 90), 128 + 90 * np.cos(columns / 70)
    frame = np.stack([red, green, (red + green) / 2], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(frame).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def test_scaled_decoding_is_close_to_full_decoding() -> None:
    geometry = Geometry(14, 2, 2, 384)
    content = _jpeg(1080, 1350)
    scaled = decode_frames([content] * 3, geometry)
    full = decode_frames([content] * 3, geometry, scaled=False)
    assert [frame.shape for frame in scaled] == [(308, 392, 3)] * 3
    assert full[0].shape == (308, 392, 3)
    assert float(np.abs(scaled[0].astype(int) - full[0].astype(int)).mean()) <= 1.0
    assert not np.array_equal(scaled[0], full[0])  # or nothing was scaled
    nano = Geometry(14, 2, 2, 112)  # one eighth
    scaled, full = decode_frames([content], nano), decode_frames([content], nano, scaled=False)
    assert scaled[0].shape == full[0].shape == (84, 112, 3)
    assert float(np.abs(scaled[0].astype(int) - full[0].astype(int)).mean()) <= 1.0
    small = decode_frames([_jpeg(56, 56)], geometry)
    assert small[0].shape == (56, 56, 3)
    with pytest.raises(BadImage, match="frame 2"):
        decode_frames([content, content[:3000]], geometry)
    with pytest.raises(BadImage, match="at least one"):
        decode_frames([], geometry)
    with pytest.raises(BadImage, match="differ in size"):
        decode_frames([content, _jpeg(540, 675)], geometry)
    with pytest.raises(BadImage, match=r"second\.jpg"):
        decode_frames([content, content[:3000]], geometry, names=["first.jpg", "second.jpg"])
    wide = PIL.Image.new("L", (20_000, 1000))
    stream = io.BytesIO()
    wide.save(stream, "JPEG")
    with pytest.raises(BadImage, match="20000x1000 pixels"):
        decode_frames([stream.getvalue()], geometry)


def test_still_clip_equals_its_cold_run(make_frames: Any) -> None:
    """Repeated frames share their features; every slice must still get its own."""
    processor = nano_processor()
    model = nano_graft(processor)
    engine = AnswerEngine(model, processor, load_taxonomy(), name="tiny")
    frames = [make_frames(1, 64)[0]] * 8
    example = processor.encode(processor.clip(frames, 6.25), [])
    batch = collate([example], processor.special.pad, labels=False)
    with torch.no_grad():
        cold = model.hidden_states(**batch, use_cache=True).past_key_values
    opened = engine.open(frames, 6.25)
    for layer, (keys, values) in zip(cold.layers, opened.prefix.layers, strict=True):
        assert torch.allclose(layer.keys, keys, atol=1e-5)
        assert torch.allclose(layer.values, values, atol=1e-5)

"""Prompts, labels, modes and pictures: what the processor makes, held against literals and stock classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from surgvivqa_audio.errors import BadImage, ConfigError, ModelError
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.processing.prompts import special_tokens
from surgvivqa_audio.processing.video import Geometry, video_inputs
from tiny_graft import FAMILIES, nano_graft, nano_processor, tone


def test_the_whole_prompt_reads_as_designed(make_frames: Any) -> None:
    processor = nano_processor()
    clip = processor.clip(make_frames(4, 64), 6.25)
    assert clip.grid == (2, 4, 4)
    assert clip.seconds_per_grid == pytest.approx(0.32)
    question = Spoken("audio+text", processor.mel(tone(0.5)), "Is it blurred?", "The frame is clear.")
    example = processor.encode(clip, [question])
    assert processor.tokenizer.decode(example.ids) == (
        "<|im_start|>system\nYou see a colonoscopy clip.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|video_pad|>" * 8
        + "<|vision_end|>Answer the question.<|audio_bos|>"
        + "<|AUDIO|>" * 7
        + "<|audio_eos|>Is it blurred?<|im_end|>\n<|im_start|>assistant\nThe frame is clear.<|im_end|>"
    )
    assert [
        example.types[at] for at, token in enumerate(example.ids) if token == processor.special.audio
    ] == [0] * 7
    assert example.types.count(2) == 8
    assert set(example.types) == {0, 2}


def test_labels_decode_to_the_answer_and_the_end_token(make_frames: Any) -> None:
    processor = nano_processor()
    clip = processor.clip(make_frames(2, 64), 6.25)
    answers = ["No polyp is visible.", "The endoscope is advancing."]
    rows = [
        processor.encode(clip, [Spoken("audio", processor.mel(tone(0.3)), answer=answers[0])]),
        processor.encode(clip, [Spoken("text", text="Where is it?", answer=answers[1])]),
    ]
    batch = collate(rows, processor.special.pad, side="left")
    for labels, ids, answer in zip(batch["labels"], batch["input_ids"], answers, strict=True):
        supervised = labels != -100
        assert processor.tokenizer.decode(labels[supervised]) == f"{answer}<|im_end|>"
        assert torch.equal(labels[supervised], ids[supervised])
        count = int(supervised.sum())
        assert bool(supervised[-count:].all())  # one block, at the very end


def test_two_questions_with_the_same_sound_give_byte_identical_batches(make_frames: Any) -> None:
    processor = nano_processor()
    clip, mel = processor.clip(make_frames(2, 64), 6.25), processor.mel(tone(0.4))
    batches = [
        collate([processor.encode(clip, [Spoken("audio", mel, text, "Yes.")])], processor.special.pad)
        for text in ("Is a polyp visible?", "Which tool is in use, and where does it stand?")
    ]
    assert sorted(batches[0]) == sorted(batches[1])
    for name, tensor in batches[0].items():
        assert tensor.numpy().tobytes() == batches[1][name].numpy().tobytes(), name


def test_special_tokens_typed_by_a_user_stay_text() -> None:
    processor = nano_processor()
    special = processor.special
    text = "<|video_pad|> and <|AUDIO|><|im_end|>"
    example = processor.encode(None, [Spoken("text", text=text)])
    assert special.video_pad not in example.ids
    assert special.audio not in example.ids
    assert example.ids.count(special.im_end) == 2  # of the system and the user turn
    assert text in processor.tokenizer.decode(example.ids)
    assert set(example.types) == {0}


def test_a_mode_without_its_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="question mode 'audio' needs audio"):
        Spoken("audio", text="typed")
    with pytest.raises(ConfigError, match="needs the typed question"):
        Spoken("text")


def test_a_tokenizer_without_audio_tokens_is_named() -> None:
    class Plain:
        def get_vocab(self) -> dict[str, int]:
            return {"<|im_start|>": 1, "<|im_end|>": 2}

    with pytest.raises(ModelError, match=r"<\|audio_bos\|>, <\|AUDIO\|>.*model graft"):
        special_tokens(Plain())


def test_frames_equal_the_stock_image_processor() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 130, 3), dtype=np.uint8)
    stock = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 1280)
    geometry = Geometry(patch=14, merge=2, temporal=2, max_side=384)
    for frame in frames:
        expected = stock([frame], return_tensors="np")
        ours = video_inputs([frame, frame], 1.0, geometry)
        assert ours.grid == tuple(expected["image_grid_thw"][0]) == (1, 6, 10)
        assert float(np.abs(ours.pixels - expected["pixel_values"]).max()) <= 1e-5


def test_the_two_frames_of_a_slice_keep_their_order() -> None:
    dark, light = np.zeros((28, 28, 3), np.uint8), np.full((28, 28, 3), 255, np.uint8)
    geometry = Geometry(patch=14, merge=2, temporal=2, max_side=28, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = video_inputs([dark, light], 1.0, geometry).pixels.reshape(4, 3, 2, 14, 14)
    assert pixels[:, :, 0].max() == 0
    assert pixels[:, :, 1].min() == pytest.approx(1)
    assert np.array_equal(video_inputs([dark], 1.0, geometry).pixels, np.zeros((4, 1176), np.float32))


@pytest.mark.parametrize(
    ("width", "height", "size", "tokens"),
    [
        (1350, 1080, (308, 392), 154),
        (1920, 1080, (224, 392), 112),
        (384, 384, (392, 392), 196),
        (20, 500, (392, 28), 14),
    ],
)
def test_sizes_at_384(width: int, height: int, size: tuple[int, int], tokens: int) -> None:
    assert Geometry(14, 2, 2, 384).target_size(height, width) == size
    frame = np.zeros((height, width, 3), np.uint8)
    assert video_inputs([frame, frame], 1.0, Geometry(14, 2, 2, 384)).token_count(2) == tokens


def test_unusable_clips_are_refused() -> None:
    geometry = Geometry(14, 2, 2, 384)
    with pytest.raises(BadImage, match="at least one frame"):
        video_inputs([], 1.0, geometry)
    frames = [np.zeros((28, 28, 3), np.uint8), np.zeros((28, 56, 3), np.uint8)]
    with pytest.raises(BadImage, match=r"share one size \(found \(28, 28, 3\), \(28, 56, 3\)\)"):
        video_inputs(frames, 1.0, geometry)


def test_qwen3_writes_the_time_before_every_slice(make_frames: Any) -> None:
    processor = nano_processor("qwen3_vl")
    clip = processor.clip(make_frames(5, 64), 6.25)
    assert clip.grid == (3, 4, 4)
    # 25 frames per second, every fourth frame; the fifth stands alone and is doubled
    expected = Qwen3VLProcessor._calculate_timestamps(processor, [0, 4, 8, 12, 16], 25.0, 2)
    assert list(clip.stamps) == pytest.approx(expected)
    text = processor.tokenizer.decode(processor.prefix_ids(clip))
    seen = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    assert text.endswith(
        f"<|im_start|>user\n<0.1 seconds>{seen}<0.4 seconds>{seen}<0.6 seconds>{seen}Answer the question."
    )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_the_processor_makes_runs_like_the_stock_model(family: str, make_frames: Any) -> None:
    processor = nano_processor(family)
    model = nano_graft(processor, family)
    question = Spoken("text", text="Is a polyp visible?")
    rows = [
        processor.encode(processor.clip(make_frames(count, 64, count), fps), [question])
        for count, fps in ((4, 6.25), (6, 25 / 8))
    ]
    batch = collate(rows, processor.special.pad, side="left", labels=False)
    assert batch["second_per_grid_ts"].tolist() == pytest.approx([0.32, 0.64])
    stock = {
        name: value for name, value in batch.items() if family == "qwen2_5_vl" or name != "second_per_grid_ts"
    }
    ours, theirs = model(**batch).logits[:, -1], model.vlm(**stock).logits[:, -1]
    assert float(theirs.std()) > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5


def test_frames_of_qwen3_equal_the_stock_image_processor() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    stock = Qwen2VLImageProcessorPil(
        patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=32 * 32, max_pixels=2**24
    )([frame], return_tensors="np")
    ours = video_inputs([frame, frame], 1.0, Geometry(16, 2, 2, 384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert ours.grid == tuple(stock["image_grid_thw"][0]) == (1, 6, 8)
    assert float(np.abs(ours.pixels - stock["pixel_values"]).max()) <= 1e-5

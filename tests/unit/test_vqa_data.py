"""Rows of a data folder as training examples: labels, padding, packing, missing media."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from surgvivqa_audio.errors import BadAnnotation, ConfigError, MissingAudio, MissingFrame
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.speech.audio import write_wav
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.vqa_data import Collator, Media, VqaRows, recipe_samples
from surgvivqa_audio.training.vqa_recipe import DataKeys
from tiny_graft import nano_graft, nano_processor, tone

VIDEO = "sim-001"
ROWS = [(10, "mucosa_visibility"), (10, "occlusion_check"), (90, "mucosa_visibility")]  # first frame, type


def make_folder(root: Path, taxonomy: Taxonomy, frames: Any, clips: int = 2) -> Path:
    """Rows with frames and recordings: two about the first clip, one about each other; the last is eval."""
    (root / "frames" / VIDEO).mkdir(parents=True)
    (root / "speech" / f"in_{VIDEO}").mkdir(parents=True)
    rows = []
    asked = [*ROWS, *((first, ROWS[0][1]) for first in range(170, 90 + 80 * (clips - 1), 80))]
    for place, (first, kind) in enumerate(asked):
        numbers = [first + 4 * step for step in range(8)]
        answer = taxonomy.types[kind].answers[0]
        rows.append(
            {
                "id": f"{place}", "video_id": VIDEO, "frame_numbers": numbers,
                "frames": [f"{VIDEO}_{n}.jpg" for n in numbers], "question_type": kind,
                "question": taxonomy.types[kind].in_template, "answer": answer.sentence,
                "short_answer": answer.short, "template": "in",
            }
        )  # fmt: skip
        for number, frame in zip(numbers, frames(8, 64, seed=first), strict=True):
            Image.fromarray(frame).save(root / "frames" / VIDEO / f"{VIDEO}_{number}.jpg")
        write_wav(root / "speech" / f"in_{VIDEO}" / f"{place}.wav", tone(0.5 + 0.3 * place))
    lines = [json.dumps(row) + "\n" for row in rows]
    (root / "train.jsonl").write_text("".join(lines[:-1]))
    (root / "eval.jsonl").write_text(lines[-1])
    return root


@pytest.fixture
def folder(tmp_path: Path, taxonomy: Taxonomy, make_frames: Any) -> Path:
    return make_folder(tmp_path, taxonomy, make_frames)


def keys(folder: Path, **changes: Any) -> DataKeys:
    return DataKeys(**{"folder": str(folder), "train": "train.jsonl", "eval": "eval.jsonl", **changes})


def seed_processor() -> AudioGraftProcessor:
    ours = nano_processor()
    return AudioGraftProcessor(
        ours.feature_extractor, ours.tokenizer, max_side=64, stack=1, layout="seed",
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["stream", "seed"])
def test_labels_decode_to_the_answer_and_the_end_token(folder: Path, taxonomy: Taxonomy, layout: str) -> None:
    processor = nano_processor() if layout == "stream" else seed_processor()
    mode = "audio" if layout == "stream" else "audio+text"
    section = keys(folder, mode=mode)
    train, _, _ = recipe_samples(section, taxonomy)
    row = VqaRows(train, Media(section), processor)[0]
    supervised = [label for label in row.example.labels if label != -100]
    sentence = taxonomy.types["mucosa_visibility"].answers[0].sentence
    assert processor.tokenizer.decode(supervised) == f"{sentence}<|im_end|>"
    assert row.example.labels[-len(supervised) :] == supervised
    assert row.keys == ("in/sim-001/10/mucosa_visibility",)
    assert row.example.ids.count(processor.special.audio) == (7 if layout == "stream" else 1500)


def test_the_pad_token_is_no_token_of_any_row(folder: Path, taxonomy: Taxonomy) -> None:
    processor = nano_processor()
    train, _, _ = recipe_samples(keys(folder), taxonomy)
    rows = VqaRows(train, Media(keys(folder)), processor)
    assert processor.special.pad not in (processor.special.im_end, processor.special.im_start)
    assert all(processor.special.pad not in rows[index].example.ids for index in range(2))
    assert processor.tokenizer.decode([processor.special.pad]) == "<|endoftext|>"


def test_left_and_right_padding_give_the_same_loss(folder: Path, taxonomy: Taxonomy) -> None:
    processor = nano_processor()
    train, held, _ = recipe_samples(keys(folder), taxonomy)
    rows = VqaRows([*train, *held], Media(keys(folder)), processor)
    examples = [rows[index].example for index in range(3)]
    assert len({len(example.ids) for example in examples}) > 1
    model = nano_graft(processor)
    losses = []
    for side in ("left", "right"):
        batch: dict[str, Any] = collate(examples, processor.special.pad, side=side)  # type: ignore[arg-type]
        with torch.no_grad():
            losses.append(float(model(**batch).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] > 0.1


def test_packed_questions_have_the_loss_of_single_ones(folder: Path, taxonomy: Taxonomy) -> None:
    processor = nano_processor()
    model = nano_graft(processor)
    losses = []
    for pack in (1, 8):
        section = keys(folder, pack=pack)
        train, held, _ = recipe_samples(section, taxonomy)
        rows = VqaRows([*train, *held], Media(section), processor)
        assert [rows[index].keys for index in range(len(rows))] == (
            [("in/sim-001/10/mucosa_visibility", "in/sim-001/10/occlusion_check"),
             ("in/sim-001/90/mucosa_visibility",)]
            if pack > 1
            else [("in/sim-001/10/mucosa_visibility",), ("in/sim-001/10/occlusion_check",),
                  ("in/sim-001/90/mucosa_visibility",)]
        )  # fmt: skip
        batch = Collator(processor.special.pad, packed=pack > 1)([rows[i] for i in range(len(rows))])
        names = batch.pop("keys")
        assert names[-1] == "in/sim-001/90/mucosa_visibility"
        assert batch.pop("tokens") == sum(len(rows[i].example.ids) for i in range(len(rows)))
        with torch.no_grad():
            losses.append(float(model(**batch).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_transcripts_are_targets_without_frames(folder: Path, taxonomy: Taxonomy) -> None:
    section = keys(folder, target="transcript")
    processor = nano_processor()
    train, _, _ = recipe_samples(section, taxonomy)
    row = VqaRows(train, Media(section, frames=False), processor)[1]
    text = processor.tokenizer.decode(row.example.ids)
    wanted = processor.tokenizer.decode([label for label in row.example.labels if label != -100])
    assert wanted == f"{train[1].question}<|im_end|>"
    assert text.count(train[1].question) == 1
    assert "Write down what is said." in text
    assert row.example.video is None


def test_missing_media_are_named_before_the_first_step(folder: Path, taxonomy: Taxonomy) -> None:
    train, held, _ = recipe_samples(keys(folder), taxonomy)
    Media(keys(folder)).check([*train, *held])
    (folder / "speech" / f"in_{VIDEO}" / "1.wav").unlink()
    with pytest.raises(MissingAudio, match=r"1 rows have no recording; first: .*occlusion_check"):
        Media(keys(folder)).check(train)
    (folder / "frames" / VIDEO / f"{VIDEO}_14.jpg").unlink()
    with pytest.raises(MissingFrame, match=r"1 frames are missing, first sim-001/14 \(in/sim-001/10/"):
        Media(keys(folder)).check(train)


def test_a_row_on_both_sides_is_refused(folder: Path, taxonomy: Taxonomy) -> None:
    with pytest.raises(
        ConfigError, match="2 rows are training rows too, first in/sim-001/10/mucosa_visibility"
    ):
        recipe_samples(keys(folder, eval="train.jsonl"), taxonomy)
    with pytest.raises(BadAnnotation, match=r"absent\.jsonl"):
        recipe_samples(keys(folder, eval="absent.jsonl"), taxonomy)
    assert len(recipe_samples(keys(folder, limit=1), taxonomy)[0]) == 1


def test_the_rate_is_that_of_the_procedure_over_the_stride(folder: Path, taxonomy: Taxonomy) -> None:
    sample = recipe_samples(keys(folder), taxonomy)[0][0]
    assert Media(keys(folder)).rate(sample) == 6.25
    wave = Media(keys(folder)).wave(sample)
    assert wave is not None
    assert wave.shape == (8000,)
    assert Media(keys(folder, mode="text")).wave(sample) is None
    assert np.asarray(Media(keys(folder)).frames(sample)[0]).shape == (64, 64, 3)

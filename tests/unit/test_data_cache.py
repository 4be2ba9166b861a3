from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data import framecache
from surgvivqa_audio.data.annotations import import_annotations
from surgvivqa_audio.data.folder import data_rows, derive_out_template, verify
from surgvivqa_audio.data.framecache import FrameCache, encode, resize
from surgvivqa_audio.data.images import load_image
from surgvivqa_audio.data.plan import VideoPlan, estimate, extend_clip, extend_rows, fetch_plan, human_bytes
from surgvivqa_audio.data.stores import FolderStore, open_store
from surgvivqa_audio.data.tables import VideoInfo
from surgvivqa_audio.errors import BadImage, ConfigError, MissingFrame
from surgvivqa_audio.files import sha256_bytes
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.taxonomy import load_taxonomy

VIDEO = "002-001"
INFO = {VIDEO: VideoInfo(VIDEO, "Olympus", 25.0, 200)}


def row(first: int) -> dict[str, object]:
    numbers = [first + 4 * step for step in range(8)]
    return {
        "id": "qa_1",
        "video_id": VIDEO,
        "frames": [f"{VIDEO}_{number}" for number in numbers],
        "frame_numbers": numbers,
        "question": "Is the NBI light on?",
        "question_type": "nbi_status",
        "support_frames": 8,
        "total_frames": 8,
        "answer": "No, WL light is on instead.",
        "short_answer": "no",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "DATA"
    (folder / "frames" / VIDEO).mkdir(parents=True)
    (folder / "in_template.jsonl").write_text("\n".join(json.dumps(row(first)) for first in (1, 9)))
    generator = np.random.default_rng(0)
    for number in range(1, 38, 4):
        pixels = generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(folder / "frames" / VIDEO / f"{VIDEO}_{number}.jpg")
    return folder


def test_resize_keeps_the_shape_and_never_enlarges() -> None:
    assert resize(np.zeros((1080, 1240, 3), np.uint8), 768).shape == (669, 768, 3)
    assert resize(np.zeros((100, 50, 3), np.uint8), 768).shape == (100, 50, 3)
    assert resize(np.zeros((4096, 28, 3), np.uint8), 28).shape == (28, 1, 3)


def test_a_frame_stays_under_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    best = len(encode(noise, "x"))
    monkeypatch.setattr(framecache, "MAX_BYTES", best - 1)
    content = encode(noise, "x")
    assert best // 2 < len(content) < best
    assert load_image(content, "x").shape == (96, 96, 3)
    monkeypatch.setattr(framecache, "MAX_BYTES", 1000)
    with pytest.raises(BadImage, match="choose a smaller side"):
        encode(noise, "x")


def test_first_and_later_reads_are_equal(data: Path, tmp_path: Path) -> None:
    cache = FrameCache(FolderStore(data / "frames"), tmp_path / "cache", 45)
    first = cache.read(VIDEO, 5)
    assert first.shape == (30, 45, 3)
    assert cache.made == 1
    assert np.array_equal(cache.read(VIDEO, 5), first)
    assert np.array_equal(open_store(tmp_path / "cache").read(VIDEO, 5), first)
    assert cache.made == 1
    assert cache.has(VIDEO, 9)
    assert not cache.has(VIDEO, 10)
    with pytest.raises(MissingFrame):
        cache.read(VIDEO, 10)


def test_build_makes_what_is_missing_and_a_manifest(data: Path, tmp_path: Path) -> None:
    rows = data_rows(data, load_taxonomy())
    cache = FrameCache(open_store(data), tmp_path / "cache", 45)
    cache.read(VIDEO, 5)
    manifest = cache.build(rows)
    # Clips 1..29 and 9..37 at stride 4 share six frames: ten in all, one of them was there.
    assert (manifest["count"], cache.made) == (10, 10)
    assert manifest == json.loads(cache.manifest_path.read_text())
    entry = manifest["frames"][f"{VIDEO}/5"]
    assert entry["sha256"] == sha256_bytes(cache.path(VIDEO, 5).read_bytes())
    again = FrameCache(open_store(data), tmp_path / "cache", 45)
    assert again.build(rows) == manifest
    assert again.made == 0


def test_a_cache_of_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    FrameCache(open_store(data), tmp_path / "cache", 45)
    with pytest.raises(ConfigError, match="other settings"):
        FrameCache(open_store(data), tmp_path / "cache", 46)
    with pytest.raises(ConfigError, match="not empty and not a cache"):
        FrameCache(open_store(data), data, 45)
    with pytest.raises(ConfigError, match="--side 5"):
        FrameCache(open_store(data), tmp_path / "other", 5)


def test_cache_command(data: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["cache", str(data), str(tmp_path / "c"), "--side", "45"])
    assert run.exit_code == 0, run.output
    assert "10 frames, " in run.output


def test_plan_lists_each_frame_once(data: Path) -> None:
    plans = fetch_plan(data_rows(data, load_taxonomy()), INFO)
    assert plans == [VideoPlan(VIDEO, tuple(range(1, 38, 4)), 200)]
    assert plans[0].frames_archive == "002-001_frames.tar.gz"
    figures = estimate(plans, {VIDEO: 20_000}, rate=1000.0)
    assert (figures["transfer_bytes"], figures["disk_bytes"], figures["seconds"]) == (20_000, 1000, 20)
    with pytest.raises(ConfigError, match="frame 37 is needed, the video has 36"):
        fetch_plan(data_rows(data, load_taxonomy()), {VIDEO: VideoInfo(VIDEO, "Olympus", 25.0, 36)})


@pytest.mark.parametrize(
    ("how", "first", "expected"),
    [
        ("denser", 40, (40, 70, 2)),
        ("denser", 170, (169, 199, 2)),  # would end at 200: moved just inside
        ("longer", 60, (44, 104, 4)),
        ("longer", 3, (1, 61, 4)),
        ("longer", 170, (139, 199, 4)),
    ],
)
def test_sixteen_frames_stay_inside_the_video(how: str, first: int, expected: tuple[int, int, int]) -> None:
    numbers = extend_clip(first, first + 28, 16, how, 199)  # type: ignore[arg-type]
    assert (numbers[0], numbers[-1], numbers[1] - numbers[0]) == expected
    assert len(numbers) == 16


def test_extended_rows_are_annotations_again(data: Path) -> None:
    (data / "video_info.csv").write_text(
        f"unique_video_name,endoscope_brand,fps,num_frames\n{VIDEO},Olympus,25,200\n"
    )
    out = data / "longer.jsonl"
    run = CliRunner().invoke(app, ["extend", str(data / "in_template.jsonl"), str(out), "--how", "longer"])
    assert run.exit_code == 0, run.output
    samples = read_samples(out, load_taxonomy())
    assert [len(sample.frames) for sample in samples] == [16, 16]
    assert json.loads(out.read_text().splitlines()[1])["source_key"] == "in/002-001/9/nbi_status"
    with pytest.raises(ConfigError, match="8 frames and can be extended to 16"):
        extend_rows(samples, {}, 12, "denser", INFO)


def test_longer_clips_at_the_start_keep_distinct_keys(data: Path) -> None:
    found = import_annotations(data / "in_template.jsonl", load_taxonomy())
    with pytest.raises(ConfigError, match="length is not known"):
        extend_rows(found.samples, found.rows, 16, "denser", {})
    # Clips 1 and 9 would both be moved to frame 1; the second steps aside, so that keys stay unique.
    rows = extend_rows(found.samples, found.rows, 16, "longer", INFO)
    assert [row["frame_numbers"][0] for row in rows] == [1, 2]
    assert [row["frame_numbers"][-1] for row in rows] == [61, 62]


def test_out_template_is_the_other_wording(data: Path) -> None:
    path = derive_out_template(data, load_taxonomy())
    samples = read_samples(path, load_taxonomy())
    assert [sample.key for sample in samples] == ["out/002-001/1/nbi_status", "out/002-001/9/nbi_status"]
    assert samples[0].question == "Are these frames captured using NBI mode?"
    assert len(data_rows(data, load_taxonomy())) == 4


def test_verify_counts_per_video(data: Path) -> None:
    (data / "frames" / VIDEO / f"{VIDEO}_5.jpg").unlink()
    (data / "frames" / VIDEO / f"{VIDEO}_9.jpg").write_bytes(b"\xff\xd8broken")
    check = verify(data, load_taxonomy(), decode=True, speech=False)[VIDEO]
    assert (check.rows, check.frames, check.missing_frames) == (2, 10, [5])
    assert len(check.broken_frames) == 1
    assert f"{VIDEO}_9.jpg" in check.broken_frames[0]
    (data / "speech").mkdir()
    assignment = {
        "key": "in/002-001/1/nbi_status",
        "variant": "a",
        "status": "ok",
        "file": "../in_template.jsonl",
    }
    (data / "speech" / "assignments.jsonl").write_text(json.dumps(assignment))
    assert verify(data, load_taxonomy())[VIDEO].missing_speech == [
        "in/002-001/1/nbi_status",
        "in/002-001/9/nbi_status",
    ]


def test_bytes_in_words() -> None:
    assert [human_bytes(count) for count in (999, 7_600_000_000, 1.1e12)] == ["999 B", "7.6 GB", "1.10 TB"]

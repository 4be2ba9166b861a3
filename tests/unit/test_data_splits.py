from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data.annotations import Annotations, import_annotations
from surgvivqa_audio.data.floors import floors, informative, majority, nearest_in_time
from surgvivqa_audio.data.split_report import neighbours, shared_frames, split_report
from surgvivqa_audio.data.splits import (
    clip_groups,
    folds,
    leak_free_split,
    published_bytes,
    seed_split,
    subset,
)
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import sha256_bytes
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.taxonomy import load_taxonomy

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real-colon-vqa" / "in_template.jsonl"
needs_data = [pytest.mark.data, pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")]
PUBLISHED = ["002-001", "002-002", "002-003", "002-004"]


def sample(first: int, kind: str = "nbi_status", short: str = "no", video: str = "a-1") -> Sample:
    numbers = tuple(first + 4 * step for step in range(8))
    return Sample(
        key=make_key("in", video, first, kind),
        id="x",
        template="in",
        video_id=video,
        frames=tuple(f"{video}_{number}" for number in numbers),
        frame_numbers=numbers,
        question="?",
        question_type=kind,
        answer="",
        short_answer=short,
    )


def test_majority_breaks_ties_by_first_appearance() -> None:
    rows = [
        sample(0, short="yes"),
        sample(100, short="no"),
        sample(200, short="no"),
        sample(300, short="yes"),
    ]
    assert majority(rows) == {"nbi_status": "yes"}
    assert majority(rows[1:]) == {"nbi_status": "no"}


def test_nearest_in_time_copies_the_closest_label() -> None:
    train = [sample(0, short="yes"), sample(1000, short="no")]
    assert nearest_in_time(train, [sample(400, short="yes"), sample(600, short="yes")]) == 0.5
    # A tie goes to the earlier clip; another type or video has no neighbour and counts as wrong.
    assert nearest_in_time(train, [sample(500, short="yes")]) == 1.0
    assert nearest_in_time(train, [sample(500, kind="scope_motion")]) == 0.0
    assert nearest_in_time(train, [sample(500, video="a-2")]) is None


def test_floors_and_informative_types() -> None:
    train = [sample(0, short="yes"), sample(100, short="yes"), sample(200, short="no")]
    test = [
        sample(0, video="b", short="no"),
        sample(9, video="b", short="no"),
        sample(99, video="b", short="yes"),
    ]
    assert floors(train, test) == {"train_majority": 1 / 3, "best_constant": 2 / 3, "nearest_in_time": None}
    assert floors(train, []) == {"train_majority": None, "best_constant": None, "nearest_in_time": None}
    assert informative(test) == {"nbi_status": 2}
    assert informative(test[:2]) == {}


def test_groups_join_overlapping_and_near_clips() -> None:
    rows = [sample(0), sample(28, kind="scope_motion"), sample(57), sample(200), sample(0, video="a-2")]
    assert [[row.first_frame for row in group] for group in clip_groups(rows)] == [[0, 28], [57], [200], [0]]
    assert [len(group) for group in clip_groups(rows, gap=1)] == [3, 1, 1]
    assert [len(group) for group in clip_groups(rows, gap=200)] == [4, 1]


def test_shared_frames_counts_rows_of_the_smaller_part() -> None:
    left = [sample(0), sample(100), sample(200)]
    assert shared_frames(left, [sample(4), sample(102)]) == 1
    assert shared_frames([sample(4), sample(102)], left) == 1
    assert neighbours(left, [sample(260), sample(700)], within=40) == 1


def test_leak_free_split_shares_nothing_and_covers_types() -> None:
    kinds = ("nbi_status", "scope_motion", "flush_action")
    rows = [
        sample(first, kind, "yes" if first % 80 else "no", video)
        for video in ("a-1", "a-2", "a-3")
        for kind in kinds
        for first in range(0, 4000, 40)
    ]
    split = leak_free_split(rows, ["a-3"], gap=5)
    assert len(split.train) + len(split.eval) == 600
    assert len(split.test) == 300
    assert abs(len(split.eval) - 90) <= 6
    for left, right in ((split.train, split.eval), (split.train, split.test), (split.eval, split.test)):
        assert shared_frames(left, right) == 0
    assert {row.question_type for row in split.eval} == set(kinds)
    assert leak_free_split(rows, ["a-3"], gap=5) == split
    assert [len(group) for group in clip_groups(split.eval, 5)] == [3] * (len(split.eval) // 3)


def test_a_type_with_two_clips_is_in_train_and_eval() -> None:
    rows = [sample(first) for first in range(0, 4000, 50)]
    rows += [sample(10, "tool_identification", "snare"), sample(2010, "tool_identification", "snare")]
    split = leak_free_split(rows)
    for part in (split.train, split.eval):
        assert {row.question_type for row in part} == {"nbi_status", "tool_identification"}


def test_eval_is_never_empty_where_there_are_two_clips() -> None:
    rows = [sample(0), sample(0, "scope_motion"), sample(500, "flush_action")]
    split = leak_free_split(rows)
    assert [row.key for row in split.eval] == ["in/a-1/500/flush_action"]
    assert len(split.train) == 2
    assert leak_free_split(rows[:2]).eval == []


def test_folds_hold_out_each_video() -> None:
    rows = [sample(first, video=video) for video in ("a-1", "a-2", "a-3") for first in range(0, 2000, 50)]
    made = folds(rows)
    assert list(made) == ["a-1", "a-2", "a-3"]
    for held, split in made.items():
        assert {row.video_id for row in split.test} == {held}
        assert held not in {row.video_id for row in split.train + split.eval}


@pytest.mark.parametrize(
    ("held", "videos", "fraction", "gap", "message"),
    [
        (["z"], [], 0.15, 0, "no rows of video z"),
        ([], ["z"], 0.15, 0, "no rows of video z"),
        (["a-1"], [], 0.15, 0, "nothing|no rows are left"),
        ([], [], 0.0, 0, "between 0 and 1"),
        ([], [], 1.0, 0, "between 0 and 1"),
        ([], [], 0.15, -1, "--gap -1"),
    ],
)
def test_wrong_options_are_named(
    held: list[str], videos: list[str], fraction: float, gap: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        leak_free_split([sample(0)], held, videos, fraction, gap)


def test_subset_takes_equal_shares_and_what_there_is() -> None:
    rows = [
        sample(first, kind) for kind in ("scope_motion", "flush_action", "nbi_status") for first in range(40)
    ]
    rows += [sample(0, "blue_dye_presence")]
    chosen = subset(rows, "a-1", size=10)
    counts = {
        kind: sum(row.question_type == kind for row in chosen) for kind in {row.question_type for row in rows}
    }
    # 10 // 4 = 2 each, the first 10 % 4 = 2 types by name one more, but blue dye has a single row.
    assert counts == {"blue_dye_presence": 1, "flush_action": 3, "nbi_status": 2, "scope_motion": 2}
    assert subset(rows, "a-1", size=10) == chosen
    assert subset(rows, "a-1", size=10, seed=1) != chosen


@pytest.fixture(scope="module")
def real() -> Annotations:
    return import_annotations(REAL, load_taxonomy())


def out_rows(found: Annotations) -> dict[str, dict[str, object]]:
    """Rows of the other published file: same clips and answers, the out wording."""
    types = load_taxonomy().types
    return {
        row.key: {**found.rows[row.key], "question": types[row.question_type].out_template}
        for row in found.samples
    }


class TestPublishedFiles:
    pytestmark = needs_data

    def test_seed_split_is_file_exact(self, real: Annotations) -> None:
        split = seed_split(real.samples, ["002-004"], PUBLISHED)
        hashes = {
            part: sha256_bytes(published_bytes(rows, out_rows(real))) for part, rows in split.parts().items()
        }
        # The published train, eval and test files of the out wording.
        assert hashes == {
            "train": "36d95c3fd7c25f3a52d052e2f16fda1f7d7122aa09c2bf8e5279113e633372e2",
            "eval": "6ce6df082ac406b8714b976dd181dc8d0efa5ffbc0ab85100b44d77963eaf553",
            "test": "feaef8f8698ec4d80049ad7fab34746e3c42106c2c7da191398bd55fdc243f46",
        }

    def test_seed_split_report(self, real: Annotations) -> None:
        split = seed_split(real.samples, ["002-004"], PUBLISHED)
        report = split_report(split, real, load_taxonomy(), {})
        assert report["counts"] == {"train": 2302, "eval": 398, "test": 1000}
        assert report["shared_frames"] == {"train-eval": 169, "train-test": 0, "eval-test": 0}
        assert len(report["informative"]["test"]) == 13
        floor = report["floors"]["test"]
        assert round(100 * floor["train_majority"], 1) == 57.3
        assert round(100 * floor["best_constant"], 1) == 64.8
        assert floor["nearest_in_time"] is None
        assert round(100 * report["floors"]["eval"]["nearest_in_time"], 1) == 82.7
        assert report["dataset"]["pinned_as"] == "in_template"

    def test_one_video_slice_is_file_exact(self, real: Annotations) -> None:
        split = seed_split(real.samples, videos=["002-001"])
        assert (len(split.train), len(split.eval), len(split.test)) == (602, 98, 0)
        rows = out_rows(real)
        assert sha256_bytes(published_bytes(split.train, rows)).startswith("3961b0325401e1a3")
        assert sha256_bytes(published_bytes(split.eval, rows)).startswith("608e44e8ae3cfcd6")

    def test_published_subset_is_file_exact(self, real: Annotations) -> None:
        chosen = subset(real.samples, "002-001", 50)
        assert sha256_bytes(published_bytes(chosen, real.rows)).startswith("c9dfd7bf571361e7")
        assert sha256_bytes(published_bytes(chosen, out_rows(real))).startswith("eac245c615ef6aca")

    @pytest.mark.parametrize("gap", [0, 50])
    def test_leak_free_split_of_the_real_file(self, real: Annotations, gap: int) -> None:
        report = split_report(leak_free_split(real.samples, ["002-004"], gap=gap), real, load_taxonomy(), {})
        assert report["shared_frames"] == {"train-eval": 0, "train-test": 0, "eval-test": 0}
        assert report["missing_types"] == {"train": [], "eval": [], "test": []}
        assert sum(report["counts"].values()) == 5200
        assert 610 <= report["counts"]["eval"] <= 670
        nearest = report["floors"]["eval"]["nearest_in_time"]
        # Two seconds between the sides take the copy of the nearest label below the majority of train.
        assert (nearest < report["floors"]["eval"]["train_majority"]) == (gap == 50)


def write_rows(path: Path, firsts: range) -> Path:
    lines = []
    for video in ("002-001", "002-002", "002-003"):
        for first in firsts:
            numbers = [first + 4 * step for step in range(8)]
            row = {
                "id": "q",
                "video_id": video,
                "frames": [f"{video}_{number}" for number in numbers],
                "frame_numbers": numbers,
                "question": "Is the NBI light on?",
                "question_type": "nbi_status",
                "support_frames": 6,
                "answer": "No, WL light is on instead.",
                "short_answer": "no",
            }
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_split_command_takes_runs_of_videos(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in_template.jsonl", range(0, 2000, 50))
    videos = ["--videos", "002-001", "002-002"]
    run = CliRunner().invoke(
        app,
        ["split", *videos, str(rows), str(tmp_path / "out"), "--held-out", "002-003", "--policy", "seed"],
    )
    assert run.exit_code == 0, run.output
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    assert report["counts"] == {"train": 68, "eval": 12, "test": 40}
    assert report["options"]["videos"] == ["002-001", "002-002"]
    first = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert list(first)[:2] == ["key", "template"]
    assert first["support_frames"] == 6
    assert "rows that share a frame: train-eval 0" in run.output


def test_subset_command_warns_about_the_same_clips(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in_template.jsonl", range(0, 2000, 50))
    for name in ("a.jsonl", "b.jsonl"):
        arguments = ["subset", str(rows), str(tmp_path / name), "--video", "002-001", "--size", "10"]
        if name == "b.jsonl":
            arguments += ["--other", str(tmp_path / "a.jsonl")]
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 0, run.output
    assert "10 rows, 1 of 20 question types, 0 of them with more than one answer" in run.output
    assert "warning: 10 of 10 clips are also in" in run.output


def test_folds_command_writes_one_folder_per_video(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "in_template.jsonl", range(0, 2000, 50))
    run = CliRunner().invoke(app, ["split", str(rows), str(tmp_path / "out"), "--policy", "folds"])
    assert run.exit_code == 0, run.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["002-001", "002-002", "002-003"]

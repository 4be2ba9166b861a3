from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from surgvivqa_audio.commands.data import app
from surgvivqa_audio.data.audit import audit
from surgvivqa_audio.data.audit_boxes import check_boxes, drift, quadrant
from surgvivqa_audio.data.audit_checks import (
    RULES,
    contradictions,
    interleaved,
    near_duplicates,
    neighbour_agreement,
    overlapping,
)
from surgvivqa_audio.data.audit_html import audit_html
from surgvivqa_audio.data.boxes import BoxFolder
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.taxonomy import load_taxonomy

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real-colon-vqa" / "in_template.jsonl"


def sample(first: int, kind: str = "nbi_status", short: str = "no", video: str = "a-1") -> Sample:
    numbers = tuple(first + 4 * step for step in range(8))
    return Sample(
        key=make_key("in", video, first, kind),
        id=f"q{first}",
        template="in",
        video_id=video,
        frames=tuple(f"{video}_{number}" for number in numbers),
        frame_numbers=numbers,
        question="?",
        question_type=kind,
        answer="",
        short_answer=short,
    )


def test_rules_name_answers_that_exist() -> None:
    types = load_taxonomy().types
    for rule in RULES:
        for left, right in rule.excluded:
            assert types[rule.left].answer(left).short == left
            assert types[rule.right].answer(right).short == right


def test_contradictions_need_overlapping_frames() -> None:
    forward = sample(0, "scope_forward_motion", "yes")
    rows = [
        forward,
        sample(20, "scope_backward_motion", "yes"),  # shares frames 20, 24, 28
        sample(2, "scope_backward_motion", "yes"),  # same seconds, other frames
        sample(40, "scope_backward_motion", "yes"),  # later
        sample(0, "scope_motion_type", "withdrawing"),  # same clip
        sample(0, "scope_backward_motion", "yes", video="a-2"),
        sample(4, "scope_motion", "no"),
    ]
    found = {entry["rule"]: entry for entry in contradictions(overlapping(rows))}
    assert set(found) == {"forward_backward", "motion_type_forward", "still_yet_moving"}
    assert found["forward_backward"]["count"] == 1
    assert found["forward_backward"]["half_shared"] == 0
    assert found["forward_backward"]["keys"] == [forward.key, "in/a-1/20/scope_backward_motion"]
    assert found["motion_type_forward"]["same_clip"] == 1
    assert found["still_yet_moving"]["half_shared"] == 1
    apart = contradictions(interleaved(rows))
    assert [(entry["rule"], entry["count"]) for entry in apart] == [("forward_backward", 1)]


def test_one_type_with_two_answers_on_shared_frames() -> None:
    rows = [sample(0, short="no"), sample(4, short="yes"), sample(400, short="yes")]
    assert [(entry["rule"], entry["count"]) for entry in contradictions(overlapping(rows))] == [
        ("same_type_other_answer", 1)
    ]


def test_near_duplicates_and_neighbours() -> None:
    rows = [
        sample(0),
        sample(16),
        sample(20, "scope_motion"),
        sample(300, short="yes"),
        sample(900, short="yes"),
    ]
    # 0 and 16 share four of eight frames; 16 and 20 share seven; 0 and 20 share three.
    assert near_duplicates(rows)["pairs"] == 2
    assert neighbour_agreement(rows) == {"nbi_status": 0.6667}


def test_quadrant_and_drift() -> None:
    assert quadrant([(0.2, 0.2, 0.1), (0.4, 0.7, 0.1)]) == "upper-left"
    assert quadrant([(0.8, 0.9, 0.1)]) == "lower-right"
    assert drift([(0.5, 0.5, 0.1), (0.52, 0.48, 0.1)]) == "stable"
    assert drift([(0.5, 0.5, 0.1), (0.6, 0.55, 0.1)]) == "right"
    assert drift([(0.5, 0.5, 0.1), (0.45, 0.3, 0.1)]) == "up"
    assert drift([(0.5, 0.5, 0.1), (0.45, 0.7, 0.1)]) == "down"


def box_file(folder: Path, number: int, left: int, top: int, lesion: str = "a-1_1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"a-1_{number}.xml").write_text(
        "<annotation><size><width>1000</width><height>1000</height></size>"
        f"<object><name>lesion</name><unique_id>{lesion}</unique_id><bndbox><xmin>{left}</xmin>"
        f"<xmax>{left + 100}</xmax><ymin>{top}</ymin><ymax>{top + 200}</ymax></bndbox></object></annotation>",
        encoding="utf-8",
    )


def test_labels_are_checked_against_boxes(tmp_path: Path) -> None:
    for step in range(8):
        box_file(tmp_path / "a-1_annotations", 4 * step, 100 + 50 * step, 700)
    rows = [
        sample(0, "lesion_screen_position", "lower-left"),
        sample(0, "lesion_motion_direction", "left"),
        sample(500, "lesion_motion_direction", "left"),
    ]
    report = check_boxes(rows, BoxFolder(tmp_path))
    assert report["lesion_screen_position"]["agree"] == 1
    direction = report["lesion_motion_direction"]
    assert (direction["rows"], direction["checked"], direction["agree"]) == (2, 1, 0)
    assert direction["label_then_boxes"] == {"left -> right": 1}
    assert direction["keys"] == ["in/a-1/0/lesion_motion_direction"]
    assert report["share_of_frame"]["median"] == pytest.approx(0.02)


def written(tmp_path: Path, **changes: Any) -> Path:
    numbers = list(range(0, 32, 4))
    rows = [
        {
            "id": "qa_1",
            "video_id": "002-006",
            "frames": [f"002-006_{first + number}" for number in numbers],
            "frame_numbers": [first + number for number in numbers],
            "question": "Is the NBI light on?",
            "question_type": "nbi_status",
            "support_frames": 7,
            "support_ratio": 1.0,
            "answer": "No, WL light is on instead.",
            "short_answer": "no",
            **changes,
        }
        for first in (0, 100)
    ]
    path = tmp_path / "in_template.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_audit_of_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "video_info.csv").write_text(
        "unique_video_name,age,sex,endoscope_brand,fps,num_frames,num_lesions,bbps\n"
        "002-006,60,female,Fujifilm,29.97,120,2,9\n",
        encoding="utf-8",
    )
    report = audit(written(tmp_path), load_taxonomy())
    assert (report["rows"], report["unique_ids"], report["unique_keys"]) == (2, 1, 2)
    assert report["question_strings"] == 1
    assert report["constant_types"] == {"nbi_status": "no"}
    assert report["contradictions"] == []
    video = report["videos"]["002-006"]
    assert (video["rows"], video["fps"], video["vendor"]) == (2, 29.97, "Fujifilm")
    assert (video["frames_used"], video["beyond_the_video"], video["clip_seconds"]) == (16, 2, 0.934)
    assert report["support"]["of_them_claim_all"] == 2
    names = {finding["name"]: finding["count"] for finding in report["findings"]}
    assert names["colliding_ids"] == 2
    assert names["frames_beyond_the_video"] == 2
    assert names["version"] == 1


def test_html_escapes_what_the_file_says(tmp_path: Path) -> None:
    report = audit(written(tmp_path, question_type="<script>alert(1)</script>"), load_taxonomy())
    assert report["rejected"]["unknown_types"] == {"<script>alert(1)</script>": 2}
    report["findings"][0]["keys"] = ["<img src=x onerror=alert(1)>"]
    page = audit_html(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;img src=x" in page
    assert "http" not in page


def test_audit_command_writes_both_files(tmp_path: Path) -> None:
    path = written(tmp_path)
    run = CliRunner().invoke(
        app, ["audit", str(path), "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    )
    assert run.exit_code == 0, run.output
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == 2
    assert "Findings" in (tmp_path / "a.html").read_text()


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
def test_audit_of_the_published_file() -> None:
    report = audit(REAL, load_taxonomy())
    assert (report["rows"], report["unique_ids"], report["unique_keys"]) == (5200, 3750, 5200)
    assert report["question_strings"] == 20
    assert report["constant_types"] == {
        "blue_dye_presence": "no",
        "lesion_size_range": "<5",
        "lighting_mode": "NBI",
    }
    assert {name: each["rows"] for name, each in report["videos"].items()} == {
        "002-001": 700,
        "002-002": 1000,
        "002-003": 1000,
        "002-004": 1000,
        "002-005": 750,
        "002-006": 750,
    }
    assert sum(each["frames_used"] for each in report["videos"].values()) == 34560
    assert {name: (each["fps"], each["vendor"]) for name, each in report["videos"].items()}["002-006"] == (
        29.97,
        "Fujifilm",
    )
    assert report["identical_wording"] == ["endoscope_visibility", "scope_motion_type"]
    assert report["support"]["of_them_claim_all"] == 99
    assert report["nbi_without_olympus"]["rows"] == 75
    assert report["lesions"]["constant_in_video"]["002-002"] == {"site": "descending"}
    assert {entry["rule"]: entry["count"] for entry in report["contradictions"]} == {
        "forward_backward": 2,
        "tool_catheter": 1,
        "mucosa_fluid": 1,
        "same_type_other_answer": 5,
    }
    assert len(report["lesions"]["histology_spellings"]) == 15
    assert len(report["constant_types_by_video"]["002-004"]) == 7

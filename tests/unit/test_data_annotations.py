from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa_audio.data.annotations import import_annotations, read_annotations
from surgvivqa_audio.data.boxes import Box, BoxFolder, parse_boxes
from surgvivqa_audio.data.tables import read_lesion_info, read_video_info
from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.taxonomy import load_taxonomy

VIDEO_HEADER = '"unique_video_name","age","sex","endoscope_brand","fps","num_frames","num_lesions","bbps"\n'
LESION_HEADER = (
    '"unique_object_id","unique_video_name","size [mm]","site","histology_extended","histology_class"\n'
)
XML = """<annotation><folder>002-002_frames</folder><filename>002-002_7.jpg</filename>
<size><width>1240</width><height>1080</height><depth>3</depth></size>
<object><name>lesion</name><unique_id>002-002_1</unique_id><box_id>1</box_id>
<bndbox><xmin>540</xmin><xmax>740</xmax><ymin>852</ymin><ymax>1070</ymax></bndbox></object></annotation>"""


def row(first: int = 100, video: str = "002-001", **changes: Any) -> dict[str, Any]:
    numbers = [first + 4 * step for step in range(8)]
    base: dict[str, Any] = {
        "id": "qa_000001",
        "video_id": video,
        "frames": [f"{video}_{number}" for number in numbers],
        "frame_numbers": numbers,
        "question": "Is the NBI light on?",
        "question_type": "nbi_status",
        "support_frames": 8,
        "total_frames": 8,
        "support_ratio": 1.0,
        "support_percentage": 100.0,
        "answer": "No, WL light is on instead.",
        "short_answer": "no",
    }
    return {**base, **changes}


def write(path: Path, rows: list[Any]) -> Path:
    # The published files have no newline after the last line.
    path.write_text("\n".join(json.dumps(each) for each in rows), encoding="utf-8")
    return path


def test_last_line_without_newline_is_read(tmp_path: Path) -> None:
    found = import_annotations(write(tmp_path / "in_template.jsonl", [row(1), row(9)]), load_taxonomy())
    assert [sample.key for sample in found.samples] == [
        "in/002-001/1/nbi_status",
        "in/002-001/9/nbi_status",
    ]
    assert found.rows["in/002-001/9/nbi_status"]["support_frames"] == 8


def test_every_defect_is_in_one_report(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in_template.jsonl",
        [
            row(1),
            row(2, question_type="polyp_diameter"),
            row(3, question_type="polyp_diameter"),
            row(4, short_answer="maybe"),
            row(5, answer="No, it is not."),
            row(6, frames=["002-001_6"]),
            row(7, video_id="../../etc/passwd"),
            row(1),
            row(8, frame_numbers=[8, 8, 9, 10, 11, 12, 13, 14]),
            row(10, question=7),
            [1, 2],
            row(11, total_frames=16),
            {"id": "x"},
        ],
    )
    with pytest.raises(BadAnnotation) as caught:
        import_annotations(path, load_taxonomy())
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 1 rows are good; these are not:"
    assert lines[1] == "  unknown question type 'polyp_diameter' (2 rows)"
    assert lines[2] == "  unknown answer 'No, it is not.' of nbi_status (1 rows)"
    assert lines[3] == "  unknown answer 'maybe' of nbi_status (1 rows)"
    starts = [line.split(":")[0].strip() for line in lines[4:-1]]
    assert starts == [f"line {number}" for number in (6, 7, 8, 9, 10, 11, 12, 13)]
    assert "already stands on line 1" in lines[6]
    assert "field 'question'" in lines[8]


def test_unreadable_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(BadAnnotation, match="cannot be read"):
        read_annotations(tmp_path / "absent.jsonl", load_taxonomy())
    (tmp_path / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(BadAnnotation, match="no rows"):
        read_annotations(tmp_path / "empty.jsonl", load_taxonomy())
    (tmp_path / "deep.jsonl").write_text("[" * 100_000, encoding="utf-8")
    assert (
        read_annotations(tmp_path / "deep.jsonl", load_taxonomy()).problems[0].startswith("line 1: not valid")
    )


def test_video_table(tmp_path: Path) -> None:
    path = tmp_path / "video_info.csv"
    path.write_text(VIDEO_HEADER + '"002-006",60,"female","Fujifilm",29.97,52719,2,7.5\n', encoding="utf-8")
    video = read_video_info(path)["002-006"]
    assert (video.fps, video.frames, video.vendor, video.bowel_preparation) == (29.97, 52719, "Fujifilm", 7.5)
    for line, message in (
        ('"002-006",60,"female","Fujifilm",0,52719,2,9', "field 'fps'"),
        ('"002-006",60,"female","Fujifilm",nan,52719,2,9', "field 'fps'"),
        ('"002-006",60,"female","Fujifilm",25,1.5,2,9', "field 'num_frames'"),
        ('"002-006",60,"female"', "3 fields, the header has 8"),
        ('"002-006,60', "not valid CSV"),
    ):
        path.write_text(VIDEO_HEADER + line + "\n", encoding="utf-8")
        with pytest.raises(BadAnnotation, match=message) as caught:
            read_video_info(path)
        assert str(caught.value).startswith(f"{path}:2")
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BadAnnotation, match="needs each of these columns once: unique_video_name"):
        read_video_info(path)


def test_lesion_spellings_become_one(tmp_path: Path) -> None:
    path = tmp_path / "lesion_info.csv"
    path.write_text(
        LESION_HEADER + '"a_1","a",4,"caecum","not-polyp","NO POLYP"\n"a_2","a",4,"trasnverse","HP","HP"\n',
        encoding="utf-8",
    )
    lesions = read_lesion_info(path)
    assert (lesions["a_1"].site, lesions["a_1"].histology) == ("cecum", "no polyp")
    assert (lesions["a_2"].site, lesions["a_2"].raw_site) == ("transverse", "trasnverse")
    path.write_text(LESION_HEADER + '"a_1","a",4,"rectum","lipoma","X"\n', encoding="utf-8")
    with pytest.raises(BadAnnotation, match="unknown spelling 'lipoma'"):
        read_lesion_info(path)


def test_boxes_are_read() -> None:
    frame = parse_boxes(XML.encode(), "x.xml")
    assert (frame.width, frame.height) == (1240, 1080)
    assert frame.boxes == (Box("002-002_1", 540.0, 852.0, 740.0, 1070.0),)
    assert frame.boxes[0].centre == (640.0, 961.0)
    assert frame.boxes[0].area == 43600.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'x'>]>" + XML, "document type or entity"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'>" + XML, "document type or entity"),
        ("<annotation>" + "<a>" * 16, "deeper than 16"),
        ("<note><object><name>x</name></object></note>", "root element is <note>"),
        (XML.replace("1240", "&b;"), "not valid XML"),
        (XML.replace("1240", "1e9"), "<size/width>"),
        (XML.replace("<xmin>540</xmin>", ""), "<object/bndbox/xmin>"),
        (XML.replace("<xmin>540</xmin>", "<xmin>1</xmin><xmin>2</xmin>"), "occurs twice"),
        (XML.replace("540", "900"), "corners are swapped"),
        ("", "not valid XML"),
        ("<annotation/>" + " " * 1_100_000, "at most 1048576"),
        ('<?xml version="1.0" encoding="no-such"?><a/>', "not valid XML"),
    ],
)
def test_hostile_box_files_are_refused(content: str, message: str) -> None:
    with pytest.raises(BadAnnotation, match=message):
        parse_boxes(content.encode(), "x.xml")


def test_box_folder_names(tmp_path: Path) -> None:
    for folder in ("002-001_annotations", "002-002_annotation", "002-003"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder[:7]}_7.xml").write_text(XML, encoding="utf-8")
    boxes = BoxFolder(tmp_path)
    assert [boxes.read(video, 7) is not None for video in ("002-001", "002-002", "002-003", "002-004")] == [
        True,
        True,
        True,
        False,
    ]
    assert boxes.read("002-001", 8) is None

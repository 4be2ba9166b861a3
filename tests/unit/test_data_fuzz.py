"""Malformed rows, tables and box files end in our own errors, never in another exception.

``fuzz(count)`` runs any number of examples; the tests here run a fixed small sample of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from surgvivqa_audio.data.annotations import read_annotations
from surgvivqa_audio.data.boxes import parse_boxes
from surgvivqa_audio.data.tables import read_lesion_info, read_video_info
from surgvivqa_audio.errors import SurgVivqaError
from surgvivqa_audio.files import dump_json
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.taxonomy import load_taxonomy

BATCH = 500
NUMBERS = [3 + 4 * step for step in range(8)]
ROW: dict[str, Any] = {
    "id": "qa_000001",
    "video_id": "002-001",
    "frames": [f"002-001_{number}" for number in NUMBERS],
    "frame_numbers": NUMBERS,
    "question": "Is the NBI light on?",
    "question_type": "nbi_status",
    "support_frames": 8,
    "total_frames": 8,
    "support_ratio": 1.0,
    "answer": "No, WL light is on instead.",
    "short_answer": "no",
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["no", "nbi_status", "../x", "002-001", "\ud800", "\0", "1" * 5000, 10**400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """One line: a good row with fields changed, dropped or added, or cut bytes, or any JSON."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        return json.dumps(draw(VALUES)).encode("ascii")
    row = dict(ROW)
    for name in draw(st.lists(st.sampled_from([*ROW, "key", "template", "extra"]), min_size=1, max_size=3)):
        if draw(st.booleans()):
            row.pop(name, None)
        else:
            row[name] = draw(VALUES)
    content = json.dumps(row).encode("ascii")
    if kind == 2:
        return content[: draw(st.integers(0, len(content)))]
    return content


CELLS = st.text(alphabet=st.sampled_from('abc019.,-"\n\r\t \0é'), max_size=8) | st.sampled_from(
    ["002-001", "Olympus", "25", "29.97", "nan", "1e5", "-3", "rectum", "HP", "9" * 400, "٣"]
)
VIDEO_COLUMNS = [
    "unique_video_name",
    "age",
    "sex",
    "endoscope_brand",
    "fps",
    "num_frames",
    "num_lesions",
    "bbps",
]
LESION_COLUMNS = [
    "unique_object_id",
    "unique_video_name",
    "size [mm]",
    "site",
    "histology_extended",
    "histology_class",
]


def tables(columns: list[str]) -> st.SearchStrategy[bytes]:
    header = st.just(columns) | st.lists(st.sampled_from(columns) | CELLS, max_size=9)
    body = st.lists(st.lists(CELLS, min_size=len(columns) - 1, max_size=len(columns) + 1), max_size=3)

    def join(parts: tuple[list[str], list[list[str]], bytes]) -> bytes:
        head, rows, tail = parts
        return "\n".join(",".join(cells) for cells in [head, *rows]).encode("utf-8") + tail

    return st.tuples(header, body, st.just(b"") | st.binary(max_size=6)).map(join)


XML_PARTS = st.sampled_from(
    [
        "<annotation>",
        "</annotation>",
        "<size><width>1240</width><height>1080</height></size>",
        "<size>",
        "</size>",
        "<object>",
        "</object>",
        "<name>lesion</name><unique_id>a_1</unique_id>",
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>",
        "<bndbox>",
        "</bndbox>",
        "<xmin>nan</xmin>",
        "<xmax>1e9</xmax>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]>",
        "<!ENTITY b SYSTEM 'file:///etc/passwd'>",
        "&b;",
        "&#0;",
        "<![CDATA[x]]>",
        "<?xml version='1.0' encoding='utf-16'?>",
        "<?pi x?>",
        "<!-- -- -->",
        "<a xmlns='u'>",
        "\x00",
        "é",
    ]
)
XML = st.one_of(
    st.lists(XML_PARTS, max_size=14).map(lambda parts: "".join(parts).encode("utf-8")),
    st.lists(XML_PARTS, max_size=8).map(
        lambda parts: (
            "<annotation><size><width>9</width><height>9</height></size>" + "".join(parts) + "</annotation>"
        ).encode("utf-8")
    ),
    st.binary(max_size=60),
)


def rows_case(folder: Path) -> Callable[[bytes], str]:
    path = folder / "in_template.jsonl"
    taxonomy = load_taxonomy()

    def check(content: bytes) -> str:
        path.write_bytes(content)
        result = "refused"
        try:
            found = read_annotations(path, taxonomy)
            found.report().encode("utf-8")
            dump_json([dict(found.unknown_types), sorted(found.unknown_answers)]).encode("utf-8")
            assert len({sample.key for sample in found.samples}) == len(found.samples) == len(found.rows)
            result = "accepted" if found.clean else "refused"
            # What the collecting reader accepts, the strict one reads as well.
            if found.clean:
                assert read_samples(path, taxonomy) == found.samples
        except SurgVivqaError:
            pass
        try:
            read_samples(path, taxonomy)
        except SurgVivqaError:
            result = "refused"
        return result

    return check


def outcome(read: Callable[[], Any], named: str) -> str:
    """Whether input was accepted; a refusal must name the file it is about."""
    message = None
    try:
        read()
    except SurgVivqaError as error:
        message = str(error)
    assert message is None or message.startswith(named)
    return "accepted" if message is None else "refused"


def table_case(folder: Path, reader: Callable[[Path], Any]) -> Callable[[bytes], str]:
    path = folder / "table.csv"

    def check(content: bytes) -> str:
        path.write_bytes(content)
        return outcome(lambda: reader(path), str(path))

    return check


def xml_case(content: bytes) -> str:
    return outcome(lambda: parse_boxes(content, "x.xml"), "x.xml")


def fuzz(count: int, start: int = 0) -> dict[str, Any]:
    """Run ``count`` examples, spread over the four formats; any other exception is raised.

    Returns:
        Examples, and per format how many were accepted and refused.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases: dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes], str]]] = {
            "rows": (st.lists(lines(), min_size=1, max_size=3).map(b"\n".join), rows_case(folder)),
            "video_info": (tables(VIDEO_COLUMNS), table_case(folder, read_video_info)),
            "lesion_info": (tables(LESION_COLUMNS), table_case(folder, read_lesion_info)),
            "xml": (XML, xml_case),
        }
        outcomes: dict[str, Counter[str]] = {}
        for format_name, (strategy, check) in cases.items():
            tally: Counter[str] = Counter()
            left, turn = max(1, count // len(cases)), start
            while left > 0:
                # Batches with seeds of their own: hypothesis slows down as one run grows.
                _run(strategy, check, tally, min(left, BATCH), turn)
                left, turn = left - BATCH, turn + 1
            outcomes[format_name] = tally
    return {
        "examples": sum(tally.total() for tally in outcomes.values()),
        "uncaught": 0,
        "formats": {format_name: dict(sorted(tally.items())) for format_name, tally in outcomes.items()},
    }


def _run(
    strategy: st.SearchStrategy[bytes],
    check: Callable[[bytes], str],
    tally: Counter[str],
    count: int,
    start: int,
) -> None:
    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(content: bytes) -> None:
        tally[check(content)] += 1

    run()


def test_a_small_sample_ends_in_our_own_errors() -> None:
    report = fuzz(240)
    assert report["examples"] >= 200
    assert report["formats"]["rows"]["refused"] > 20
    assert report["formats"]["xml"]["refused"] > 20


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"id": "\\ud800"}',
        json.dumps({**ROW, "video_id": "\ud800"}).encode(),
        json.dumps({**ROW, "question_type": "\ud800"}).encode(),
        json.dumps({**ROW, "short_answer": "\ud800"}).encode(),
        json.dumps({**ROW, "answer": "\ud800"}).encode(),
        json.dumps({**ROW, "frame_numbers": [True] * 8}).encode(),
        json.dumps({**ROW, "frame_numbers": [[]] * 8}).encode(),
        json.dumps({**ROW, "frame_numbers": {"a": 1}}).encode(),
        json.dumps({**ROW, "frames": 7}).encode(),
        b'{"frame_numbers": [' + b"1" * 5000 + b"]}",
        b"[" * 100_000,
        b"NaN",
    ],
)
def test_known_traps_in_rows(tmp_path: Path, content: bytes) -> None:
    assert rows_case(tmp_path)(content) == "refused"


if __name__ == "__main__":
    # python tests/unit/test_data_fuzz.py 100000
    sys.stdout.write(json.dumps(fuzz(int(sys.argv[1])), indent=2) + "\n")

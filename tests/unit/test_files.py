"""Files appear whole or not at all; bad lines are refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.files import atomic_writer, read_jsonl, sha256_file, write_json, write_jsonl


def test_failed_write_leaves_the_old_content_and_no_stray_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [2]})
    before = path.read_bytes()
    assert before == b'{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'

    def stopped_halfway() -> None:
        with atomic_writer(path) as stream:
            stream.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped_halfway()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_rows_round_trip_and_a_last_line_needs_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"b": "ü", "a": 1}])
    assert path.read_bytes() == '{"b": "ü", "a": 1}\n'.encode()
    path.write_bytes(b'{"a": 1}\n\n{"a": "\\u00fc"}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"a": "ü"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"rows\.jsonl:2: not valid JSON"),
        (b"[1]\n", r"rows\.jsonl:1: a JSON object is needed, not list"),
        (b'{"a": "\xff"}\n', r"rows\.jsonl:1: not valid JSON"),
        (b'{"a": "\\ud800"}\n', r"rows\.jsonl:1: not valid JSON"),
        (b"[" * 100_000 + b"\n", r"rows\.jsonl:1: not valid JSON"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadAnnotation, match=message):
        list(read_jsonl(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadAnnotation, match=r"absent\.jsonl: cannot be read"):
        list(read_jsonl(tmp_path / "absent.jsonl"))


def test_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

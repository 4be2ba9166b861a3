"""Bad input on the command line: one line with the file and the remedy, exit code 1, nothing written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from surgvivqa_audio import cli
from surgvivqa_audio.processing.video import Geometry, saved_geometry
from surgvivqa_audio.sample import Image
from surgvivqa_audio.speech.audio import write_wav


@pytest.fixture
def clip(tmp_path: Path, make_frames: Callable[..., list[Image]]) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(make_frames(8, 64)):
        PIL.Image.fromarray(frame).save(folder / f"f_{number * 4}.jpg")
    return folder


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    write_wav(path, np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.3)
    return path


def _run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["surgvivqa", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


Asked = Callable[..., str]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    return lambda clip, question: _run(monkeypatch, capsys, "ask", "--clip", clip, "--question", question)


def test_missing_frame(ask: Asked, clip: Path, question: Path) -> None:
    (clip / "f_12.jpg").unlink()
    message = ask(clip, question)
    assert "clip" in message
    assert "7" in message


def test_truncated_jpeg(ask: Asked, clip: Path, question: Path) -> None:
    path = clip / "f_12.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert "f_12.jpg" in ask(clip, question)


def test_frames_of_two_sizes(ask: Asked, clip: Path, question: Path) -> None:
    PIL.Image.new("RGB", (96, 64)).save(clip / "f_12.jpg")
    assert "(64, 96)" in ask(clip, question)


def test_geometry_is_read_without_the_model(tmp_path: Path) -> None:
    fields = {
        "patch": 14,
        "merge": 2,
        "temporal": 2,
        "max_side": 112,
        "mean": [0.5, 0.4, 0.3],
        "std": [1, 2, 3],
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(fields))
    assert saved_geometry(tmp_path) == Geometry(14, 2, 2, 112, (0.5, 0.4, 0.3), (1, 2, 3))


def test_a_folder_that_is_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clip: Path, question: Path
) -> None:
    message = _run(monkeypatch, capsys, "ask", "--clip", clip, "--question", question, "--model", clip)
    assert "processor_config.json" in message


def test_empty_recording(ask: Asked, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "empty.wav" in ask(clip, tmp_path / "empty.wav")


def test_recording_of_31_seconds(ask: Asked, clip: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", np.full(31 * 16_000, 0.1, np.float32))
    message = ask(clip, tmp_path / "long.wav")
    assert "long.wav" in message
    assert "30" in message


def test_missing_recording(ask: Asked, clip: Path, tmp_path: Path) -> None:
    assert "nowhere.wav" in ask(clip, tmp_path / "nowhere.wav")


ROW = (
    '{"id": "qa_1", "video_id": "v", "frames": ["v_0"], "frame_numbers": [0], "question": "Is it?", '
    '"question_type": "%s", "answer": "Yes, the scope is moving across the frames.", "short_answer": "yes"}\n'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW % "scope_colour", "unknown question type 'scope_colour'"),
        (ROW % "scope_motion" + '{"id": \n', "out_template.jsonl:2: not valid JSON"),
    ],
)
def test_eval_run_refuses_bad_rows(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "out_template.jsonl").write_text(text)
    out = tmp_path / "pred.jsonl"
    error = _run(monkeypatch, capsys, "eval", "run", data, "--system", "majority", "--out", out)
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]

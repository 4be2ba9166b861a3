"""Error rates over a corpus: a run killed at any write continues, and what is finished is not heard again."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from boundary import die_before
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.asr import Transcriber, run_corpus
from surgvivqa_audio.processing.processor import Mel
from surgvivqa_audio.speech.audio import write_wav
from surgvivqa_audio.speech.corpora import read_corpus
from tiny_graft import nano_processor, tone

PROCESSOR = nano_processor()


def measured(mels: Sequence[Mel]) -> list[str]:
    """A transcriber whose text is a fact of the sound: its length in frames."""
    return [f"frames {mel.shape[1]}" for mel in mels]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five recordings of 0.1 to 0.5 s, whose transcripts are right, and one that cannot be decoded."""
    rows = []
    for number in range(1, 6):
        write_wav(tmp_path / f"{number}.wav", tone(0.1 * number))
        rows.append({"path": f"{number}.wav", "text": f"frames {10 * number}"})
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows.append({"path": "broken.wav", "text": "never heard"})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "list.jsonl"


def run(corpus: Path, out: Path, write: Any = measured, **settings: Any) -> list[dict[str, Any]]:
    transcriber = Transcriber("tiny", "graft", PROCESSOR, write)
    figures, _ = run_corpus(
        corpus,
        read_corpus(corpus),
        transcriber,
        settings,
        out=out,
        json_file=out.with_suffix(".json"),
        group=2,
    )
    assert figures["wer"] == pytest.approx(2 / 12)
    assert (figures["recordings"], figures["failed"]) == (6, 1)
    return [json.loads(line) for line in out.read_text().splitlines()]


def run_until_killed(corpus: Path, out: Path, call: int) -> None:
    """Runs in a child; see :func:`tests.boundary.die_before`."""
    die_before("replace", call)
    run(corpus, out)


def test_killed_at_every_write_boundary(corpus: Path, tmp_path: Path) -> None:
    expected = run(corpus, tmp_path / "whole.jsonl")
    assert [row["heard"] for row in expected] == [f"frames {10 * number}" for number in range(1, 6)] + [""]
    assert "cannot be decoded" in expected[5]["error"]
    context = multiprocessing.get_context("fork")
    for call in range(1, 7):  # the mark, three groups, the transcripts, the figures
        out = tmp_path / f"killed-{call}.jsonl"
        child = context.Process(target=run_until_killed, args=(corpus, out, call))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not out.with_suffix(".json").exists()
        assert run(corpus, out) == expected
        assert not out.with_name(out.name + ".parts").exists()


def test_what_is_finished_is_not_heard_again(corpus: Path, tmp_path: Path) -> None:
    heard: list[int] = []

    def until_the_third_group(mels: Sequence[Mel]) -> list[str]:
        if len(heard) == 4:
            raise KeyboardInterrupt
        heard.extend(mel.shape[1] for mel in mels)
        return measured(mels)

    out = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(corpus, out, until_the_third_group)
    assert heard == [10, 20, 30, 40]
    with pytest.raises(ConfigError, match="unfinished rows of a run with other settings"):
        run(corpus, out, max_tokens=3)
    again: list[int] = []
    run(corpus, out, lambda mels: again.extend(mel.shape[1] for mel in mels) or measured(mels))
    assert again == [50]


def test_recordings_that_changed_are_another_run(corpus: Path, tmp_path: Path) -> None:
    def stop(_: Sequence[Mel]) -> list[str]:
        raise KeyboardInterrupt

    out = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(corpus, out, stop)
    corpus.write_text(corpus.read_text().replace("frames 50", "frames fifty"))
    with pytest.raises(ConfigError, match="unfinished rows"):
        run(corpus, out)

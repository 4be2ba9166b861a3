"""`eval run` on a small data folder: files in, prediction rows out."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from surgvivqa_audio.answering.base import Answer, Query
from surgvivqa_audio.commands import evaluate
from surgvivqa_audio.errors import BadAnnotation, ConfigError, MissingAudio
from surgvivqa_audio.evaluation.session import (
    Request,
    clip_rate,
    frame_rates,
    out_of_scope_samples,
    run_request,
)
from surgvivqa_audio.evaluation.spoken import Speaker
from surgvivqa_audio.evaluation.suite import Suite, plan_eval, plan_suite, run_suite
from surgvivqa_audio.evaluation.workers import run_shards, shard_file
from surgvivqa_audio.files import write_jsonl
from surgvivqa_audio.sample import Sample, read_samples
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.speech.audio import write_wav
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine, Voice
from surgvivqa_audio.speech.make import make_speech
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
KINDS = ("scope_motion", "scope_outside")


class Echo:
    """Says yes to everything and keeps its queries."""

    name = "echo"
    needs = frozenset({"audio", "frames"})

    def __init__(self, weights: str = "none") -> None:
        self.facts = {"weights": weights}
        self.queries: list[Query] = []

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        self.queries += queries
        return [Answer("Yes.", "yes", "", 0.6, False, (), {"total": 1.0}, "echo") for _ in queries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for start in (0, 400):
        numbers = tuple(range(start, start + 32, 4))
        for kind in KINDS:
            answer = TAXONOMY.type_of(kind).answers[start % 3 % 2]
            sample = Sample(
                key=f"out/v-1/{start}/{kind}", id=f"qa_{len(rows)}", template="out", video_id="v-1",
                frames=tuple(f"v-1_{number}" for number in numbers), frame_numbers=numbers,
                question=TAXONOMY.type_of(kind).out_template, question_type=kind,
                answer=answer.sentence, short_answer=answer.short,
            )  # fmt: skip
            rows.append(sample.to_row())
            tone = 0.3 * np.sin(np.arange(3200) * (0.1 + 0.1 * len(rows)))
            write_wav(tmp_path / "speech" / "out_v-1" / f"{sample.id}.wav", tone.astype(np.float32))
        for number in numbers:
            path = tmp_path / "frames" / "v-1" / f"v-1_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number % 250, np.uint8)).save(path)
    write_jsonl(tmp_path / "out_template.jsonl", rows)
    return tmp_path


def test_recordings_and_frames_reach_the_system(folder: Path) -> None:
    echo = Echo()
    rows = run_request(Request(folder, "echo", folder / "p.jsonl"), TAXONOMY, lambda _name: echo)
    assert [row["error"] for row in rows] == [None] * 4
    first = echo.queries[0]
    assert [int(frame[0, 0, 0]) for frame in first.clip.frames] == list(range(0, 32, 4))
    assert first.clip.fps == 6.25
    assert first.audio is not None
    assert first.audio.shape == (3200,)
    record = json.loads((folder / "p.jsonl.run.json").read_text())
    assert set(record["data_sha256"]) == {"out_template.jsonl"}


def test_missing_recording_is_a_failed_row_and_missing_folder_an_error(folder: Path) -> None:
    (folder / "speech" / "out_v-1" / "qa_2.wav").unlink()
    request = Request(folder, "echo", folder / "p.jsonl")
    rows = run_request(request, TAXONOMY, lambda _name: Echo())
    assert [row["key"] for row in rows if row["error"]] == ["out/v-1/400/scope_motion"]
    assert "MissingAudio" in rows[2]["error"]
    with pytest.raises(MissingAudio, match="speech make"):
        run_request(
            Request(folder, "echo", folder / "q.jsonl", speech=str(folder / "none")),
            TAXONOMY,
            lambda _name: Echo(),
        )


def test_frame_rate_comes_from_the_video_table(folder: Path) -> None:
    sample = read_samples(folder / "out_template.jsonl", TAXONOMY)[0]
    assert clip_rate(folder)(sample) == 6.25
    samples = [sample]
    assert frame_rates(folder, samples) == {"table": None, "assumed_for_procedures": 1, "assumed": 25.0}
    (folder / "video_info.csv").write_text(
        '"unique_video_name","age","sex","endoscope_brand","fps","num_frames","num_lesions","bbps"\n'
        '"v-1",60,"male","Fujifilm",30,1000,0,9\n'
    )
    assert clip_rate(folder)(sample) == 7.5
    assert frame_rates(folder, samples) == {"table": "video_info.csv", "assumed_for_procedures": 0}


def test_held_out_voice_and_wording(folder: Path) -> None:
    spoken: list[tuple[str, Voice]] = []

    class Engine:
        name = "fake"
        licence = "none"

        def synthesize(self, text: str, voice: Voice) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
            spoken.append((text, voice))
            return np.ones(4, np.float32)

    sample = read_samples(folder / "out_template.jsonl", TAXONOMY)[0]
    speaker = Speaker(TAXONOMY, Engine(), folder / "speech")
    speaker.speak(sample, "default")
    assert spoken == []
    speaker.speak(sample, "voice")
    assert spoken[0][1] in HELD_OUT_VOICES
    assert "scope" in spoken[0][0]
    wording = speaker.wording(sample, "phrasing")
    assert wording in phrasing_bank(TAXONOMY)["scope_motion"].held_out
    assert speaker.wording(sample, "default") == sample.question


def test_floor_through_the_command(folder: Path) -> None:
    out = folder / "majority.jsonl"
    arguments = [
        "run",
        str(folder),
        "--system",
        "constant",
        "--out",
        str(out),
        "--json",
        str(folder / "s.json"),
    ]
    result = CliRunner().invoke(evaluate.app, arguments)
    assert result.exit_code == 0, result.output
    assert "floor" in result.output
    scores = json.loads((folder / "s.json").read_text())[str(out)]
    assert scores["closed_set"] == scores["floor"]
    with pytest.raises(ConfigError, match="neither looks nor listens"):
        run_request(Request(folder, "majority", out, control="blank"), TAXONOMY, lambda _name: Echo())


def test_score_command_writes_the_agreed_object(folder: Path) -> None:
    out = folder / "p.jsonl"
    run_request(Request(folder, "echo", out), TAXONOMY, lambda _name: Echo())
    arguments = ["score", str(out), "--json", str(folder / "s.json")]
    assert CliRunner().invoke(evaluate.app, arguments).exit_code == 0
    scores = json.loads((folder / "s.json").read_text())
    assert list(scores) == [str(out)]
    given = f"{folder}/./p.jsonl"  # keyed as given, not as normalised
    assert CliRunner().invoke(evaluate.app, ["score", given, "--json", str(folder / "g.json")]).exit_code == 0
    assert list(json.loads((folder / "g.json").read_text())) == [given]
    agreed = {
        "rows",
        "substring",
        "k_acc",
        "closed_set",
        "balanced",
        "ci95",
        "floor",
        "informative",
        "by_type",
    }
    assert agreed <= set(scores[str(out)])


def test_suite_plans_every_system_floor_control_and_refusal(folder: Path) -> None:
    request = Request(folder, "", folder / "report")
    suite = Suite(eval_rows=folder / "eval.jsonl", system_rows=30, control_rows=20)
    runs = plan_suite(request, suite)
    assert len(runs) == 8 + 3 + 1 + 14 + 1
    assert (runs["audio-noise-5"].control, runs["audio-noise-5"].sample) == ("noise-5", 20)
    assert (runs["audio-in"].template, runs["text"].sample, runs["audio"].sample) == ("in", 30, None)
    assert runs["audio-out-of-scope"].out_of_scope == "test"
    held = plan_eval(request, suite)
    assert held["audio-eval"].rows == folder / "eval.jsonl"
    assert held["audio-eval-out-of-scope"].out_of_scope == "eval"
    other = plan_eval(request, Suite(eval_data=folder / "held"))["audio-eval"]
    assert (other.data, other.rows_file) == (folder / "held", folder / "held" / "out_template.jsonl")
    assert {run.out.parent for run in [*runs.values(), *held.values()]} == {folder / "report" / "predictions"}
    with pytest.raises(ConfigError, match="--calibrate needs the eval split"):
        Suite(calibrate=True)


def both_wordings(folder: Path) -> None:
    rows = (folder / "out_template.jsonl").read_text()
    for kind in KINDS:
        asked = TAXONOMY.type_of(kind)
        rows = rows.replace(asked.out_template, asked.in_template)
    (folder / "in_template.jsonl").write_text(rows.replace('"out', '"in'))
    for name in ("qa_0", "qa_1", "qa_2", "qa_3"):
        target = folder / "speech" / "in_v-1" / f"{name}.wav"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / "speech" / "out_v-1" / f"{name}.wav").read_bytes())


def build_echo(_name: str) -> Echo:
    return Echo()


def build_other(_name: str) -> Echo:
    return Echo("others")


def test_suite_runs_resumes_and_reports(folder: Path) -> None:
    both_wordings(folder)
    said: list[str] = []
    suite = Suite(systems=["echo"], controls=["blank", "silence"], cases=1, clock_clips=1)
    request = Request(folder, "", folder / "report", speech=str(folder / "speech"))
    report = run_suite(request, suite, TAXONOMY, build_echo, said.append)
    assert said[0] == "1/8 echo: 4 rows, 0 failed"
    assert {entry["control"] for entry in report["controls"]} == {"blank", "silence"}
    assert report["wordings"][0]["pairs"] == 4
    assert report["clock"]["echo"]["cold"]["rows"] == 1
    assert report["leak"] == {"system": "echo", "rows": 4, "changed": [], "reads": False}
    assert (folder / "report" / "report.html").is_file()
    said.clear()
    run_suite(request, suite, TAXONOMY, build_echo, said.append)
    assert all(line.endswith("already there") for line in said)
    files = {path: path.read_bytes() for path in (folder / "report").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"echo\.jsonl was written with other weights; give another --out"):
        run_suite(request, suite, TAXONOMY, build_other, said.append)
    assert all(path.read_bytes() == before for path, before in files.items())


def test_workers_share_the_clips_and_their_files_are_joined(folder: Path) -> None:
    runs = {
        name: Request(folder, "echo", folder / f"{name}.jsonl", control=control)
        for name, control in (("plain", None), ("blank", "blank"))
    }
    said: list[str] = []
    run_shards(runs, 2, TAXONOMY, build_echo, said.append)
    assert said == ["plain: 4 rows, 0 failed", "blank: 4 rows, 0 failed"]
    rows = read_predictions(folder / "plain.jsonl", TAXONOMY)
    assert sorted(row.key for row in rows) == sorted(
        sample.key for sample in read_samples(folder / "out_template.jsonl", TAXONOMY)
    )
    assert not list(folder.glob("*-of-2*"))


class Endless(Echo):
    """Says that it was asked, and never answers."""

    def __init__(self, sign: Connection) -> None:
        super().__init__()
        self.sign = sign

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        self.sign.send("asked")
        threading.Event().wait()
        raise AssertionError("nothing ends the wait")


def build_endless(sign: Connection, _name: str) -> Endless:
    return Endless(sign)


def test_workers_end_with_their_killed_parent(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    seen, sign = context.Pipe(duplex=False)
    runs = {"plain": Request(folder, "echo", folder / "plain.jsonl")}
    parent = context.Process(target=run_shards, args=(runs, 1, TAXONOMY, partial(build_endless, sign), print))
    parent.start()
    sign.close()  # now only the parent and its worker hold this end
    assert seen.recv() == "asked"
    parent.kill()
    assert seen.poll(30), "the worker lives on after its parent was killed"
    with pytest.raises(EOFError):  # the last one to hold the other end is gone
        seen.recv()


def test_shards_of_other_weights_are_not_joined(folder: Path) -> None:
    run = Request(folder, "echo", folder / "plain.jsonl")
    parts = [shard_file(run.out, (number, 2)) for number in range(2)]
    for number, weights in enumerate(("a", "b")):
        request = replace(run, out=parts[number], shard=(number, 2))
        run_request(request, TAXONOMY, lambda _name, weights=weights: Echo(weights))
    with pytest.raises(BadAnnotation, match=r"data or weights differ.*delete the files"):
        run_shards({"plain": run}, 2, TAXONOMY, build_echo, print)


def test_out_of_scope_banks_are_asked_about_several_clips_each(folder: Path) -> None:
    samples = read_samples(folder / "out_template.jsonl", TAXONOMY)
    for bank, times in (("test", 3), ("eval", 8)):
        asked = out_of_scope_samples(samples, TAXONOMY, bank)
        questions = getattr(TAXONOMY.out_of_scope, bank)
        assert len(asked) == times * len(questions) == len({sample.key for sample in asked})
        assert {sample.question for sample in asked} == set(questions)
        assert {sample.short_answer for sample in asked} == {"unanswerable"}
    with pytest.raises(ConfigError, match="bank 'train': test or eval"):
        out_of_scope_samples(samples, TAXONOMY, "train")


def test_recordings_decide_what_is_typed_and_which_voice_is_new(folder: Path) -> None:
    sample = read_samples(folder / "out_template.jsonl", TAXONOMY)[0]
    folder_of = folder / "spoken"
    make_speech([sample], folder_of, [HELD_OUT_VOICES[0]], phrasings="held-out", taxonomy=TAXONOMY)
    with EspeakEngine() as engine, SpeechCache(folder / "cache", engine) as cache:
        speaker = Speaker(TAXONOMY, engine, folder_of, cache=cache)
        words = speaker.wording(sample, "default")
        assert words != sample.question
        assert words in phrasing_bank(TAXONOMY)[sample.question_type].held_out
        assert speaker.wording(sample, "voice") == words
        assert speaker.wording(sample, "phrasing") not in (words, sample.question)
        own = speaker.speak(sample, "default")
        other = speaker.speak(sample, "voice")
        assert own.shape != other.shape or float(np.abs(own - other).max()) > 0.01
        assert cache.synthesised == 1
        Speaker(TAXONOMY, engine, folder_of, cache=cache).speak(sample, "voice")
        assert cache.synthesised == 1
        [made] = cache.rows()
        assert made["text"] == words
        assert made["voice"] != HELD_OUT_VOICES[0].name

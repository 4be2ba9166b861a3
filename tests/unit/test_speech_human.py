"""Recordings of people: recorder, import, and no invention of what was not said."""

from __future__ import annotations

import csv
import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.errors import BadAnnotation, BadAudio, ConfigError, MissingAudio
from surgvivqa_audio.sample import Sample, make_key
from surgvivqa_audio.speech.audio import read_audio, wav_bytes, write_wav
from surgvivqa_audio.speech.engine import parse_voice
from surgvivqa_audio.speech.human import (
    HumanEngine,
    import_recordings,
    prompts,
    read_recording_list,
    speaker_voice,
)
from surgvivqa_audio.speech.make import find_recording, make_speech
from surgvivqa_audio.speech.recorder import RecorderServer, RecordingFolder
from surgvivqa_audio.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()


def take(seconds=0.5, level=0.3):
    sound = level * np.sin(np.arange(int(seconds * 16000)) / 10)
    return np.concatenate([np.zeros(16000), sound, np.zeros(16000)]).astype(np.float32)


def question(question_type):
    return Sample(
        key=make_key("in", "900-001", 1, question_type),
        id="qa_1",
        template="in",
        video_id="900-001",
        frames=("900-001_1",),
        frame_numbers=(1,),
        question=TAXONOMY.types[question_type].in_template,
        question_type=question_type,
        answer="",
        short_answer="",
    )


def test_there_are_forty_prompts_with_the_published_wordings():
    listed = prompts(TAXONOMY)
    assert len(listed) == 40
    assert [prompt.number for prompt in listed] == list(range(1, 41))
    assert listed[8].text == "Is the NBI light on?"
    assert listed[28].text == "Are these frames captured using NBI mode?"


def test_import_then_make_assigns_only_what_was_recorded(tmp_path):
    write_wav(tmp_path / "r" / "a.wav", take())
    write_wav(tmp_path / "r" / "b.wav", take(0.8))
    listing = tmp_path / "list.csv"
    listing.write_text(
        "file,speaker,question_type,template,text\n"
        "a.wav,p1,nbi_status,in,\n"
        'b.wav,p1,,,"Is the scope moving during this sequence?"\n'
    )
    report = import_recordings(tmp_path / "r", listing, tmp_path / "s", "research use", TAXONOMY)
    assert (report.imported, report.speakers, report.missing) == (2, ["human-p1"], {"human-p1": 36})
    samples = [question("nbi_status"), question("scope_motion"), question("blue_dye_presence")]
    made = make_speech(samples, tmp_path / "s", [parse_voice("human-p1")], engine=HumanEngine())
    assert len(made.failed) == 1
    assert "human-p1 has not recorded 'Is blue dye present on the mucosa?'" in made.failed[0]
    assert abs(read_audio(find_recording(tmp_path / "s", samples[0])).size - (8000 + 2 * 4000)) <= 640
    with pytest.raises(MissingAudio):
        find_recording(tmp_path / "s", samples[2])
    rows = [json.loads(line) for line in (tmp_path / "s" / "manifest.jsonl").read_text().splitlines()]
    assert "consent: research use" in rows[0]["licence"]


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ("file,text\na.wav,x\n", BadAnnotation, r"list\.csv: needs the columns"),
        ("file,speaker,text\n,p1,x\n", BadAnnotation, r"list\.csv:2: 'file' and 'speaker'"),
        ("file,speaker,text\na.wav,p1,\n", BadAnnotation, r"list\.csv:2: give 'text'"),
        (
            "file,speaker,question_type,template\na.wav,p1,nope,in\n",
            BadAnnotation,
            r":2: give 'text'.*'nope'",
        ),
        ("file,speaker,text\n../x.wav,p1,x\n", BadAnnotation, r"list\.csv:2: file '../x.wav' lies outside"),
        ("file,speaker,text\nz.wav,p1,x\n", MissingAudio, r"list\.csv:2: .*z\.wav does not exist"),
        ("file,speaker,text\na.wav,p1,x\nquiet.wav,p1,y\n", BadAudio, r"list\.csv:3: .*no speech heard"),
        ("file,speaker,text\nloud.wav,p1,y\n", BadAudio, r"list\.csv:2: .*overdriven"),
        ("file,speaker,text\na.wav,p/1,y\n", ConfigError, "speaker 'p/1': use letters"),
        ("file,speaker,text\n", BadAnnotation, r"list\.csv: lists no recording"),
        ('file,speaker,text\n"a.wav,p1,x\n', BadAnnotation, r"list\.csv: not a valid CSV"),
    ],
)
def test_a_bad_list_stores_nothing(tmp_path, lines, error, message):
    write_wav(tmp_path / "r" / "a.wav", take())
    write_wav(tmp_path / "r" / "quiet.wav", take(level=0.0))
    write_wav(tmp_path / "r" / "loud.wav", np.sign(take()).astype(np.float32))
    (tmp_path / "list.csv").write_text(lines)
    with pytest.raises(error, match=message):
        import_recordings(tmp_path / "r", tmp_path / "list.csv", tmp_path / "s", "yes", TAXONOMY)
    assert not (tmp_path / "s").exists()


def test_consent_must_be_stated(tmp_path):
    with pytest.raises(ConfigError, match="--consent"):
        import_recordings(tmp_path, tmp_path / "list.csv", tmp_path / "s", "  ", TAXONOMY)


def test_a_persons_voice_has_no_rate_or_pitch():
    assert speaker_voice("p1").id == "human-p1"
    assert parse_voice("human-p1") == speaker_voice("p1")


@pytest.fixture
def server(tmp_path):
    with RecorderServer(RecordingFolder(tmp_path / "r", "p1", TAXONOMY)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def call(url, body=None, host=None):
    request = urllib.request.Request(url, data=body, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_recorder_keeps_takes_that_import_reads(server, tmp_path):
    status, page = call(server.url)
    assert status == 200
    assert b"getUserMedia" in page
    assert call(server.url + "take/9", wav_bytes(take()))[0] == 200
    assert call(server.url + "take/9", wav_bytes(take(0.7)))[0] == 200
    assert call(server.url + "take/29", wav_bytes(take(0.6)))[0] == 200
    state = json.loads(call(server.url + "state")[1])
    assert [prompt["number"] for prompt in state["prompts"] if prompt["done"]] == [9, 29]
    assert call(server.url + "take/9")[1][:4] == b"RIFF"
    with open(tmp_path / "r" / "recordings.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == ["p1/09-in-nbi_status.wav", "p1/29-out-nbi_status.wav"]
    listing = tmp_path / "r" / "recordings.csv"
    assert len(read_recording_list(listing, TAXONOMY)) == 2
    report = import_recordings(tmp_path / "r", listing, tmp_path / "s", "yes", TAXONOMY)
    assert report.missing == {"human-p1": 36}


def test_the_recorder_refuses_what_is_not_speech_and_keeps_nothing(server, tmp_path):
    for body, message in ((wav_bytes(np.zeros(16000, np.float32)), b"no speech heard"), (b"x", b"format")):
        status, reply = call(server.url + "take/1", body)
        assert status == 422
        assert message in reply
    assert call(server.url + "take/41", wav_bytes(take()))[0] == 400
    assert call(server.url + "take/../x", wav_bytes(take()))[0] == 400
    assert not (tmp_path / "r").exists()


def test_the_recorder_answers_only_its_own_address(server):
    port = server.server_address[1]
    assert server.server_address[0] == "127.0.0.1"
    assert call(f"http://127.0.0.1:{port}/")[0] == 404
    assert call(f"http://127.0.0.1:{port}/wrong/state")[0] == 404
    assert call(server.url + "state", host="evil.example")[0] == 404


def test_two_speakers_share_one_list(tmp_path):
    for speaker in ("p1", "p2", "p1"):
        RecordingFolder(tmp_path, speaker, TAXONOMY).store(1, wav_bytes(take()))
    rows = read_recording_list(tmp_path / "recordings.csv", TAXONOMY)
    assert sorted(speaker for _, _, speaker, _ in rows) == ["p1", "p2"]


def test_the_import_command_says_what_comes_next(tmp_path):
    write_wav(tmp_path / "r" / "a.wav", take())
    (tmp_path / "list.csv").write_text("file,speaker,question_type,template\na.wav,p1,nbi_status,in\n")
    arguments = ["speech", "import", str(tmp_path / "r"), str(tmp_path / "list.csv"), str(tmp_path / "s")]
    done = CliRunner().invoke(app, [*arguments, "--consent", "research use"])
    assert done.exit_code == 0, done.output
    assert "human-p1: 37 of the published wordings not recorded" in done.output
    assert "--engine human --voice human-p1" in done.output
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_human_engine_needs_a_speaker(tmp_path):
    (tmp_path / "in_template.jsonl").write_text("")
    arguments = [
        "speech",
        "make",
        str(tmp_path / "in_template.jsonl"),
        str(tmp_path / "s"),
        "--engine",
        "human",
    ]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    assert "human-<speaker>" in str(done.exception)

"""`speech make`: distinct files, assignments by key, the predecessor's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from surgvivqa_audio.cli import app
from surgvivqa_audio.errors import BadAudio, ConfigError, MissingAudio, SpeechError
from surgvivqa_audio.sample import Sample, make_key, read_samples
from surgvivqa_audio.speech.audio import activity, read_audio, write_wav
from surgvivqa_audio.speech.engine import Voice
from surgvivqa_audio.speech.make import find_recording, make_speech, variants_of
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import load_taxonomy

US, RP = Voice("en-us"), Voice("en-gb-x-rp")
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real-colon-vqa" / "in_template.jsonl"


class Tones:
    """Stands for an engine; refuses the texts in ``broken``."""

    name, version, licence = "tones", "1", "none needed"

    def __init__(self, broken=()):
        self.broken = broken

    def synthesize(self, text, voice):
        if any(word in text for word in self.broken):
            raise SpeechError("engine is out")
        return np.sin(np.arange(1600) * len(text) / 40).astype(np.float32) * 0.5

    def close(self):
        pass


class Voiced(Tones):
    """Half a second of sound between pauses, as speech has them."""

    def synthesize(self, text, voice):
        wave = np.zeros(16000, np.float32)
        wave[4000:12000] = np.sin(np.arange(8000) / 8) * 0.3
        return wave


def sample(question_type="nbi_status", frame=8, template="in", video="900-001", id="qa_1"):
    entry = load_taxonomy().types[question_type]
    return Sample(
        key=make_key(template, video, frame, question_type),
        id=id,
        template=template,
        video_id=video,
        frames=(f"{video}_{frame}",),
        frame_numbers=(frame,),
        question=entry.template(template),
        question_type=question_type,
        answer=entry.answers[0].sentence,
        short_answer=entry.answers[0].short,
    )


def rows(folder, name="assignments.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_one_file_per_distinct_text_and_voice(tmp_path):
    samples = [sample(kind, frame) for kind in ("nbi_status", "scope_motion") for frame in range(50)]
    report = make_speech(samples, tmp_path, [US, RP], engine=Tones())
    assert (report.rows, report.assignments, report.distinct, report.synthesised) == (100, 200, 4, 4)
    assert len(list((tmp_path / "audio").glob("*.wav"))) == 4
    again = make_speech(samples, tmp_path, [US, RP], engine=Tones())
    assert (again.assignments, again.synthesised) == (200, 0)


def test_find_recording_by_key_and_variant(tmp_path):
    samples = [sample("nbi_status"), sample("scope_motion")]
    make_speech(samples, tmp_path, [US, RP], engine=Tones())
    table = {(row["key"], row["variant"]): row["file"] for row in rows(tmp_path)}
    for one in samples:
        assert variants_of(tmp_path, one) == ["en-us-r165-p50", "en-gb-x-rp-r165-p50"]
        assert find_recording(tmp_path, one) == tmp_path / table[one.key, "en-us-r165-p50"]
        assert find_recording(tmp_path, one, RP.id) == tmp_path / table[one.key, RP.id]
    with pytest.raises(MissingAudio, match=r"no recording of in/900-001/8/nbi_status as x; .*en-us"):
        find_recording(tmp_path, samples[0], "x")
    with pytest.raises(MissingAudio, match="no recording of in/900-001/8/blue_dye_presence"):
        find_recording(tmp_path, sample("blue_dye_presence"))


def test_a_deleted_file_is_missing_not_silent(tmp_path):
    make_speech([sample()], tmp_path, [US], engine=Tones())
    find_recording(tmp_path, sample()).unlink()
    with pytest.raises(MissingAudio, match="listed for in/900-001/8/nbi_status but absent"):
        find_recording(tmp_path, sample())


def test_the_predecessors_layout_is_read_by_template_video_and_id(tmp_path):
    write_wav(tmp_path / "in_900-001" / "qa_1.wav", np.full(1600, 0.5, np.float32))
    write_wav(tmp_path / "out_900-001" / "qa_1.wav", np.full(1600, 0.25, np.float32))
    assert read_audio(find_recording(tmp_path, sample()))[0] == 0.5
    assert read_audio(find_recording(tmp_path, sample(template="out")))[0] == 0.25
    with pytest.raises(MissingAudio):
        find_recording(tmp_path, sample(video="900-002"))
    with pytest.raises(MissingAudio):
        find_recording(tmp_path, sample(), US.id)


def test_phrasings_come_from_the_right_list(tmp_path):
    bank = phrasing_bank(load_taxonomy())["nbi_status"]
    samples = [sample(frame=frame) for frame in range(12)]
    for which, options in (("bank", bank.train), ("held-out", bank.held_out), ("new-words", bank.new_words)):
        folder = tmp_path / which
        make_speech(samples, folder, [US], engine=Tones(), phrasings=which)
        texts = {row["text"] for row in rows(folder)}
        assert texts <= set(options)
        assert len(texts) > 3
        assert rows(folder)[0]["variant"] == f"en-us-r165-p50.{which}"
    make_speech(samples, tmp_path / "out", [US], engine=Tones(), phrasings="out")
    assert {row["text"] for row in rows(tmp_path / "out")} == {"Are these frames captured using NBI mode?"}


def test_spread_gives_each_key_one_voice_whatever_the_order(tmp_path):
    samples = [sample(frame=frame) for frame in range(40)]
    make_speech(samples, tmp_path / "a", [US, RP], engine=Tones(), spread=True)
    make_speech(samples[::-1], tmp_path / "b", [US, RP], engine=Tones(), spread=True)
    first = {row["key"]: row["voice"] for row in rows(tmp_path / "a")}
    assert first == {row["key"]: row["voice"] for row in rows(tmp_path / "b")}
    assert len(first) == 40
    assert set(first.values()) == {US.id, RP.id}


def test_failures_have_a_status_per_row_and_are_made_up_for(tmp_path):
    samples = [sample("nbi_status"), sample("scope_motion")]
    report = make_speech(samples, tmp_path, [US], engine=Tones(broken=("moving",)))
    assert report.failed == ["'Is the scope moving during this sequence?' with en-us-r165-p50: engine is out"]
    assert [(row["status"], row["error"]) for row in rows(tmp_path)] == [
        ("ok", ""),
        ("failed", "engine is out"),
    ]
    with pytest.raises(MissingAudio):
        find_recording(tmp_path, samples[1])
    assert make_speech(samples, tmp_path, [US], engine=Tones()).synthesised == 1
    assert find_recording(tmp_path, samples[1]).is_file()


def test_engines_are_never_mixed_in_one_variant(tmp_path):
    make_speech([sample()], tmp_path, [US], engine=Tones())
    other = Tones()
    other.name = "other"
    with pytest.raises(SpeechError, match="was made by tones 1; engines are never mixed"):
        make_speech([sample()], tmp_path, [US], engine=other)


def test_no_voice_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no voice given"):
        make_speech([sample()], tmp_path, [], engine=Tones())


def test_the_command_speaks_with_espeak_and_resumes(tmp_path):
    path = tmp_path / "in_template.jsonl"
    path.write_text("\n".join(json.dumps(sample(frame=frame).to_row()) for frame in range(3)))
    arguments = ["speech", "make", str(path), str(tmp_path / "s"), "--json", "--rate", "150", "--rate", "180"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert json.loads(first.output) == {
        "rows": 3,
        "assignments": 6,
        "distinct": 2,
        "synthesised": 2,
        "failed": [],
    }
    assert json.loads(CliRunner().invoke(app, arguments).output)["synthesised"] == 0
    assert read_audio(find_recording(tmp_path / "s", sample(frame=1))).size > 16000


def test_the_command_names_the_voices_when_one_is_unknown(tmp_path):
    path = tmp_path / "in_template.jsonl"
    path.write_text(json.dumps(sample().to_row()))
    done = CliRunner().invoke(app, ["speech", "make", str(path), str(tmp_path / "s"), "--voice", "en-gb"])
    assert done.exit_code != 0
    assert isinstance(done.exception, SpeechError)
    assert "en-gb-x-rp" in str(done.exception)


def test_degraded_copies_are_variants_of_their_own(tmp_path):
    make_speech([sample()], tmp_path, [US], engine=Voiced(), noises=["suction@10", "reverb"])
    assert variants_of(tmp_path, sample()) == [
        "en-us-r165-p50",
        "en-us-r165-p50.suction@10",
        "en-us-r165-p50.reverb",
    ]
    paths = [find_recording(tmp_path, sample(), variant) for variant in variants_of(tmp_path, sample())]
    first = [path.read_bytes() for path in paths]
    assert len(set(first)) == 3
    clean, noisy = read_audio(paths[0]), read_audio(paths[1])
    active = activity(clean)
    scale = np.dot(clean, noisy) / np.dot(clean, clean)
    ratio = np.mean(clean[active] ** 2.0) / np.mean((noisy / scale - clean)[active] ** 2.0)
    assert 10 * np.log10(ratio) == pytest.approx(10, abs=0.5)
    make_speech([sample()], tmp_path / "again", [US], engine=Voiced(), noises=["suction@10", "reverb"])
    assert [(tmp_path / "again" / path.relative_to(tmp_path)).read_bytes() for path in paths] == first
    listed = {row["noise"]: row["status"] for row in rows(tmp_path, "manifest.jsonl")}
    assert listed == {"": "ok", "suction@10": "ok", "reverb": "ok"}


@pytest.mark.parametrize("spec", ["suction", "rain@10", "white@x", "white@99", "reverb@3", ""])
def test_an_unknown_noise_is_refused_before_anything_is_spoken(tmp_path, spec):
    with pytest.raises(BadAudio, match="is not understood; write reverb, clip or KIND@DECIBELS"):
        make_speech([sample()], tmp_path / "s", [US], engine=Voiced(), noises=[spec])
    assert not (tmp_path / "s").exists()


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
def test_the_published_rows_need_twenty_files(tmp_path):
    samples = read_samples(REAL, load_taxonomy())
    report = make_speech(samples, tmp_path, [US], engine=Tones())
    assert (report.rows, report.assignments, report.distinct) == (5200, 5200, 20)
    # one id names rows of several procedures; the key keeps their questions apart
    texts = {row["key"]: row["text"] for row in rows(tmp_path)}
    assert all(texts[one.key] == one.question for one in samples)

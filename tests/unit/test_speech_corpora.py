"""Corpora on disk: the layouts that are read, and what is refused with file and row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from surgvivqa_audio.errors import BadAnnotation, BadAudio, ConfigError, MissingAudio, SurgVivqaError
from surgvivqa_audio.speech import corpora
from surgvivqa_audio.speech.audio import recorded_seconds
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.corpora import choose, read_corpus
from surgvivqa_audio.speech.engine import EspeakEngine, Voice


def _sound(path: Path, seconds: float = 0.5, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(np.arange(int(seconds * rate)) * 0.1)
    soundfile.write(path, wave, rate)
    return path


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "1089" / "134686"
    for number in range(2):
        _sound(chapter / f"1089-134686-000{number}.flac", 0.5 + number)
    (chapter / "1089-134686.trans.txt").write_text(
        "1089-134686-0000 HE HOPED THERE WOULD BE STEW\n1089-134686-0001 STUFF IT INTO YOU\n"
    )
    _sound(tmp_path / "LibriSpeech" / "test-clean" / "121" / "1" / "121-1-0000.flac", 0.25)
    (tmp_path / "LibriSpeech" / "test-clean" / "121" / "1" / "121-1.trans.txt").write_text(
        "121-1-0000 ALSO\n"
    )
    return tmp_path / "LibriSpeech"


def _common_voice(folder: Path, *rows: str) -> Path:
    _sound(folder / "clips" / "common_voice_en_1.mp3", 0.5, 32_000)
    listing = folder / "test.tsv"
    head = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"
    listing.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return listing


def _manifest(folder: Path, *rows: object) -> Path:
    _sound(folder / "audio" / "a.wav")
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


def test_librispeech_folders(librispeech: Path) -> None:
    found = read_corpus(librispeech)
    assert [(each.path.name, each.text, each.speaker) for each in found] == [
        ("1089-134686-0000.flac", "he hoped there would be stew", "1089"),
        ("1089-134686-0001.flac", "stuff it into you", "1089"),
        ("121-1-0000.flac", "also", "121"),
    ]
    assert found[1].where.endswith("1089-134686.trans.txt:2")
    wave = found[1].wave()
    assert (wave.dtype, wave.shape) == (np.float32, (24_000,))
    assert found[2].seconds() == 0.25


def test_common_voice_lists(tmp_path: Path) -> None:
    listing = _common_voice(tmp_path, 'abc\tcommon_voice_en_1.mp3\t7\tHe said "stop" twice.\t2')
    (found,) = read_corpus(listing)
    assert (found.text, found.speaker) == ('He said "stop" twice.', "abc")
    assert found.path == tmp_path / "clips" / "common_voice_en_1.mp3"
    assert found.wave().size == pytest.approx(8_000, abs=1_200)  # the encoder pads


def test_manifests_under_the_usual_names_of_their_keys(tmp_path: Path) -> None:
    listing = _manifest(
        tmp_path,
        {"audio_filepath": "audio/a.wav", "text": "One.", "duration": 0.5},
        {"path": str(tmp_path / "audio" / "b.wav"), "sentence": " Two  words.", "speaker": "s"},
    )
    _sound(tmp_path / "audio" / "b.wav")
    assert [(each.text, each.speaker) for each in read_corpus(listing)] == [("One.", ""), ("Two words.", "s")]


def test_speech_of_this_program_is_a_corpus(tmp_path: Path) -> None:
    with EspeakEngine() as engine, SpeechCache(tmp_path / "speech", engine) as cache:
        cache.get("Is the scope moving?", Voice("en-us"))
    with open(tmp_path / "speech" / "manifest.jsonl", "a") as stream:
        stream.write(json.dumps({"file": "audio/never.wav", "text": "x", "status": "failed"}) + "\n")
    (found,) = read_corpus(tmp_path / "speech")
    assert (found.text, found.speaker) == ("Is the scope moving?", "en-us")
    assert found.wave().size > 8_000


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"path": "audio/a.wav"}, BadAnnotation, r"list.jsonl:1: needs a non-empty text in one of .*text"),
        ({"text": "a"}, BadAnnotation, r"list.jsonl:1: .*audio_filepath"),
        ({"path": "audio/a.wav", "text": " "}, BadAnnotation, r":1: the transcript is empty"),
        ({"path": "audio/a.wav", "text": "a" * 2001}, BadAnnotation, r":1: a transcript of 2001 characters"),
        ({"path": "../a.wav", "text": "a"}, BadAnnotation, r":1: '../a.wav' does not lie below"),
        ({"path": "/etc/passwd", "text": "a"}, BadAnnotation, r":1: '/etc/passwd' does not lie below"),
        ({"path": "audio/b.wav", "text": "a"}, MissingAudio, r":1: .*b.wav does not exist"),
        ({"path": "list.jsonl", "text": "a"}, BadAnnotation, r":1: 'list.jsonl' is not one of .flac, .wav"),
        (["not an object"], BadAnnotation, r"list.jsonl:1: a JSON object is needed"),
    ],
)
def test_a_bad_row_of_a_manifest_is_named(
    tmp_path: Path, row: object, kind: type[SurgVivqaError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_corpus(_manifest(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("abc\t../clips/x.mp3\t7\tText\t2", r"test.tsv:2: path '../clips/x.mp3' is not the name of a file"),
        ("abc\tcommon_voice_en_1.mp3\t7", r"test.tsv:2: 3 values for 5 columns"),
        ("abc\tcommon_voice_en_1.mp3\t7\t\t2", r"test.tsv:2: the transcript is empty"),
    ],
)
def test_a_bad_row_of_a_common_voice_list_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(BadAnnotation, match=message):
        read_corpus(_common_voice(tmp_path, row))


def test_a_bad_line_of_a_transcript_is_named(librispeech: Path) -> None:
    listing = next(librispeech.rglob("121-1.trans.txt"))
    listing.write_text("121-1-0000 ALSO\n../../x ESCAPED\n")
    with pytest.raises(BadAnnotation, match=r"121-1.trans.txt:2: '../../x' is no utterance id"):
        read_corpus(librispeech)
    listing.write_text("121-1-0009 ALSO\n")
    with pytest.raises(MissingAudio, match=r"121-1.trans.txt:1: .*121-1-0009.flac does not exist"):
        read_corpus(librispeech)


def test_lists_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such corpus"):
        read_corpus(tmp_path / "absent")
    with pytest.raises(ConfigError, match="no known corpus"):
        read_corpus(tmp_path)
    listing = _common_voice(tmp_path)
    with pytest.raises(ConfigError, match=r"pass one of its lists, for example .*test.tsv"):
        read_corpus(tmp_path)
    with pytest.raises(BadAnnotation, match="lists no recording"):
        read_corpus(listing)
    listing.write_text("a\tb\n")
    with pytest.raises(BadAnnotation, match="needs the columns path and sentence, has a, b"):
        read_corpus(listing)
    listing.write_bytes(b"path\tsentence\n\xff\n")
    with pytest.raises(BadAnnotation, match="cannot be read as UTF-8"):
        read_corpus(listing)


def test_a_list_over_the_cap_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_MAX_LIST_BYTES", 40)
    with pytest.raises(BadAnnotation, match="MB are read"):
        read_corpus(_manifest(tmp_path, {"path": "audio/a.wav", "text": "a" * 40}))
    with pytest.raises(BadAnnotation, match="MB are read"):
        read_corpus(_common_voice(tmp_path))


def test_a_damaged_recording_is_named_with_its_row(tmp_path: Path) -> None:
    listing = _manifest(tmp_path, {"path": "audio/a.wav", "text": "a"})
    (found,) = read_corpus(listing)
    found.path.write_bytes(b"RIFF....")
    for read in (found.wave, found.seconds):
        with pytest.raises(BadAudio, match=r"list.jsonl:1: .*a.wav: cannot be decoded"):
            read()
    found.path.unlink()
    with pytest.raises(MissingAudio, match=r"list.jsonl:1: "):
        found.wave()


def test_long_recordings_are_left_out_and_counted(librispeech: Path, tmp_path: Path) -> None:
    everything = read_corpus(librispeech)
    chosen, skipped = choose(everything, None, max_seconds=1.0, seed=0)
    assert sorted(each.seconds() for each in chosen) == [0.25, 0.5]
    assert skipped == 1
    again, _ = choose(everything, 2, max_seconds=30.0, seed=3)
    assert again == choose(everything, 2, max_seconds=30.0, seed=3)[0]
    assert len(again) == 2
    with pytest.raises(ConfigError, match=r"at most 0.1 s long"):
        choose(everything, None, max_seconds=0.1, seed=0)
    assert recorded_seconds(_sound(tmp_path / "long.flac", 31.0)) == 31.0

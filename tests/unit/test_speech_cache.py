"""The cache: nothing twice, nothing half, shared by processes and threads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest

from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.speech.audio import read_audio
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.engine import Voice

VOICE = Voice("en-us")


class Tones:
    """An engine that counts: the text's length is the pitch."""

    name, version, licence = "tones", "1", "none needed"

    def __init__(self, broken=()):
        self.calls = []
        self.broken = set(broken)

    def synthesize(self, text, voice):
        self.calls.append(text)
        if text in self.broken:
            raise SpeechError(f"cannot say {text}")
        return np.sin(np.arange(3200) * len(text) / 40).astype(np.float32) * 0.5

    def close(self):
        pass


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_a_file_is_made_once_and_listed(tmp_path):
    engine = Tones()
    with SpeechCache(tmp_path, engine) as cache:
        path = cache.get("Is the NBI light on?", VOICE)
        assert cache.get("Is the NBI light on?", VOICE) == path
    with SpeechCache(tmp_path, engine) as cache:
        assert cache.get("Is the NBI light on?", VOICE) == path
    assert engine.calls == ["Is the N B I light on?"]
    assert read_audio(path).size == 3200
    (row,) = lines(tmp_path)
    assert {name: row[name] for name in ("text", "spoken", "voice", "rate", "pitch", "engine", "status")} == {
        "text": "Is the NBI light on?",
        "spoken": "Is the N B I light on?",
        "voice": "en-us",
        "rate": 165,
        "pitch": 50,
        "engine": "tones",
        "status": "ok",
    }
    assert row["seconds"] == 0.2
    assert row["licence"] == "none needed"
    assert len(row["sha256"]) == 64


def test_text_voice_rate_pitch_and_version_each_make_another_file(tmp_path):
    engine = Tones()
    with SpeechCache(tmp_path, engine) as cache:
        hashes = {
            cache.hash_of(text, voice)
            for text in ("a", "b")
            for voice in (VOICE, Voice("en-029"), Voice("en-us", 150), Voice("en-us", 165, 40))
        }
        engine.version = "2"
        assert len(hashes | {cache.hash_of("a", VOICE)}) == 9


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_last_line_is_cut_and_its_file_taken_over(tmp_path, cut):
    engine = Tones()
    with SpeechCache(tmp_path, engine) as cache:
        cache.get("one", VOICE)
        cache.get("three", VOICE)
    manifest = tmp_path / "manifest.jsonl"
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first + second[:cut])
    with SpeechCache(tmp_path, engine) as cache:
        assert [row["text"] for row in cache.rows()] == ["one"]
        cache.get("three", VOICE)
        assert cache.verify() == []
    assert engine.calls == ["one", "three"]
    assert manifest.read_bytes() == first + second


def test_damage_elsewhere_is_an_error_not_a_guess(tmp_path):
    with SpeechCache(tmp_path, Tones()) as cache:
        cache.get("one", VOICE)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(b'{"broken": \n' + manifest.read_bytes())
    with pytest.raises(SpeechError, match=r"manifest\.jsonl: the line at byte 0 is damaged"):
        SpeechCache(tmp_path, Tones())


def test_a_cut_off_or_deleted_file_is_made_again(tmp_path):
    engine = Tones()
    with SpeechCache(tmp_path, engine) as cache:
        path = cache.get("one", VOICE)
        good = path.read_bytes()
        path.write_bytes(good[:100])
        assert cache.verify() == [path.stem]
        assert cache.get("one", VOICE).read_bytes() == good
        path.unlink()
        assert cache.get("one", VOICE).read_bytes() == good
    assert len(engine.calls) == 3


def test_litter_of_a_kill_is_swept_only_when_nobody_else_works(tmp_path):
    with SpeechCache(tmp_path, Tones()) as cache:
        cache.get("one", VOICE)
        litter = tmp_path / "audio" / ".x.wav.abc.tmp"
        litter.write_bytes(b"half")
        SpeechCache(tmp_path, Tones()).close()
        assert litter.exists()
    SpeechCache(tmp_path, Tones()).close()
    assert not litter.exists()


def test_a_failure_is_listed_raised_and_tried_again(tmp_path):
    engine = Tones(broken={"two"})
    with SpeechCache(tmp_path, engine) as cache:
        with pytest.raises(SpeechError, match="cannot say two"):
            cache.get("two", VOICE)
        assert not cache.path_of("two", VOICE).exists()
        engine.broken.clear()
        cache.get("two", VOICE)
    assert [(row["status"], row["error"]) for row in lines(tmp_path)] == [
        ("failed", "cannot say two"),
        ("ok", ""),
    ]


def test_threads_and_a_second_cache_share_without_repeating(tmp_path):
    engine = Tones()
    texts = ["one", "two", "three", "four"] * 6
    with SpeechCache(tmp_path, engine) as first, SpeechCache(tmp_path, engine) as second:
        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit((first, second)[i % 2].get, text, VOICE) for i, text in enumerate(texts)]
            paths = {job.result() for job in jobs}
        assert len(paths) == 4
    assert sorted(engine.calls) == ["four", "one", "three", "two"]
    assert len(lines(tmp_path)) == 4


def test_two_threads_that_find_new_rows_count_them_once(tmp_path, monkeypatch):
    parse, gate = json.loads, Barrier(2)

    def at_once(line):
        with suppress(BrokenBarrierError):
            gate.wait(0.5)  # both have read the file by now, unless one waits for the other
        return parse(line)

    with SpeechCache(tmp_path, Tones()) as cache, SpeechCache(tmp_path, Tones()) as other:
        other.get("one", VOICE)
        monkeypatch.setattr("surgvivqa_audio.speech.cache.json.loads", at_once)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda text: cache.get(text, VOICE), ("two", "three")))
        monkeypatch.undo()
        other.get("four", VOICE)
        cache.get("five", VOICE)
        texts = [row["text"] for row in cache.rows()]
        assert (texts[0], sorted(texts[1:3]), texts[3:]) == ("one", ["three", "two"], ["four", "five"])
        assert len(lines(tmp_path)) == 5


def test_put_stores_a_recording_and_replaces_it(tmp_path):
    with SpeechCache(tmp_path, Tones()) as cache:
        cache.put("one", VOICE, np.full(1600, 0.25, np.float32))
        path = cache.put("one", VOICE, np.full(3200, 0.5, np.float32))
        assert cache.verify() == []
    assert read_audio(path)[0] == 0.5
    assert lines(tmp_path)[-1]["seconds"] == 0.2

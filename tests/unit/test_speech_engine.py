"""espeak-ng: repeatable, checked voices, 16 kHz mono."""

from __future__ import annotations

import multiprocessing

import espeakng_loader
import numpy as np
import pytest

from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.files import sha256_bytes
from surgvivqa_audio.speech import _espeak_worker
from surgvivqa_audio.speech.audio import wav_bytes
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, EspeakEngine, Voice, parse_voice


@pytest.fixture(scope="module")
def engine():
    with EspeakEngine() as engine:
        yield engine


def test_same_text_gives_the_same_samples_in_any_order_and_process(engine):
    voice = Voice("en-us")
    first = engine.synthesize("Is the scope moving?", voice)
    engine.synthesize("Which tool is in view?", Voice("en-gb-x-rp"))
    second = engine.synthesize("Is the scope moving?", voice)
    with EspeakEngine() as other:
        third = other.synthesize("Is the scope moving?", voice)
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert 0.5 < first.size / 16000 < 3
    assert 0.1 < np.abs(first).max() <= 1
    assert sha256_bytes(first.tobytes()) == sha256_bytes(second.tobytes()) == sha256_bytes(third.tobytes())


BREATHY = Voice("en-gb-x-gbcwmd+f5", 178, 56)


def said_after_seeds(numbers):
    """What a voice with breath says as the library starts, and after each seed; for a process of its own."""
    loader = espeakng_loader
    lib, _, _ = _espeak_worker.load(str(loader.get_library_path()), str(loader.get_data_path()))
    request = {"text": "Is the scope moving?", "voice": BREATHY.name, "rate": 178, "pitch": 56}
    found = [_espeak_worker._forked(lib, request)]
    for number in numbers:
        _espeak_worker.seed(lib, number)
        found.append(_espeak_worker._forked(lib, request))
    return found


def test_a_voice_with_breath_hangs_on_the_seed_and_not_on_the_clock(engine):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        started, same, other = pool.apply(said_after_seeds, ([_espeak_worker.SEED, 2],))
    assert started == same != other
    assert started[1] == same[1] == other[1] == ""
    first = engine.synthesize("Is the scope moving?", BREATHY)
    with EspeakEngine() as another:
        second = another.synthesize("Is the scope moving?", BREATHY)
    assert sha256_bytes(first.tobytes()) == sha256_bytes(second.tobytes())


def test_voice_rate_and_pitch_change_the_sound(engine):
    text = "Is the scope moving?"
    base = engine.synthesize(text, Voice("en-us", 165, 50))
    slow = engine.synthesize(text, Voice("en-us", 110, 50))
    high = engine.synthesize(text, Voice("en-us", 165, 80))
    assert slow.size > 1.2 * base.size
    assert not np.array_equal(high[:1000], base[:1000])


def test_every_listed_voice_exists(engine):
    names = {voice.name for voice in VOICES + HELD_OUT_VOICES}
    waves = [engine.synthesize("Ask for the larger bottle.", Voice(name)) for name in sorted(names)]
    assert len({wave.tobytes() for wave in waves}) == len(names)


def test_training_and_held_out_voices_are_disjoint():
    train, held_out = {voice.name for voice in VOICES}, {voice.name for voice in HELD_OUT_VOICES}
    assert len(train) >= 6
    assert len(held_out) >= 2
    assert not train & held_out


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (Voice("en-gb"), "no voice 'en-gb'; available: .*en-gb-x-rp"),
        (Voice("en-us+nobody"), "no variant 'nobody'; available: .*f3"),
        (Voice("en-us", rate=20), "rate must be"),
    ],
)
def test_unknown_voices_are_refused_with_those_available(engine, voice, message):
    engine.synthesize("Ja", Voice("de"))
    with pytest.raises(SpeechError, match=message):
        engine.synthesize("Yes", voice)


@pytest.mark.parametrize("text", ["", "  ?!", "x" * 3000])
def test_unspeakable_text_is_refused(engine, text):
    with pytest.raises(SpeechError, match=r"nothing to speak|at most 2000"):
        engine.synthesize(text, Voice("en-us"))


def test_a_dead_worker_is_reported_and_replaced(engine):
    before = engine.synthesize("Yes", Voice("en-us"))
    engine._worker._process.kill()
    engine._worker._process.wait()
    with pytest.raises(SpeechError, match="ended while it spoke 'Yes'"):
        engine.synthesize("Yes", Voice("en-us"))
    assert np.array_equal(engine.synthesize("Yes", Voice("en-us")), before)


def test_synthesize_many_keeps_the_order_for_any_number_of_workers(engine):
    items = [(text, Voice("en-us")) for text in ("one", "two", "three", "four", "one")]
    single = list(engine.synthesize_many(items))
    double = list(engine.synthesize_many(items, workers=2))
    assert [wave.tobytes() for wave in single] == [wave.tobytes() for wave in double]
    assert np.array_equal(single[0], single[4])


def test_voice_ids_round_trip():
    for voice in VOICES + HELD_OUT_VOICES:
        assert parse_voice(voice.id) == voice
    assert parse_voice("en-us+f3-r140") == Voice("en-us+f3", 140, 50)
    with pytest.raises(SpeechError, match="not understood"):
        parse_voice("../x")


def test_a_missing_binary_is_named():
    with pytest.raises(SpeechError, match="no-such-espeak"):
        EspeakEngine("no-such-espeak")


SCRIPT = """#!/bin/sh
case "$*" in
  --version) echo "eSpeak NG text-to-speech: 1.51  Data at: /usr/lib" ;;
  --voices=variant) printf 'Pty Language Age/Gender VoiceName File\\n 5 variant F female3 !v/f3\\n' ;;
  *"-v en-us+f3 -s 150 -p 40"*) cat >/dev/null; cat "$(dirname "$0")/sound.wav" ;;
  *) cat >/dev/null; echo "Error: The specified espeak-ng voice does not exist." >&2; exit 1 ;;
esac
"""


def test_a_system_binary_is_used_when_named_and_its_header_may_lie(tmp_path):
    script = tmp_path / "espeak-ng"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    sound = bytearray(wav_bytes(np.full(800, 0.5, np.float32)))
    sound[4:8] = sound[40:44] = b"\xff\xff\xff\x7f"
    (tmp_path / "sound.wav").write_bytes(sound)
    with EspeakEngine(str(script)) as engine:
        assert engine.version == "1.51 (system binary)"
        wave = engine.synthesize("Yes", Voice("en-us+f3", 150, 40))
        assert wave.tolist() == [0.5] * 800
        with pytest.raises(SpeechError, match="voice does not exist"):
            engine.synthesize("Yes", Voice("en-gb"))
        with pytest.raises(SpeechError, match="no variant 'f9'; available: f3"):
            engine.synthesize("Yes", Voice("en-us+f9"))

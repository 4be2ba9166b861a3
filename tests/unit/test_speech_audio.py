"""Recordings: formats, caps, silence, end-pointing."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile

from surgvivqa_audio.errors import BadAudio, MissingAudio
from surgvivqa_audio.speech.audio import (
    activity,
    decode_audio,
    is_silent,
    read_audio,
    trim_silence,
    wav_bytes,
    write_wav,
)


def tone(seconds=1.0, rate=16000, level=0.3, frequency=440.0):
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(wave, rate, format, subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def muxed(wave, container_format, codec, rate=48000):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, wave.size, 960):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960], format="fltp", layout="mono")
            frame.sample_rate = rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def dominant(wave):
    return np.argmax(np.abs(np.fft.rfft(wave))) * 16000 / wave.size


def test_wav_round_trip_is_bit_equal_and_bytes_repeat(tmp_path):
    wave = (np.arange(-3000, 3000) / 3000 * 32767).astype(np.int16).astype(np.float32) / 32768
    write_wav(tmp_path / "a.wav", wave)
    write_wav(tmp_path / "b.wav", wave)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert np.array_equal(read_audio(tmp_path / "a.wav"), wave)


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44100),
        ("WAV", "FLOAT", 8000),
        ("FLAC", None, 22050),
        ("OGG", None, 48000),
        ("MP3", None, 44100),
    ],
)
def test_formats_give_mono_16_khz(format, subtype, rate):
    wave = decode_audio(encoded(np.stack([tone(1, rate)] * 2, axis=1), rate, format, subtype), "q")
    assert wave.dtype == np.float32
    assert abs(wave.size - 16000) < 1000
    assert dominant(wave) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("mp4", "aac")])
def test_browser_formats_are_read_from_bytes(container, codec):
    wave = decode_audio(muxed(tone(1, 48000), container, codec), "q")
    assert abs(wave.size - 16000) < 1500
    assert dominant(wave) == pytest.approx(440, abs=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "q.wav: empty file"),
        (b"RIFF....WAVE", "q.wav: cannot be decoded"),
        (b"#EXTM3U\nfile:///etc/hostname\n", "q.wav: not a known audio format"),
        (b"\x1aE\xdf\xa3" + b"\0" * 64, "q.wav: cannot be decoded"),
        (wav_bytes(np.zeros(0, np.float32)), "q.wav: holds no sound samples"),
        (encoded(tone(0.1, 2000), 2000, "WAV"), "sample rate 2000"),
        (encoded(np.zeros((100, 9), np.float32), 16000, "WAV"), "9 channels"),
        (encoded(np.array([0, np.nan], np.float32), 16000, "WAV", "FLOAT"), "not numbers"),
    ],
)
def test_bad_content_is_one_clear_error(content, message):
    with pytest.raises(BadAudio, match=message):
        decode_audio(content, "q.wav")


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_thirty_seconds_pass_and_thirty_one_do_not(format):
    assert decode_audio(encoded(np.zeros(30 * 8000, np.float32), 8000, format), "q").size == 480000
    with pytest.raises(BadAudio, match=r"q: 31\.0 s long"):
        decode_audio(encoded(np.zeros(31 * 8000, np.float32), 8000, format), "q")


def test_a_long_webm_is_refused():
    with pytest.raises(BadAudio, match="s long"):
        decode_audio(muxed(np.zeros(31 * 48000, np.float32), "webm", "libopus"), "q.webm")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingAudio, match=r"none\.wav: no such recording"):
        read_audio(tmp_path / "none.wav")


def test_silence_is_told_from_speech():
    rng = np.random.default_rng(0)
    hiss = (rng.standard_normal(16000) * 10 ** (-60 / 20)).astype(np.float32)
    click = np.zeros(16000, np.float32)
    click[8000:8200] = 0.5
    assert is_silent(np.zeros(16000, np.float32))
    assert is_silent(np.zeros(0, np.float32))
    assert is_silent(hiss)
    assert is_silent(click)
    assert not is_silent(hiss + np.pad(tone(0.3, level=0.05), (8000, 3200)))


def test_trim_keeps_the_speech_and_its_margin():
    wave = np.concatenate([np.zeros(8000), tone(0.5), np.zeros(12000)]).astype(np.float32)
    cut = trim_silence(wave, margin_s=0.1)
    assert abs(cut.size - (8000 + 3200)) <= 640
    assert np.abs(cut).sum() == pytest.approx(np.abs(wave).sum())
    assert trim_silence(np.zeros(100, np.float32)).size == 100


def test_activity_marks_the_speech_above_a_noise_floor():
    rng = np.random.default_rng(0)
    wave = np.concatenate([np.zeros(16000), tone(1.0), np.zeros(16000)])
    wave = (wave + rng.standard_normal(48000) * 0.01).astype(np.float32)
    active = activity(wave)
    assert active[16320:31680].all()
    assert active.sum() < 17000


def test_damaged_files_never_raise_anything_else():
    rng = np.random.default_rng(0)
    sources = [
        encoded(tone(0.2, 22050), 22050, "FLAC"),
        encoded(tone(0.2, 48000), 48000, "OGG"),
        muxed(tone(0.2, 48000), "webm", "libopus"),
        muxed(tone(0.2, 48000), "mp4", "aac"),
    ]
    outcomes = set()
    for round_ in range(300):
        content = bytearray(sources[round_ % 4])
        reach = (64, 512, len(content))[round_ % 3]
        for place in rng.integers(4, min(reach, len(content)), size=(1, 8, 60)[round_ // 100]):
            content[place] = rng.integers(256)
        try:
            outcomes.add(decode_audio(bytes(content), "q").dtype.name)
        except BadAudio as error:
            outcomes.add(str(error)[:3])
    assert outcomes == {"float32", "q: "}

"""Audio files: checked before they are decoded, mono 16 kHz float32 afterwards."""

from __future__ import annotations

import io
import wave as wave_module
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from surgvivqa_audio.errors import BadAudio, MissingAudio
from surgvivqa_audio.files import write_bytes

SAMPLE_RATE = 16000
MAX_SECONDS = 30.0

Wave = NDArray[np.float32]

_MAX_BYTES = 64 << 20
_RATES = (4_000, 192_000)
_MAX_CHANNELS = 8
_FRAME = SAMPLE_RATE // 50  # 20 ms
_OPEN_DB, _CLOSE_DB = -50.0, -56.0
_MIN_VOICED_FRAMES = 4
_ACCEPTED = "WAV, FLAC, OGG, MP3, WebM or M4A"


def resample(wave: Wave, rate: int, target: int) -> Wave:
    """Resample mono float32 (samples,) and keep it in [-1, 1]."""
    if rate != target:
        wave = soxr.resample(wave, rate, target, quality="HQ")
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def _too_long(name: str, seconds: float) -> BadAudio:
    return BadAudio(
        f"{name}: {seconds:.1f} s long; a question may last {MAX_SECONDS:.0f} s, cut the recording"
    )


def _check_header(name: str, rate: int, channels: int, seconds: float | None) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise BadAudio(f"{name}: sample rate {rate} Hz; record at {_RATES[0]} to {_RATES[1]} Hz")
    if not 1 <= channels <= _MAX_CHANNELS:
        raise BadAudio(f"{name}: {channels} channels; record with 1 to {_MAX_CHANNELS}")
    if seconds is not None and seconds > MAX_SECONDS:
        raise _too_long(name, seconds)


def _decode_soundfile(content: bytes, name: str) -> tuple[Wave, int]:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as stream:
            rate = int(stream.samplerate)
            _check_header(name, rate, int(stream.channels), stream.frames / max(rate, 1))
            # the header may lie: never read more than the cap
            block = stream.read(int(MAX_SECONDS * rate) + 1, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise BadAudio(f"{name}: cannot be decoded; record it again as {_ACCEPTED}") from error
    return block.mean(axis=1, dtype=np.float32), rate


def _decode_av(content: bytes, name: str, container_format: str) -> tuple[Wave, int]:
    chunks: list[Wave] = []
    total = 0
    try:
        # from bytes with a forced container: a playlist or a reference to another file is refused
        with av.open(io.BytesIO(content), mode="r", format=container_format) as container:
            if not container.streams.audio:
                raise BadAudio(f"{name}: holds no audio track; record it again as {_ACCEPTED}")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # a codec this build cannot decode
                raise BadAudio(f"{name}: unknown codec; record it again as {_ACCEPTED}")
            rate = int(stream.rate or 0)
            seconds = container.duration / av.time_base if container.duration else None
            _check_header(name, rate, int(stream.channels or 0), seconds)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            for frame in container.decode(stream):
                for block in resampler.resample(frame):
                    chunks.append(block.to_ndarray().reshape(-1).astype(np.float32))
                    total += chunks[-1].size
                if total > MAX_SECONDS * rate:
                    raise _too_long(name, total / rate)
    except (av.FFmpegError, ValueError) as error:
        raise BadAudio(f"{name}: cannot be decoded; record it again as {_ACCEPTED}") from error
    return (np.concatenate(chunks) if chunks else np.zeros(0, np.float32)), rate


def decode_audio(content: bytes, name: str) -> Wave:
    """Decode a recording held in memory; ``name`` is used in messages only.

    Returns float32 (samples,) mono at 16 kHz in [-1, 1]. The format is told by the first bytes, never by
    the name.

    Raises:
        BadAudio: empty, longer than 30 s, over a cap, of an unknown format or damaged.
    """
    if not content:
        raise BadAudio(f"{name}: empty file; record the question again")
    if len(content) > _MAX_BYTES:
        raise BadAudio(f"{name}: {len(content) >> 20} MB; at most {_MAX_BYTES >> 20} MB are read")
    if content[:4] in (b"RIFF", b"fLaC", b"OggS") or content[:3] == b"ID3":
        decoded, rate = _decode_soundfile(content, name)
    elif content[:4] == b"\x1aE\xdf\xa3":
        decoded, rate = _decode_av(content, name, "matroska")
    elif content[4:8] == b"ftyp":
        decoded, rate = _decode_av(content, name, "mov")
    elif content[0] == 0xFF and len(content) > 1 and content[1] & 0xE0 == 0xE0:
        decoded, rate = _decode_soundfile(content, name)
    else:
        raise BadAudio(f"{name}: not a known audio format; record it as {_ACCEPTED}")
    if not decoded.size:
        raise BadAudio(f"{name}: holds no sound samples; record the question again")
    if decoded.size > MAX_SECONDS * rate:
        raise _too_long(name, decoded.size / rate)
    if not np.isfinite(decoded).all():
        raise BadAudio(f"{name}: holds samples that are not numbers; record the question again")
    return resample(decoded, rate, SAMPLE_RATE)


def read_audio(path: str | Path) -> Wave:
    """Read a recording: float32 (samples,) mono at 16 kHz in [-1, 1].

    Raises:
        MissingAudio: there is no such file.
        BadAudio: it is empty, longer than 30 s, over a cap or cannot be decoded; names file and remedy.
    """
    return decode_audio(_content(Path(path)), str(path))


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise MissingAudio(f"{path}: no such recording; check the path or run `surgvivqa speech make`")
    if path.stat().st_size > _MAX_BYTES:
        raise BadAudio(f"{path}: {path.stat().st_size >> 20} MB; at most {_MAX_BYTES >> 20} MB are read")
    return path.read_bytes()


def recorded_seconds(path: str | Path) -> float:
    """Length of a recording by its header; by decoding where the header does not say (WebM, M4A).

    A length over 30 s is returned, not refused, where a header says it. Raises as :func:`read_audio`.
    """
    path = Path(path)
    content = _content(path)
    if not content or content[:4] == b"\x1aE\xdf\xa3" or content[4:8] == b"ftyp":
        return decode_audio(content, str(path)).size / SAMPLE_RATE
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as stream:
            _check_header(str(path), int(stream.samplerate), int(stream.channels), None)
            return float(stream.frames) / float(stream.samplerate)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise BadAudio(f"{path}: cannot be decoded; record it again as {_ACCEPTED}") from error


def wav_bytes(wave: Wave) -> bytes:
    """A 16-bit mono 16 kHz WAV file; equal waves give equal bytes."""
    samples = np.clip(np.rint(np.asarray(wave, np.float64) * 32768.0), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave_module.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(SAMPLE_RATE)
        stream.writeframes(samples.tobytes())
    return buffer.getvalue()


def write_wav(path: str | Path, wave: Wave) -> None:
    """Write a 16-bit mono 16 kHz WAV file atomically."""
    write_bytes(path, wav_bytes(wave))


def _frame_levels(wave: Wave) -> NDArray[np.float64]:
    count = -(-wave.size // _FRAME)
    padded = np.zeros(count * _FRAME, np.float64)
    padded[: wave.size] = wave
    power = np.square(padded.reshape(count, _FRAME)).mean(axis=1)
    return np.asarray(10.0 * np.log10(power + 1e-12), np.float64)


def _gate(levels: NDArray[np.float64], opening: float, closing: float) -> NDArray[np.bool_]:
    """Hysteresis: a run of frames above ``closing`` counts if it holds enough frames above ``opening``."""
    above = levels > closing
    edges = np.flatnonzero(np.diff(np.concatenate(([0], above.astype(np.int8), [0]))))
    voiced = np.zeros(levels.size, np.bool_)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if int((levels[start:stop] > opening).sum()) >= _MIN_VOICED_FRAMES:
            voiced[start:stop] = True
    return voiced


def activity(wave: Wave) -> NDArray[np.bool_]:
    """Which samples belong to speech, bool (samples,): an energy gate that adapts to the noise floor."""
    return np.repeat(_voiced_frames(wave), _FRAME)[: wave.size]


def _voiced_frames(wave: Wave) -> NDArray[np.bool_]:
    if not wave.size:
        return np.zeros(0, np.bool_)
    levels = _frame_levels(wave)
    floor, peak = np.percentile(levels, 10), float(levels.max())
    opening = max(_OPEN_DB, min(float(floor) + 12.0, peak - 20.0))
    return _gate(levels, opening, opening + _CLOSE_DB - _OPEN_DB)


def is_silent(wave: Wave) -> bool:
    """Whether nothing was said: fewer than 80 ms in one stretch above -50 dBFS."""
    return not (wave.size and bool(_gate(_frame_levels(wave), _OPEN_DB, _CLOSE_DB).any()))


def trim_silence(wave: Wave, margin_s: float = 0.1) -> Wave:
    """Cut silence before and after the speech, keeping ``margin_s`` on each side; silence stays as it is."""
    voiced = np.flatnonzero(_voiced_frames(wave))
    if not voiced.size:
        return wave
    margin = int(margin_s * SAMPLE_RATE)
    end = min((int(voiced[-1]) + 1) * _FRAME, wave.size)
    return wave[max(0, int(voiced[0]) * _FRAME - margin) : end + margin]

"""Offline synthesis with espeak-ng, repeatable bit for bit; the GPL-3 library runs in its own process."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.errors import SpeechError
from surgvivqa_audio.speech.audio import SAMPLE_RATE, resample
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.speech.voices import HELD_OUT_VOICES, VOICES, Voice, parse_voice

__all__ = [
    "HELD_OUT_VOICES",
    "VOICES",
    "EspeakEngine",
    "SpeechEngine",
    "Voice",
    "parse_voice",
    "speakable",
]

Wave = NDArray[np.float32]

MAX_CHARACTERS = 2_000
_WORKER = Path(__file__).with_name("_espeak_worker.py")
_TIMEOUT_S = 60.0


class SpeechEngine(Protocol):
    """What the cache needs from an engine."""

    name: str
    version: str
    licence: str

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Speak ``text``; float32 (samples,) mono at 16 kHz in [-1, 1]."""
        ...

    def close(self) -> None:
        """Give back processes and connections; harmless when repeated."""
        ...


class _Worker:
    """One worker process; answers one request at a time."""

    def __init__(self, library: str, data: str) -> None:
        self._arguments = [sys.executable, "-I", "-S", str(_WORKER), library, data]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.version = ""

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        header = json.loads(line) if line.endswith(b"\n") else {"error": "no reply"}
        if header["error"]:
            process.kill()
            process.communicate()
            raise SpeechError(f"espeak-ng did not start ({header['error']}); reinstall espeakng-loader")
        self.version = header["version"]
        return process

    def open(self) -> None:
        """Start the process if it does not run."""
        with self._lock:
            if self._process is None:
                self._process = self._start()

    def ask(self, text: str, voice: Voice) -> tuple[bytes, int, str]:
        """PCM, sample rate and error of one utterance."""
        request = {"text": text, "voice": voice.name, "rate": voice.rate, "pitch": voice.pitch}
        with self._lock:
            if self._process is None:
                self._process = self._start()
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            watchdog = threading.Timer(_TIMEOUT_S, process.kill)
            watchdog.start()
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
                header = json.loads(line) if line.endswith(b"\n") else None
                pcm = process.stdout.read(header["bytes"]) if header else b""
            except BrokenPipeError:
                header, pcm = None, b""
            finally:
                watchdog.cancel()
            if header is None or len(pcm) != header["bytes"]:
                self._stop()
                raise SpeechError(f"the espeak-ng process ended while it spoke '{text[:60]}'; run again")
        return pcm, int(header["sample_rate"]), str(header["error"])

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.communicate()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()


def _parse_wav(content: bytes, text: str) -> tuple[bytes, int]:
    """PCM and rate of a WAV stream whose header may lie about the length (it was written to a pipe)."""
    start = content.find(b"data")
    if content[:4] != b"RIFF" or start < 0:
        raise SpeechError(f"espeak-ng returned no WAV data for '{text[:60]}'")
    return content[start + 8 :], int.from_bytes(content[24:28], "little")


class EspeakEngine:
    """espeak-ng: the pinned library by default, a system binary when its path is given.

    Thread-safe. Use as a context manager, or call :meth:`close`.

    Raises:
        SpeechError: neither library nor binary can be started; names both remedies.
    """

    name = "espeak-ng"
    licence = "espeak-ng is GPL-3.0-or-later; its output carries no restriction; runs offline"

    def __init__(self, binary: str | None = None) -> None:
        self._binary = binary
        self._data: Path | None = None
        self._worker: _Worker | None = None
        if binary is None:
            self._worker = self._library_worker()
            self._worker.open()
            self.version = self._worker.version
        else:
            found = re.search(r"\d+\.\d+(\.\d+)?", self._call(["--version"], "").decode(errors="replace"))
            self.version = (found.group() if found else "unknown") + " (system binary)"

    def _library_worker(self) -> _Worker:
        try:
            import espeakng_loader
        except ImportError as error:
            raise SpeechError(
                "espeak-ng is missing: `pip install espeakng-loader`, or name a system binary"
            ) from error
        self._data = Path(espeakng_loader.get_data_path())
        return _Worker(str(espeakng_loader.get_library_path()), str(self._data))

    def _call(self, arguments: list[str], text: str) -> bytes:
        assert self._binary is not None
        try:
            done = subprocess.run(
                [self._binary, *arguments],
                input=text.encode(),
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SpeechError(f"'{self._binary}' cannot be run ({error}); install espeak-ng") from error
        if done.returncode:
            detail = done.stderr.decode(errors="replace").strip()
            raise SpeechError(f"{self._binary} {' '.join(arguments)}: {detail or done.returncode}")
        return done.stdout

    def voices(self) -> list[str]:
        """English voice names this engine has, without variants."""
        if self._data is not None:
            return sorted(path.name.lower() for path in (self._data / "lang" / "gmw").glob("en-*"))
        table = self._call(["--voices=en"], "").decode(errors="replace").splitlines()[1:]
        return sorted({row.split()[1].lower() for row in table if len(row.split()) > 1})

    def variants(self) -> list[str]:
        """Variant names, to be appended to a voice after a plus sign."""
        if self._data is not None:
            return sorted(path.name for path in (self._data / "voices" / "!v").iterdir())
        table = self._call(["--voices=variant"], "").decode(errors="replace").splitlines()[1:]
        return sorted({row.split()[-1].rpartition("/")[2] for row in table if row.strip()})

    def _check(self, text: str, voice: Voice) -> None:
        if not re.search(r"\w", text):
            raise SpeechError(f"nothing to speak in {text!r}; give the question in words")
        if len(text) > MAX_CHARACTERS:
            raise SpeechError(f"text of {len(text)} characters; at most {MAX_CHARACTERS} can be spoken")
        if not (80 <= voice.rate <= 450 and 0 <= voice.pitch <= 99):
            raise SpeechError(f"voice {voice.id}: rate must be 80 to 450 and pitch 0 to 99")
        variant = voice.name.partition("+")[2]
        # espeak-ng ignores an unknown variant without any sign
        if variant and variant not in self.variants():
            raise SpeechError(
                f"espeak-ng has no variant '{variant}'; available: {', '.join(self.variants())}"
            )

    def _pcm(self, worker: _Worker | None, text: str, voice: Voice) -> tuple[bytes, int]:
        if worker is None:
            options = ["--stdout", "--stdin", "-v", voice.name, "-s", str(voice.rate), "-p", str(voice.pitch)]
            return _parse_wav(self._call(options, text), text)
        pcm, rate, problem = worker.ask(text, voice)
        if problem == "voice":
            raise SpeechError(
                f"espeak-ng {self.version} has no voice '{voice.name}'; available: "
                f"{', '.join(self.voices())}, each also with a variant such as +f3"
            )
        if problem:
            raise SpeechError(f"espeak-ng could not speak '{text[:60]}' with {voice.id}: {problem}")
        return pcm, rate

    def _synthesize(self, worker: _Worker | None, text: str, voice: Voice) -> Wave:
        self._check(text, voice)
        pcm, rate = self._pcm(worker, text, voice)
        wave = np.frombuffer(pcm[: len(pcm) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0
        if not wave.size:
            raise SpeechError(f"espeak-ng returned no sound for '{text[:60]}' with {voice.id}")
        return resample(wave, rate, SAMPLE_RATE)

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Speak ``text`` as written; float32 (samples,) mono at 16 kHz in [-1, 1], equal on every call.

        Pass the text through :func:`speakable` first if it holds digits, brackets or abbreviations.

        Raises:
            SpeechError: unknown voice or variant (lists those available), empty text, or engine failure.
        """
        return self._synthesize(self._worker, text, voice)

    def synthesize_many(self, items: Iterable[tuple[str, Voice]], workers: int = 1) -> Iterator[Wave]:
        """Yield the waves of ``(text, voice)`` pairs in order; ``workers`` processes speak in parallel.

        Raises:
            SpeechError: as :meth:`synthesize`, when the failing item is reached.
        """
        if workers <= 1:
            for text, voice in items:
                yield self.synthesize(text, voice)
            return
        extra = [] if self._worker is None else [self._library_worker() for _ in range(workers - 1)]
        ring: Iterator[_Worker | None] = itertools.cycle([self._worker, *extra])
        pending: list[Future[Wave]] = []
        try:
            with ThreadPoolExecutor(workers) as pool:
                for text, voice in items:
                    pending.append(pool.submit(self._synthesize, next(ring), text, voice))
                    if len(pending) >= 4 * workers:
                        yield pending.pop(0).result()
                while pending:
                    yield pending.pop(0).result()
        finally:
            for worker in extra:
                worker.close()

    def close(self) -> None:
        """End the worker process; the engine starts it again when used."""
        if self._worker is not None:
            self._worker.close()

    def __enter__(self) -> EspeakEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

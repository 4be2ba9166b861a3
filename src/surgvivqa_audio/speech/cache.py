"""Content-addressed store of synthesised questions.

``audio/<hash>.wav`` appears complete or not at all; ``manifest.jsonl`` is append-only. A file whose manifest
row was lost in a kill is taken over, not synthesised again. Several processes may share one folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa_audio.errors import SpeechError, SurgVivqaError
from surgvivqa_audio.files import fsync_path, sha256_bytes, write_bytes
from surgvivqa_audio.speech.audio import SAMPLE_RATE, Wave, decode_audio, read_audio, wav_bytes
from surgvivqa_audio.speech.engine import SpeechEngine, Voice
from surgvivqa_audio.speech.noise import degrade
from surgvivqa_audio.speech.speakable import speakable

MANIFEST = "manifest.jsonl"
_AUDIO = "audio"
_STRIPES = 256


class SpeechCache:
    """Files of one engine in ``folder``; use as a context manager or call :meth:`close`.

    Raises:
        SpeechError: the manifest is damaged other than by a torn last line.
    """

    def __init__(self, folder: str | Path, engine: SpeechEngine) -> None:
        self.folder = Path(folder)
        self.engine = engine
        self.synthesised = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._read_to = 0
        (self.folder / _AUDIO).mkdir(parents=True, exist_ok=True)
        (self.folder / ".locks").mkdir(exist_ok=True)
        self._presence = os.open(self.folder / ".locks" / "open", os.O_RDWR | os.O_CREAT, 0o644)
        self._enter()

    def _enter(self) -> None:
        try:
            fcntl.flock(self._presence, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others work here: their unfinished files are not litter
        else:
            for litter in (self.folder / _AUDIO).glob(".*.tmp"):
                litter.unlink(missing_ok=True)
        fcntl.flock(self._presence, fcntl.LOCK_SH)
        with self.locked("manifest"):
            self._mend()
            self._refresh()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the folder's lock of that name, against threads and other processes alike."""
        handle = os.open(self.folder / ".locks" / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @property
    def manifest(self) -> Path:
        """The append-only list of files."""
        return self.folder / MANIFEST

    def _mend(self) -> None:
        """Cut a last line that a kill left without its end; call with the manifest locked."""
        if not self.manifest.exists():
            return
        with open(self.manifest, "r+b") as stream:
            content = stream.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                stream.truncate(whole)
                os.fsync(stream.fileno())

    def _refresh(self) -> None:
        """Read the rows that were appended since the last time, by whichever process; call with the manifest
        locked, threads share the place read to."""
        if not self.manifest.exists():
            return
        with open(self.manifest, "rb") as stream:
            stream.seek(self._read_to)
            content = stream.read()
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                row = json.loads(line)
                self._rows[row["hash"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise SpeechError(
                    f"{self.manifest}: the line at byte {self._read_to} is damaged; delete that line, the "
                    "files it names are found again"
                ) from error
            self._read_to += len(line)

    def _append(self, row: dict[str, Any]) -> None:
        with self.locked("manifest"):
            self._mend()
            new = not self.manifest.exists()
            handle = os.open(self.manifest, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                while line:
                    line = line[os.write(handle, line) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            if new:
                fsync_path(self.folder)
            self._refresh()

    def hash_of(self, text: str, voice: Voice, noise: str = "") -> str:
        """Identity of a file: written and spoken text, voice, rate, pitch, engine, its version, noise."""
        identity = [text, speakable(text), voice.name, voice.rate, voice.pitch]
        identity += [self.engine.name, self.engine.version, *([noise] if noise else [])]
        return hashlib.sha256(json.dumps(identity, ensure_ascii=False).encode()).hexdigest()

    def path_of(self, text: str, voice: Voice, noise: str = "") -> Path:
        """Where the file of this text and voice stands, made or not."""
        return self.folder / _AUDIO / f"{self.hash_of(text, voice, noise)}.wav"

    def rows(self) -> list[dict[str, Any]]:
        """Manifest rows, the latest of each file, in order of first appearance."""
        return list(self._rows.values())

    def _row(
        self, text: str, voice: Voice, noise: str, content: bytes | None, error: str = ""
    ) -> dict[str, Any]:
        key = self.hash_of(text, voice, noise)
        samples = 0 if content is None else (len(content) - 44) // 2
        return {
            "hash": key,
            "file": f"{_AUDIO}/{key}.wav",
            "text": text,
            "spoken": speakable(text),
            "voice": voice.name,
            "rate": voice.rate,
            "pitch": voice.pitch,
            "noise": noise,
            "engine": self.engine.name,
            "version": self.engine.version,
            "licence": self.engine.licence,
            "sha256": "" if content is None else sha256_bytes(content),
            "bytes": 0 if content is None else len(content),
            "seconds": round(samples / SAMPLE_RATE, 3),
            "status": "failed" if error else "ok",
            "error": error,
        }

    def _good(self, key: str, path: Path) -> bool:
        row = self._rows.get(key)
        if row is None or row["status"] != "ok":
            return False
        return path.exists() and path.stat().st_size == row["bytes"]

    def get(self, text: str, voice: Voice, noise: str = "") -> Path:
        """The WAV file of ``text`` spoken by ``voice``; synthesised once, whoever asks, however often killed.

        ``noise`` (see :func:`~surgvivqa_audio.speech.noise.parse_degradation`) asks for a degraded copy,
        whose noise is seeded by the identity of the file.

        Raises:
            SpeechError: the engine failed; the manifest then holds a row with status ``failed``.
            BadAudio: ``noise`` is not understood.
        """
        if not noise:
            return self._get(text, voice, "", lambda: self._synthesise(text, voice))
        if self._good(self.hash_of(text, voice, noise), self.path_of(text, voice, noise)):
            return self.path_of(text, voice, noise)
        clean = read_audio(self.get(text, voice))
        rng = np.random.default_rng(int(self.hash_of(text, voice, noise)[:16], 16))
        return self._get(text, voice, noise, lambda: degrade(clean, noise, rng))

    def put(self, text: str, voice: Voice, wave: Wave) -> Path:
        """Store a recording instead of synthesising it; an earlier one is replaced."""
        return self._get(text, voice, "", lambda: wave, replace=True)

    def _get(
        self, text: str, voice: Voice, noise: str, make: Callable[[], Wave], replace: bool = False
    ) -> Path:
        key, path = self.hash_of(text, voice, noise), self.path_of(text, voice, noise)
        if not replace and self._good(key, path):
            return path
        with self.locked(f"{int(key[:8], 16) % _STRIPES:03d}"):
            with self.locked("manifest"):
                self._refresh()
            if not replace and self._good(key, path):
                return path
            listed = self._rows.get(key, {}).get("status") == "ok"
            if not (replace or listed) and path.exists():
                content = path.read_bytes()  # complete: it was renamed into place before a kill
                decode_audio(content, str(path))
            else:
                content = wav_bytes(make())
                write_bytes(path, content)
            self._append(self._row(text, voice, noise, content))
        return path

    def _synthesise(self, text: str, voice: Voice) -> Wave:
        try:
            wave = self.engine.synthesize(speakable(text), voice)
        except SurgVivqaError as error:
            self._append(self._row(text, voice, "", None, str(error)))
            raise
        self.synthesised += 1
        return wave

    def verify(self) -> list[str]:
        """Hashes of the files that are missing or whose bytes differ from the manifest."""
        with self.locked("manifest"):
            self._refresh()
        bad = []
        for row in self.rows():
            path = self.folder / row["file"]
            if row["status"] != "ok":
                continue
            if not path.is_file() or sha256_bytes(path.read_bytes()) != row["sha256"]:
                bad.append(str(row["hash"]))
        return bad

    def close(self) -> None:
        """Leave the folder to others."""
        if self._presence >= 0:
            os.close(self._presence)
            self._presence = -1

    def __enter__(self) -> SpeechCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

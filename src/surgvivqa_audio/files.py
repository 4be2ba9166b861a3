"""Files that appear complete or not at all, and the hashes that identify them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from surgvivqa_audio.errors import BadAnnotation

_CHUNK = 1 << 20


def fsync_path(path: Path) -> None:
    """Make a file's content, or a rename inside a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces ``path`` only after it was written and synced in full.

    An exception or a kill leaves the previous content of ``path`` (or its absence) untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(staged, 0o644)
        os.replace(staged, path)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` atomically."""
    with atomic_writer(path) as stream:
        stream.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"))


def dump_json(value: Any) -> str:
    """One canonical JSON form, so that equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as canonical JSON, atomically."""
    write_text(path, dump_json(value))


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically; key order of each row is kept."""
    with atomic_writer(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)``; blank lines are skipped, a last line may lack its newline.

    Raises:
        BadAnnotation: the file is missing, not UTF-8, or a line is not a JSON object.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadAnnotation(f"{path}: cannot be read ({error.strerror}); check the path") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
            if b"\\u" in line:  # an escape may hold half a surrogate pair, which no file can store
                json.dumps(row, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            raise BadAnnotation(
                f"{path}:{number}: not valid JSON ({error}); each line must hold one JSON object"
            ) from error
        if not isinstance(row, dict):
            raise BadAnnotation(f"{path}:{number}: a JSON object is needed, not {type(row).__name__}")
        yield number, row


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()

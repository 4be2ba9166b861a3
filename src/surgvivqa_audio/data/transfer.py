"""HTTP transfers that survive broken connections: resumed, retried, rate-limited and checked."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from surgvivqa_audio.data.addresses import Redirects, check_url
from surgvivqa_audio.errors import FetchError
from surgvivqa_audio.files import fsync_path, write_json

_CHUNK = 1 << 16
_BUSY = (408, 429, 500, 502, 503, 504)
_BROKEN = (OSError, http.client.HTTPException, EOFError)
USER_AGENT = "surgvivqa-audio (research data fetch)"


@dataclass(frozen=True)
class Source:
    """A file on a server: its name, address, size in bytes and checksums where known."""

    name: str
    url: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None


class _Retry(Exception):
    """The server asks to come back later."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass
class Transfer:
    """How to talk to a server.

    Args:
        rate: bytes per second at most; None for no limit.
        retries: failures in a row, without a byte in between, before giving up.
        timeout: seconds without a byte that count as a failure.
        wait, clock: replaced in tests.
        report: called with the number of bytes of each block.
    """

    rate: float | None = None
    retries: int = 6
    timeout: float = 60.0
    wait: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    report: Callable[[int], None] = lambda _: None
    jitter: random.Random = field(default_factory=lambda: random.Random(0))

    def blocks(self, source: Source, start: int = 0, etag: str | None = None) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on, over as many connections as it takes.

        Raises:
            FetchError: refused, gone, longer or shorter than announced, or too many failures in a row.
        """
        place, failures = start, 0
        began, counted = self.clock(), 0
        while True:
            before = place
            try:
                for block in self._attempt(source, place, etag):
                    place += len(block)
                    counted += len(block)
                    self.report(len(block))
                    yield block
                    self._slow_down(began, counted)
                return
            except (_Retry, *_BROKEN) as error:
                failures = 1 if place > before else failures + 1
                if failures > self.retries:
                    raise FetchError(
                        f"{source.name}: gave up after {failures} failures at byte {place} ({error}); "
                        "run the command again to resume"
                    ) from error
                asked = error.seconds if isinstance(error, _Retry) else None
                self.wait(self._pause(failures, asked))

    def _pause(self, failures: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, 300.0)
        return min(2.0 ** (failures - 1), 60.0) * (0.5 + self.jitter.random() / 2)

    def _slow_down(self, began: float, counted: int) -> None:
        if self.rate:
            ahead = counted / self.rate - (self.clock() - began)
            if ahead > 0:
                self.wait(ahead)

    def _attempt(self, source: Source, place: int, etag: str | None) -> Iterator[bytes]:
        if source.size is not None and place == source.size:
            return
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if place:
            headers["Range"] = f"bytes={place}-"
            if etag:
                headers["If-Range"] = etag
        request = urllib.request.Request(check_url(source.url), headers=headers)
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            Redirects(),
        ):
            opener.add_handler(handler)
        try:
            response = opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in _BUSY:
                    raise _Retry(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After"))) from error
                if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{place}":
                    return  # all of a file of unknown size is here already
                raise FetchError(
                    f"{source.name}: the server answers HTTP {error.code} ({source.url})"
                ) from error
        with response:
            yield from self._body(response, source, place)

    def _body(self, response: Any, source: Source, place: int) -> Iterator[bytes]:
        total = self._total(response, source, place)
        # A server that ignores ranges sends the file from its start: what is there already is dropped.
        skip = place if response.status == 200 else 0
        got = place - skip
        while block := response.read(_CHUNK):
            got += len(block)
            if total is not None and got > total:
                raise FetchError(f"{source.name}: the server sends more than the announced {total} bytes")
            if skip:
                dropped = min(skip, len(block))
                skip -= dropped
                block = block[dropped:]
            if block:
                yield block
        if total is not None and got < total:
            raise _Retry(f"the connection closed at byte {got} of {total}")

    @staticmethod
    def _total(response: Any, source: Source, place: int) -> int | None:
        if response.status == 206:
            span = str(response.headers.get("Content-Range", ""))
            begin, _, total = span.removeprefix("bytes ").partition("/")
            if not begin.startswith(f"{place}-"):
                raise FetchError(f"{source.name}: asked for byte {place}, the server sends '{span}'")
            length = int(total) if total.isdigit() else None
        else:
            text = str(response.headers.get("Content-Length", ""))
            length = int(text) if text.isdigit() else None
        if source.size is not None and length is not None and length != source.size:
            raise FetchError(f"{source.name}: {length} bytes on the server, {source.size} were announced")
        return source.size if length is None else length

    def fetch(self, source: Source, limit: int = 64 * 1024 * 1024) -> bytes:
        """A small file as bytes, checked against its checksums.

        Raises:
            FetchError: as ``blocks``, over ``limit``, or with other bytes than expected.
        """
        parts: list[bytes] = []
        count = 0
        for block in self.blocks(source):
            count += len(block)
            if count > limit:
                raise FetchError(f"{source.name}: more than {limit} bytes")
            parts.append(block)
        content = b"".join(parts)
        check_sums(source, hashlib.md5(content), hashlib.sha256(content))
        return content

    def download(self, source: Source, path: Path) -> None:
        """Write a file; an interrupted one is continued where it stopped, also by a later process.

        The bytes so far are in ``<name>.part``; it becomes ``path`` only after the checksums match.

        Raises:
            FetchError: as ``blocks``, or with other bytes than expected (the part is then removed).
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        note = path.with_name(path.name + ".part.json")
        origin = {"url": source.url, "size": source.size, "md5": source.md5, "sha256": source.sha256}
        if not _same_origin(note, origin):
            part.unlink(missing_ok=True)
            write_json(note, origin)
        with open(part, "ab") as stream:
            have = stream.tell()
            if source.size is not None and have > source.size:
                stream.truncate(0)
                have = 0
            for block in self.blocks(source, have):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            with open(part, "rb") as stream:
                check_sums(source, *_sums(stream))
        except FetchError:
            part.unlink()
            note.unlink()
            raise
        os.replace(part, path)
        note.unlink()
        fsync_path(path.parent)


def _same_origin(note: Path, origin: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(note.read_bytes()) == origin)
    except (OSError, ValueError):
        return False  # nothing to continue: the download starts at its beginning


def _sums(stream: IO[bytes]) -> tuple[Any, Any]:
    md5, sha256 = hashlib.md5(), hashlib.sha256()
    while block := stream.read(1 << 20):
        md5.update(block)
        sha256.update(block)
    return md5, sha256


def check_sums(source: Source, md5: Any, sha256: Any | None = None) -> None:
    """Compare digests with what the source announces.

    Raises:
        FetchError: they differ.
    """
    for name, expected, digest in (("MD5", source.md5, md5), ("SHA-256", source.sha256, sha256)):
        if expected is not None and digest is not None and digest.hexdigest() != expected.lower():
            raise FetchError(
                f"{source.name}: {name} {digest.hexdigest()}, expected {expected}; the bytes are not the "
                "announced file, nothing of them is kept"
            )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


class BlockReader:
    """Blocks as a file to read from, with a running MD5 over all bytes that went through."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self.md5 = hashlib.md5()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        while len(self._buffer) < size or size < 0:
            block = next(self._blocks, b"")
            if not block:
                break
            self.md5.update(block)
            self.count += len(block)
            self._buffer += block
        cut = len(self._buffer) if size < 0 else size
        part, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return part

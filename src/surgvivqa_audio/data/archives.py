"""The dataset's tar.gz archives read in place.

A gzip stream can only be entered at its start. While it is read, copies of the decoder are kept at
regular distances, so that going back costs at most one distance instead of the whole archive. The
table of members is stored beside the archive and is built once.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import threading
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from surgvivqa_audio.data.images import MAX_IMAGE_BYTES, SUFFIXES, load_image
from surgvivqa_audio.errors import BadImage, MissingFrame
from surgvivqa_audio.files import write_json
from surgvivqa_audio.sample import Image

CHECKPOINT_BYTES = 32 * 1024 * 1024
MAX_MEMBERS = 2_000_000
_CHUNK = 1 << 18
_NUMBER = re.compile(r"[0-9]{1,9}")


class GzipReader(io.RawIOBase):
    """Seekable view of the uncompressed bytes of a gzip file.

    Raises:
        BadImage: on read, when the stream is damaged or ends early.
    """

    def __init__(self, path: str | Path, every: int = CHECKPOINT_BYTES) -> None:
        self.path = Path(path)
        self._every = every
        self._source: BinaryIO = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        self._decoder = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._position = 0
        self._ended = False
        # (uncompressed position, offset in the file of the next compressed byte, decoder)
        self._checkpoints: list[tuple[int, int, Any]] = [(0, 0, self._decoder.copy())]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._source.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a gzip stream is not known in advance")
        if offset < self._position or offset - self._position > self._every:
            self._rewind(offset)
        while self._position < offset and not self._ended:
            self._advance(min(_CHUNK, offset - self._position))
        return self._position

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size if size >= 0 else 1 << 62
        while left > 0 and not self._ended:
            part = self._advance(min(_CHUNK, left))
            left -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _rewind(self, offset: int) -> None:
        best = max((entry for entry in self._checkpoints if entry[0] <= offset), key=lambda entry: entry[0])
        if best[0] <= self._position <= offset:
            return
        self._position, place, decoder = best
        self._decoder = decoder.copy()
        self._pending = b""
        self._source.seek(place)
        self._ended = False

    def _advance(self, size: int) -> bytes:
        """Decode at most ``size`` bytes; an empty result means more input was needed, or the end."""
        if self._decoder.eof:
            # Concatenated gzip members are one stream (RFC 1952).
            self._pending = self._decoder.unused_data or self._source.read(_CHUNK)
            if not self._pending.strip(b"\0"):
                self._ended = True
                return b""
            self._decoder = zlib.decompressobj(wbits=31)
        if not self._pending:
            self._pending = self._source.read(_CHUNK)
            if not self._pending:
                raise BadImage(f"{self.path}: the archive ends early; fetch it again")
        try:
            part = self._decoder.decompress(self._pending, size)
        except zlib.error as error:
            raise BadImage(
                f"{self.path}: damaged at byte {self._position} ({error}); fetch it again"
            ) from error
        self._pending = b"" if self._decoder.eof else self._decoder.unconsumed_tail
        self._position += len(part)
        if self._position - self._checkpoints[-1][0] >= self._every and not self._decoder.eof:
            place = self._source.tell() - len(self._pending)
            self._checkpoints.append((self._position, place, self._decoder.copy()))
        return part


def frame_number(name: str, video_id: str, suffixes: tuple[str, ...] = SUFFIXES) -> int | None:
    """Frame number of ``…/VVV_n.jpg`` or ``…/n.jpg``; None for any other name, also of another procedure."""
    path = Path(name)
    match = _NUMBER.fullmatch(path.stem.removeprefix(f"{video_id}_"))
    if path.suffix.lower() not in suffixes or match is None:
        return None
    return int(match.group())


class ArchiveStore:
    """Frames of one procedure inside ``VVV_frames.tar.gz`` (or ``.tar``), without unpacking it.

    Raises:
        BadImage: the archive is damaged; MissingFrame: it does not exist.
    """

    def __init__(self, path: str | Path, video_id: str) -> None:
        self.path = Path(path)
        self.video_id = video_id
        self._lock = threading.Lock()
        self._reader: io.RawIOBase | None = None
        self._members: dict[int, tuple[str, int, int]] | None = None

    @property
    def index_path(self) -> Path:
        """Where the table of members is kept."""
        return self.path.with_name(self.path.name + ".index.json")

    def read(self, video_id: str, number: int) -> Image:
        """One frame, RGB uint8 (height, width, 3); raises MissingFrame or BadImage."""
        with self._lock:
            member = self._table().get(number) if video_id == self.video_id else None
            if member is None:
                raise MissingFrame(f"{self.path}: no frame {number} of {video_id}")
            name, offset, size = member
            if size > MAX_IMAGE_BYTES:
                raise BadImage(
                    f"{self.path}: {name} has {size} bytes; at most {MAX_IMAGE_BYTES} are accepted"
                )
            reader = self._open()
            reader.seek(offset)
            content = reader.read(size) or b""
        if len(content) != size:
            raise BadImage(f"{self.path}: {name} is cut short; fetch the archive again")
        return load_image(content, f"{self.path}:{name}")

    def has(self, video_id: str, number: int) -> bool:
        """Whether the archive lists the frame."""
        with self._lock:
            return video_id == self.video_id and number in self._table()

    def numbers(self) -> list[int]:
        """All frame numbers in the archive, sorted."""
        with self._lock:
            return sorted(self._table())

    def _open(self) -> io.RawIOBase:
        if self._reader is None:
            try:
                with open(self.path, "rb") as stream:
                    packed = stream.read(2) == b"\x1f\x8b"
                self._reader = GzipReader(self.path) if packed else io.FileIO(self.path)
            except OSError as error:
                raise MissingFrame(
                    f"{self.path}: cannot be opened ({error.strerror}); fetch it first"
                ) from error
        return self._reader

    def _table(self) -> dict[int, tuple[str, int, int]]:
        if self._members is None:
            self._members = self._stored_table() or self._scan()
        return self._members

    def _stamp(self) -> dict[str, int]:
        status = self.path.stat()
        return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _stored_table(self) -> dict[int, tuple[str, int, int]] | None:
        if not self.path.is_file():
            raise MissingFrame(f"{self.path}: no such archive; fetch it first")
        try:
            stored = json.loads(self.index_path.read_bytes())
        except (OSError, ValueError):
            return None  # absent or from an interrupted copy: it is rebuilt from the archive itself
        if not isinstance(stored, dict) or stored.get("stamp") != self._stamp():
            return None
        return {int(number): (entry[0], entry[1], entry[2]) for number, entry in stored["frames"].items()}

    def _scan(self) -> dict[int, tuple[str, int, int]]:
        reader = self._open()
        reader.seek(0)
        table: dict[int, tuple[str, int, int]] = {}
        try:
            with tarfile.open(fileobj=reader, mode="r:") as archive:
                for count, member in enumerate(archive):
                    if count >= MAX_MEMBERS:
                        raise BadImage(f"{self.path}: more than {MAX_MEMBERS} members; not a frame archive")
                    number = frame_number(member.name, self.video_id)
                    if member.isreg() and not member.issparse() and number is not None:
                        if number in table:
                            raise BadImage(f"{self.path}: frame {number} occurs twice ({member.name})")
                        table[number] = (member.name, member.offset_data, member.size)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise BadImage(f"{self.path}: not a complete tar archive ({error}); fetch it again") from error
        frames = {str(number): list(entry) for number, entry in table.items()}
        if os.access(self.path.parent, os.W_OK):  # in a read-only folder the table stays in memory
            write_json(self.index_path, {"stamp": self._stamp(), "frames": frames})
        return table

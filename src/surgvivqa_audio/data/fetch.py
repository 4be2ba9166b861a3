"""`data fetch`: only the frames that the rows need, out of archives streamed once.

A gzip stream cannot be entered in the middle. A connection that breaks is continued at the same
byte while the command runs; after a kill, a streamed archive starts again (frames that are there
already are not written again), while a kept archive continues in mid-file.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from surgvivqa_audio.data.addresses import check_url
from surgvivqa_audio.data.archives import frame_number
from surgvivqa_audio.data.boxes import MAX_XML_BYTES, parse_boxes
from surgvivqa_audio.data.images import MAX_IMAGE_BYTES, SUFFIXES, check_video_id, load_image
from surgvivqa_audio.data.plan import VideoPlan, human_bytes
from surgvivqa_audio.data.presence import enter
from surgvivqa_audio.data.transfer import BlockReader, Source, Transfer, check_sums
from surgvivqa_audio.errors import BadImage, FetchError
from surgvivqa_audio.files import sha256_file, write_bytes, write_json

ARTICLE = 22202866
LISTING = f"https://api.figshare.com/v2/articles/{ARTICLE}/files?page_size=1000"
Kind = Literal["frames", "boxes"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


def read_listing(transfer: Transfer, url: str = LISTING) -> dict[str, Source]:
    """Files of the Figshare article by name.

    Raises:
        FetchError: the answer is not a list of files with names, sizes and addresses.
    """
    content = transfer.fetch(Source("file listing", check_url(url)))
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise FetchError(f"{url}: not a file listing ({error})") from error
    if isinstance(entries, dict):
        entries = entries.get("files")
    if not isinstance(entries, list):
        raise FetchError(f"{url}: not a file listing")
    sources = {}
    for entry in entries:
        source = _listed(entry, url)
        sources[source.name] = source
    return sources


def _listed(entry: Any, url: str) -> Source:
    try:
        name, size, address = entry["name"], entry["size"], entry["download_url"]
    except (TypeError, KeyError) as error:
        raise FetchError(f"{url}: an entry lacks name, size or download_url") from error
    if not (isinstance(name, str) and _NAME.fullmatch(name) and isinstance(size, int) and size >= 0):
        raise FetchError(f"{url}: entry {str(name)[:80]!r} has no usable name or size")
    md5 = entry.get("computed_md5") or entry.get("supplied_md5")
    if md5 is not None and not (isinstance(md5, str) and _MD5.fullmatch(md5)):
        raise FetchError(f"{url}: entry {name} has a malformed checksum")
    return Source(name, check_url(str(address)), size, md5)


def archive_of(kind: Kind, video_id: str, listing: Mapping[str, Source]) -> Source:
    """The archive of a procedure; raises FetchError when the listing has none."""
    endings = {"frames": ("_frames.tar.gz",), "boxes": ("_annotations.tar.gz", "_annotation.tar.gz")}
    for ending in endings[kind]:
        if video_id + ending in listing:
            return listing[video_id + ending]
    raise FetchError(f"the listing has no archive of {kind} for {video_id}; check the id")


@dataclass
class Fetched:
    """What a call did for one procedure."""

    video_id: str
    written: int
    present: int
    missing: list[int]
    transferred: int


@dataclass
class Fetcher:
    """Fetches archives of one kind into a DATA folder."""

    data: Path
    kind: Kind
    transfer: Transfer
    keep_archives: bool = False
    progress: Callable[[str], None] = lambda _: None

    @property
    def folder(self) -> Path:
        """Where the members go."""
        return self.data / self.kind

    def target(self, video_id: str, number: int) -> Path:
        """The file of one frame (or of its boxes)."""
        if self.kind == "frames":
            return self.folder / check_video_id(video_id) / f"{video_id}_{number}.jpg"
        return self.folder / f"{check_video_id(video_id)}_annotations" / f"{video_id}_{number}.xml"

    def state_path(self, video_id: str) -> Path:
        """The record of a finished archive."""
        return self.data / ".fetch" / f"{check_video_id(video_id)}_{self.kind}.json"

    def missing(self, plan: VideoPlan) -> list[int]:
        """Numbers of a plan whose files are not there."""
        return [number for number in plan.numbers if not self.target(plan.video_id, number).is_file()]

    def fetch(self, plan: VideoPlan, source: Source) -> Fetched:
        """Bring the members a plan needs.

        Raises:
            FetchError: the transfer fails, the checksum differs, or the archive lacks a frame.
        """
        wanted = self.missing(plan)
        present = len(plan.numbers) - len(wanted)
        if not wanted:
            return Fetched(plan.video_id, 0, present, [], 0)
        self._check_disk(source, len(wanted) / max(plan.available or len(plan.numbers), 1))
        self.progress(f"{source.name}: {len(wanted)} {self.kind} of {human_bytes(source.size or 0)}")
        bring = self._from_kept if self.keep_archives else self._from_stream
        with enter(self.folder / self.target(plan.video_id, 0).parent.name):
            written, transferred = bring(plan.video_id, source, wanted)
        absent = sorted(set(wanted) - written)
        write_json(
            self.state_path(plan.video_id),
            {
                "archive": source.name,
                "url": source.url,
                "bytes": source.size,
                "md5": source.md5,
                "members": sorted({*written, *(n for n in plan.numbers if n not in wanted)}),
                "not_in_archive": absent,
            },
        )
        if absent:
            raise FetchError(
                f"{source.name}: has no frame {', '.join(map(str, absent[:5]))} ({len(absent)} missing); "
                "the annotations belong to another version"
            )
        return Fetched(plan.video_id, len(written), present, absent, transferred)

    def _check_disk(self, source: Source, share: float) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        need = (source.size or 0) * (1 + share if self.keep_archives else share)
        free = shutil.disk_usage(self.data).free
        if need > free:
            raise FetchError(f"{self.data}: {human_bytes(need)} are needed, {human_bytes(free)} are free")

    def _from_kept(self, video_id: str, source: Source, wanted: Sequence[int]) -> tuple[set[int], int]:
        archive = self.data / "archives" / source.name
        transferred = 0
        if not archive.is_file():
            part = archive.with_name(archive.name + ".part")
            had = part.stat().st_size if part.is_file() else 0
            self.transfer.download(source, archive)
            transferred = archive.stat().st_size - had
        written: set[int] = set()
        with open(archive, "rb") as stream:
            for number in self._extract(video_id, stream, source.name, wanted):
                written.add(number)
        return written, transferred

    def _from_stream(self, video_id: str, source: Source, wanted: Sequence[int]) -> tuple[set[int], int]:
        reader = BlockReader(self.transfer.blocks(source))
        written: set[int] = set()
        try:
            for number in self._extract(video_id, reader, source.name, wanted):
                written.add(number)
            while reader.read(1 << 20):
                pass  # the checksum covers the whole archive
            check_sums(source, reader.md5)
        except BadImage as error:
            self._discard(video_id, written)
            raise FetchError(str(error)) from error
        except FetchError as error:
            if "expected" in str(error):
                self._discard(video_id, written)
            raise
        return written, reader.count

    def _discard(self, video_id: str, written: set[int]) -> None:
        for number in written:
            self.target(video_id, number).unlink(missing_ok=True)

    def _extract(
        self, video_id: str, stream: IO[bytes] | BlockReader, name: str, wanted: Sequence[int]
    ) -> Iterator[int]:
        """Write wanted members one by one, each complete and decodable, and yield their numbers."""
        left = set(wanted)
        suffixes = SUFFIXES if self.kind == "frames" else (".xml",)
        try:
            with (
                gzip.GzipFile(fileobj=stream, mode="rb") as unpacked,  # type: ignore[arg-type]
                tarfile.open(fileobj=unpacked, mode="r|") as archive,
            ):
                for member in archive:
                    number = frame_number(member.name, video_id, suffixes)
                    if number not in left or not member.isreg() or member.issparse():
                        continue
                    self._write(video_id, number, member, archive)
                    left.discard(number)
                    yield number
                while unpacked.read(1 << 20):
                    pass  # gzip checks its own sum at the end
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadImage(f"{name}: damaged archive ({error}); run the command again") from error

    def _write(self, video_id: str, number: int, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        cap = MAX_IMAGE_BYTES if self.kind == "frames" else MAX_XML_BYTES
        if member.size > cap:
            raise BadImage(f"{member.name}: {member.size} bytes; at most {cap} are accepted")
        body = archive.extractfile(member)
        content = body.read() if body is not None else b""
        if self.kind == "frames":
            load_image(content, member.name)
        else:
            parse_boxes(content, member.name)
        write_bytes(self.target(video_id, number), content)


def fetch_file(transfer: Transfer, source: Source, path: Path) -> bool:
    """A single checked file; False when it is there already with the expected checksum.

    Raises:
        FetchError: the transfer fails or the bytes are not the expected ones.
    """
    if path.is_file() and source.sha256 is not None and sha256_file(path) == source.sha256:
        return False
    write_bytes(path, transfer.fetch(source))
    return True

"""Frame stores behind one interface: folders, archives, video files, or a folder that mixes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from surgvivqa_audio.data.archives import ArchiveStore, frame_number
from surgvivqa_audio.data.images import MAX_IMAGE_BYTES, SUFFIXES, check_video_id, load_image
from surgvivqa_audio.data.video import CONTAINERS, VideoFile, VideoStore, read_video_clip
from surgvivqa_audio.errors import BadImage, MissingFrame
from surgvivqa_audio.sample import FrameStore, Image

__all__ = [
    "ArchiveStore",
    "FolderStore",
    "LayeredStore",
    "VideoFile",
    "VideoStore",
    "frame_files",
    "load_image",
    "open_store",
    "read_content",
    "read_frames_folder",
    "read_image",
    "read_video_clip",
]

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_TRAILING = re.compile(r"(\d{1,18})(?!.*\d)")


def read_image(path: str | Path) -> Image:
    """Decode one image file; the size cap is checked before it is read.

    Raises:
        MissingFrame: there is no such file.
        BadImage: it is refused or damaged.
    """
    return load_image(read_content(path), str(path))


def read_content(path: str | Path) -> bytes:
    """Bytes of one image file; the size cap is checked before it is read. Raises MissingFrame, BadImage."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise BadImage(f"{path}: {size} bytes; at most {MAX_IMAGE_BYTES} are accepted")
        return path.read_bytes()
    except OSError as error:
        raise MissingFrame(f"{path}: cannot be read ({error.strerror}); fetch it first") from error


class FolderStore:
    """Frames as files: ``VVV/VVV_n.jpg``, ``VVV/n.jpg``, ``VVV_frames/…`` or ``VVV_n.jpg`` in ``root``.

    A procedure's folder is listed once, when it is first asked for.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._listed: dict[str, dict[int, Path]] = {}

    def read(self, video_id: str, number: int) -> Image:
        """One frame, RGB uint8 (height, width, 3).

        Raises:
            MissingFrame: no file holds it; names the folder.
            BadImage: the file is refused or damaged.
        """
        return read_image(self.path(video_id, number))

    def has(self, video_id: str, number: int) -> bool:
        """Whether a file of that name exists."""
        return number in self._numbers(video_id)

    def numbers(self, video_id: str) -> list[int]:
        """All frame numbers of a procedure, sorted."""
        return sorted(self._numbers(video_id))

    def path(self, video_id: str, number: int) -> Path:
        """The file of one frame; raises MissingFrame."""
        try:
            return self._numbers(video_id)[number]
        except KeyError as error:
            raise MissingFrame(
                f"{self.root}: no frame {number} of {video_id}; `surgvivqa data verify` lists what is missing"
            ) from error

    def _numbers(self, video_id: str) -> dict[int, Path]:
        if video_id not in self._listed:
            check_video_id(video_id)
            found: dict[int, Path] = {}
            for folder in (self.root / video_id, self.root / f"{video_id}_frames", self.root):
                if folder.is_dir() and not found:
                    found = self._list(folder, video_id, bare=folder != self.root)
            self._listed[video_id] = found
        return self._listed[video_id]

    @staticmethod
    def _list(folder: Path, video_id: str, bare: bool) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for path in folder.iterdir():
            number = frame_number(path.name, video_id)
            if number is None or (path.stem.isdigit() and not bare):
                continue
            if number in found:
                raise BadImage(f"{path} and {found[number].name} are the same frame; remove one of them")
            found[number] = path
        return found


class LayeredStore:
    """Several stores asked in order; the first that has a frame gives it."""

    def __init__(self, stores: Sequence[FrameStore], root: Path) -> None:
        self.stores = list(stores)
        self.root = root

    def read(self, video_id: str, number: int) -> Image:
        """One frame, RGB uint8 (height, width, 3); raises MissingFrame or BadImage."""
        for store in self.stores:
            if store.has(video_id, number):
                return store.read(video_id, number)
        raise MissingFrame(
            f"{self.root}: no frame {number} of {video_id} in its folders, archives and videos; "
            "`surgvivqa data verify` lists what is missing"
        )

    def has(self, video_id: str, number: int) -> bool:
        """Whether any of the stores has the frame."""
        return any(store.has(video_id, number) for store in self.stores)


def _is_archive(path: Path) -> bool:
    return path.name.endswith(ARCHIVE_SUFFIXES) and not path.name.startswith(".")


def _video_id(path: Path) -> str:
    name = path.name
    for suffix in (*ARCHIVE_SUFFIXES, *CONTAINERS):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return name.removesuffix("_frames")


def open_store(path: str | Path, first_number: int = 0) -> FrameStore:
    """The frame store that fits a path.

    A DATA folder is entered through its ``frames/`` (or ``videos/``). A folder may hold frame folders,
    ``VVV_frames.tar.gz`` archives and ``VVV.mp4`` videos side by side; a single archive or video file
    is a store of that procedure alone.

    Args:
        first_number: the frame number of the first picture of a video file.

    Raises:
        MissingFrame: the path does not exist or holds no frames at all.
        BadImage: it is a file of another kind.
    """
    path = Path(path)
    if path.is_file():
        if _is_archive(path):
            return ArchiveStore(path, _video_id(path))
        if path.suffix.lower() in CONTAINERS:
            return VideoStore({_video_id(path): path}, first_number)
        raise BadImage(f"{path}: neither a frame archive (.tar.gz) nor a video ({', '.join(CONTAINERS)})")
    if not path.is_dir():
        raise MissingFrame(f"{path}: no such folder of frames; check the path or fetch the frames")
    for inner in ("frames", "videos"):
        if (path / inner).is_dir():
            path = path / inner
            break
    entries = sorted(path.iterdir())
    archives = [ArchiveStore(entry, _video_id(entry)) for entry in entries if _is_archive(entry)]
    videos = {_video_id(entry): entry for entry in entries if entry.suffix.lower() in CONTAINERS}
    if not archives and not videos:
        return FolderStore(path)
    stores: list[FrameStore] = [FolderStore(path), *archives]
    if videos:
        stores.append(VideoStore(videos, first_number))
    return LayeredStore(stores, path)


def frame_files(path: str | Path, count: int = 8) -> list[Path]:
    """The images of a folder in numeric order of the last number in their names.

    Raises:
        MissingFrame: more or fewer than ``count`` images, or a name without a number.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFrame(f"{path}: no such folder; give a folder of {count} images or a video file")
    numbered: dict[int, Path] = {}
    for entry in sorted(path.iterdir()):
        if entry.suffix.lower() not in SUFFIXES or entry.name.startswith("."):
            continue
        match = _TRAILING.search(entry.stem)
        if match is None:
            raise MissingFrame(f"{entry}: the name holds no number; name the frames 1.jpg, 2.jpg, …")
        number = int(match.group(1))
        if number in numbered:
            raise MissingFrame(f"{entry}: {numbered[number].name} has the same number; rename one of them")
        numbered[number] = entry
    if len(numbered) != count:
        raise MissingFrame(f"{path}: {len(numbered)} JPEG or PNG images, but a clip is {count}")
    return [numbered[number] for number in sorted(numbered)]


def read_frames_folder(path: str | Path, count: int = 8) -> list[Image]:
    """The images of :func:`frame_files`, decoded in full.

    Returns:
        ``count`` RGB images of one size, uint8 (height, width, 3).

    Raises:
        MissingFrame: as :func:`frame_files`.
        BadImage: an image is refused or damaged, or the sizes differ.
    """
    images = [read_image(file) for file in frame_files(path, count)]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise BadImage(f"{path}: the images differ in size ({sorted(sizes)}); a clip has one size")
    return images

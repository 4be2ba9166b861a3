"""Corpora of speech with transcripts, in the layouts people have on disk.

Four are read: LibriSpeech folders (``*.trans.txt`` beside the recordings), a Common Voice list (a TSV file
beside ``clips/``), a JSONL manifest of path and text, and a folder written by ``surgvivqa speech make``.
Reading a corpus opens its lists only; a recording is decoded when :meth:`Recording.wave` is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from surgvivqa_audio.errors import BadAnnotation, BadAudio, ConfigError, MissingAudio
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.speech.audio import Wave, read_audio, recorded_seconds
from surgvivqa_audio.speech.cache import MANIFEST

# Common names of one field; the first that a row has is taken.
PATH_KEYS = ("path", "file", "audio_filepath", "audio")
TEXT_KEYS = ("text", "sentence", "transcript", "transcription")
SPEAKER_KEYS = ("speaker", "client_id", "voice")
FORMATS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".webm", ".m4a")

_TRANSCRIPTS = "*.trans.txt"
_CLIPS = "clips"
_MAX_LIST_BYTES = 2 << 30  # the largest Common Voice list is a quarter of this
_MAX_TRANSCRIPT_BYTES = 16 << 20
_MAX_TEXT = 2_000
_MAX_ROWS = 5_000_000
_Read = TypeVar("_Read")
_UTTERANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Recording:
    """One utterance on disk; ``speaker`` is empty where nothing says who, ``where`` is file and row."""

    path: Path
    text: str
    speaker: str
    where: str

    def wave(self) -> Wave:
        """Mono 16 kHz float32 (samples,).

        Raises:
            MissingAudio: the file is gone.
            BadAudio: it is damaged, over a cap, longer than 30 s or of an unknown format; names file and row.
        """
        return self._named(read_audio)

    def seconds(self) -> float:
        """Length by the header, without decoding where the format allows. Raises as :meth:`wave`."""
        return self._named(recorded_seconds)

    def _named(self, read: Callable[[Path], _Read]) -> _Read:
        try:
            return read(self.path)
        except (BadAudio, MissingAudio) as error:
            raise type(error)(f"{self.where}: {error}") from error


def read_corpus(source: str | Path) -> list[Recording]:
    """Every utterance of a corpus, in the order of its lists.

    Args:
        source: a folder with ``*.trans.txt`` anywhere below it; a ``.tsv`` list beside ``clips/``; a
            ``.jsonl`` manifest; or a folder that ``surgvivqa speech make`` wrote.

    Raises:
        BadAnnotation: a list that cannot be read, or a row without path or text; names file and row.
        MissingAudio: a listed recording is not there; names file and row.
        ConfigError: no layout fits.
    """
    source = Path(source)
    if source.is_file() and source.suffix in (".jsonl", ".tsv"):
        found = _manifest(source) if source.suffix == ".jsonl" else _common_voice(source)
    elif source.is_dir() and (source / MANIFEST).is_file():
        found = _manifest(source / MANIFEST)
    elif source.is_dir() and (listed := sorted(source.rglob(_TRANSCRIPTS))):
        found = (row for path in listed for row in _librispeech(path))
    else:
        raise ConfigError(_no_layout(source))
    recordings: list[Recording] = []
    for recording in found:
        recordings.append(recording)
        if len(recordings) > _MAX_ROWS:
            raise BadAnnotation(f"{recording.where}: more than {_MAX_ROWS} rows; split the list")
    if not recordings:
        raise BadAnnotation(f"{source}: lists no recording")
    return recordings


def _no_layout(source: Path) -> str:
    if not source.exists():
        return f"{source}: no such corpus; give a folder, a .tsv list or a .jsonl manifest"
    lists = sorted(path.name for path in source.glob("*.tsv")) if source.is_dir() else []
    if lists:
        return f"{source}: pass one of its lists, for example {source / lists[0]}"
    return (
        f"{source}: no known corpus; expected a folder with {_TRANSCRIPTS}, a .tsv list beside {_CLIPS}/, "
        f"a .jsonl manifest or a folder with {MANIFEST}"
    )


def _lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    try:
        if path.stat().st_size > limit:
            raise BadAnnotation(f"{path}: {path.stat().st_size >> 20} MB; at most {limit >> 20} MB are read")
        with open(path, encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadAnnotation(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _recording(path: Path, text: str, speaker: str, where: str) -> Recording:
    text = " ".join(text.split())
    if not text:
        raise BadAnnotation(f"{where}: the transcript is empty; remove the row")
    if len(text) > _MAX_TEXT:
        raise BadAnnotation(f"{where}: a transcript of {len(text)} characters; at most {_MAX_TEXT} are read")
    if path.suffix.lower() not in FORMATS:
        raise BadAnnotation(f"{where}: '{path.name}' is not one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise MissingAudio(f"{where}: {path} does not exist; correct the list or add the file")
    return Recording(path, text, speaker, where)


def _librispeech(listing: Path) -> Iterator[Recording]:
    """``<speaker>-<chapter>-<number> TEXT`` per line, recordings beside the list."""
    for number, line in _lines(listing, _MAX_TRANSCRIPT_BYTES):
        if not line.strip():
            continue
        where = f"{listing}:{number}"
        name, _, text = line.partition(" ")
        if not _UTTERANCE.fullmatch(name):
            raise BadAnnotation(f"{where}: '{name[:40]}' is no utterance id; each line is ID TEXT")
        beside = [listing.with_name(name + suffix) for suffix in FORMATS]
        path = next((each for each in beside if each.is_file()), beside[0])
        # The layout stores capitals only, which no language model expects to write.
        yield _recording(path, text.lower() if text.isupper() else text, name.partition("-")[0], where)


def _common_voice(listing: Path) -> Iterator[Recording]:
    """Columns ``path`` (a name in ``clips/``), ``sentence`` and ``client_id``; nothing is quoted."""
    lines = _lines(listing, _MAX_LIST_BYTES)
    columns = next(lines, (0, ""))[1].split("\t")
    if not {"path", "sentence"} <= set(columns):
        raise BadAnnotation(
            f"{listing}:1: needs the columns path and sentence, has {', '.join(columns)[:200]}"
        )
    for number, line in lines:
        if not line.strip():
            continue
        where, values = f"{listing}:{number}", line.split("\t")
        if len(values) != len(columns):
            raise BadAnnotation(f"{where}: {len(values)} values for {len(columns)} columns")
        row = dict(zip(columns, values, strict=True))
        name = row["path"]
        if not name or PurePosixPath(name).name != name:
            raise BadAnnotation(f"{where}: path '{name[:80]}' is not the name of a file in {_CLIPS}/")
        path = listing.parent / _CLIPS / name
        yield _recording(path, row["sentence"], row.get("client_id", ""), where)


def _manifest(listing: Path) -> Iterator[Recording]:
    """One object per line. Of rows about one file the last counts, as in the append-only speech manifest."""
    if listing.is_file() and listing.stat().st_size > _MAX_LIST_BYTES:
        raise BadAnnotation(f"{listing}: at most {_MAX_LIST_BYTES >> 20} MB are read; split the list")
    rows: dict[Path, Recording | None] = {}
    for number, row in read_jsonl(listing):
        where = f"{listing}:{number}"
        path = _inside(listing.parent, _field(row, PATH_KEYS, where), where)
        failed = row.get("status") == "failed"  # of `speech make`: listed, never recorded
        speaker = next((str(row[key]) for key in SPEAKER_KEYS if row.get(key)), "")
        rows[path] = None if failed else _recording(path, _field(row, TEXT_KEYS, where), speaker, where)
    yield from (recording for recording in rows.values() if recording is not None)


def _field(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    found = next((row[name] for name in names if name in row), None)
    if not isinstance(found, str) or not found:
        raise BadAnnotation(f"{where}: needs a non-empty text in one of the keys {', '.join(names)}")
    return found


def _inside(folder: Path, name: str, where: str) -> Path:
    """A path below the manifest's folder; links inside it are the user's own business."""
    given = Path(name)
    if given.is_absolute() and given.is_relative_to(folder.absolute()):
        given = given.relative_to(folder.absolute())
    if given.is_absolute() or ".." in given.parts or "\0" in name:
        raise BadAnnotation(
            f"{where}: '{name[:80]}' does not lie below {folder}; put the manifest above the recordings"
        )
    return folder / given


def choose(
    recordings: Sequence[Recording], count: int | None, *, max_seconds: float, seed: int
) -> tuple[list[Recording], int]:
    """Up to ``count`` utterances no longer than ``max_seconds``, drawn by seed, and how many were too long.

    Raises:
        BadAudio, MissingAudio: a recording that was drawn cannot be used; names file and row.
        ConfigError: every recording is too long.
    """
    chosen: list[Recording] = []
    skipped = 0
    for index in np.random.default_rng(seed).permutation(len(recordings)):
        if count is not None and len(chosen) >= count:
            break
        recording = recordings[int(index)]
        if recording.seconds() > max_seconds:
            skipped += 1
        else:
            chosen.append(recording)
    if not chosen:
        raise ConfigError(f"no recording of the corpus is at most {max_seconds:g} s long; raise max_seconds")
    return chosen, skipped

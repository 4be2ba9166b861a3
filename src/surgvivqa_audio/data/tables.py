"""``video_info.csv`` and ``lesion_info.csv`` of REAL-Colon, typed and with spellings made one."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surgvivqa_audio.errors import BadAnnotation

MAX_FILE_BYTES = 16 * 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")

SITES = {
    "caecum": "cecum",
    "trasnverse": "transverse",
    "hepatic_flexure": "hepatic flexure",
    "splenic_flexure": "splenic flexure",
}
HISTOLOGIES = {
    "adenoma": "adenoma",
    "adenoma tubulare": "adenoma",
    "adenoma LSTNG": "adenoma",
    "tubular adenoma with low grade dysplasia": "adenoma",
    "HP": "hyperplastic",
    "hyperplastic polyp": "hyperplastic",
    "SSL": "sessile serrated",
    "sessile serrated lesion without dysplasia": "sessile serrated",
    "TSA": "traditional serrated adenoma",
    "no-polyp": "no polyp",
    "not-polyp": "no polyp",
    "normal colonic mucosa": "no polyp",
    "regenerated mucosa": "no polyp",
    "polypoid regenerated mucosa": "no polyp",
    "fibrous anal polyp": "other",
}


@dataclass(frozen=True)
class VideoInfo:
    """One procedure: recorder, true frame rate and length; what a table leaves out is None."""

    video_id: str
    vendor: str
    fps: float
    frames: int
    lesions: int | None = None
    age: int | None = None
    sex: str | None = None
    bowel_preparation: float | None = None


@dataclass(frozen=True)
class Lesion:
    """One removed lesion; ``site`` and ``histology`` in one spelling, the file's beside them."""

    lesion_id: str
    video_id: str
    size_mm: float
    site: str
    histology: str
    raw_site: str
    raw_histology: str
    histology_class: str


def read_video_info(path: str | Path) -> dict[str, VideoInfo]:
    """Procedures by id, in file order.

    Raises:
        BadAnnotation: names file, line and field.
    """
    columns = ("unique_video_name", "endoscope_brand", "fps", "num_frames")
    videos: dict[str, VideoInfo] = {}
    for where, row in _rows(Path(path), columns):
        video = VideoInfo(
            video_id=_text(row, "unique_video_name", where),
            vendor=_text(row, "endoscope_brand", where),
            fps=_number(row, "fps", where),
            frames=_whole(row, "num_frames", where),
            lesions=_whole(row, "num_lesions", where) if "num_lesions" in row else None,
            age=_whole(row, "age", where) if "age" in row else None,
            sex=_text(row, "sex", where) if "sex" in row else None,
            bowel_preparation=_number(row, "bbps", where) if "bbps" in row else None,
        )
        if not 1 <= video.fps <= 240:
            raise BadAnnotation(f"{where}: field 'fps': {video.fps} is not a frame rate")
        if video.video_id in videos:
            raise BadAnnotation(f"{where}: field 'unique_video_name': {video.video_id} occurs twice")
        videos[video.video_id] = video
    return videos


def read_lesion_info(path: str | Path) -> dict[str, Lesion]:
    """Lesions by id, in file order.

    Raises:
        BadAnnotation: names file, line and field; a histology nobody has mapped is an error.
    """
    columns = (
        "unique_object_id",
        "unique_video_name",
        "size [mm]",
        "site",
        "histology_extended",
        "histology_class",
    )
    lesions: dict[str, Lesion] = {}
    for where, row in _rows(Path(path), columns):
        site, histology = _text(row, "site", where), _text(row, "histology_extended", where)
        if histology not in HISTOLOGIES:
            raise BadAnnotation(
                f"{where}: field 'histology_extended': unknown spelling '{histology}'; add it to HISTOLOGIES"
            )
        lesion = Lesion(
            lesion_id=_text(row, "unique_object_id", where),
            video_id=_text(row, "unique_video_name", where),
            size_mm=_number(row, "size [mm]", where),
            site=SITES.get(site, site),
            histology=HISTOLOGIES[histology],
            raw_site=site,
            raw_histology=histology,
            histology_class=_text(row, "histology_class", where),
        )
        if lesion.lesion_id in lesions:
            raise BadAnnotation(f"{where}: field 'unique_object_id': {lesion.lesion_id} occurs twice")
        lesions[lesion.lesion_id] = lesion
    return lesions


def find_table(annotations: str | Path, name: str) -> Path | None:
    """The table beside an annotation file, None when it is not there."""
    path = Path(annotations).parent / name
    return path if path.is_file() else None


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadAnnotation(f"{path}: more than {MAX_FILE_BYTES} bytes; not a table of this dataset")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadAnnotation(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise BadAnnotation(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing or len(set(header)) != len(header):
            raise BadAnnotation(
                f"{path}:1: needs each of these columns once: {', '.join(missing or header)[:500]}"
            )
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadAnnotation(f"{where}: {len(cells)} fields, the header has {len(header)}")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BadAnnotation(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _text(row: dict[str, str], name: str, where: str) -> str:
    value = row[name].strip()
    if not value or len(value) > 200 or not value.isprintable():
        raise BadAnnotation(f"{where}: field '{name}': a printable text of at most 200 characters is needed")
    return value


def _number(row: dict[str, str], name: str, where: str) -> float:
    value = row[name].strip()
    if not _NUMBER.fullmatch(value):
        raise BadAnnotation(f"{where}: field '{name}': '{value[:40]}' is not a number")
    return float(value)


def _whole(row: dict[str, str], name: str, where: str) -> int:
    value = _number(row, name, where)
    if value != int(value):
        raise BadAnnotation(f"{where}: field '{name}': '{row[name][:40]}' is not a whole number")
    return int(value)

"""Lesion boxes from REAL-Colon's per-frame VOC XML, read by a parser that refuses DTDs and entities."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from surgvivqa_audio.data.images import check_video_id
from surgvivqa_audio.errors import BadAnnotation

MAX_XML_BYTES = 1024 * 1024
MAX_DEPTH = 16
MAX_OBJECTS = 200
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_USED = {
    "size/width",
    "size/height",
    "object/name",
    "object/unique_id",
    *(f"object/bndbox/{corner}" for corner in _CORNERS),
}
_NUMBER = re.compile(r"-?[0-9]{1,7}(\.[0-9]{1,12})?")


@dataclass(frozen=True)
class Box:
    """A lesion on a frame, in pixels; the origin is the upper left corner."""

    lesion_id: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, (x, y) in pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True)
class FrameBoxes:
    """All lesions of one frame and the size of the frame in pixels."""

    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass
class _Reading:
    path: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    objects: list[dict[str, str]] = field(default_factory=list)


def parse_boxes(content: bytes, name: str) -> FrameBoxes:
    """Read one VOC XML file.

    Raises:
        BadAnnotation: over the size cap, with a DTD or entities, too deep, not XML, or without
            the frame size or a box's corners; names file and element.
    """
    if len(content) > MAX_XML_BYTES:
        raise BadAnnotation(f"{name}: {len(content)} bytes of XML; at most {MAX_XML_BYTES} are accepted")
    reading = _Reading()
    parser = expat.ParserCreate()

    def start(tag: str, _attributes: dict[str, str]) -> None:
        reading.path.append(tag)
        reading.text.clear()
        if reading.path[0] != "annotation":
            raise BadAnnotation(f"{name}: the root element is <{tag[:40]}>, box files have <annotation>")
        if len(reading.path) > MAX_DEPTH:
            raise BadAnnotation(f"{name}: elements nest deeper than {MAX_DEPTH}")
        if reading.path == ["annotation", "object"]:
            reading.objects.append({})
            if len(reading.objects) > MAX_OBJECTS:
                raise BadAnnotation(f"{name}: more than {MAX_OBJECTS} objects")

    def end(_tag: str) -> None:
        key = "/".join(reading.path[1:])
        target = reading.objects[-1] if key.startswith("object/") else reading.values
        if key in target and key in _USED:
            raise BadAnnotation(f"{name}: element <{key}> occurs twice")
        if key in _USED:
            target[key] = "".join(reading.text).strip()
        reading.text.clear()
        reading.path.pop()

    def refuse(*_arguments: object) -> int:
        raise BadAnnotation(f"{name}: a document type or entity is declared; box files have none")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = reading.text.append
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadAnnotation(f"{name}: not valid XML ({error})") from error
    width = _value(reading.values, "size/width", name)
    height = _value(reading.values, "size/height", name)
    if not (1 <= width <= 100_000 and 1 <= height <= 100_000):
        raise BadAnnotation(f"{name}: element <size>: {width} x {height} is not a frame size")
    boxes = tuple(_box(values, name) for values in reading.objects)
    return FrameBoxes(int(width), int(height), boxes)


def _value(values: dict[str, str], key: str, name: str) -> float:
    text = values.get(key)
    if text is None or not _NUMBER.fullmatch(text):
        raise BadAnnotation(f"{name}: element <{key}>: a number is needed, not {(text or '')[:40]!r}")
    return float(text)


def _box(values: dict[str, str], name: str) -> Box:
    left, top, right, bottom = (_value(values, f"object/bndbox/{corner}", name) for corner in _CORNERS)
    if right < left or bottom < top:
        raise BadAnnotation(f"{name}: element <bndbox>: the corners are swapped")
    return Box(values.get("object/unique_id") or values.get("object/name") or "", left, top, right, bottom)


class BoxFolder:
    """Box files of several procedures: ``VVV_annotations/VVV_n.xml``, ``VVV_annotation/…`` or ``VVV/…``."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, video_id: str) -> Path | None:
        """Where a procedure's box files are; None when the procedure is absent."""
        check_video_id(video_id)
        for name in (f"{video_id}_annotations", f"{video_id}_annotation", video_id):
            if (self.root / name).is_dir():
                return self.root / name
        return None

    def read(self, video_id: str, number: int) -> FrameBoxes | None:
        """Boxes of one frame; None when there is no file for it.

        Raises:
            BadAnnotation: the file breaks the format.
        """
        folder = self.folder(video_id)
        path = folder / f"{video_id}_{number}.xml" if folder is not None else None
        if path is None or not path.is_file():
            return None
        if path.stat().st_size > MAX_XML_BYTES:
            raise BadAnnotation(f"{path}: more than {MAX_XML_BYTES} bytes of XML")
        return parse_boxes(path.read_bytes(), str(path))

"""The viewer's content: rows with their clip, recording and predictions, joined by key."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as PillowImage

from surgvivqa_audio.data.folder import recordings, recordings_table
from surgvivqa_audio.data.framecache import resize
from surgvivqa_audio.data.tables import VideoInfo
from surgvivqa_audio.errors import BadImage, ConfigError, MissingFrame
from surgvivqa_audio.sample import FrameStore, Image, Sample

MAX_PAGE_BYTES = 200 * 1024 * 1024
MAX_AUDIO_BYTES = 4 * 1024 * 1024
_AUDIO_TYPES = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg"}


@dataclass(frozen=True)
class Shown:
    """One system's answer to one row."""

    system: str
    key: str
    question_type: str
    short_answer: str
    text: str
    confidence: float | None
    correct: bool
    error: str | None = None


@dataclass
class Row:
    """What the page shows for one sample; everything comes from the sample or was joined by its key."""

    sample: Sample
    frames: list[str]
    missing: list[str]
    fps: float | None
    audio: str | None
    predictions: list[Shown] = field(default_factory=list)


@dataclass
class Page:
    """Rows, the pictures and recordings they refer to (data URIs), and what could not be joined."""

    title: str
    rows: list[Row]
    pictures: dict[str, str]
    sounds: dict[str, str]
    unjoined: list[str]
    size: int = 0  # characters of all data URIs

    def keep(self, table: dict[str, str], name: str, uri: str) -> None:
        """Put a picture or recording into its table.

        Raises:
            ConfigError: the page would exceed ``MAX_PAGE_BYTES``.
        """
        self.size += len(uri)
        if self.size > MAX_PAGE_BYTES:
            raise ConfigError(
                f"the page would exceed {MAX_PAGE_BYTES // 1024**2} MiB after {len(self.rows)} rows; "
                "use --limit, --videos or a smaller --side"
            )
        table[name] = uri


def build_page(
    title: str,
    samples: Sequence[Sample],
    store: FrameStore | None,
    speech: Path | None,
    videos: Mapping[str, VideoInfo],
    predictions: Sequence[Shown] = (),
    side: int = 320,
) -> Page:
    """Collect a page.

    A prediction is shown with a row only when key, question type and gold answer agree; all others
    are listed in ``unjoined``.

    Args:
        side: longer side of the pictures in pixels.

    Raises:
        ConfigError: the page would exceed ``MAX_PAGE_BYTES``.
    """
    page = Page(title, [], {}, {}, [])
    assigned = recordings_table(speech) if speech is not None else {}
    for sample in samples:
        frames, missing = _pictures(page, sample, store, side)
        audio = _sound(page, sample, speech, assigned) if speech is not None else None
        info = videos.get(sample.video_id)
        page.rows.append(Row(sample, frames, missing, info.fps if info else None, audio))
    _join(page, predictions)
    return page


def _join(page: Page, predictions: Sequence[Shown]) -> None:
    rows = {row.sample.key: row for row in page.rows}
    for shown in predictions:
        row = rows.get(shown.key)
        if row is None:
            page.unjoined.append(f"{shown.system}: {shown.key or 'row without a key'} is not on this page")
        elif (shown.question_type, shown.short_answer) != (row.sample.question_type, row.sample.short_answer):
            page.unjoined.append(f"{shown.system}: {shown.key} has another type or gold answer there")
        else:
            row.predictions.append(shown)


def _pictures(page: Page, sample: Sample, store: FrameStore | None, side: int) -> tuple[list[str], list[str]]:
    names, missing = [], []
    for number in sample.frame_numbers:
        name = f"{sample.video_id}/{number}"
        if name not in page.pictures:
            try:
                if store is None:
                    raise MissingFrame(f"{name}: no frames folder")
                uri = picture_uri(store.read(sample.video_id, number), side)
                page.keep(page.pictures, name, uri)
            except (MissingFrame, BadImage) as error:
                missing.append(str(error))  # shown in place of the picture
                continue
        names.append(name)
    return names, missing


def picture_uri(image: Image, side: int) -> str:
    """A frame as a small JPEG data URI."""
    buffer = io.BytesIO()
    PillowImage.fromarray(resize(image, side)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _sound(page: Page, sample: Sample, speech: Path, assigned: dict[str, list[str]]) -> str | None:
    found = recordings(speech, sample, assigned)
    if not found:
        return None
    path = found[0]
    name = path.relative_to(speech).as_posix()
    if name not in page.sounds:
        kind = _AUDIO_TYPES.get(path.suffix.lower())
        if kind is None or path.stat().st_size > MAX_AUDIO_BYTES:
            return None
        uri = f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        page.keep(page.sounds, name, uri)
    return name

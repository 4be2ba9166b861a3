"""`data view`: join predictions by key, judge them, write the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgvivqa_audio.data.viewer import Shown
    from surgvivqa_audio.sample import Sample
    from surgvivqa_audio.taxonomy import Taxonomy


def shown_predictions(
    paths: list[Path], samples: list[Sample], taxonomy: Taxonomy
) -> tuple[list[Shown], list[str]]:
    """Predictions of several files for the rows of a page, and notes about rows without a key.

    Raises:
        BadAnnotation: a file is no prediction file.
    """
    from surgvivqa_audio.data.viewer import Shown
    from surgvivqa_audio.scoring.parse import AnswerParser
    from surgvivqa_audio.scoring.rows import join, read_predictions
    from surgvivqa_audio.scoring.score import judge

    parser = AnswerParser(taxonomy)
    on_page = {sample.key for sample in samples}
    found: list[Shown] = []
    notes: list[str] = []
    for path in paths:
        rows, left = join(read_predictions(path, taxonomy), samples, taxonomy)
        if left:
            notes.append(f"{path.name}: {len(left)} rows have no key and an id that names several clips")
        for row, correct in zip(rows, judge(rows, parser), strict=True):
            if row.key in on_page:
                found.append(
                    Shown(
                        path.stem,
                        row.key,
                        row.question_type,
                        row.short_answer,
                        row.predicted,
                        row.confidence,
                        correct,
                        row.error,
                    )
                )
    return found, notes


def write_page(
    data: Path,
    out: Path,
    predictions: list[Path],
    videos: list[str],
    rows: list[Path],
    limit: int,
    side: int,
    taxonomy: Taxonomy,
) -> str:
    """Write the viewer; returns one line about what it holds."""
    from surgvivqa_audio.data.folder import data_rows, select_videos, video_table
    from surgvivqa_audio.data.plan import human_bytes
    from surgvivqa_audio.data.stores import open_store
    from surgvivqa_audio.data.viewer import build_page
    from surgvivqa_audio.data.viewer_html import page_html
    from surgvivqa_audio.files import write_text

    every = select_videos(data_rows(data, taxonomy, rows), videos)
    shown, notes = shown_predictions(predictions, every, taxonomy)
    if predictions:
        # With predictions the page is about the rows that were answered.
        answered = {each.key for each in shown}
        every = [sample for sample in every if sample.key in answered] or every
    samples = every[:limit] if limit else every
    chosen = {sample.key for sample in samples}
    store = open_store(data / "frames") if (data / "frames").is_dir() else None
    speech = data / "speech" if (data / "speech").is_dir() else None
    page = build_page(
        f"{data.resolve().name}: {len(samples)} of {len(every)} rows",
        samples,
        store,
        speech,
        video_table(data),
        [each for each in shown if each.key in chosen],
        side,
    )
    page.unjoined[:0] = notes
    write_text(out, page_html(page, taxonomy))
    missing = sum(len(row.missing) for row in page.rows)
    return (
        f"{out}: {len(page.rows)} rows, {len(page.pictures)} frames ({missing} missing), "
        f"{len(page.sounds)} recordings, {human_bytes(out.stat().st_size)}"
    )

"""The page of `surgvivqa data view`, made for one procedure when a visitor asks for it."""

from __future__ import annotations

from pathlib import Path

from surgvivqa_audio.apps.cases import SIDE, SimCases
from surgvivqa_audio.colonsim.dataset import SimStore
from surgvivqa_audio.data.folder import data_rows, select_videos, video_table
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.data.viewer import build_page
from surgvivqa_audio.data.viewer_html import page_html
from surgvivqa_audio.taxonomy import Taxonomy

ROWS = 60  # of a procedure: enough to read, small enough to send
CLIPS = 6  # of a simulated patient: rendering takes half a second each


def rows_page(data: Path, taxonomy: Taxonomy, split: str, procedure: str) -> str:
    """The first rows of a procedure of a DATA folder, of one split file or of everything.

    Raises:
        ConfigError: the folder has no annotation file, or none of its rows is of this procedure.
        BadAnnotation: a row breaks the schema.
        MissingFrame: there is no folder of frames.
    """
    files = [data / f"{split}.jsonl"] if split else []
    every = select_videos(data_rows(data, taxonomy, files), [procedure])
    store = open_store(data / "frames" if (data / "frames").is_dir() else data)
    speech = data / "speech" if (data / "speech").is_dir() else None
    title = f"{procedure}: {min(ROWS, len(every))} of {len(every)} rows"
    return page_html(build_page(title, every[:ROWS], store, speech, video_table(data)), taxonomy)


def patient_page(cases: SimCases, taxonomy: Taxonomy, patient: str) -> str:
    """The first clips of a simulated patient with every question that has an answer there."""
    samples = cases.samples(patient, taxonomy, CLIPS)
    title = f"{patient} (ColonSim): the first {CLIPS} clips, {len(samples)} questions"
    return page_html(build_page(title, samples, SimStore(SIDE), None, {}), taxonomy)

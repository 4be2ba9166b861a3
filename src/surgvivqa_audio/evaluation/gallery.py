"""The worst answers of a run, shown with what the system saw and heard."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.errors import MissingAudio
from surgvivqa_audio.evaluation.document import Case
from surgvivqa_audio.evaluation.runs import Run
from surgvivqa_audio.sample import FrameStore, Sample, read_samples
from surgvivqa_audio.speech.audio import read_audio, wav_bytes
from surgvivqa_audio.speech.make import find_recording
from surgvivqa_audio.taxonomy import Taxonomy

_THUMBNAIL = 128


def worst(run: Run, count: int) -> list[int]:
    """Row numbers of wrong answers: failed rows first, then the most confident ones, types in turn."""
    wrong = [at for at, right in enumerate(run.correct) if not right]
    wrong.sort(key=lambda at: (run.rows[at].error is None, -(run.rows[at].confidence or 0.0), at))
    queues: dict[str, list[int]] = {}
    for at in wrong:
        queues.setdefault(run.rows[at].question_type, []).append(at)
    chosen: list[int] = []
    while len(chosen) < count and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:count]


def gallery(run: Run, count: int, data: Path | None, taxonomy: Taxonomy) -> list[Case]:
    """Cases for the report; frames and sound come from the data folder where one is given.

    Raises:
        MissingFrame: the folder holds no such frame.
        BadAnnotation: its annotation rows cannot be read.
    """
    samples: dict[str, Sample] = {}
    store: FrameStore | None = None
    if data is not None:
        for template in {run.rows[at].key.split("/")[0] for at in range(len(run.rows))} & {"in", "out"}:
            rows = read_samples(data / f"{template}_template.jsonl", taxonomy)
            samples |= {sample.key: sample for sample in rows}
        store = open_store(data / "frames")
    return [_case(run, at, samples, store, data) for at in worst(run, count)]


def _case(run: Run, at: int, samples: dict[str, Sample], store: FrameStore | None, data: Path | None) -> Case:
    row = run.rows[at]
    sample = samples.get(row.key)
    facts = [
        ("question", row.question),
        ("gold", row.ground_truth),
        ("answer", row.predicted or "(none)"),
        ("confidence", "-" if row.confidence is None else f"{row.confidence:.2f}"),
    ]
    if row.error is not None:
        facts.append(("error", row.error))
    if sample is None or store is None or data is None:
        return Case(row.key or row.question_id, facts)
    frames = [_thumbnail(store, sample, number) for number in sample.frame_numbers if not row.error]
    return Case(row.key, facts, frames, _sound(data, sample))


def _thumbnail(store: FrameStore, sample: Sample, number: int) -> bytes:
    image = Image.fromarray(store.read(sample.video_id, number))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=80)
    return stream.getvalue()


def _sound(data: Path, sample: Sample) -> bytes:
    """The recording, if the folder has one; a question may also have been spoken on the fly."""
    try:
        return wav_bytes(read_audio(find_recording(data / "speech", sample)))
    except MissingAudio:
        return b""

"""Floors as prediction rows: what a fixed answer, or a copy of the nearest clip, would score.

They read the question type, which no system may, so they are rows made here and not systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.loop import sidecar
from surgvivqa_audio.files import write_json, write_jsonl
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.floors import majority, nearest
from surgvivqa_audio.taxonomy import Taxonomy

REFERENCES = ("majority", "nearest", "constant")


def reference_answers(
    name: str, samples: Sequence[Sample], train: Sequence[Sample] | None
) -> list[str | None]:
    """Short answers of a floor for each sample, None where it has nothing to say.

    ``majority`` counts the training rows, or without them the rows themselves, as the floor of a score
    does. ``nearest`` copies from the training rows, or without them from the other clips of the file.
    ``constant`` is the best constant per type of the rows themselves, with or without training rows.

    Raises:
        ConfigError: not the name of a floor.
    """
    if name in ("constant", "majority"):
        known = majority(train if train is not None and name == "majority" else samples)
        return [known.get(sample.question_type) for sample in samples]
    if name == "nearest":
        if train is not None:
            return nearest(samples, train)
        return _nearest_other(samples)
    raise ConfigError(f"unknown floor '{name}'; known: {', '.join(REFERENCES)}")


def _nearest_other(samples: Sequence[Sample]) -> list[str | None]:
    """The nearest clip of the file that shares no frame with the row's own."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.video_id, sample.question_type), []).append(sample)
    answers = []
    for one in samples:
        frames = set(one.frame_numbers)
        group = groups[one.video_id, one.question_type]
        answers += nearest([one], [other for other in group if not frames.intersection(other.frame_numbers)])
    return answers


def run_reference(
    name: str,
    samples: Sequence[Sample],
    train: Sequence[Sample] | None,
    taxonomy: Taxonomy,
    out: str | Path,
    data_files: Sequence[str | Path] = (),
) -> list[dict[str, Any]]:
    """Write the prediction rows of a floor, in the same form as those of a system."""
    out = Path(out)
    source = "train" if train is not None and name != "constant" else "self"
    config = {"system": name, "control": None, "floor_source": source}
    record = run_record(seed=None, config=config, data_files=data_files)
    rows = [
        {
            "key": sample.key,
            "question_id": sample.id,
            "question_type": sample.question_type,
            "question": sample.question,
            "ground_truth": sample.answer,
            "short_answer": sample.short_answer,
            "predicted_answer": "" if short is None else _sentence(taxonomy, sample, short),
            "confidence": None,
            "inference_time_ms": 0.0,
            "error": None,
            "run": {"system": name, "control": None, "floor_source": source},
        }
        for sample, short in zip(samples, reference_answers(name, samples, train), strict=True)
    ]
    write_json(sidecar(out), record | {"rows": len(rows), "failed": 0})
    write_jsonl(out, rows)
    return rows


def _sentence(taxonomy: Taxonomy, sample: Sample, short: str) -> str:
    if short == taxonomy.refusal.short:
        return taxonomy.refusal.sentence
    return taxonomy.type_of(sample.question_type).answer(short).sentence

"""The shards of one run, joined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.evaluation.loop import sidecar
from surgvivqa_audio.files import write_json, write_jsonl
from surgvivqa_audio.scoring.rows import read_predictions
from surgvivqa_audio.taxonomy import Taxonomy

_SAME = ("system", "control", "seed", "data_sha256", "weights")


def merge_shards(shards: Sequence[Path], out: Path, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Write the rows of all shards to ``out``, and their run records to its sidecar.

    Raises:
        BadAnnotation: a key stands in two files, or the files are not of one run.
    """
    rows: list[dict[str, Any]] = []
    origin: dict[str, Path] = {}
    records: dict[str, Path] = {}
    for path in shards:
        for row in read_predictions(path, taxonomy):
            if row.key in origin:
                raise BadAnnotation(f"{path}: key '{row.key}' is already in {origin[row.key]}")
            origin[row.key] = path
            extra = row.extra or {}
            run = extra.get("run") or {}
            records.setdefault(json.dumps({name: run.get(name) for name in _SAME}, sort_keys=True), path)
            rows.append(extra)
    if len(records) > 1:
        files = ", ".join(map(str, records.values()))
        raise BadAnnotation(
            f"{files}: rows of different runs (system, control, seed, data or weights differ); "
            "delete the files that are not of this run and repeat it"
        )
    found = [sidecar(path) for path in shards if sidecar(path).is_file()]
    write_json(sidecar(out), {"shards": [json.loads(path.read_text(encoding="utf-8")) for path in found]})
    write_jsonl(out, rows)
    return rows

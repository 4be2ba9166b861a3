"""What a split contains, what its parts share and what a blind system scores on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from surgvivqa_audio.data.annotations import Annotations
from surgvivqa_audio.data.floors import floors, informative
from surgvivqa_audio.data.splits import Split, clip_groups, published_bytes
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import sha256_bytes, sha256_file, write_json, write_jsonl
from surgvivqa_audio.sample import Sample, read_samples
from surgvivqa_audio.taxonomy import Taxonomy

_NEIGHBOUR_FRAMES = 250  # ten seconds at 25 frames per second


def _frames(samples: Sequence[Sample]) -> set[tuple[str, int]]:
    return {(row.video_id, number) for row in samples for number in row.frame_numbers}


def shared_frames(left: Sequence[Sample], right: Sequence[Sample]) -> int:
    """Rows of the smaller list that share at least one frame with the other list."""
    smaller, larger = (left, right) if len(left) <= len(right) else (right, left)
    frames = _frames(larger)
    return sum(any((row.video_id, number) in frames for number in row.frame_numbers) for row in smaller)


def neighbours(left: Sequence[Sample], right: Sequence[Sample], within: int = _NEIGHBOUR_FRAMES) -> int:
    """Rows of the smaller list whose clip lies within so many frames of a clip of the other list."""
    smaller, larger = (left, right) if len(left) <= len(right) else (right, left)
    spans: dict[str, list[tuple[int, int]]] = {}
    for group in clip_groups(larger, within):
        last = max(row.frame_numbers[-1] for row in group)
        spans.setdefault(group[0].video_id, []).append((group[0].first_frame - within, last + within))
    return sum(
        any(
            row.first_frame <= last and first <= row.frame_numbers[-1]
            for first, last in spans.get(row.video_id, [])
        )
        for row in smaller
    )


def dataset_version(path: Path, taxonomy: Taxonomy) -> dict[str, Any]:
    """Name, SHA-256 and rows of an annotation file, and whether it is the pinned version."""
    digest = sha256_file(path)
    known = {value: name for name, value in taxonomy.dataset.sha256.items()}
    return {"file": path.name, "sha256": digest, "pinned_as": known.get(digest)}


def split_report(
    split: Split, found: Annotations, taxonomy: Taxonomy, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``split_report.json``.

    ``counts`` has rows per part; ``shared_frames`` rows of the smaller part that share a frame with the
    other; ``floors`` shares of rows from 0 to 1, None where not applicable; ``published_sha256`` the
    hash that each part has when written as the published files are.
    """
    parts = split.parts()
    pairs = list(combinations(parts, 2))
    present = sorted({row.question_type for rows in parts.values() for row in rows})
    by_type = {
        name: {part: sum(row.question_type == name for row in rows) for part, rows in parts.items()}
        for name in present
    }
    return {
        "options": dict(options),
        "dataset": dataset_version(found.path, taxonomy),
        "counts": {part: len(rows) for part, rows in parts.items()},
        "videos": {
            part: dict(sorted(Counter(row.video_id for row in rows).items())) for part, rows in parts.items()
        },
        "shared_frames": {f"{a}-{b}": shared_frames(parts[a], parts[b]) for a, b in pairs},
        "neighbours_within_frames": _NEIGHBOUR_FRAMES,
        "neighbours": {f"{a}-{b}": neighbours(parts[a], parts[b]) for a, b in pairs},
        "types": by_type,
        "missing_types": {
            part: [name for name in present if not by_type[name][part]]
            for part, rows in parts.items()
            if rows
        },
        "answers": {part: _answers(rows) for part, rows in parts.items()},
        "informative": {part: informative(rows) for part, rows in parts.items()},
        "floors": {part: floors(split.train, parts[part]) for part in ("eval", "test")},
        "published_sha256": {
            part: sha256_bytes(published_bytes(rows, found.rows)) for part, rows in parts.items()
        },
    }


def _answers(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {}
    for row in samples:
        table.setdefault(row.question_type, Counter())[row.short_answer] += 1
    return {name: dict(sorted(counter.items())) for name, counter in sorted(table.items())}


def file_rows(
    samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]], published_form: bool = False
) -> list[dict[str, Any]]:
    """Rows to write: as they stand in the annotation file, with ``key`` and ``template`` in front."""
    ours = ("key", "template")
    written = []
    for row in samples:
        front = {} if published_form else {"key": row.key, "template": row.template}
        written.append({**front, **{k: v for k, v in rows[row.key].items() if k not in ours}})
    return written


def write_split(
    out: Path, split: Split, found: Annotations, report: Mapping[str, Any], published_form: bool = False
) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``test.jsonl`` and, last, ``split_report.json``.

    Raises:
        ConfigError: ``out`` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: a folder is needed to write the split into")
    for part, rows in split.parts().items():
        write_jsonl(out / f"{part}.jsonl", file_rows(rows, found.rows, published_form))
    write_json(out / "split_report.json", report)


def write_subset(
    out: Path, chosen: Sequence[Sample], found: Annotations, others: Sequence[Path], taxonomy: Taxonomy
) -> list[str]:
    """Write a subset and say what it covers; warns when another subset holds the same clips."""
    write_jsonl(out, file_rows(chosen, found.rows))
    types = Counter(row.question_type for row in chosen)
    lines = [
        f"{out}: {len(chosen)} rows, {len(types)} of {len(taxonomy.types)} question types, "
        f"{len(informative(chosen))} of them with more than one answer"
    ]
    clips = {(row.video_id, row.frame_numbers) for row in chosen}
    for path in others:
        shared = clips & {(row.video_id, row.frame_numbers) for row in read_samples(path, taxonomy)}
        if shared:
            lines.append(
                f"warning: {len(shared)} of {len(clips)} clips are also in {path}; "
                "two results on them are not independent"
            )
    return lines


def summary(report: Mapping[str, Any]) -> list[str]:
    """A few lines for the terminal."""
    counts, shared = report["counts"], report["shared_frames"]
    lines = [
        "rows: " + ", ".join(f"{part} {count}" for part, count in counts.items()),
        "rows that share a frame: " + ", ".join(f"{pair} {count}" for pair, count in shared.items()),
    ]
    for part, values in report["floors"].items():
        if counts[part]:
            shown = {
                name: "n/a" if value is None else f"{100 * value:.1f} %" for name, value in values.items()
            }
            lines.append(
                f"blind floors on {part}: " + ", ".join(f"{name} {value}" for name, value in shown.items())
            )
            types = len(report["answers"][part])
            lines.append(f"informative types on {part}: {len(report['informative'][part])} of {types}")
    for part, names in report["missing_types"].items():
        if names:
            lines.append(f"types without a row in {part}: {', '.join(names)}")
    return lines

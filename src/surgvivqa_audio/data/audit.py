"""The audit of an annotation file: what it holds, what is wrong with it and what follows from that."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.data.annotations import Annotations, read_annotations
from surgvivqa_audio.data.audit_boxes import check_boxes
from surgvivqa_audio.data.audit_checks import (
    EXAMPLES,
    colliding_ids,
    constant_types,
    contradictions,
    interleaved,
    near_duplicates,
    neighbour_agreement,
    overlapping,
)
from surgvivqa_audio.data.audit_findings import findings
from surgvivqa_audio.data.boxes import BoxFolder
from surgvivqa_audio.data.split_report import dataset_version
from surgvivqa_audio.data.tables import Lesion, VideoInfo, find_table, read_lesion_info, read_video_info
from surgvivqa_audio.sample import Sample, by_video, clips
from surgvivqa_audio.taxonomy import Taxonomy

_OTHER_VENDORS = ("Fujifilm", "Pentax")
_LESION_FIELDS = {"lesion_site": "site", "lesion_histology_extended": "histology"}


def audit(path: str | Path, taxonomy: Taxonomy, boxes: str | Path | None = None) -> dict[str, Any]:
    """Everything that can be said about an annotation file without its frames.

    ``video_info.csv``, ``lesion_info.csv`` and the other wording's file are used where they lie beside it.

    Args:
        boxes: folder of REAL-Colon box files (``VVV_annotations/VVV_n.xml``).

    Raises:
        BadAnnotation: the file cannot be read, or a table breaks its format.
    """
    found = read_annotations(path, taxonomy)
    samples = found.samples
    videos = _table(found.path, "video_info.csv")
    lesions = _lesions(found.path)
    ids = colliding_ids(samples)
    report: dict[str, Any] = {
        "dataset": {**dataset_version(found.path, taxonomy), "expected_rows": taxonomy.dataset.rows},
        "rows": len(samples),
        "rejected": _rejected(found),
        "unique_ids": len({row.id for row in samples}),
        "unique_keys": len({row.key for row in samples}),
        "colliding_ids": {"ids": len(ids), "rows": sum(map(len, ids.values())), "keys": _some_keys(ids)},
        "question_strings": len({row.question for row in samples}),
        "types": dict(sorted(Counter(row.question_type for row in samples).items())),
        "constant_types": constant_types(samples),
        "constant_types_by_video": {
            video: constant_types(rows) for video, rows in sorted(by_video(samples).items())
        },
        "identical_wording": sorted(
            name for name, each in taxonomy.types.items() if each.in_template == each.out_template
        ),
        "other_template": _other_template(found, taxonomy),
        "unpublished_answers": {
            name: [answer.short for answer in each.answers if not answer.published]
            for name, each in sorted(taxonomy.types.items())
            if any(not answer.published for answer in each.answers)
        },
        "contradictions": contradictions(overlapping(samples)),
        "contradictions_interleaved": contradictions(interleaved(samples)),
        "near_duplicates": near_duplicates(samples),
        "neighbour_agreement": neighbour_agreement(samples),
        "support": _support(found),
        "videos": _videos(samples, videos),
        "vendors": dict(sorted(Counter(_vendor(row, videos) for row in samples).items())),
        "nbi_without_olympus": _foreign_nbi(samples, videos),
        "lesions": _lesion_report(samples, lesions),
        "boxes": check_boxes(samples, BoxFolder(boxes)) if boxes is not None else None,
    }
    report["findings"] = findings(report)
    return report


def _rejected(found: Annotations) -> dict[str, Any]:
    return {
        "rows": len(found.problems) + found.unknown_types.total() + found.unknown_answers.total(),
        "unknown_types": dict(sorted(found.unknown_types.items())),
        "unknown_answers": {
            f"{name}: {text}": n for (name, text), n in sorted(found.unknown_answers.items())
        },
        "malformed": found.problems[:EXAMPLES],
    }


def _some_keys(ids: Mapping[str, Sequence[str]]) -> list[str]:
    return [key for keys in ids.values() for key in keys][:EXAMPLES]


def _table(path: Path, name: str) -> dict[str, VideoInfo]:
    table = find_table(path, name)
    return read_video_info(table) if table else {}


def _lesions(path: Path) -> dict[str, Lesion]:
    table = find_table(path, "lesion_info.csv")
    return read_lesion_info(table) if table else {}


def _vendor(row: Sample, videos: Mapping[str, VideoInfo]) -> str:
    return videos[row.video_id].vendor if row.video_id in videos else "unknown"


def _support(found: Annotations) -> dict[str, Any]:
    """Rows whose label holds on fewer frames than the clip has, although they claim all of them."""
    fewer, claim = [], []
    for sample in found.samples:
        row = found.rows[sample.key]
        count = row.get("support_frames")
        if isinstance(count, int) and count < len(sample.frame_numbers):
            fewer.append(sample)
            if row.get("support_ratio") == 1.0:
                claim.append(sample)
    return {
        "rows_with_fewer": len(fewer),
        "of_them_claim_all": len(claim),
        "types": dict(sorted(Counter(row.question_type for row in fewer).items())),
        "keys": [row.key for row in claim[:EXAMPLES]],
    }


def _videos(samples: Sequence[Sample], videos: Mapping[str, VideoInfo]) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}
    for video, rows in sorted(by_video(samples).items()):
        info = videos.get(video)
        frames = {number for row in rows for number in row.frame_numbers}
        span = rows[0].frame_numbers[-1] - rows[0].frame_numbers[0]
        report[video] = {
            "rows": len(rows),
            "fps": info.fps if info else None,
            "vendor": info.vendor if info else None,
            "clips": len(clips(rows)),
            "types": len({row.question_type for row in rows}),
            "frames_used": len(frames),
            "frames_available": info.frames if info else None,
            "first_frame": min(frames),
            "last_frame": max(frames),
            "beyond_the_video": sum(number > info.frames for number in frames) if info else None,
            "clip_seconds": round(span / info.fps, 3) if info else None,
        }
    return report


def _foreign_nbi(samples: Sequence[Sample], videos: Mapping[str, VideoInfo]) -> dict[str, Any]:
    """Rows that name NBI, a mode of Olympus recorders, in a video of another vendor."""
    keys = [
        row.key
        for row in samples
        if (row.question_type, row.short_answer) in (("nbi_status", "yes"), ("lighting_mode", "NBI"))
        and _vendor(row, videos) in _OTHER_VENDORS
    ]
    return {"rows": len(keys), "keys": keys[:EXAMPLES]}


def _lesion_report(samples: Sequence[Sample], lesions: Mapping[str, Lesion]) -> dict[str, Any] | None:
    if not lesions:
        return None
    per_video: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for lesion in lesions.values():
        for name in _LESION_FIELDS.values():
            per_video[lesion.video_id][name].add(getattr(lesion, name))
    unlisted = [
        row.key
        for row in samples
        if (field := _LESION_FIELDS.get(row.question_type)) is not None
        and row.short_answer not in per_video[row.video_id][field]
    ]
    used = {row.video_id for row in samples}
    return {
        "lesions": len(lesions),
        "site_spellings": dict(sorted(Counter(each.raw_site for each in lesions.values()).items())),
        "sites": dict(sorted(Counter(each.site for each in lesions.values()).items())),
        "histology_spellings": dict(sorted(Counter(each.raw_histology for each in lesions.values()).items())),
        "histologies": dict(sorted(Counter(each.histology for each in lesions.values()).items())),
        "constant_in_video": {
            video: {name: next(iter(found)) for name, found in fields.items() if len(found) == 1}
            for video, fields in sorted(per_video.items())
            if video in used
        },
        "labels_not_in_table": {"rows": len(unlisted), "keys": unlisted[:EXAMPLES]},
    }


def _other_template(found: Annotations, taxonomy: Taxonomy) -> dict[str, Any] | None:
    """How the file of the other wording, where it lies beside this one, lines up with it."""
    names = {"in_template.jsonl": "out_template.jsonl", "out_template.jsonl": "in_template.jsonl"}
    other = found.path.with_name(names.get(found.path.name, ""))
    if found.path.name not in names or not other.is_file():
        return None
    theirs = {row.key.partition("/")[2]: row for row in read_annotations(other, taxonomy).samples}
    pairs = [(row, theirs[name]) for row in found.samples if (name := row.key.partition("/")[2]) in theirs]
    return {
        "file": other.name,
        "rows": len(theirs),
        "paired": len(pairs),
        "same_answer": sum(a.answer == b.answer for a, b in pairs),
        "same_question": sum(a.question == b.question for a, b in pairs),
        "distinct_strings_together": len(
            {row.question for row in found.samples} | {row.question for row in theirs.values()}
        ),
    }

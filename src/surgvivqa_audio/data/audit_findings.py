"""Findings in words: what the audit counted, examples, and the consequence for a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def findings(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The audit's findings with ``name``, ``count``, ``keys`` (examples) and ``consequence``."""
    listed = [*_identity(report), *_labels(report), *_clips(report), *_recording(report), *_tables(report)]
    return [each for each in listed if each["count"]]


def _finding(
    name: str, count: int, what: str, consequence: str, keys: list[str] | None = None
) -> dict[str, Any]:
    return {"name": name, "count": count, "what": what, "consequence": consequence, "keys": keys or []}


def _identity(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    dataset, ids, rejected = report["dataset"], report["colliding_ids"], report["rejected"]
    return [
        _finding(
            "version",
            0 if dataset["pinned_as"] else 1,
            f"the file ({report['rows']} rows) is not a pinned version of {dataset['expected_rows']} rows",
            "Results on it cannot be set beside results on the pinned version.",
        ),
        _finding(
            "rejected_rows",
            rejected["rows"],
            "rows break the schema, or have a type or answer that the taxonomy does not know",
            "They are left out of every figure here; correct them first.",
            rejected["malformed"],
        ),
        _finding(
            "colliding_ids",
            ids["rows"],
            f"rows share {ids['ids']} ids",
            "Anything stored or joined by id mixes up questions; the key is unique and is used here.",
            ids["keys"],
        ),
        _finding(
            "few_question_strings",
            report["question_strings"],
            "distinct question strings in all rows",
            "Understanding the question is a lookup among them; test other wordings and voices too.",
        ),
        _finding(
            "identical_wording",
            len(report["identical_wording"]),
            f"types are worded alike in both templates: {', '.join(report['identical_wording'])}",
            "These types do not test a change of wording.",
        ),
    ]


def _labels(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    support = report["support"]
    constant = report["constant_types"]
    broken = [
        *(("share frames", entry) for entry in report["contradictions"]),
        *(("interleave in time", entry) for entry in report["contradictions_interleaved"]),
    ]
    listed = [
        _finding(
            "constant_types",
            len(constant),
            "types have one answer in the whole file: "
            + ", ".join(f"{name} ({answer})" for name, answer in constant.items()),
            "Answering them takes no look at the frames; report the informative types apart.",
        ),
        _finding(
            "constant_in_a_video",
            sum(map(len, report["constant_types_by_video"].values())),
            "pairs of type and video have one answer: "
            + ", ".join(
                f"{video} {len(names)}" for video, names in report["constant_types_by_video"].items()
            ),
            "A test set of one video is partly decided by its majority; compare with the best constant.",
        ),
        _finding(
            "unpublished_answers",
            sum(map(len, report["unpublished_answers"].values())),
            "answers of the closed sets occur in no published row",
            "Whether a system knows them cannot be measured on this dataset.",
        ),
        _finding(
            "support_counts",
            support["of_them_claim_all"],
            "rows have a label on fewer frames than the clip has, but claim a support ratio of 1",
            "Do not filter by support_ratio; use support_frames.",
            support["keys"],
        ),
    ]
    for how, entry in broken:
        listed.append(
            _finding(
                f"contradiction: {entry['rule']} ({how})",
                entry["count"],
                f"pairs of rows whose clips {how} exclude each other ("
                + "; ".join(f"{answers}: {count}" for answers, count in entry["answers"].items())
                + ")",
                "No system can be right on both; they bound the score from above.",
                entry["keys"],
            )
        )
    return listed


def _clips(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    near, agreement = report["near_duplicates"], report["neighbour_agreement"]
    high = [name for name, share in agreement.items() if share >= 0.75]
    return [
        _finding(
            "near_duplicates",
            near["pairs"],
            f"pairs among {near['clips']} clips share half of their frames or more",
            "A random split puts them on both sides; use --policy leak-free.",
            near["keys"],
        ),
        _finding(
            "neighbours_agree",
            len(high),
            "types where three of four neighbouring clips have the same answer: " + ", ".join(high),
            "Copying the nearest label in time scores high where a split shares procedures.",
        ),
    ]


def _recording(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    videos = report["videos"]
    rates = sorted({each["fps"] for each in videos.values() if each["fps"]})
    vendors = sorted({each["vendor"] for each in videos.values() if each["vendor"]})
    lengths = sorted({each["clip_seconds"] for each in videos.values() if each["clip_seconds"]})
    used = sum(each["frames_used"] for each in videos.values())
    available = sum(each["frames_available"] or 0 for each in videos.values())
    beyond = sum(each["beyond_the_video"] or 0 for each in videos.values())
    return [
        _finding(
            "frame_rates",
            len(rates) if len(rates) > 1 else 0,
            f"frame rates ({', '.join(map(str, rates))}); a clip lasts {' or '.join(map(str, lengths))} s",
            "Motion questions mean different speeds; pass each procedure's own rate to the model.",
        ),
        _finding(
            "vendors",
            len(vendors) if len(vendors) > 1 else 0,
            "recorders: "
            + "; ".join(
                f"{vendor} " + ", ".join(name for name, each in videos.items() if each["vendor"] == vendor)
                for vendor in vendors
            ),
            "A test on the rarer recorder measures a change of recorder too.",
        ),
        _finding(
            "nbi_without_olympus",
            report["nbi_without_olympus"]["rows"],
            "rows name NBI, an Olympus mode, in a video of another vendor",
            "Another filter may be meant; check the frames before trusting these labels.",
            report["nbi_without_olympus"]["keys"],
        ),
        _finding(
            "frames_used",
            used if available else 0,
            f"frames are asked about, of {available} in these videos",
            "Fetch only these; the rest of the archives is not needed.",
        ),
        _finding(
            "frames_beyond_the_video",
            beyond,
            "frame numbers are larger than the video's frame count",
            "These frames do not exist; the table and the annotations disagree.",
        ),
    ]


def _tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    lesions, boxes = report["lesions"], report["boxes"]
    listed = []
    if lesions:
        spellings = len(lesions["site_spellings"]) + len(lesions["histology_spellings"])
        listed += [
            _finding(
                "lesion_spellings",
                spellings - len(lesions["sites"]) - len(lesions["histologies"]),
                f"spellings too many: {len(lesions['site_spellings'])} for {len(lesions['sites'])} sites, "
                f"{len(lesions['histology_spellings'])} for {len(lesions['histologies'])} histologies",
                "Count lesions after making the spellings one.",
            ),
            _finding(
                "one_lesion_attribute_per_video",
                sum(map(len, lesions["constant_in_video"].values())),
                "lesion attributes have one value in a whole video: "
                + ", ".join(
                    f"{video} {' and '.join(fields.values())}"
                    for video, fields in lesions["constant_in_video"].items()
                    if fields
                ),
                "Recognising the video answers these questions.",
            ),
            _finding(
                "labels_not_in_lesion_table",
                lesions["labels_not_in_table"]["rows"],
                "rows name a site or histology that no lesion of the procedure has in lesion_info.csv",
                "Either the label or the table is wrong.",
                lesions["labels_not_in_table"]["keys"],
            ),
        ]
    for name in ("lesion_screen_position", "lesion_motion_direction") if boxes else ():
        entry = boxes[name]
        listed.append(
            _finding(
                f"boxes: {name}",
                entry["checked"] - entry["agree"],
                f"of {entry['checked']} rows with boxes say something else than the boxes show",
                "The score on this type is bounded by the labels.",
                entry["keys"],
            )
        )
    return listed

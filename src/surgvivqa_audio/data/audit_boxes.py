"""Labels about the lesion on the screen, checked against the boxes that REAL-Colon provides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from surgvivqa_audio.data.audit_checks import EXAMPLES
from surgvivqa_audio.data.boxes import BoxFolder, FrameBoxes
from surgvivqa_audio.sample import Sample

POSITION, DIRECTION = "lesion_screen_position", "lesion_motion_direction"
STABLE_SHARE = 0.03  # of the frame's width or height: below it, a lesion counts as stable


def track(sample: Sample, boxes: BoxFolder) -> list[tuple[float, float, float]]:
    """Centre (x, y) and area of the clip's lesion per frame that has it, as shares of the frame.

    Of several lesions the one on most frames is followed; a tie goes to the larger one.
    """
    frames = [frame for number in sample.frame_numbers if (frame := boxes.read(sample.video_id, number))]
    weight: dict[str, float] = {}
    for frame in frames:
        for box in frame.boxes:
            weight.setdefault(box.lesion_id, 0.0)
            weight[box.lesion_id] += 1 + box.area / (frame.width * frame.height * len(frames))
    if not weight:
        return []
    name = max(weight.items(), key=lambda item: (item[1], item[0]))[0]
    return [place for frame in frames if (place := _place(frame, name)) is not None]


def _place(frame: FrameBoxes, name: str) -> tuple[float, float, float] | None:
    for box in frame.boxes:
        if box.lesion_id == name:
            x, y = box.centre
            return x / frame.width, y / frame.height, box.area / (frame.width * frame.height)
    return None


def quadrant(places: Sequence[tuple[float, float, float]]) -> str:
    """Quadrant of the mean centre, as the answers name it."""
    x, y = fmean(place[0] for place in places), fmean(place[1] for place in places)
    return f"{'upper' if y < 0.5 else 'lower'}-{'left' if x < 0.5 else 'right'}"


def drift(places: Sequence[tuple[float, float, float]]) -> str:
    """Direction between first and last centre along the longer axis, or stable."""
    dx, dy = places[-1][0] - places[0][0], places[-1][1] - places[0][1]
    if max(abs(dx), abs(dy)) < STABLE_SHARE:
        return "stable"
    if abs(dx) >= abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def check_boxes(samples: Sequence[Sample], boxes: BoxFolder) -> dict[str, Any]:
    """Agreement of position and direction labels with the boxes, and the lesion's size on screen.

    ``rows`` have a label of these types, ``checked`` of them have boxes on their frames; ``agree`` are
    those whose label is what the boxes show. ``keys`` are examples that disagree.
    """
    report: dict[str, Any] = {}
    areas: list[float] = []
    for name, measure in ((POSITION, quadrant), (DIRECTION, drift)):
        rows = [sample for sample in samples if sample.question_type == name]
        seen: Counter[tuple[str, str]] = Counter()
        wrong: list[str] = []
        for row in rows:
            places = track(row, boxes)
            if len(places) < 2:
                continue
            shown = measure(places)
            areas.append(fmean(place[2] for place in places))
            seen[row.short_answer, shown] += 1
            if shown != row.short_answer:
                wrong.append(row.key)
        agree = sum(count for (label, shown), count in seen.items() if label == shown)
        report[name] = {
            "rows": len(rows),
            "checked": sum(seen.values()),
            "agree": agree,
            "label_then_boxes": {
                f"{label} -> {shown}": count for (label, shown), count in sorted(seen.items())
            },
            "keys": wrong[:EXAMPLES],
        }
    areas.sort()
    report["share_of_frame"] = (
        {"least": areas[0], "median": areas[len(areas) // 2], "most": areas[-1]} if areas else None
    )
    return report

"""What each control shows, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from surgvivqa_audio.evaluation.figures import difference
from surgvivqa_audio.evaluation.runs import Comparison, Run, compare
from surgvivqa_audio.scoring.floors import hits
from surgvivqa_audio.scoring.parse import Label
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.scoring.table import percent
from surgvivqa_audio.taxonomy import Taxonomy

_YES, _PARTLY = 0.8, 0.5
_DIRECTIONS = {"advancing": "withdrawing", "up": "down", "left": "right"}
_OPPOSITE = _DIRECTIONS | {second: first for first, second in _DIRECTIONS.items()}
_REVERSIBLE = frozenset({"scope_motion_type", "lesion_motion_direction"})
_BINARY_REVERSIBLE = frozenset({"scope_forward_motion", "scope_backward_motion"})
_REVERSED = {
    "scope_motion_type": "advancing or withdrawing",
    "lesion_motion_direction": "direction of the lesion",
    "scope_forward_motion": "advancing, yes or no",
    "scope_backward_motion": "withdrawing, yes or no",
}
MOTION_TYPES = frozenset({*_REVERSED, "scope_motion"})  # what one frame cannot show
_BLIND_MARGIN = 0.03


def explain(base: Run, changed: Run, taxonomy: Taxonomy) -> dict[str, Any]:
    """Figures and one sentence for a control run beside the run without it.

    Raises:
        BadAnnotation: the two files share no rows.
    """
    control = changed.control or ""
    both = compare(base, changed)
    result: dict[str, Any] = {"control": control, "system": base.system} | difference(both)
    result["same_answer"] = _share(base.labels[one] == changed.labels[other] for one, other in both.pairs)
    result["floor"] = _floor(both)
    moving = both.only(lambda at: base.rows[at].question_type in MOTION_TYPES)
    if moving.pairs:
        result["movement"] = difference(moving) | {"floor": _floor(moving)}
    sentences: dict[str, Callable[[Run, Run, dict[str, Any]], str]] = {
        "silence": _silence,
        "swap-across": _swap_across,
        "swap-within": _swap_within,
        "reverse": _reverse,
        "blank": _blank,
        "frozen": _frozen,
    }
    shared = replace(base, rows=_rows(both), labels=_labels(both), correct=tuple(both.right(0)))
    result["words"] = sentences.get(control, _accuracy)(shared, changed, result)
    return result


def _rows(both: Comparison) -> tuple[Prediction, ...]:
    return tuple(both.first.rows[at] for at, _ in both.pairs)


def _labels(both: Comparison) -> tuple[Label | None, ...]:
    return tuple(both.first.labels[at] for at, _ in both.pairs)


def _floor(both: Comparison) -> float:
    """Share right of the base run's floor answers on the shared rows."""
    rows = _rows(both)
    return hits(rows, both.first.score["floor_answers"]) / len(rows)


def _silence(base: Run, changed: Run, result: dict[str, Any]) -> str:
    refused, before = _refused(changed), _refused(base)
    result["refused"], result["refused_with_sound"] = refused, before
    verdict = _verdict(refused) if before < _PARTLY else "cannot be said"
    return (
        f"needs the sound: {verdict}, {percent(refused)} % abstain when nothing is said, {percent(before)} % "
        f"with sound; right {percent(result['second'])} % (with sound {percent(result['first'])} %)"
    )


def _refused(run: Run) -> float:
    return _share(label is not None and label.question_type == "" for label in run.labels)


def _swap_across(base: Run, changed: Run, result: dict[str, Any]) -> str:
    asked = [(row.extra or {}).get("asked_type") for row in changed.rows]
    heard = [_heard(changed, at) for at in range(len(changed.rows))]
    follow = _share(said == kind for said, kind in zip(heard, asked, strict=True))
    stay = _share(
        said == row.question_type for said, row in zip(heard, changed.rows, strict=True) if row.question_type
    )
    known = [at for at, row in enumerate(changed.rows) if (row.extra or {}).get("asked_same_clip")]
    result["follow_spoken"], result["follow_row"] = follow, stay
    text = f"hears: {_verdict(follow)}, {percent(follow)} % follow the spoken question"
    text += f", {percent(stay)} % the type that was not asked"
    if known:
        asked_right = _share(
            (label.question_type, label.short)
            == ((row.extra or {}).get("asked_type"), (row.extra or {}).get("asked_short_answer"))
            for label, row in ((changed.labels[at], changed.rows[at]) for at in known)
            if label is not None
        )
        result["right_for_spoken"] = asked_right
        text += f"; {percent(asked_right)} % of the readable answers are right for the spoken question"
    return text


def _heard(run: Run, number: int) -> str | None:
    """The type the answer belongs to: the system's own word for it, else that of the parsed sentence."""
    extra = run.rows[number].extra or {}
    if extra.get("predicted_type") or extra.get("abstained"):
        return str(extra["predicted_type"])
    label = run.labels[number]
    return label.question_type if label else None


def _swap_within(base: Run, changed: Run, result: dict[str, Any]) -> str:
    same = result["same_answer"]
    return (
        f"does not hang on one recording: {_verdict(same)}, {percent(same)} % keep their answer when another "
        "recording of the same type is played (a deaf system would too: see swap-across)"
    )


def _reverse(base: Run, changed: Run, result: dict[str, Any]) -> str:
    turned: list[bool] = []
    groups: dict[str, list[bool]] = {}
    for one, other in compare(base, changed).pairs:
        before, after = base.labels[one], changed.labels[other]
        kind = base.rows[one].question_type
        if before is None or not base.correct[one]:
            continue
        if kind in _REVERSIBLE and before.short in _OPPOSITE:
            turned.append(after is not None and after.short == _OPPOSITE[before.short])
            groups.setdefault(kind, []).append(turned[-1])
        elif kind in _BINARY_REVERSIBLE:
            turned.append(after is not None and after != before)
            groups.setdefault(kind, []).append(turned[-1])
    if not turned:
        return "sees the order of frames: not measured, no right answer about a direction in these rows"
    share = _share(turned)
    result["turned"], result["turned_rows"] = share, len(turned)
    result["turned_by_type"] = {kind: [sum(found), len(found)] for kind, found in groups.items()}
    parts = [
        f"{_REVERSED[kind]} {percent(_share(found))} % of {len(found)}" for kind, found in groups.items()
    ]
    return (
        f"sees the order of frames: {_verdict(share)}, when the clip runs backwards {percent(share)} % of "
        f"{len(turned)} answers about a direction that were right turn round ({', '.join(parts)})"
    )


def _blank(base: Run, changed: Run, result: dict[str, Any]) -> str:
    """Seeing means that grey frames leave at most the floor and a little."""
    second, floor, high = result["second"], result["floor"], result["ci95"][1]
    verdict = "no" if high >= 0 else "yes" if second <= floor + _BLIND_MARGIN else "partly"
    return (
        f"sees: {verdict}, right (n = {result['rows']}) {percent(result['first'])} % with frames, "
        f"{percent(second)} % with grey ones; floor {percent(floor)} %, 'yes' allows floor + 3 points"
    )


def _frozen(base: Run, changed: Run, result: dict[str, Any]) -> str:
    """Seeing motion means that one repeated frame costs the questions about motion."""
    if "movement" not in result:
        return "sees motion: not measured, no question about motion in these rows"
    moving = result["movement"]
    low, high = moving["ci95"]
    blind = moving["second"] <= moving["floor"] + _BLIND_MARGIN
    verdict = "no" if high >= 0 else "yes" if blind else "partly"
    return (
        f"sees motion: {verdict}, with one frame repeated the motion types (n = {moving['rows']}) go from "
        f"{percent(moving['first'])} % to {percent(moving['second'])} %, difference {100 * low:+.1f} to "
        f"{100 * high:+.1f} points; floor {percent(moving['floor'])} %"
    )


_CLAIMS = {
    "shuffle": ("uses the order of frames", True),
    "other-clip": ("looks at this clip", True),
    "voice": ("understands another voice", False),
    "phrasing": ("understands another wording", False),
}


def _accuracy(base: Run, changed: Run, result: dict[str, Any]) -> str:
    control = result["control"]
    if control.startswith("noise-"):
        claim, falls = f"understands at {control.removeprefix('noise-')} dB of noise", False
    else:
        claim, falls = _CLAIMS.get(control, (f"{control} matters", True))
    motion = control == "shuffle" and "movement" in result
    seen = result["movement"] if motion else result
    first, second = seen["first"], seen["second"]
    low, high = seen["ci95"]
    if falls:
        verdict = "yes" if high < 0 else "no"
    elif first <= result["floor"]:
        verdict = "cannot be said, it is not above its floor without the control"
    else:
        verdict = "yes" if first - second <= 0.02 else "partly" if first - second <= 0.1 else "no"
    about = f"movement questions (n = {seen['rows']})" if motion else f"right (n = {seen['rows']})"
    text = (
        f"{claim}: {verdict}, {about} {percent(first)} % -> {percent(second)} %, "
        f"difference {100 * low:+.1f} to {100 * high:+.1f} points"
    )
    return text if motion else f"{text}; floor {percent(result['floor'])} %"


def _verdict(share: float) -> str:
    return "yes" if share >= _YES else "partly" if share >= _PARTLY else "no"


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

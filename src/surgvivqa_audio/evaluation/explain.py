"""What each control shows, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from surgvivqa_audio.evaluation.figures import difference
from surgvivqa_audio.evaluation.runs import Run, compare
from surgvivqa_audio.scoring.table import percent
from surgvivqa_audio.taxonomy import Taxonomy

_YES, _PARTLY = 0.8, 0.5
_DIRECTIONS = {"advancing": "withdrawing", "up": "down", "left": "right"}
_OPPOSITE = _DIRECTIONS | {second: first for first, second in _DIRECTIONS.items()}
_REVERSIBLE = frozenset({"scope_motion_type", "lesion_motion_direction"})
_BINARY_REVERSIBLE = frozenset({"scope_forward_motion", "scope_backward_motion"})


def explain(base: Run, changed: Run, taxonomy: Taxonomy) -> dict[str, Any]:
    """Figures and one sentence for a control run beside the run without it.

    Raises:
        BadAnnotation: the two files share no rows.
    """
    control = changed.control or ""
    both = compare(base, changed)
    result: dict[str, Any] = {"control": control, "system": base.system} | difference(both)
    result["same_answer"] = _share(base.labels[one] == changed.labels[other] for one, other in both.pairs)
    result["floor"] = base.score["floor"]
    moving = both.only(lambda at: _domain(base.rows[at].question_type, taxonomy) == "movement")
    if moving.pairs:
        result["movement"] = difference(moving)
    sentences: dict[str, Callable[[Run, Run, dict[str, Any]], str]] = {
        "silence": _silence,
        "swap-across": _swap_across,
        "swap-within": _swap_within,
        "reverse": _reverse,
    }
    result["words"] = sentences.get(control, _accuracy)(base, changed, result)
    return result


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
    if "predicted_type" in extra:
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
    for one, other in compare(base, changed).pairs:
        before, after = base.labels[one], changed.labels[other]
        kind = base.rows[one].question_type
        if before is None or not base.correct[one]:
            continue
        if kind in _REVERSIBLE and before.short in _OPPOSITE:
            turned.append(after is not None and after.short == _OPPOSITE[before.short])
        elif kind in _BINARY_REVERSIBLE:
            turned.append(after is not None and after != before)
    if not turned:
        return "sees the order of frames: not measured, no right answer about a direction in these rows"
    share = _share(turned)
    result["turned"], result["turned_rows"] = share, len(turned)
    return (
        f"sees the order of frames: {_verdict(share)}, {percent(share)} % of {len(turned)} right answers "
        "about a direction turn round when the clip runs backwards"
    )


_CLAIMS = {
    "blank": ("looks at the picture", True),
    "frozen": ("uses motion, not one frame", True),
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
    motion = control in ("frozen", "shuffle") and "movement" in result
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


def _domain(kind: str, taxonomy: Taxonomy) -> str:
    found = taxonomy.types.get(kind)
    return found.domain if found else ""


def _verdict(share: float) -> str:
    return "yes" if share >= _YES else "partly" if share >= _PARTLY else "no"


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

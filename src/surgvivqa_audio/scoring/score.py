"""One prediction file, all rules side by side, with floors, ceilings and intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from surgvivqa_audio.sample import Sample, read_samples
from surgvivqa_audio.scoring.floors import hits, majority, nearest
from surgvivqa_audio.scoring.intervals import wilson
from surgvivqa_audio.scoring.parse import SCORER_VERSION, AnswerParser, Label
from surgvivqa_audio.scoring.rows import Prediction, read_predictions
from surgvivqa_audio.scoring.rules import bleu, k_acc, loose, rouge_l, substring
from surgvivqa_audio.taxonomy import Taxonomy

_RULES: dict[str, Callable[[Prediction], bool]] = {
    "substring": lambda row: substring(row.short_answer, row.predicted),
    "loose": lambda row: loose(row.short_answer, row.ground_truth, row.predicted),
    "k_acc": lambda row: k_acc(row.short_answer, row.predicted),
}


def is_correct(label: Label | None, row: Prediction) -> bool:
    """Whether a parsed answer is the gold option: the row's type, or the refusal where that is gold.

    A system that says it understood another type of question is wrong, even if its short answer fits.
    """
    if label is None or row.error is not None or label.short != row.short_answer:
        return False
    understood = (row.extra or {}).get("predicted_type") or row.question_type
    refused = (row.extra or {}).get("abstained") is True
    return label.question_type in ("", row.question_type) and (refused or understood == row.question_type)


def judge(rows: Iterable[Prediction], parser: AnswerParser) -> list[bool]:
    """Closed-set correctness of each row; a row with an error is wrong."""
    return [is_correct(parser.parse(row.predicted, row.question_type), row) for row in rows]


def by_type(rows: Iterable[Prediction]) -> dict[str, list[int]]:
    """Row numbers of each question type, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.question_type, []).append(number)
    return groups


def mean_recall(rows: Sequence[Prediction], correct: Sequence[bool]) -> float:
    """Mean over the gold answers that occur of the share of their rows that are right."""
    totals: dict[str, list[bool]] = {}
    for row, right in zip(rows, correct, strict=True):
        totals.setdefault(row.short_answer, []).append(right)
    return _mean([_share(found) for found in totals.values()])


def balanced(rows: Sequence[Prediction], correct: Sequence[bool]) -> float:
    """Unweighted mean over question types of the mean recall over their answers."""
    return _mean(
        [
            mean_recall([rows[at] for at in numbers], [correct[at] for at in numbers])
            for numbers in by_type(rows).values()
        ]
    )


def informative(rows: Iterable[Prediction]) -> dict[str, list[str]]:
    """Types with more than one gold answer in these rows, with those answers."""
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        answers.setdefault(row.question_type, {})[row.short_answer] = None
    return {kind: list(found) for kind, found in answers.items() if len(found) > 1}


def score_rows(
    rows: Sequence[Prediction], taxonomy: Taxonomy, train: Sequence[Sample] | None = None
) -> dict[str, Any]:
    """All figures of one prediction file, as shares of rows (0..1).

    ``floor`` is the training majority per type (``floor_source`` "train"), or without ``train`` the
    best constant per type of these rows themselves ("self"); ``floor_nearest`` copies the nearest training
    clip and is None where procedures are not shared or rows have no key. ``ceilings`` holds what the gold
    sentences score under each rule.
    """
    parser = AnswerParser(taxonomy)
    correct = judge(rows, parser)
    constant = majority(rows if train is None else train)
    result: dict[str, Any] = {"rows": len(rows), "errors": sum(row.error is not None for row in rows)}
    result |= _figures(rows, correct)
    result["ci95"] = list(wilson(sum(correct), len(rows)))
    result["floor"] = hits(rows, constant) / len(rows)
    result["floor_source"] = "self" if train is None else "train"
    result["floor_answers"] = constant
    result["floor_best_constant"] = hits(rows, majority(rows)) / len(rows)
    if train is not None:
        result["floor_nearest"] = _nearest(rows, train)
        result["floor_unknown_types"] = sorted({row.question_type for row in rows} - constant.keys())
    result["unparsed"] = sum(parser.parse(row.predicted, row.question_type) is None for row in rows)
    result["informative"] = informative(rows)
    result["informative_only"] = _subset(rows, correct, constant, result["informative"])
    result["by_type"] = {
        kind: _type_figures([rows[at] for at in numbers], [correct[at] for at in numbers], constant)
        for kind, numbers in by_type(rows).items()
    }
    gold = [_as_gold(row) for row in rows]
    result["ceilings"] = _figures(gold, judge(gold, parser))
    result["scorer_version"] = SCORER_VERSION
    return result


def score_file(path: str | Path, taxonomy: Taxonomy, train: str | Path | None = None) -> dict[str, Any]:
    """Read and score a prediction file, ours or a published one without ``key``.

    Raises:
        BadAnnotation: names file, line and field.
        UnknownQuestionType: names file, line and type.
    """
    rows = read_predictions(path, taxonomy)
    known = None if train is None else read_samples(train, taxonomy)
    result = score_rows(rows, taxonomy, known)
    unkeyed = [(row.question_id, row.question_type) for row in rows if not row.key]
    result["rows_without_key"] = len(unkeyed)
    result["ambiguous_ids"] = len(unkeyed) - len(set(unkeyed))
    return result


def _nearest(rows: Sequence[Prediction], train: Sequence[Sample]) -> float | None:
    """Share right of copying the nearest training clip in time; None where nothing can be copied."""
    if any(row.first_frame < 0 for row in rows):
        return None
    copied = nearest(rows, train)
    if not any(copied):
        return None
    return sum(answer == row.short_answer for answer, row in zip(copied, rows, strict=True)) / len(rows)


def _as_gold(row: Prediction) -> Prediction:
    return Prediction(
        key=row.key,
        question_id=row.question_id,
        question_type=row.question_type,
        question=row.question,
        ground_truth=row.ground_truth,
        short_answer=row.short_answer,
        predicted=row.ground_truth,
    )


def _figures(rows: Sequence[Prediction], correct: Sequence[bool]) -> dict[str, float]:
    figures = {
        name: _share([row.error is None and rule(row) for row in rows]) for name, rule in _RULES.items()
    }
    pairs = [(row.ground_truth, "" if row.error else row.predicted) for row in rows]
    bleu4, precision4 = bleu(pairs)
    return figures | {
        "closed_set": _share(correct),
        "balanced": balanced(rows, correct),
        "bleu4": bleu4,
        "precision4": precision4,
        "rouge_l": _mean([rouge_l(*pair) for pair in pairs]),
    }


def _subset(
    rows: Sequence[Prediction], correct: Sequence[bool], constant: dict[str, str], kinds: Iterable[str]
) -> dict[str, Any]:
    chosen = [at for at, row in enumerate(rows) if row.question_type in set(kinds)]
    if not chosen:
        return {"rows": 0}
    subset, right = [rows[at] for at in chosen], [correct[at] for at in chosen]
    return {
        "rows": len(subset),
        "closed_set": _share(right),
        "balanced": balanced(subset, right),
        "ci95": list(wilson(sum(right), len(subset))),
        "floor": hits(subset, constant) / len(subset),
        "floor_best_constant": hits(subset, majority(subset)) / len(subset),
    }


def _type_figures(
    rows: Sequence[Prediction], correct: Sequence[bool], constant: dict[str, str]
) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "closed_set": _share(correct),
        "balanced": mean_recall(rows, correct),
        "floor": hits(rows, constant) / len(rows),
        "ci95": list(wilson(sum(correct), len(rows))),
        "answers": len({row.short_answer for row in rows}),
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

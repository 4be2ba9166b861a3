"""Figures of judged runs: groups, intervals over procedures, pairs, wordings, latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa_audio.evaluation.runs import Comparison, Run, compare
from surgvivqa_audio.scoring.floors import hits
from surgvivqa_audio.scoring.intervals import wilson
from surgvivqa_audio.scoring.score import balanced
from surgvivqa_audio.scoring.statistics import cluster_bootstrap, confusion, flips, holm, macro_f1
from surgvivqa_audio.scoring.words import words
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import Taxonomy

Rows = NDArray[np.int64]


def run_figures(run: Run, taxonomy: Taxonomy, rounds: int = 500) -> dict[str, Any]:
    """Everything about one run; shares are 0..1 and stand beside their n."""
    right = np.array(run.correct, dtype=np.float64)
    videos = [row.video for row in run.rows]
    figures = dict(run.score)
    if all(videos) and len(set(videos)) > 1:
        figures["ci95_procedures"] = list(
            cluster_bootstrap(videos, lambda rows: float(right[rows].mean()), rounds=rounds)
        )
        figures["balanced_ci95_procedures"] = list(cluster_bootstrap(videos, _balanced(run), rounds=rounds))
    figures["procedures"] = len(set(videos)) if all(videos) else None
    figures["by_domain"] = _groups(run, lambda at: _domain(run.rows[at].question_type, taxonomy))
    if all(videos):
        figures["by_procedure"] = _groups(run, lambda at: videos[at])
    figures["by_answer_kind"] = _groups(run, lambda at: _answer_kind(run.rows[at].question_type, taxonomy))
    figures["macro_f1"], figures["confusion"] = _by_type(run)
    figures["latency_ms"] = _latency(run)
    figures["abstained"] = _abstained(run)
    figures["word_error_rate"] = _word_error_rate(run)
    return figures


def pair_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """McNemar between all runs that share rows, Holm-corrected over the whole table."""
    found: list[tuple[str, Comparison]] = []
    for first, second in combinations(runs, 2):
        if first.keyed.keys() & second.keyed.keys():
            found.append((f"{first.name} | {second.name}", compare(first, second)))
    adjusted = holm({name: one.paired.p_value for name, one in found})
    return [
        {
            "first": one.first.name,
            "second": one.second.name,
            "rows": len(one.pairs),
            **asdict(one.paired),
            "p_holm": adjusted[name],
        }
        for name, one in found
    ]


def wording_flips(first: Run, second: Run) -> dict[str, Any]:
    """The same clips in two wordings: rows whose keys differ in the template only."""
    sides = []
    for run in (first, second):
        sides.append(
            {
                row.key.partition("/")[2]: (label.short if label else None, right)
                for row, label, right in zip(run.rows, run.labels, run.correct, strict=True)
                if row.key
            }
        )
    return {"first": first.name, "second": second.name, **asdict(flips(*sides))}


def difference(one: Comparison, rounds: int = 500) -> dict[str, Any]:
    """Share right of both sides, and the interval of the difference over procedures (or rows)."""
    first, second = (np.array(one.right(side), dtype=np.float64) for side in (0, 1))
    videos: list[object] = [one.first.rows[at].video for at, _ in one.pairs]
    clustered = all(videos) and len(set(videos)) > 1
    gap = second - first
    interval = cluster_bootstrap(
        videos if clustered else list(range(len(gap))), lambda rows: float(gap[rows].mean()), rounds=rounds
    )
    return {
        "rows": len(gap),
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": float(gap.mean()),
        "ci95": list(interval),
        "interval_over": "procedures" if clustered else "rows",
        **asdict(one.paired),
    }


def _balanced(run: Run) -> Callable[[Rows], float]:
    """Balanced accuracy of any selection of rows, fast enough to be drawn hundreds of times."""
    pairs = list(dict.fromkeys((row.question_type, row.short_answer) for row in run.rows))
    kinds = list(dict.fromkeys(kind for kind, _ in pairs))
    pair_of = np.array([pairs.index((row.question_type, row.short_answer)) for row in run.rows])
    kind_of = np.array([kinds.index(kind) for kind, _ in pairs])
    right = np.array(run.correct, dtype=np.float64)

    def figure(rows: Rows) -> float:
        counts = np.bincount(pair_of[rows], minlength=len(pairs))
        seen = counts > 0
        recall = np.bincount(pair_of[rows], weights=right[rows], minlength=len(pairs))[seen] / counts[seen]
        totals = np.bincount(kind_of[seen], weights=recall, minlength=len(kinds))
        answers = np.bincount(kind_of[seen], minlength=len(kinds))
        return float((totals[answers > 0] / answers[answers > 0]).mean())

    return figure


def _domain(kind: str, taxonomy: Taxonomy) -> str:
    found = taxonomy.types.get(kind)
    return taxonomy.domains[found.domain] if found else "Out of scope"


def _answer_kind(kind: str, taxonomy: Taxonomy) -> str:
    found = taxonomy.types.get(kind)
    return "out of scope" if found is None else "yes/no" if found.binary else "limited choice"


def _groups(run: Run, name: Callable[[int], str]) -> dict[str, dict[str, Any]]:
    members: dict[str, list[int]] = {}
    for number in range(len(run.rows)):
        members.setdefault(name(number), []).append(number)
    return {
        group: {
            "rows": len(numbers),
            "closed_set": sum(run.correct[at] for at in numbers) / len(numbers),
            "balanced": balanced([run.rows[at] for at in numbers], [run.correct[at] for at in numbers]),
            "floor": hits([run.rows[at] for at in numbers], run.score["floor_answers"]) / len(numbers),
            "ci95": list(wilson(sum(run.correct[at] for at in numbers), len(numbers))),
        }
        for group, numbers in members.items()
    }


def _by_type(run: Run) -> tuple[float, dict[str, dict[str, dict[str, int]]]]:
    """Mean over types of macro-F1, and the confusion table of each type."""
    scores, tables = [], {}
    for kind in dict.fromkeys(row.question_type for row in run.rows):
        numbers = [at for at, row in enumerate(run.rows) if row.question_type == kind]
        gold = [run.rows[at].short_answer for at in numbers]
        said = [_said(run, at) for at in numbers]
        scores.append(macro_f1(gold, said))
        tables[kind] = confusion(gold, said)
    return sum(scores) / len(scores), tables


def _said(run: Run, number: int) -> str | None:
    label, row = run.labels[number], run.rows[number]
    if label is None or row.error is not None:
        return None
    return label.short if label.question_type in ("", row.question_type) else f"[{label.question_type}]"


def _latency(run: Run) -> dict[str, float] | None:
    times = [row.inference_time_ms for row in run.rows if row.inference_time_ms]
    if not times:
        return None
    p50, p95 = np.percentile(times, [50, 95])
    return {"rows": len(times), "mean": float(np.mean(times)), "p50": float(p50), "p95": float(p95)}


def _abstained(run: Run) -> float | None:
    said = [row.extra["abstained"] for row in run.rows if row.extra and "abstained" in row.extra]
    return sum(map(bool, said)) / len(said) if said else None


def _word_error_rate(run: Run) -> dict[str, float] | None:
    """Word error rate of transcripts, where a system writes them; case and punctuation do not count."""
    pairs = []
    for row in run.rows:
        transcript = ((row.extra or {}).get("extra") or {}).get("transcript")
        spoken = str((row.extra or {}).get("asked_text") or row.question)
        if transcript is not None and spoken:
            pairs.append((" ".join(words(speakable(spoken)).tokens), " ".join(words(str(transcript)).tokens)))
    if not pairs:
        return None
    from jiwer import wer

    return {"rows": len(pairs), "wer": float(wer([gold for gold, _ in pairs], [said for _, said in pairs]))}

"""Two prediction files, row by row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from surgvivqa_audio.evaluation.figures import difference
from surgvivqa_audio.evaluation.runs import compare, load_run
from surgvivqa_audio.scoring.statistics import holm, mcnemar
from surgvivqa_audio.scoring.table import percent
from surgvivqa_audio.taxonomy import Taxonomy


def diff_runs(first: str | Path, second: str | Path, taxonomy: Taxonomy) -> dict[str, Any]:
    """Overall and per-type difference, and the rows on which the two disagree.

    Raises:
        BadAnnotation: a file cannot be read, or they share no rows.
    """
    both = compare(load_run(first, taxonomy), load_run(second, taxonomy))
    by_type: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(both.first.rows[at].question_type for at, _ in both.pairs):
        numbers = [(a, b) for a, b in both.pairs if both.first.rows[a].question_type == kind]
        one = [both.first.correct[a] for a, _ in numbers]
        other = [both.second.correct[b] for _, b in numbers]
        paired = mcnemar(one, other)
        by_type[kind] = {
            "rows": len(numbers),
            "first": sum(one) / len(one),
            "second": sum(other) / len(other),
            "only_first": paired.only_first,
            "only_second": paired.only_second,
            "p_value": paired.p_value,
        }
    adjusted = holm({kind: entry["p_value"] for kind, entry in by_type.items()})
    for kind, entry in by_type.items():
        entry["p_holm"] = adjusted[kind]
    changed = []
    for a, b in both.pairs:
        if both.first.labels[a] == both.second.labels[b] and both.first.correct[a] == both.second.correct[b]:
            continue
        row = both.first.rows[a]
        changed.append(
            {
                "key": row.key or f"{row.question_id} {row.question_type}",
                "question": row.question,
                "short_answer": row.short_answer,
                "first": row.predicted,
                "second": both.second.rows[b].predicted,
                "outcome": _outcome(both.first.correct[a], both.second.correct[b]),
            }
        )
    return {
        "first": {"file": str(first), "rows": len(both.first.rows), "floor": both.first.score["floor"]},
        "second": {"file": str(second), "rows": len(both.second.rows), "floor": both.second.score["floor"]},
        "shared": difference(both),
        "by_type": by_type,
        "changed": changed,
    }


def _outcome(first: bool, second: bool) -> str:
    if first == second:
        return "both right" if first else "both wrong"
    return "lost" if first else "won"


def diff_lines(result: dict[str, Any], rows: int) -> list[str]:
    """The comparison as text, with at most ``rows`` differing rows."""
    shared = result["shared"]
    low, high = shared["ci95"]
    lines = [
        f"A {result['first']['file']} (n = {result['first']['rows']})",
        f"B {result['second']['file']} (n = {result['second']['rows']})",
        f"shared rows n = {shared['rows']}: A {percent(shared['first'])} %, B {percent(shared['second'])} %, "
        f"B - A {100 * shared['difference']:+.1f} points [{100 * low:+.1f} to {100 * high:+.1f} over "
        f"{shared['interval_over']}]; only A right {shared['only_first']}, only B {shared['only_second']}, "
        f"McNemar p = {shared['p_value']:.3g}; floor of A {percent(result['first']['floor'])} %",
    ]
    for kind, row in result["by_type"].items():
        lines.append(
            f"  {kind.ljust(26)} n = {row['rows']:4d}  A {percent(row['first']):>5}  B "
            f"{percent(row['second']):>5}  only A {row['only_first']:3d}  only B {row['only_second']:3d}  "
            f"Holm p = {row['p_holm']:.2g}"
        )
    counts = Counter(row["outcome"] for row in result["changed"])
    lines.append(
        f"{len(result['changed'])} rows differ: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    for row in result["changed"][:rows]:
        lines.append(
            f"  {row['outcome']}: {row['key']} gold '{row['short_answer']}' "
            f"A '{row['first']}' B '{row['second']}'"
        )
    return lines

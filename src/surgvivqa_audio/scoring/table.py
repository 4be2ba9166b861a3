"""Scores as lines of text; a number never stands without its floor and its n."""

from __future__ import annotations

from typing import Any


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f}"


def interval(bounds: list[float]) -> str:
    """An interval of shares as percentages."""
    return f"{percent(bounds[0])}-{percent(bounds[1])}"


def band(share: float) -> str:
    """The band of a type's share: 100, > 75, 50-75, 25-50 or < 25 percent."""
    if share == 1.0:
        return "100"
    if share > 0.75:
        return "> 75"
    return "50-75" if share >= 0.5 else "25-50" if share >= 0.25 else "< 25"


def score_lines(name: str, result: dict[str, Any]) -> list[str]:
    """One file's figures: overall, the informative types, then each type with its floor."""
    source = "train majority" if result["floor_source"] == "train" else "best constant of this file"
    ceilings = result["ceilings"]
    lines = [
        f"{name}: n = {result['rows']}, failed rows {result['errors']}, unreadable answers "
        f"{result['unparsed']}",
        f"  closed set {percent(result['closed_set'])} % [{interval(result['ci95'])}], balanced "
        f"{percent(result['balanced'])} %; floor {percent(result['floor'])} % ({source})",
    ]
    subset = result["informative_only"]
    if subset["rows"]:
        lines.append(
            f"  {len(result['informative'])} informative types (n = {subset['rows']}): "
            f"{percent(subset['closed_set'])} % [{interval(subset['ci95'])}]; "
            f"floor {percent(subset['floor'])} %"
        )
    lines.append(
        "  other rules, with what the gold sentences score: "
        + ", ".join(
            f"{rule} {percent(result[rule])} of {percent(ceilings[rule])}"
            for rule in ("substring", "loose", "k_acc", "bleu4", "precision4", "rouge_l")
        )
    )
    if result.get("ambiguous_ids"):
        lines.append(f"  {result['ambiguous_ids']} rows repeat an (id, type) pair and cannot be joined")
    width = max(map(len, result["by_type"]), default=4)
    lines.append(f"  {'type'.ljust(width)}     n  closed  balanced  floor  95 %        band")
    for kind, row in result["by_type"].items():
        mark = "  one answer only" if row["answers"] == 1 else ""
        lines.append(
            f"  {kind.ljust(width)}  {row['rows']:4d}  {percent(row['closed_set']):>6}  "
            f"{percent(row['balanced']):>8}  {percent(row['floor']):>5}  "
            f"{interval(row['ci95']):<10}  {band(row['closed_set'])}{mark}"
        )
    return lines

"""The figures of a report as a document: no number without its n and its floor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from surgvivqa_audio.evaluation.document import Case, Document, Heading, Items, Paragraph, Picture, Table
from surgvivqa_audio.evaluation.sections import calibration_blocks, clock_table, refusal_table
from surgvivqa_audio.scoring.table import band, interval, percent

SIMULATOR_LABEL = (
    "All figures below were measured on ColonSim, the simulator, not on colonoscopy. They say how the "
    "machinery works and must not stand beside published figures on real video."
)


def write_pages(
    document: Document, report: dict[str, Any], cases: Sequence[Case], pictures: Sequence[Picture]
) -> None:
    """Fill ``document`` from the report's figures."""
    plots = {picture.file: picture for picture in pictures}
    document.add(Paragraph(report["notice"], notice=True))
    if report["simulated"]:
        document.add(Paragraph(SIMULATOR_LABEL, notice=True))
    document.add(Heading("Systems and floors"), _systems(report), _rules(report))
    if report["controls"]:
        document.add(Heading("What the controls show"), *_controls(report, plots))
    document.add(Heading(f"Question types: {report['main']}"), *_types(report, plots))
    document.add(Heading("Domains, answer kinds, procedures"), *_groups(report))
    if report["pairs"]:
        document.add(Heading("Systems against each other"), _pairs(report))
    if report["clock"]:
        document.add(Heading("Every system on the same clock"), clock_table(report))
    if report["wordings"]:
        document.add(Heading("The same clips in both wordings"), _wordings(report))
    if report["calibration"]:
        document.add(Heading("Calibration"), *calibration_blocks(report, plots))
    if report["refusals"]:
        document.add(Heading("Refusals"), refusal_table(report))
    document.add(Heading("Confusion"), *_confusion(report))
    if cases:
        document.add(Heading("Failure gallery"), *cases)
    document.add(Heading("Run record"), *_record(report))


def _label(figures: dict[str, Any]) -> str:
    return " (simulator)" if figures["simulated"] else ""


def _systems(report: dict[str, Any]) -> Table:
    rows = []
    for name, run in report["runs"].items():
        over = interval(run["ci95_procedures"]) if "ci95_procedures" in run else "-"
        latency = run["latency_ms"]
        subset = run["informative_only"]
        rows.append(
            [
                name + _label(run) + (" (floor)" if run["reference"] else ""),
                str(run["rows"]),
                str(run["errors"]),
                f"{percent(run['closed_set'])} [{interval(run['ci95'])}]",
                over,
                percent(run["balanced"]),
                percent(run["macro_f1"]),
                f"{percent(run['floor'])} ({run['floor_source']})",
                percent(run["floor_best_constant"]),
                percent(run["floor_nearest"]) if run.get("floor_nearest") is not None else "n/a",
                f"{percent(subset['closed_set'])} / {percent(subset['floor'])} (n = {subset['rows']})"
                if subset["rows"]
                else "-",
                f"{latency['p50']:.0f} / {latency['p95']:.0f}" if latency else "-",
            ]
        )
    return Table(
        ["system", "n", "failed", "right % [95 %]", "95 % over procedures", "balanced %", "macro-F1",
         "floor %", "best constant %", "nearest clip %", "informative types: right / floor %",
         "ms p50 / p95"],
        rows,
        "Right: the closed-set rule. Floor: majority answer per type of the training rows, or the best "
        "constant per type of the rows themselves (self). Nearest clip: copied "
        "from the nearest training clip in time, where procedures are shared. Failed rows count as wrong. "
        "ms: the share of a question in the passes of its batch; how long one waits is on the clock below.",
    )  # fmt: skip


def _rules(report: dict[str, Any]) -> Table:
    names = ("closed_set", "substring", "loose", "k_acc", "bleu4", "precision4", "rouge_l")
    rows = [
        [name + _label(run), str(run["rows"]), percent(run["floor"])]
        + [f"{percent(run[rule])} of {percent(run['ceilings'][rule])}" for rule in names]
        for name, run in report["runs"].items()
    ]
    return Table(
        [
            "system",
            "n",
            "floor %",
            "closed set",
            "substring",
            "loose",
            "K-ACC",
            "BLEU-4",
            "4-gram precision",
            "ROUGE-L",
        ],
        rows,
        "The same answers under other rules; 'of' gives what the gold sentences themselves score. Substring "
        "is the predecessor's rule, loose that of its baselines (an empty answer counts), K-ACC the paper's.",
    )


def _controls(report: dict[str, Any], plots: dict[str, Picture]) -> list[Items | Table | Picture]:
    words = [f"{entry['control']} ({entry['system']}): {entry['words']}" for entry in report["controls"]]
    leak = report["leak"]
    if leak is not None:
        said = "reads" if leak["reads"] else "must not read"
        words.append(
            f"written text beside the sound ({leak['system']}, which {said}): {len(leak['changed'])} of "
            f"{leak['rows']} answers change"
        )
    rows = [
        [
            entry["control"],
            entry["system"],
            str(entry["rows"]),
            percent(entry["first"]),
            percent(entry["second"]),
            "{:+.1f} to {:+.1f}".format(*(100 * bound for bound in entry["ci95"])),
            percent(entry["same_answer"]),
            percent(entry["floor"]),
            f"{entry['p_value']:.2g}",
        ]
        for entry in report["controls"]
    ]
    columns = ["control", "system", "n", "without %", "with %", "difference, 95 %", "same answer %",
               "floor %", "McNemar p"]  # fmt: skip
    blocks: list[Items | Table | Picture] = [Items(words), Table(columns, rows)]
    return blocks + ([plots["controls.svg"]] if "controls.svg" in plots else [])


def _types(report: dict[str, Any], plots: dict[str, Picture]) -> list[Table | Picture]:
    held = report["eval_by_type"] or {}
    rows = []
    by_type = report["runs"][report["main"]]["by_type"]
    for kind, row in sorted(by_type.items(), key=lambda entry: -entry[1]["closed_set"]):
        beside = held.get(kind)
        rows.append(
            [
                kind,
                str(row["rows"]),
                percent(row["closed_set"]),
                interval(row["ci95"]),
                percent(row["balanced"]),
                percent(row["floor"]),
                band(row["closed_set"]),
                "one answer only" if row["answers"] == 1 else f"{row['answers']} answers",
                f"{percent(beside['closed_set'])} (n = {beside['rows']})" if beside else "-",
            ]
        )
    columns = ["type", "n", "right %", "95 %", "balanced %", "floor %", "band", "answers", "eval split %"]
    blocks: list[Table | Picture] = [Table(columns, rows)]
    return blocks + ([plots["types.svg"]] if "types.svg" in plots else [])


def _groups(report: dict[str, Any]) -> list[Table]:
    run = report["runs"][report["main"]]
    tables = []
    for title, field in (
        ("domain", "by_domain"),
        ("answer kind", "by_answer_kind"),
        ("procedure", "by_procedure"),
    ):
        rows = [
            [
                name,
                str(one["rows"]),
                percent(one["closed_set"]),
                interval(one["ci95"]),
                percent(one["balanced"]),
                percent(one["floor"]),
            ]
            for name, one in run.get(field, {}).items()
        ]
        if rows:
            tables.append(Table([title, "n", "right %", "95 %", "balanced %", "floor %"], rows))
    return tables


def _pairs(report: dict[str, Any]) -> Table:
    rows = [
        [
            one["first"],
            one["second"],
            str(one["rows"]),
            str(one["only_first"]),
            str(one["only_second"]),
            f"{one['p_value']:.2g}",
            f"{one['p_holm']:.2g}",
        ]
        for one in report["pairs"]
    ]
    columns = ["first", "second", "n", "only first right", "only second right", "McNemar p", "Holm p"]
    return Table(columns, rows, "Exact McNemar test on shared rows, Holm-corrected over this table.")


def _wordings(report: dict[str, Any]) -> Table:
    rows = [
        [
            one["first"],
            one["second"],
            str(one["pairs"]),
            str(one["changed"]),
            str(one["lost"]),
            str(one["won"]),
            f"{one['p_value']:.2g}",
        ]
        for one in report["wordings"]
    ]
    return Table(["first", "second", "pairs", "answer changed", "lost", "won", "McNemar p"], rows)


def _confusion(report: dict[str, Any]) -> list[Table]:
    run = report["runs"][report["main"]]
    tables = []
    for kind in run["informative"]:
        table = run["confusion"][kind]
        said = list(dict.fromkeys([*table, *(answer for row in table.values() for answer in sorted(row))]))
        rows = [[gold, *(str(counts.get(answer, 0)) for answer in said)] for gold, counts in table.items()]
        tables.append(Table([f"{kind}: gold", *said], rows))
    return tables


def _record(report: dict[str, Any]) -> list[Table | Paragraph]:
    rows = [
        [name, run["source"]["file"], run["source"]["sha256"][:12], json.dumps(run["source"]["run"])]
        for name, run in report["runs"].items()
    ]
    record = report["record"]
    return [
        Table(["run", "file", "sha256", "record in the rows"], rows),
        Paragraph(
            f"Scorer version {report['scorer_version']}, report made {record['created']} from commit "
            f"{record['git_commit']}; versions {json.dumps(record['versions'])}."
        ),
    ]

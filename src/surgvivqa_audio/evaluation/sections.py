"""Later sections of a report: clock, calibration, refusals."""

from __future__ import annotations

from typing import Any

from surgvivqa_audio.evaluation.document import Paragraph, Picture, Table
from surgvivqa_audio.scoring.table import percent


def clock_table(report: dict[str, Any]) -> Table:
    rows = []
    for name, states in report["clock"].items():
        for state, one in states.items():
            stages = ", ".join(f"{stage} {value:.0f}" for stage, value in one["stages_p50"].items())
            cells = [name, state.replace("_", " "), str(one["rows"])]
            rows.append([*cells, f"{one['p50']:.0f}", f"{one['p95']:.0f}", stages])
    return Table(
        ["system", "state", "n", "ms p50", "ms p95", "stages, ms p50"],
        rows,
        "One question at a time, from the last audio sample to the answer string; frames decoded before. "
        "Cold: a clip not seen before; prefix ready: the second question about it; nth: the tenth. Same "
        "clips, questions and machine, whatever else it was doing.",
    )


def calibration_blocks(
    report: dict[str, Any], plots: dict[str, Picture]
) -> list[Paragraph | Table | Picture]:
    found = report["calibration"]
    kinds = [("as given", found["raw"])]
    if found["temperature"] is not None:
        kinds.append((f"temperature {found['temperature']:.2f}", found["tempered"]))
    rows = [
        [name, str(found["rows"]), *(f"{one[figure]:.3f}" for figure in ("ece", "brier", "aurc")),
         percent(one["accuracy"]), percent(one["confidence"])]
        for name, one in kinds
    ]  # fmt: skip
    blocks: list[Paragraph | Table | Picture] = [
        Table(["probabilities", "n", "ECE", "Brier", "AURC", "right %", "mean confidence %"], rows)
    ]
    if "conformal" in found:
        one = found["conformal"]
        blocks.append(
            Paragraph(
                f"Conformal answer sets at {percent(one['target'])} %: coverage {percent(one['coverage'])} % "
                f"with {one['mean_set_size']:.2f} answers on average (temperature and threshold from "
                f"{found['fitted_rows']} eval rows). This holds for {one['holds_for']}; single procedures "
                f"range from {percent(min(one['coverage_by_procedure'].values()))} to "
                f"{percent(max(one['coverage_by_procedure'].values()))} % (n = "
                f"{len(one['coverage_by_procedure'])}, mean {percent(one['over_procedures'])} %)."
            )
        )
        halves = one["halves"]
        if halves:
            blocks.append(
                Paragraph(
                    "Procedure-wise on the test rows themselves, threshold from a random half of the "
                    f"procedures, coverage on the other half: {percent(halves['mean'])} % over "
                    f"{halves['rounds']} draws "
                    f"(95 % of them {percent(halves['low'])} to {percent(halves['high'])} %)."
                )
            )
    else:
        blocks.append(Paragraph("No eval-split predictions were given, so no temperature was fitted."))
    return blocks + [plots[name] for name in ("reliability.svg", "risk.svg") if name in plots]


def refusal_table(report: dict[str, Any]) -> Table:
    rows = [
        [
            one["run"],
            str(one["out_of_scope_rows"]),
            _of(one["refused"], one["unanswerable_rows"]),
            _of(one["false_refusals"], one["answerable_rows"]),
        ]
        for one in report["refusals"]
    ]
    return Table(["run", "out-of-scope questions", "refused rightly", "refused by mistake"], rows)


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({percent(part / whole)} %)" if whole else "-"

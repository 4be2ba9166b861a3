"""One command from prediction files to a report: JSON, Markdown and a self-contained HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.calibration import calibrate
from surgvivqa_audio.evaluation.clock import CLOCK_FILE
from surgvivqa_audio.evaluation.document import Document, Picture
from surgvivqa_audio.evaluation.explain import explain
from surgvivqa_audio.evaluation.figures import pair_table, run_figures, wording_flips
from surgvivqa_audio.evaluation.gallery import gallery
from surgvivqa_audio.evaluation.leak import LEAK_FILE
from surgvivqa_audio.evaluation.loop import sidecar
from surgvivqa_audio.evaluation.outcomes import outcomes
from surgvivqa_audio.evaluation.pages import write_pages
from surgvivqa_audio.evaluation.reference import REFERENCES
from surgvivqa_audio.evaluation.runs import Run, load_run
from surgvivqa_audio.files import sha256_file, write_json, write_text
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE, SCORER_VERSION
from surgvivqa_audio.taxonomy import Taxonomy

NOTICE = "Research only, not for clinical use."


@dataclass(frozen=True)
class ReportOptions:
    """What a report is made from besides the prediction files."""

    train: Path | None = None  # for the floors
    eval_predictions: Path | None = None  # same system on the eval split: temperature, eval beside test
    data: Path | None = None  # frames and recordings for the gallery
    cases: int = 12
    plots: bool = True
    rounds: int = 500
    title: str = "Evaluation report"


def make_report(
    predictions: Sequence[Path], out: Path, taxonomy: Taxonomy, options: ReportOptions | None = None
) -> dict[str, Any]:
    """Write ``report.json``, ``report.md``, ``report.html`` and the plots into ``out``.

    The first file that is neither a floor nor a control is the system the report is about.

    Raises:
        ConfigError: every file is a floor or a control.
        BadAnnotation: a file cannot be read; names file, line and field.
        MissingExtra: plots are wanted and matplotlib is absent.
    """
    options = options or ReportOptions()
    train = None if options.train is None else read_samples(options.train, taxonomy)
    runs = _distinct([load_run(path, taxonomy, train) for path in predictions])
    main = next(
        (run for run in runs if not run.control and not run.outside and run.system not in REFERENCES), None
    )
    if main is None:
        raise ConfigError("a report needs at least one run of a system without a control")
    held = None
    if options.eval_predictions is not None:
        held = load_run(options.eval_predictions, taxonomy, train)
    report = _figures(runs, main, held, taxonomy, options)
    pictures = _plots(report) if options.plots else {}
    document = Document(options.title)
    cases = gallery(main, options.cases, options.data, taxonomy)
    write_pages(document, report, cases, [Picture(file, text) for file, text in _captions(pictures)])
    for file, svg in pictures.items():
        write_text(out / file, svg)
    write_json(out / "report.json", report)
    write_text(out / "report.md", document.markdown())
    write_text(out / "report.html", document.html(pictures))
    return report


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Add the file name to runs that would otherwise carry the same name."""
    counts = Counter(run.name for run in runs)
    return [replace(run, label=run.path.stem) if counts[run.name] > 1 else run for run in runs]


def _figures(
    runs: Sequence[Run], main: Run, held: Run | None, taxonomy: Taxonomy, options: ReportOptions
) -> dict[str, Any]:
    plain = [run for run in runs if not run.control]
    report: dict[str, Any] = {
        "notice": NOTICE,
        "simulated": any(run.simulated for run in runs),
        "scorer_version": SCORER_VERSION,
        "main": main.name,
        "runs": {run.name: _named(run, run_figures(run, taxonomy, options.rounds)) for run in plain},
        "controls": _controls(runs, taxonomy),
        "pairs": pair_table([run for run in plain if run.template == main.template]),
        "wordings": [
            wording_flips(first, second)
            for first in plain
            for second in plain
            if first.system == second.system
            and (first.template, second.template) == ("in", "out")
            and not (first.outside or second.outside)
        ],
        "calibration": _calibration(main, held, taxonomy),
        "refusals": _refusals(plain, taxonomy),
        "clock": _beside(main, CLOCK_FILE).get("systems"),
        "leak": _beside(main, LEAK_FILE) or None,
        "eval_by_type": held.score["by_type"] if held else None,
        "record": run_record(
            seed=None,
            config={"title": options.title, "rounds": options.rounds},
            data_files=[path for path in (options.train, options.eval_predictions) if path],
        ),
    }
    return report


def _beside(main: Run, name: str) -> dict[str, Any]:
    """A figure that a suite keeps in the folder above its prediction files."""
    path = main.path.parent.parent / name
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _named(run: Run, figures: dict[str, Any]) -> dict[str, Any]:
    beside = sidecar(run.path)
    record = {"file": run.path.name, "sha256": sha256_file(run.path), "run_record": beside.is_file()}
    first = run.rows[0].extra or {}
    return {
        "system": run.system,
        "template": run.template,
        "reference": run.system in REFERENCES,
        "simulated": run.simulated,
        "source": record | {"run": first.get("run"), "model": first.get("model")},
    } | figures


def _controls(runs: Sequence[Run], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    found = []
    for run in runs:
        if not run.control:
            continue
        base = next(
            (
                one
                for one in runs
                if not (one.control or one.outside)
                and (one.system, one.template) == (run.system, run.template)
            ),
            None,
        )
        if base is None:
            raise ConfigError(f"{run.path}: control {run.control} needs the run of {run.system} without it")
        found.append(explain(base, run, taxonomy))
    return found


def _calibration(main: Run, held: Run | None, taxonomy: Taxonomy) -> dict[str, Any] | None:
    test = outcomes(main.rows, taxonomy)
    if not test:
        return None
    return calibrate(test, outcomes(held.rows, taxonomy) if held else None)


def _refusals(runs: Sequence[Run], taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Out-of-scope questions refused, and questions that have an answer refused by mistake."""
    found = []
    for run in runs:
        refused = [label is not None and label.question_type == "" for label in run.labels]
        outside = [at for at, row in enumerate(run.rows) if row.short_answer == taxonomy.refusal.short]
        inside = [at for at, row in enumerate(run.rows) if row.short_answer != taxonomy.refusal.short]
        scope = [at for at, row in enumerate(run.rows) if row.question_type == OUT_OF_SCOPE]
        if outside or any(refused) or run.system not in REFERENCES:  # none refused is a figure too
            found.append(
                {
                    "run": run.name,
                    "out_of_scope_rows": len(scope),
                    "unanswerable_rows": len(outside),
                    "refused": sum(refused[at] for at in outside),
                    "answerable_rows": len(inside),
                    "false_refusals": sum(refused[at] for at in inside),
                }
            )
    return found


def _plots(report: dict[str, Any]) -> dict[str, str]:
    from surgvivqa_audio.evaluation.plots import control_plot, reliability_plot, risk_plot, type_plot

    pictures = {"types.svg": type_plot(report["runs"][report["main"]]["by_type"])}
    if report["controls"]:
        pictures["controls.svg"] = control_plot(report["controls"])
    calibration = report["calibration"]
    if calibration:
        tempered = calibration.get("tempered")
        pictures["reliability.svg"] = reliability_plot(
            calibration["raw"]["reliability"], tempered["reliability"] if tempered else None
        )
        pictures["risk.svg"] = risk_plot((tempered or calibration["raw"])["risk_at_coverage"])
    return pictures


def _captions(pictures: dict[str, str]) -> list[tuple[str, str]]:
    texts = {
        "types.svg": "Right per question type, with floor and interval",
        "controls.svg": "Right under each control",
        "reliability.svg": "Reliability of the confidence",
        "risk.svg": "Risk and coverage when the least confident answers are withheld",
    }
    return [(file, texts[file]) for file in pictures]

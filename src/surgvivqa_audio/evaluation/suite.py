"""The whole evaluation of one checkpoint: systems, floors, controls, refusals, then the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.evaluation.clock import write_clock
from surgvivqa_audio.evaluation.controls import CONTROLS
from surgvivqa_audio.evaluation.decide import MAX_FALSE_REFUSALS, write_decision
from surgvivqa_audio.evaluation.leak import write_leak
from surgvivqa_audio.evaluation.reference import REFERENCES
from surgvivqa_audio.evaluation.report import ReportOptions, make_report
from surgvivqa_audio.evaluation.session import Request, run_request
from surgvivqa_audio.evaluation.workers import run_shards
from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.taxonomy import Taxonomy

SYSTEMS = (
    "audio", "text", "audio+text", "noframes", "question-only", "asr", "audio-zeroshot", "text-zeroshot",
)  # fmt: skip
FLOORS = ("majority", "nearest", "constant")

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Suite:
    """What is run: ``systems[0]`` is the one that the controls and the report are about."""

    systems: Sequence[str] = SYSTEMS
    controls: Sequence[str] = CONTROLS
    eval_rows: Path | None = None  # annotation rows of the eval split, for temperature and conformal sets
    eval_data: Path | None = None  # the data folder they belong to, if it is another one
    calibrate: bool = False  # fit temperature and refusals on the eval split first, beside the weights
    system_rows: int | None = None  # about so many rows for every system but the first
    control_rows: int | None = None  # about so many rows for each control
    workers: int = 1
    clock_clips: int = 8  # clips on which every system is timed alone; 0 leaves that out
    cases: int = 12
    title: str = "Evaluation report"

    def __post_init__(self) -> None:
        if self.calibrate and self.eval_rows is None and self.eval_data is None:
            raise ConfigError("--calibrate needs the eval split: --eval-data or --eval-rows")
        if self.workers < 1:
            raise ConfigError(f"--workers {self.workers} is not positive")


def plan_eval(request: Request, suite: Suite) -> dict[str, Request]:
    """The first system on the eval split, and on out-of-scope questions that the test does not ask."""
    if suite.eval_rows is None and suite.eval_data is None:
        return {}
    main, folder = suite.systems[0], request.out / "predictions"
    held = replace(
        request, system=main, rows=suite.eval_rows, data=suite.eval_data or request.data, frames=None,
        speech=request.speech if suite.eval_data is None or request.speech == "espeak" else None,
        limit=None,
    )  # fmt: skip
    return {
        f"{main}-eval": replace(held, out=folder / f"{main}-eval.jsonl"),
        f"{main}-eval-out-of-scope": replace(
            held, out=folder / f"{main}-eval-out-of-scope.jsonl", out_of_scope="eval"
        ),
    }


def plan_suite(request: Request, suite: Suite) -> dict[str, Request]:
    """Every run on the test rows by the name of its file; ``request.out`` is the folder of the report."""
    main, folder = suite.systems[0], request.out / "predictions"
    runs: dict[str, Request] = {}

    def add(name: str, **changes: Any) -> None:
        runs[name] = replace(request, out=folder / f"{name}.jsonl", **changes)

    add(main, system=main)
    if request.rows is None:
        other = "in" if request.template == "out" else "out"
        add(f"{main}-{other}", system=main, template=other, sample=suite.system_rows)
    for control in suite.controls:
        add(f"{main}-{control}", system=main, control=control, sample=suite.control_rows)
    add(f"{main}-out-of-scope", system=main, out_of_scope="test")
    for system in suite.systems[1:]:
        add(system, system=system, sample=suite.system_rows)
    for floor in FLOORS:
        add(floor, system=floor)
    return runs


def run_suite(
    request: Request, suite: Suite, taxonomy: Taxonomy, build: Callable[[str], System], announce: Announce
) -> dict[str, Any]:
    """Make every prediction file that is not there yet, then the report beside them.

    With several workers ``build`` is sent to other processes and must be picklable.

    Raises:
        ConfigError: files of other weights lie in the folder.
        SurgVivqaError: as ``run_request`` and ``make_report``, or a worker failed.
    """
    request = replace(request, speech_cache=request.speech_cache or request.out / "speech")
    held, runs = plan_eval(request, suite), plan_suite(request, suite)
    _refuse_other_weights([*held.values(), *runs.values()], suite.systems[0], build)
    _run_all(held, suite, taxonomy, build, announce)
    if suite.calibrate:
        model = request.model or default_model_dir()
        fitted = write_decision(
            [run.out for run in held.values()], model, "tuned", MAX_FALSE_REFUSALS, taxonomy
        )
        announce(f"calibrated on {fitted.answerable} + {fitted.unanswerable} rows: {fitted.decision}")
    _run_all(runs, suite, taxonomy, build, announce)
    if suite.clock_clips:
        systems = [name for name in suite.systems if name not in REFERENCES]
        write_clock(request, systems, suite.clock_clips, taxonomy, build, announce)
    write_leak(request, suite.systems[0], taxonomy, build)
    options = ReportOptions(
        train=request.train,
        eval_predictions=held[f"{suite.systems[0]}-eval"].out if held else None,
        data=request.data,
        cases=suite.cases,
        title=suite.title,
    )
    return make_report([run.out for run in runs.values()], request.out, taxonomy, options)


def _refuse_other_weights(runs: Sequence[Request], main: str, build: Callable[[str], System]) -> None:
    """Finished files are kept, so they must be of the model that is evaluated now."""
    there = [run.out for run in runs if run.system == main and run.out.is_file()]
    weights = build(main).facts.get("weights") if there else None
    for out in there:
        _, row = next(read_jsonl(out), (0, {}))
        if row and row.get("run", {}).get("weights") != weights:
            raise ConfigError(
                f"{out} was written with other weights; give another --out, or delete the predictions to "
                "evaluate this model in their place"
            )


def _run_all(
    runs: dict[str, Request],
    suite: Suite,
    taxonomy: Taxonomy,
    build: Callable[[str], System],
    announce: Announce,
) -> None:
    """Every file that is missing: by several processes at once, or one run after the other."""
    missing = {name: run for name, run in runs.items() if not run.out.is_file()}
    asked = {name: run for name, run in missing.items() if run.system not in REFERENCES}
    if suite.workers > 1 and asked:
        run_shards(asked, suite.workers, taxonomy, build, announce)
    known: dict[str, System] = {}

    def system(name: str) -> System:
        if name not in known:
            known.clear()  # one model in memory, unless the next run needs the same system
            known[name] = build(name)
        return known[name]

    for number, (name, run) in enumerate(runs.items(), start=1):
        if name not in missing:
            announce(f"{number}/{len(runs)} {name}: already there")
        elif not run.out.is_file():
            rows = run_request(run, taxonomy, system)
            failed = sum(row["error"] is not None for row in rows)
            announce(f"{number}/{len(runs)} {name}: {len(rows)} rows, {failed} failed")

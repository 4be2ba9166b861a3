"""`surgvivqa eval`: Run and score systems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from surgvivqa_audio.commands.evaluate_asr import asr

app = typer.Typer(help="Run and score systems.", no_args_is_help=True)
app.command("asr")(asr)

TaxonomyName = Annotated[str, typer.Option("--taxonomy", help="Taxonomy of the package, or a TOML file.")]
Prompt = Annotated[
    str, typer.Option(help="ours, or seed: the predecessor's baseline prompts, 768 px, 50 new tokens.")
]
Omni = Annotated[
    str | None, typer.Option(help="Qwen2.5-Omni checkpoint, folder or Hub id, for the system omni.")
]
Asr = Annotated[
    str | None, typer.Option(help="faster-whisper model for the system asr, instead of the model's own.")
]
Device = Annotated[str, typer.Option(help="auto (the GPU where there is one, in bf16), cpu or cuda.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


def _taxonomy(name: str) -> Any:
    from surgvivqa_audio.taxonomy import load_taxonomy, read_taxonomy

    return read_taxonomy(name) if name.endswith(".toml") else load_taxonomy(name)


@app.command()
def run(
    data: Annotated[Path, typer.Argument(help="Folder with <template>_template.jsonl, frames/ and speech/.")],
    system: Annotated[str, typer.Option(help="What answers: audio, text, asr, noframes, majority, ...")],
    out: Annotated[Path, typer.Option(help="Prediction rows (JSONL).")],
    rows: Annotated[Path | None, typer.Option(help="Ask these rows instead of the template's.")] = None,
    template: Annotated[str, typer.Option(help="Wording: in or out.")] = "out",
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the nano model.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Frames; default: DATA/frames.")] = None,
    speech: Annotated[
        str | None, typer.Option(help="Recordings; default: DATA/speech. 'espeak' speaks on the fly.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="Take one thing away: silence, blank, ...")] = None,
    train: Annotated[Path | None, typer.Option(help="Training rows, for majority and nearest.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th clip, from 0.")] = "0/1",
    batch_size: Annotated[int, typer.Option(help="Questions per call of the system.")] = 16,
    seed: Annotated[int, typer.Option(help="Fixes swaps, noise and voices.")] = 42,
    out_of_scope: Annotated[
        str | None, typer.Option(help="Ask what no clip answers instead; the bank: test or eval.")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="About so many rows, of all procedures in turn.")] = None,
    speech_cache: Annotated[Path | None, typer.Option(help="Keep what is synthesised here.")] = None,
    prompt: Prompt = "ours",
    omni: Omni = None,
    asr: Asr = None,
    device: Device = "auto",
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Ask a system every question of a data folder and write its answers beside the gold."""
    from surgvivqa_audio.evaluation.session import Request, run_request
    from surgvivqa_audio.files import write_json
    from surgvivqa_audio.scoring.score import score_file
    from surgvivqa_audio.scoring.table import score_lines

    known = _taxonomy(taxonomy)
    request = Request(
        data=data, system=system, out=out, rows=rows, template=template, model=model, frames=frames,
        speech=speech, control=control, train=train, limit=limit, shard=_shard(shard),
        batch_size=batch_size, seed=seed, out_of_scope=out_of_scope, sample=sample,
        speech_cache=speech_cache,
    )  # fmt: skip
    build = _build_system(model, prompt, omni, asr, device)
    done = run_request(request, known, build, _progress)
    failed = [row for row in done if row["error"]]
    result = score_file(out, known, train)
    typer.echo("\n".join(score_lines(str(out), result)))
    for row in failed[:3]:
        typer.echo(f"failed: {row['key']}: {row['error']}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(done)} rows failed and count as wrong", err=True)
    if json_file is not None:
        write_json(json_file, {str(out): result})


def _build_system(model: Path | None, prompt: str, omni: str | None, asr: str | None, device: str) -> Any:
    from surgvivqa_audio.answering.builder import SystemBuilder

    return SystemBuilder(model, prompt, omni, asr, device)


def _shard(text: str) -> tuple[int, int]:
    from surgvivqa_audio.errors import ConfigError

    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise ConfigError(f"--shard {text}: write i/n, for example 0/4")
    return int(number), int(count)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total or (10 * done) // total > (10 * (done - 1)) // total:
        typer.echo(f"{done}/{total} questions", err=True)


@app.command()
def score(
    predictions: Annotated[list[str], typer.Argument(help="Prediction files, ours or published ones.")],
    train: Annotated[Path | None, typer.Option(help="Training rows: the floor is their majority.")] = None,
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Score prediction files under every rule, beside their floors."""
    from surgvivqa_audio.files import write_json
    from surgvivqa_audio.scoring.score import score_file
    from surgvivqa_audio.scoring.table import score_lines

    known = _taxonomy(taxonomy)
    results: dict[str, Any] = {}
    for path in predictions:
        results[path] = score_file(path, known, train)
        typer.echo("\n".join(score_lines(path, results[path])))
    if json_file is not None:
        write_json(json_file, results)


@app.command()
def calibrate(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions on the eval split and its bank.")],
    model: Annotated[Path, typer.Option(help="Model folder that gets decision.json.")],
    stage: Annotated[str, typer.Option(help="tuned or base.")] = "tuned",
    max_false_refusals: Annotated[float, typer.Option(help="Share of answerable questions.")] = 0.04,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Fit temperature and refusal threshold on the eval split and keep them beside the weights."""
    from surgvivqa_audio.evaluation.decide import write_decision

    done = write_decision(predictions, model, stage, max_false_refusals, _taxonomy(taxonomy))
    typer.echo(f"{stage}: " + ", ".join(f"{name} {value:.4f}" for name, value in done.decision.items()))
    typer.echo(
        f"refuses {100 * done.refused:.1f} % of {done.unanswerable} unanswerable and "
        f"{100 * done.false_refusals:.1f} % of {done.answerable} answerable rows, those it was fitted on"
    )


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="Prediction files of the shards of one run.")],
    out: Annotated[Path, typer.Option(help="The whole run.")],
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Join the prediction files of a sharded run."""
    from surgvivqa_audio.evaluation.merge import merge_shards

    rows = merge_shards(shards, out, _taxonomy(taxonomy))
    typer.echo(f"wrote {len(rows)} rows to {out}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Prediction file A.")],
    second: Annotated[Path, typer.Argument(help="Prediction file B.")],
    rows: Annotated[int, typer.Option(help="How many differing rows to print.")] = 20,
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Compare two prediction files row by row."""
    from surgvivqa_audio.evaluation.diff import diff_lines, diff_runs
    from surgvivqa_audio.files import write_json

    result = diff_runs(first, second, _taxonomy(taxonomy))
    typer.echo("\n".join(diff_lines(result, rows)))
    if json_file is not None:
        write_json(json_file, result)


@app.command()
def report(
    predictions: Annotated[list[Path], typer.Argument(help="Runs, floors and controls of one data set.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md, report.json and plots.")],
    train: Annotated[Path | None, typer.Option(help="Training rows, for the floors.")] = None,
    eval_predictions: Annotated[
        Path | None,
        typer.Option("--eval", help="The first system's predictions on the eval split, for the temperature."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder, for frames and sound of failures.")] = None,
    cases: Annotated[int, typer.Option(help="Failures to show.")] = 12,
    plots: Annotated[bool, typer.Option(help="Draw plots (needs matplotlib).")] = True,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation report",
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Write one report from prediction files: systems, floors, controls, calibration, failures."""
    from surgvivqa_audio.evaluation.report import ReportOptions, make_report

    options = ReportOptions(train, eval_predictions, data, cases, plots, title=title)
    result = make_report(predictions, out, _taxonomy(taxonomy), options)
    for entry in result["controls"]:
        typer.echo(f"{entry['control']}: {entry['words']}")
    typer.echo(f"wrote {out / 'report.html'}, report.md and report.json")


@app.command()
def suite(
    data: Annotated[Path, typer.Argument(help="Data folder of held-out procedures.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; predictions go into it too.")],
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the nano model.")] = None,
    systems: Annotated[str | None, typer.Option(help="Systems; the first gets the controls.")] = None,
    controls: Annotated[str | None, typer.Option(help="Controls, separated by commas; default: all.")] = None,
    template: Annotated[str, typer.Option(help="Wording: in or out.")] = "out",
    speech: Annotated[str | None, typer.Option(help="As in eval run.")] = None,
    train: Annotated[Path | None, typer.Option(help="Training rows, for the floors.")] = None,
    eval_rows: Annotated[
        Path | None, typer.Option(help="Rows of the eval split, for the temperature.")
    ] = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="Data folder of the eval split, if it is another one.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First fit decision.json of the model on the eval split.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    system_rows: Annotated[int | None, typer.Option(help="Rows for every system but the first.")] = None,
    control_rows: Annotated[int | None, typer.Option(help="Rows for each control.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the rows.")] = 1,
    clock_clips: Annotated[int, typer.Option(help="Clips on which every system is timed; 0: none.")] = 8,
    cases: Annotated[int, typer.Option(help="Failures to show.")] = 12,
    prompt: Prompt = "ours",
    omni: Omni = None,
    asr: Asr = None,
    device: Device = "auto",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Evaluation report",
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Run every system, floor and control of a checkpoint and write the report; resumes file by file."""
    from surgvivqa_audio.evaluation.controls import CONTROLS
    from surgvivqa_audio.evaluation.session import Request
    from surgvivqa_audio.evaluation.suite import SYSTEMS, Suite, run_suite

    request = Request(data, "", out, model=model, template=template, speech=speech, train=train, limit=limit)
    chosen = Suite(
        systems=systems.split(",") if systems else (*SYSTEMS, *(["omni"] if omni else [])),
        controls=CONTROLS if controls is None else [name for name in controls.split(",") if name],
        eval_rows=eval_rows, eval_data=eval_data, calibrate=calibrate, system_rows=system_rows,
        control_rows=control_rows, workers=workers, clock_clips=clock_clips, cases=cases, title=title,
    )  # fmt: skip
    build = _build_system(model, prompt, omni, asr, device)
    result = run_suite(request, chosen, _taxonomy(taxonomy), build, typer.echo)
    for entry in result["controls"]:
        typer.echo(f"{entry['control']}: {entry['words']}")
    typer.echo(f"wrote {out / 'report.html'}, report.md and report.json")


@app.command()
def baselines(
    data: Annotated[Path, typer.Argument(help="Data folder with both templates.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of predictions; default: DATA/predictions.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the nano model.")] = None,
    systems: Annotated[
        str, typer.Option(help="Systems, separated by commas.")
    ] = "text-zeroshot,audio-zeroshot,asr,audio,noframes,question-only,majority,constant",
    speech: Annotated[str | None, typer.Option(help="As in eval run.")] = None,
    train: Annotated[Path | None, typer.Option(help="Training rows, for the majority floor.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    prompt: Prompt = "ours",
    omni: Omni = None,
    asr: Asr = None,
    device: Device = "auto",
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Run the baselines on both wordings and print accuracy, speed and intervals in one table."""
    from surgvivqa_audio.evaluation.baselines import baseline_lines, baseline_table
    from surgvivqa_audio.evaluation.session import Request
    from surgvivqa_audio.files import write_json

    folder = out or data / "predictions"
    request = Request(data, "", folder, model=model, speech=speech, train=train, limit=limit)
    build = _build_system(model, prompt, omni, asr, device)
    table = baseline_table(request, systems.split(","), _taxonomy(taxonomy), build, _progress)
    typer.echo("\n".join(baseline_lines(table)))
    if json_file is not None:
        write_json(json_file, {"baselines": table})

"""`surgvivqa bench`: Measure speed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measure speed.", no_args_is_help=True)

Size = Annotated[str, typer.Option(help="nano, slice (true widths, 4 layers) or 7b; the last two random.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
Model = Annotated[Path | None, typer.Option(help="Weights of nano; default: those of the package.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; more than there are cores is slower.")]


Measured = tuple[dict[str, Any], list[str]]  # the JSON object, and the lines for a terminal


def _common(
    size: Size = "nano",
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """The options that every measurement of a workload has; only the signature is used."""


def _measurement(measure: Callable[..., Measured]) -> Callable[..., None]:
    """A command with the common options: builds the workload, measures, shows and keeps the result."""

    @wraps(measure)
    def command(
        *, size: str, model: Path | None, device: str, threads: int, json_file: Path | None, **own: Any
    ) -> None:
        result, lines = measure(_workload(size, model, device, threads), **own)
        _finish(result, json_file, lines)

    own = list(inspect.signature(measure, eval_str=True).parameters.values())[1:]
    shared = inspect.signature(_common, eval_str=True).parameters.values()
    every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    command.__signature__ = inspect.Signature(every, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every}
    app.command()(command)
    return command


def _workload(size: str, model: Path | None, device: str, threads: int) -> Any:
    import torch

    from surgvivqa_audio.bench.workload import build_workload

    torch.set_num_threads(threads)
    return build_workload(size, model=model, device=device)


def _finish(result: dict[str, Any], json_file: Path | None, lines: list[str]) -> None:
    from surgvivqa_audio.files import write_json

    if json_file is not None:
        write_json(json_file, result)
    typer.echo("\n".join(lines))
    load = result["machine"]["load_average"]
    typer.echo(f"threads {result['machine']['threads']}, load average {load[0]}; weights {_weights(result)}")


def _weights(result: dict[str, Any]) -> str:
    return str(result["workload"]["weights"])


def _progress(done: int, total: int) -> None:
    typer.echo(f"\r{done}/{total}", nl=done == total, err=True)


def _ratio_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{entry['peer']:>20} {entry['state']:<18} {entry['median']:8.2f} times slower than ours"
        f"  [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]"
        for entry in result["ratios"]
    ]


@_measurement
def latency(
    work: Any,
    pairs: Annotated[int, typer.Option(min=1, help="Timed pairs; 200 for nano, 7 for slice.")] = 20,
    peers: Annotated[str, typer.Option(help="Comma-separated: seed, seed-video, static, asr.")] = (
        "seed,seed-video,static,asr"
    ),
    warm_up: Annotated[int, typer.Option(min=0, help="Pairs before the clock counts.")] = 2,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time, with fewer pairs.")] = None,
) -> Measured:
    """Time from the last audio sample to the answer, beside other recipes on the same bytes."""
    from surgvivqa_audio.bench.latency import run_latency

    names = [name for name in peers.split(",") if name]
    result = run_latency(work, names, pairs, warm_up=warm_up, minutes=minutes, progress=_progress)
    lines = [
        f"{state:>20} p50 {found['p50']:9.2f} ms  p95 {found['p95']:9.2f} ms"
        for state, found in result["ours_ms"].items()
    ]
    return result, lines + _ratio_lines(result)


@_measurement
def throughput(
    work: Any,
    pairs: Annotated[int, typer.Option(min=1, help="Timed batches.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Samples of one batch, each with its own clip.")] = 16,
) -> Measured:
    """Samples per second of a batched evaluation, beside the predecessor's recipe one by one."""
    from surgvivqa_audio.bench.throughput import run_throughput

    result = run_throughput(work, pairs, batch=batch, progress=_progress)
    rates = result["samples_per_second"]
    lines = [f"ours {rates['ours']:.2f} samples/s, seed {rates['seed']:.2f} samples/s"]
    return result, lines + _ratio_lines(result)


@_measurement
def training(
    work: Any,
    rounds: Annotated[int, typer.Option(min=1, help="Timed updates of every way.")] = 5,
    questions: Annotated[int, typer.Option(min=1, help="Per clip; the published rows have one.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Of one update; the published batch is 8.")] = 8,
    ladder: Annotated[bool, typer.Option(help="Every step between both ends too.")] = True,
    minutes: Annotated[
        float | None, typer.Option(help="Fewer rounds where another would end after this time.")
    ] = None,
) -> Measured:
    """Samples per second of training: the predecessor's recipe, the fast path, the steps between them."""
    from surgvivqa_audio.bench.training import run_training

    result = run_training(
        work,
        rounds,
        questions=questions,
        samples=samples,
        whole_ladder=ladder,
        minutes=minutes,
        progress=_progress,
    )
    lines = [
        f"{step['name']:>20} {step['samples_per_second']:10.3f} samples/s"
        f" {step['gflop_per_sample']:10.2f} GFLOP/sample {step['peak_gib']:7.2f} GiB"
        for step in result["steps"]
    ]
    return result, lines + _ratio_lines(result)


@_measurement
def growth(
    work: Any,
    pairs: Annotated[int, typer.Option(min=1, help="Times each point is measured.")] = 9,
    axes: Annotated[
        str, typer.Option(help="Comma-separated: frames, questions, speech_seconds, options.")
    ] = ("frames,questions,speech_seconds,options"),
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here (PNG or SVG).")] = None,
) -> Measured:
    """How time grows with frames, questions, seconds of speech and options."""
    from surgvivqa_audio.bench.growth import plot_growth, run_growth

    result = run_growth(work, pairs, _progress, [name for name in axes.split(",") if name])
    lines = [
        f"{axis:>20} {curve['sizes'][0]} to {curve['sizes'][-1]}: {curve['ms'][0]:.1f} to"
        f" {curve['ms'][-1]:.1f} ms, {curve['growth']:.2f} times, slope {curve['slope']:.3f}"
        for axis, curve in result["curves"].items()
    ]
    if plot is not None:
        plot_growth(result, plot)
    return result, lines


@app.command()
def agreement(
    questions: Annotated[int, typer.Option(min=1, help="Spoken questions about simulated clips.")] = 300,
    half: Annotated[bool, typer.Option(help="Also compare with the same model computed in bf16.")] = True,
    model: Model = None,
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """How often the tree's sentence is what greedy generation writes (ColonSim, trained weights)."""
    import torch

    from surgvivqa_audio.answering.bundle import load_engine
    from surgvivqa_audio.bench.agreement import run_agreement

    engine = load_engine(model, threads=threads)
    other = load_engine(model, dtype=torch.bfloat16) if half else None
    result = run_agreement(engine, questions, half=other, progress=_progress)
    lines = [
        f"{name:>20} {found['equal']}/{questions} equal  [{found['ci95'][0]:.3f}, {found['ci95'][1]:.3f}]"
        for name, found in result["agreement"].items()
    ]
    _finish(result, json_file, lines)


@app.command()
def convergence(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Smallest counts, results into the run folder; they mean nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, or one to continue; default runs/convergence.")
    ] = None,
) -> None:
    """Train the predecessor's recipe and ours on the same rows (ColonSim); takes hours."""
    from surgvivqa_audio.bench.convergence import run_convergence

    for path in run_convergence(out, lambda line: typer.echo(line, err=True), smoke=smoke):
        typer.echo(str(path))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of the JSON results.")] = Path("docs/performance"),
    page: Annotated[Path, typer.Option(help="Its figures are replaced.")] = Path("docs/performance.md"),
) -> None:
    """Write the tables and plots of the performance page from the JSON results."""
    from surgvivqa_audio.bench.figures import write_report

    for path in write_report(folder, page):
        typer.echo(str(path))

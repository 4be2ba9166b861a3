"""`surgvivqa bench training`: samples per second of training."""

from __future__ import annotations

from typing import Annotated

import typer

from surgvivqa_audio.commands import bench


def training(
    size: bench.Size = "nano",
    rounds: Annotated[int, typer.Option(min=1, help="Timed updates of every way.")] = 5,
    questions: Annotated[int, typer.Option(min=1, help="Per clip; the published rows have one.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Of one update; the published batch is 8.")] = 8,
    ladder: Annotated[bool, typer.Option(help="Every step between both ends too.")] = True,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time, with fewer rounds.")] = None,
    model: bench.Model = None,
    device: bench.Device = "cpu",
    threads: bench.Threads = 2,
    json_file: bench.JsonFile = None,
) -> None:
    """Samples per second of training: the predecessor's recipe, the fast path, the steps between them."""
    from surgvivqa_audio.bench.training import run_training

    work = bench._workload(size, model, device, threads)
    result = run_training(
        work,
        rounds,
        questions=questions,
        samples=samples,
        whole_ladder=ladder,
        minutes=minutes,
        progress=bench._progress,
    )
    lines = [
        f"{step['name']:>20} {step['samples_per_second']:10.3f} samples/s"
        f" {step['gflop_per_sample']:10.2f} GFLOP/sample {step['peak_gib']:7.2f} GiB"
        for step in result["steps"]
    ]
    bench._finish(result, json_file, lines + bench._ratio_lines(result))

"""`surgvivqa eval asr`: how well a model writes down what is said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def asr(
    corpus: Annotated[
        Path,
        typer.Argument(
            help="LibriSpeech folder, Common Voice .tsv, .jsonl manifest, or folder of speech make."
        ),
    ],
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the nano model.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="decoder (a Whisper decoder beside the model; default where there is one) or graft."
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="tuned or base; default: tuned if it was.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many recordings, drawn by seed.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Recordings of one pass.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest transcript of the grafted model.")] = 200,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 42,
    out: Annotated[Path | None, typer.Option(help="Write every transcript here (JSONL).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Word and character error rate over a corpus of speech, with interval and n.

    With --out or --json an interrupted run continues where it stopped.
    """
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.evaluation.asr import drawn, load_transcriber, run_corpus
    from surgvivqa_audio.speech.corpora import read_corpus

    if stage not in (None, "base", "tuned"):
        raise ConfigError(f"--stage {stage}: base or tuned")
    recordings = drawn(read_corpus(corpus), limit, seed)
    loaded = load_transcriber(
        model, by, stage=stage, dtype=dtype, device=device, batch=batch, max_tokens=max_tokens  # type: ignore[arg-type]
    )  # fmt: skip
    settings = {
        "folder": str(model or "nano"), "batch": batch, "max_tokens": max_tokens, "dtype": dtype,
        "device": device, "limit": limit,
    }  # fmt: skip
    figures, rows = run_corpus(
        corpus, recordings, loaded, settings, seed=seed, out=out, json_file=json_file, progress=_progress
    )
    for row in [row for row in rows if row.error][:3]:
        typer.echo(f"failed: {row.error}", err=True)
    typer.echo(_line(figures))


def _line(figures: dict[str, Any]) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in figures["wer_ci95"])
    failed = f"; {figures['failed']} could not be used and count as wrong" if figures["failed"] else ""
    return (
        f"{figures['model']} ({figures['by']}): WER {100 * figures['wer']:.1f} % [{low}, {high}] "
        f"(95 %, drawn over {figures['interval_over']}), CER {100 * figures['cer']:.1f} %, "
        f"n = {figures['recordings']} recordings, {figures['words']} words{failed}"
    )


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total:
        typer.echo(f"{done}/{total} recordings", err=True)

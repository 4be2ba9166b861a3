"""`surgvivqa sim`: Make simulated colonoscopies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make simulated colonoscopies.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def make(
    out: Annotated[Path, typer.Argument(help="New or empty folder, or one to resume.")],
    procedures: int = typer.Option(..., min=1, help="Simulated procedures, one video each."),
    clips: int = typer.Option(..., min=1, help="Clips per procedure."),
    seed: int = typer.Option(..., min=0, help="Seed; the same seed gives the same bytes."),
    size: int = typer.Option(384, min=32, max=1536, help="Image side in pixels."),
    frames: int = typer.Option(8, min=2, max=16, help="Frames per clip, at stride 4."),
    difficulty: float = typer.Option(0.5, min=0.0, max=1.0, help="0 clear, 1 hard to see."),
    include_unanswerable: bool = typer.Option(
        False, help="Also ask about lesions and tools that are not there; the answer is the refusal."
    ),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object instead of text."),
) -> None:
    """Write a data folder of simulated procedures: annotations, frames, video table and run record."""
    from rich.console import Console
    from rich.progress import Progress

    from surgvivqa_audio.colonsim import make_dataset
    from surgvivqa_audio.files import dump_json

    with Progress(console=Console(stderr=True), disable=json_output) as bar:
        task = bar.add_task("clips", total=procedures * clips)
        summary = make_dataset(
            out,
            procedures,
            clips,
            seed,
            size,
            frames,
            difficulty,
            progress=lambda done, total: bar.update(task, completed=done),
            include_unanswerable=include_unanswerable,
        )
    if json_output:
        document = {
            "out": str(summary.out),
            "procedures": summary.procedures,
            "clips": summary.clips,
            "rows": summary.rows,
            "frames": summary.frames,
            "by_type": summary.by_type,
        }
        typer.echo(dump_json(document), nl=False)
        return
    typer.echo(
        f"{summary.out}: {summary.procedures} procedures, {summary.clips} clips, {summary.frames} frames, "
        f"{summary.rows} questions in each template. Simulated data: never report it as real colonoscopy."
    )


@app.command()
def sheet(
    out: Annotated[Path, typer.Argument(help="JPEG file to write.")],
    seed: int = typer.Option(0, min=0, help="Which procedures are shown."),
    size: int = typer.Option(144, min=32, max=768, help="Tile side in pixels."),
) -> None:
    """Write a contact sheet: the first and last frame of a clip for every answer of every type."""
    from surgvivqa_audio.colonsim.sheet import contact_sheet

    typer.echo(f"{out}: {contact_sheet(out, seed, size)} tiles.")

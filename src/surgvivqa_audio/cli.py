"""The command line. Only this file and ``commands/`` print; errors become one line and exit code 1."""

from __future__ import annotations

import logging
import os
import sys

import typer

from surgvivqa_audio import __version__
from surgvivqa_audio.commands import (
    ask,
    bench,
    data,
    demo,
    doctor,
    evaluate,
    model,
    reproduce,
    sim,
    speech,
    train,
)
from surgvivqa_audio.commands.variadic import VariadicCommand
from surgvivqa_audio.errors import SurgVivqaError

NOTICE = "Research only, not for clinical use."

app = typer.Typer(
    help=f"Spoken questions about surgical video. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sim.app, name="sim")
app.add_typer(data.app, name="data")
app.add_typer(speech.app, name="speech")
app.add_typer(model.app, name="model")
app.add_typer(evaluate.app, name="eval")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("ask")(ask.ask)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("reproduce", cls=VariadicCommand)(reproduce.reproduce)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def _calm_libraries() -> None:
    """Set before any heavy import: no network, no telemetry, no progress bars of other libraries.

    Hub ids work after ``export HF_HUB_OFFLINE=0``.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """Entry point of the ``surgvivqa`` command."""
    _calm_libraries()
    try:
        app()
    except SurgVivqaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

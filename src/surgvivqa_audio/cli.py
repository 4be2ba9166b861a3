"""The command line. Only this file and ``commands/`` print; errors become one line and exit code 1."""

from __future__ import annotations

import sys

import typer

from surgvivqa_audio import __version__
from surgvivqa_audio.commands import ask, bench, data, demo, doctor, evaluate, model, sim, speech, train
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


def main() -> None:
    """Entry point of the ``surgvivqa`` command."""
    try:
        app()
    except SurgVivqaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

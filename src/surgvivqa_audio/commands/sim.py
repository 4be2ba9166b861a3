"""`surgvivqa sim`: Make simulated colonoscopies."""

from __future__ import annotations

import typer

app = typer.Typer(help="Make simulated colonoscopies.", no_args_is_help=True)

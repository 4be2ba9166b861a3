"""`surgvivqa speech`: Speak the questions of an annotation file."""

from __future__ import annotations

import typer

app = typer.Typer(help="Speak the questions of an annotation file.", no_args_is_help=True)

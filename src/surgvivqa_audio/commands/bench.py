"""`surgvivqa bench`: Measure speed."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure speed.", no_args_is_help=True)

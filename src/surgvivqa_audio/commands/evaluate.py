"""`surgvivqa eval`: Run and score systems."""

from __future__ import annotations

import typer

app = typer.Typer(help="Run and score systems.", no_args_is_help=True)

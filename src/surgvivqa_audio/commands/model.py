"""`surgvivqa model`: Graft, inspect and import checkpoints."""

from __future__ import annotations

import typer

app = typer.Typer(help="Graft, inspect and import checkpoints.", no_args_is_help=True)

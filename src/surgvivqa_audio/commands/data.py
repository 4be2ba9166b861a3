"""`surgvivqa data`: Audit, split, fetch and view annotations and frames."""

from __future__ import annotations

import typer

app = typer.Typer(help="Audit, split, fetch and view annotations and frames.", no_args_is_help=True)

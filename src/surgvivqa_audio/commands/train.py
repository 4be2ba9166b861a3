"""`surgvivqa train`: run one training stage from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the stage.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<folder>/<recipe name>.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, may be given several times.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest complete checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and print the resolved recipe only.")
    ] = False,
) -> None:
    """Run one training stage."""
    import json

    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.training.recipe import read_recipe, run_recipe

    resolved = read_recipe(recipe, overrides or ())
    if dry_run:
        typer.echo(json.dumps(resolved.model_dump(mode="json"), indent=2))
        return
    folder = out or Path("runs") / recipe.parent.name / recipe.stem
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise ConfigError(f"{folder}: already holds a run; use --resume, or another --out")
    summary = run_recipe(
        resolved, folder, resume=resume, progress=lambda record: typer.echo(json.dumps(record), err=True)
    )
    shown = {name: value for name, value in summary.items() if name != "run"}
    typer.echo(json.dumps({"out": str(folder), **shown}, indent=2, default=str))

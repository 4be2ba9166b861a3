"""`surgvivqa train`: run one training stage from its recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

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
        bool,
        typer.Option("--dry-run", help="Check everything; print updates, tokens, estimates and the recipe."),
    ] = False,
    fill_cache: Annotated[
        bool,
        typer.Option(
            "--fill-cache",
            help="Only make what training keeps: features (stage vqa, key fast.cache), the trained tower and "
            "what it sees (vlm), heard questions (nano-align).",
        ),
    ] = False,
    shard: Annotated[str, typer.Option(help="With --fill-cache: share i/n of the rows.")] = "0/1",
    limit: Annotated[int, typer.Option(min=0, help="Only the first rows (stage vqa).")] = 0,
) -> None:
    """Run one training stage; on several GPUs: torchrun --nproc-per-node N --no-python surgvivqa train."""
    import json

    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.training.recipe import read_recipe, run_recipe

    chosen = [*(overrides or ()), *([f"data.limit={limit}"] if limit else [])]
    resolved = read_recipe(recipe, chosen)
    if dry_run:
        typer.echo(json.dumps(_plan(resolved), indent=2))
        return
    first = os.environ.get("RANK", "0") == "0"
    folder = out or Path("runs") / recipe.parent.name / recipe.stem
    used = folder.exists() and any(path.name != "model" for path in folder.iterdir())
    if first and used and not (resume or fill_cache):
        raise ConfigError(f"{folder}: already holds a run; use --resume, or another --out")
    with _reporter() as report:
        if fill_cache:
            summary = _fill(resolved, folder, shard, report)
        else:
            summary = run_recipe(resolved, folder, resume=resume, progress=report)
    if first:
        shown = {name: value for name, value in summary.items() if name != "run"}
        typer.echo(json.dumps({"out": str(folder), **shown}, indent=2, default=str))


def _fill(recipe: Any, folder: Path, shard: str, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.training.nano_spoken import NanoSpokenRecipe, fill_heard
    from surgvivqa_audio.training.stages import VlmRecipe, fill_seen
    from surgvivqa_audio.training.vqa import fill_features
    from surgvivqa_audio.training.vqa_recipe import VqaRecipe

    if isinstance(recipe, VlmRecipe):
        return fill_seen(recipe, folder, report)
    if isinstance(recipe, NanoSpokenRecipe) and recipe.whisper:
        return fill_heard(recipe)
    number, _, count = shard.partition("/")
    if not isinstance(recipe, VqaRecipe) or not (number.isdecimal() and count.isdecimal()):
        raise ConfigError(
            f"--fill-cache --shard {shard}: a recipe of stage vqa and a share like 0/4, or one of stage vlm "
            "or nano-align"
        )
    return fill_features(recipe, folder, (int(number), int(count)), report)


def _plan(recipe: Any) -> dict[str, Any]:
    from surgvivqa_audio.training.vqa_recipe import VqaRecipe

    resolved: dict[str, Any] = recipe.model_dump(mode="json")
    if not isinstance(recipe, VqaRecipe):
        return resolved
    from surgvivqa_audio.training.dry_run import plan

    return {"plan": plan(recipe), "recipe": resolved}


@contextmanager
def _reporter() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, one JSON line per report elsewhere."""
    import json

    if not sys.stderr.isatty():
        yield lambda record: typer.echo(json.dumps(record), err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("update"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, facts="")
        known: dict[str, Any] = {}

        def show(record: dict[str, Any]) -> None:
            if "of" not in record:
                bar.console.print(json.dumps(record))
                return
            known.update(record)
            bar.update(task, completed=record.get("step", 0), total=record["of"], facts=_facts(known))

        yield show


def _facts(known: dict[str, Any]) -> str:
    """The line behind the bar: what is known so far, in a fixed order."""
    parts = []
    for name, text in (
        ("loss", "loss {:.4f}"),
        ("eval_loss", "eval {:.4f}"),
        ("eval_accuracy", "right {:.1%}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("memory_gib", "{:.1f} GiB"),
    ):
        if name in known:
            parts.append(text.format(known[name]))
    if "eta_seconds" in known:
        minutes, seconds = divmod(int(known["eta_seconds"]), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    return "  ".join(parts)

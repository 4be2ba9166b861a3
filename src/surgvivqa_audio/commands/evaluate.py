"""`surgvivqa eval`: Run and score systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Run and score systems.", no_args_is_help=True)

TaxonomyName = Annotated[str, typer.Option("--taxonomy", help="Taxonomy of the package, or a TOML file.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


def _taxonomy(name: str) -> Any:
    from surgvivqa_audio.taxonomy import load_taxonomy, read_taxonomy

    return read_taxonomy(name) if name.endswith(".toml") else load_taxonomy(name)


@app.command()
def score(
    predictions: Annotated[list[Path], typer.Argument(help="Prediction files, ours or published ones.")],
    train: Annotated[Path | None, typer.Option(help="Training rows: the floor is their majority.")] = None,
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Score prediction files under every rule, beside their floors."""
    from surgvivqa_audio.files import write_json
    from surgvivqa_audio.scoring.score import score_file
    from surgvivqa_audio.scoring.table import score_lines

    known = _taxonomy(taxonomy)
    results: dict[str, Any] = {}
    for path in predictions:
        results[str(path)] = score_file(path, known, train)
        typer.echo("\n".join(score_lines(str(path), results[str(path)])))
    if json_file is not None:
        write_json(json_file, results)

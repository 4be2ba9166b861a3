"""`surgvivqa eval`: Run and score systems."""

from __future__ import annotations

import sys
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
def run(
    data: Annotated[Path, typer.Argument(help="Folder with <template>_template.jsonl, frames/ and speech/.")],
    system: Annotated[str, typer.Option(help="What answers: audio, text, asr, noframes, majority, ...")],
    out: Annotated[Path, typer.Option(help="Prediction rows (JSONL).")],
    rows: Annotated[Path | None, typer.Option(help="Ask these rows instead of the template's.")] = None,
    template: Annotated[str, typer.Option(help="Wording: in or out.")] = "out",
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the nano model.")] = None,
    frames: Annotated[Path | None, typer.Option(help="Frames; default: DATA/frames.")] = None,
    speech: Annotated[
        str | None, typer.Option(help="Recordings; default: DATA/speech. 'espeak' speaks on the fly.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="Take one thing away: silence, blank, ...")] = None,
    train: Annotated[Path | None, typer.Option(help="Training rows, for majority and nearest.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th clip, from 0.")] = "0/1",
    batch_size: Annotated[int, typer.Option(help="Questions per call of the system.")] = 16,
    seed: Annotated[int, typer.Option(help="Fixes swaps, noise and voices.")] = 42,
    json_file: JsonFile = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Ask a system every question of a data folder and write its answers beside the gold."""
    from surgvivqa_audio.evaluation.session import Request, run_request
    from surgvivqa_audio.files import write_json
    from surgvivqa_audio.scoring.score import score_file
    from surgvivqa_audio.scoring.table import score_lines

    known = _taxonomy(taxonomy)
    request = Request(
        data=data, system=system, out=out, rows=rows, template=template, model=model, frames=frames,
        speech=speech, control=control, train=train, limit=limit, shard=_shard(shard),
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    build = _build_system(model)
    done = run_request(request, known, build, _progress)
    failed = [row for row in done if row["error"]]
    typer.echo("\n".join(score_lines(str(out), score_file(out, known, train))))
    for row in failed[:3]:
        typer.echo(f"failed: {row['key']}: {row['error']}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(done)} rows failed and count as wrong", err=True)
    if json_file is not None:
        write_json(json_file, {str(out): score_file(out, known, train)})


def _build_system(model: Path | None) -> Any:
    def build(name: str) -> Any:
        from surgvivqa_audio.answering.systems import build_system

        return build_system(name, model)

    return build


def _shard(text: str) -> tuple[int, int]:
    from surgvivqa_audio.errors import ConfigError

    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal()):
        raise ConfigError(f"--shard {text}: write i/n, for example 0/4")
    return int(number), int(count)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total or (10 * done) // total > (10 * (done - 1)) // total:
        typer.echo(f"{done}/{total} questions", err=True)


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

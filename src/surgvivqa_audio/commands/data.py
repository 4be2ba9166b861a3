"""`surgvivqa data`: Audit, split, fetch and view annotations and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from surgvivqa_audio.commands.variadic import VariadicCommand

app = typer.Typer(help="Audit, split, fetch and view annotations and frames.", no_args_is_help=True)

Annotation = Annotated[Path, typer.Argument(help="Annotation file (JSONL, published schema).")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
TaxonomyName = Annotated[str, typer.Option(help="Taxonomy of the question types.")]


@app.command(cls=VariadicCommand)
def split(
    annotations: Annotation,
    out: Annotated[Path, typer.Argument(help="Folder for train.jsonl, eval.jsonl, test.jsonl.")],
    held_out: Annotated[list[str], typer.Option(help="Video kept as test; repeat for more.")] = [],  # noqa: B006
    videos: Annotated[list[str], typer.Option(help="Videos to use; all when left out.")] = [],  # noqa: B006
    eval_fraction: Annotated[float, typer.Option(help="Share of the other rows for eval.")] = 0.15,
    policy: Annotated[str, typer.Option(help="leak-free, seed (as published) or folds.")] = "leak-free",
    gap: Annotated[int, typer.Option(help="Frames between clips of train and eval (leak-free).")] = 0,
    seed: Seed = 42,
    published_form: Annotated[
        bool, typer.Option(help="Write the rows without key and template, as published.")
    ] = False,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Split into train, eval and test, and report what the parts share."""
    from surgvivqa_audio.data.annotations import import_annotations
    from surgvivqa_audio.data.split_report import split_report, summary, write_split
    from surgvivqa_audio.data.splits import folds, leak_free_split, seed_split
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.taxonomy import load_taxonomy

    known = load_taxonomy(taxonomy)
    found = import_annotations(annotations, known)
    held, chosen = _names(held_out), _names(videos)
    options = {
        "policy": policy,
        "held_out": held,
        "videos": chosen,
        "eval_fraction": eval_fraction,
        "gap": gap,
        "seed": seed,
    }
    if policy == "seed":
        splits = {"": seed_split(found.samples, held, chosen, eval_fraction, seed)}
    elif policy == "leak-free":
        splits = {"": leak_free_split(found.samples, held, chosen, eval_fraction, gap, seed)}
    elif policy == "folds":
        if held:
            raise ConfigError("--policy folds holds out each video in turn; leave --held-out away")
        splits = folds(found.samples, chosen, eval_fraction, gap, seed)
    else:
        raise ConfigError(f"--policy {policy}: choose leak-free, seed or folds")
    for name, parts in splits.items():
        report = split_report(parts, found, known, {**options, "fold": name or None})
        write_split(out / name, parts, found, report, published_form)
        typer.echo(f"{out / name}")
        for line in summary(report):
            typer.echo(f"  {line}")


def _names(values: list[str]) -> list[str]:
    """Options given several times or with commas."""
    return [name for value in values for name in value.replace(",", " ").split()]


@app.command(cls=VariadicCommand)
def subset(
    annotations: Annotation,
    out: Annotated[Path, typer.Argument(help="File to write.")],
    video: Annotated[str, typer.Option(help="Video to draw from.")],
    size: Annotated[int, typer.Option(help="Rows to draw.")] = 50,
    seed: Seed = 42,
    other: Annotated[list[Path], typer.Option(help="Subsets to compare the clips with.")] = [],  # noqa: B006
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Draw a small test set with every question type of one video."""
    from surgvivqa_audio.data.annotations import import_annotations
    from surgvivqa_audio.data.split_report import write_subset
    from surgvivqa_audio.data.splits import subset as draw
    from surgvivqa_audio.taxonomy import load_taxonomy

    known = load_taxonomy(taxonomy)
    found = import_annotations(annotations, known)
    for line in write_subset(out, draw(found.samples, video, size, seed), found, other, known):
        typer.echo(line)


@app.command(cls=VariadicCommand)
def audit(
    annotations: Annotation,
    json: Annotated[Path | None, typer.Option(help="Write the audit as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the audit as one HTML page.")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Folder of box files (XML); boxes/ beside the file if left out.")
    ] = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Say what an annotation file holds and what is wrong with it."""
    from surgvivqa_audio.data.audit import audit as run_audit
    from surgvivqa_audio.data.audit_html import audit_html
    from surgvivqa_audio.files import write_json, write_text
    from surgvivqa_audio.taxonomy import load_taxonomy

    beside = annotations.parent / "boxes"
    report = run_audit(annotations, load_taxonomy(taxonomy), boxes or (beside if beside.is_dir() else None))
    if json is not None:
        write_json(json, report)
    if html is not None:
        write_text(html, audit_html(report))
    typer.echo(
        f"{annotations}: {report['rows']} rows, {report['unique_keys']} keys, {report['unique_ids']} ids, "
        f"{len(report['videos'])} videos, {len(report['findings'])} findings"
    )
    for finding in report["findings"]:
        typer.echo(f"  {finding['name']}: {finding['count']} {finding['what']}")


@app.command(cls=VariadicCommand)
def stats(
    folder: Annotated[Path, typer.Argument(help="Folder of a split, or of the two template files.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; the same folder when left out.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw bar charts (needs matplotlib).")] = True,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Write data_stats.json, data_distribution.md and plots."""
    from surgvivqa_audio.data.stats import write_stats
    from surgvivqa_audio.taxonomy import load_taxonomy

    for path in write_stats(folder, out or folder, load_taxonomy(taxonomy), plots):
        typer.echo(path)


@app.command(cls=VariadicCommand)
def extend(
    annotations: Annotation,
    out: Annotated[Path, typer.Argument(help="File to write.")],
    frames: Annotated[int, typer.Option(help="Frames per clip.")] = 16,
    how: Annotated[str, typer.Option(help="denser (stride 2) or longer (twice the window).")] = "denser",
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Write the same questions about clips of 16 frames; video_info.csv gives the bounds."""
    from surgvivqa_audio.data.annotations import import_annotations
    from surgvivqa_audio.data.folder import video_table
    from surgvivqa_audio.data.plan import extend_rows
    from surgvivqa_audio.files import write_jsonl
    from surgvivqa_audio.taxonomy import load_taxonomy

    found = import_annotations(annotations, load_taxonomy(taxonomy))
    rows = extend_rows(found.samples, found.rows, frames, _extension(how), video_table(annotations.parent))
    write_jsonl(out, rows)
    typer.echo(f"{out}: {len(rows)} rows of {frames} frames")


def _extension(how: str) -> Literal["denser", "longer"]:
    from surgvivqa_audio.errors import ConfigError

    known: dict[str, Literal["denser", "longer"]] = {"denser": "denser", "longer": "longer"}
    if how not in known:
        raise ConfigError(f"--how {how}: choose denser or longer")
    return known[how]


Data = Annotated[Path, typer.Argument(help="DATA folder: annotations, frames/, speech/.")]
Videos = Annotated[list[str], typer.Option(help="Videos; all when left out.")]
Rows = Annotated[list[Path], typer.Option(help="Annotation files to use instead of the folder's own.")]


@app.command(cls=VariadicCommand)
def fetch(
    what: Annotated[str, typer.Argument(help="annotations, frames or boxes.")],
    data: Data,
    videos: Videos = [],  # noqa: B006
    rows: Rows = [],  # noqa: B006
    source: Annotated[
        str, typer.Option(help="annotations: folder or https address of the JSONL files.")
    ] = "",
    frames: Annotated[int, typer.Option(help="Frames per clip, 8 or 16.")] = 8,
    how: Annotated[str, typer.Option(help="With --frames 16: denser or longer.")] = "denser",
    keep_archives: Annotated[bool, typer.Option(help="Keep the archives; they resume in mid-file.")] = False,
    rate_limit: Annotated[float, typer.Option(help="Megabytes per second at most.")] = 20.0,
    listing: Annotated[str, typer.Option(help="File listing of another mirror.")] = "",
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write plan and result as JSON.")] = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Download the annotations' tables, or exactly the frames or boxes that the rows need."""
    from surgvivqa_audio.commands.fetching import FetchOptions, fetch_annotations, fetch_members
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.taxonomy import load_taxonomy

    known = load_taxonomy(taxonomy)
    options = FetchOptions(
        data, _names(videos), rows, frames, _extension(how), keep_archives, rate_limit, listing, dry_run, json
    )
    if what == "annotations":
        fetch_annotations(options, source, known)
    elif what == "frames":
        fetch_members("frames", options, known)
    elif what == "boxes":
        fetch_members("boxes", options, known)
    else:
        raise ConfigError(f"data fetch {what}: choose annotations, frames or boxes")


@app.command(cls=VariadicCommand)
def verify(
    data: Data,
    videos: Videos = [],  # noqa: B006
    decode: Annotated[bool, typer.Option(help="Decode every frame, which finds damaged files.")] = False,
    speech: Annotated[bool, typer.Option(help="Look for recordings too.")] = True,
    json: Annotated[Path | None, typer.Option(help="Write all that is missing as JSON.")] = None,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """List frames and recordings that the rows need and that are not there; exit 1 if any."""
    from dataclasses import asdict

    from surgvivqa_audio.data.folder import verify as run_verify
    from surgvivqa_audio.files import write_json
    from surgvivqa_audio.taxonomy import load_taxonomy

    report = run_verify(data, load_taxonomy(taxonomy), _names(videos), decode, speech)
    if json is not None:
        write_json(json, {video: asdict(check) for video, check in report.items()})
    incomplete = False
    for video, check in report.items():
        typer.echo(
            f"{video}: {check.rows} rows, {check.frames} frames, {len(check.missing_frames)} missing, "
            f"{len(check.broken_frames)} damaged, {len(check.missing_speech)} rows without a recording"
        )
        for name, values in (
            ("missing frames", check.missing_frames),
            ("damaged", check.broken_frames),
            ("no recording of", check.missing_speech),
        ):
            if values:
                incomplete = True
                typer.echo(f"  {name}: {', '.join(map(str, values[:5]))}{' ...' if len(values) > 5 else ''}")
    if incomplete:
        typer.echo("complete it with `surgvivqa data fetch frames` and `surgvivqa speech make`")
        raise typer.Exit(1)


@app.command(cls=VariadicCommand)
def cache(
    data: Data,
    out: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    side: Annotated[int, typer.Option(help="Longer side in pixels.")] = 768,
    videos: Videos = [],  # noqa: B006
    rows: Rows = [],  # noqa: B006
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Store the frames that the rows need in a smaller size (at most 0.4 MB each)."""
    from surgvivqa_audio.data.folder import data_rows, select_videos
    from surgvivqa_audio.data.framecache import FrameCache
    from surgvivqa_audio.data.plan import human_bytes
    from surgvivqa_audio.data.stores import open_store
    from surgvivqa_audio.taxonomy import load_taxonomy

    samples = select_videos(data_rows(data, load_taxonomy(taxonomy), rows), _names(videos))
    store = FrameCache(open_store(data), out, side)
    with typer.progressbar(length=1000, label="frames") as bar:
        manifest = store.build(samples, lambda done, total: bar.update(done * 1000 // total - bar.pos))
    typer.echo(f"{out}: {manifest['count']} frames, {human_bytes(manifest['bytes'])}, {store.made} made now")


@app.command(cls=VariadicCommand)
def view(
    data: Data,
    predictions: Annotated[list[Path], typer.Option(help="Prediction files to lay over.")] = [],  # noqa: B006
    videos: Videos = [],  # noqa: B006
    rows: Rows = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Page to write; DATA/viewer.html when left out.")] = None,
    limit: Annotated[int, typer.Option(help="Rows on the page, 0 for all.")] = 200,
    side: Annotated[int, typer.Option(help="Longer side of the pictures in pixels.")] = 320,
    taxonomy: TaxonomyName = "realcolon",
) -> None:
    """Write one HTML page to look at clips, questions, answers and predictions."""
    from surgvivqa_audio.commands.viewing import write_page
    from surgvivqa_audio.taxonomy import load_taxonomy

    page = out or data / "viewer.html"
    typer.echo(
        write_page(data, page, predictions, _names(videos), rows, limit, side, load_taxonomy(taxonomy))
    )

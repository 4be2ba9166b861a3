"""What `data fetch` prints and does, in order: plan, estimate, transfer, summary."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from surgvivqa_audio.data.plan import VideoPlan
    from surgvivqa_audio.data.transfer import Source, Transfer
    from surgvivqa_audio.taxonomy import Taxonomy

TABLES = ("video_info.csv", "lesion_info.csv")
ORIGIN = "https://github.com/madratak/SurgViVQA (folder REAL-Colon-VQA_annotations)"


@dataclass(frozen=True)
class FetchOptions:
    """The options of `data fetch`."""

    data: Path
    videos: list[str]
    rows: list[Path]
    frames: int
    how: Literal["denser", "longer"]
    keep_archives: bool
    rate_limit: float
    listing: str
    dry_run: bool
    json: Path | None


def _transfer(options: FetchOptions) -> Transfer:
    from surgvivqa_audio.data.transfer import Transfer
    from surgvivqa_audio.errors import ConfigError

    if options.rate_limit <= 0:
        raise ConfigError(f"--rate-limit {options.rate_limit}: a positive number of megabytes per second")
    return Transfer(rate=options.rate_limit * 1e6)


def fetch_annotations(options: FetchOptions, source: str, taxonomy: Taxonomy) -> None:
    """The JSONL files from a folder or address, checked against the pinned hashes; tables of Figshare."""
    from surgvivqa_audio.data.fetch import LISTING, fetch_file, read_listing
    from surgvivqa_audio.data.folder import OUT_TEMPLATE_SHA256, derive_out_template
    from surgvivqa_audio.data.transfer import Source
    from surgvivqa_audio.errors import ConfigError

    if not source:
        raise ConfigError(
            f"--source is needed: a folder or https address with in_template.jsonl, see {ORIGIN}"
        )
    pins = {"out_template": OUT_TEMPLATE_SHA256, **taxonomy.dataset.sha256}
    transfer = _transfer(options)
    if options.dry_run:
        typer.echo(
            f"{options.data}: in_template.jsonl, out_template.jsonl, {', '.join(TABLES)} (6 MB, seconds)"
        )
        return
    if source.startswith(("http://", "https://")):
        for name in ("in_template", "out_template"):
            url = f"{source.rstrip('/')}/{name}.jsonl"
            new = fetch_file(
                transfer, Source(f"{name}.jsonl", url, sha256=pins[name]), options.data / f"{name}.jsonl"
            )
            typer.echo(f"{options.data / name}.jsonl: {'fetched' if new else 'is there'}, checksum as pinned")
        listed = read_listing(transfer, options.listing or LISTING)
        for name in TABLES:
            if name not in listed:
                raise ConfigError(f"the listing has no {name}; put it into {options.data} yourself")
            fetch_file(transfer, listed[name], options.data / name)
            typer.echo(f"{options.data / name}: fetched")
        return
    _copy(Path(source), options.data, pins)
    if not (options.data / "out_template.jsonl").is_file():
        typer.echo(f"{derive_out_template(options.data, taxonomy)}: made from in_template.jsonl")


def _copy(source: Path, data: Path, pins: dict[str, str]) -> None:
    from surgvivqa_audio.errors import FetchError
    from surgvivqa_audio.files import sha256_bytes, write_bytes

    if not (source / "in_template.jsonl").is_file():
        raise FetchError(f"{source}: no in_template.jsonl in this folder; see {ORIGIN}")
    for name in ("in_template.jsonl", "out_template.jsonl", *TABLES):
        if not (source / name).is_file():
            continue
        content = (source / name).read_bytes()
        pin = pins.get(name.removesuffix(".jsonl"))
        if pin is not None and sha256_bytes(content) != pin:
            raise FetchError(
                f"{source / name}: SHA-256 {sha256_bytes(content)}, the pinned version has {pin}"
            )
        write_bytes(data / name, content)
        typer.echo(f"{data / name}: copied{', checksum as pinned' if pin else ''}")


def fetch_members(kind: Literal["frames", "boxes"], options: FetchOptions, taxonomy: Taxonomy) -> None:
    """Frames or box files that the rows need: estimate first, then archive by archive."""
    from surgvivqa_audio.data.fetch import LISTING, Fetcher, archive_of, read_listing
    from surgvivqa_audio.files import write_json

    plans = _plans(options, taxonomy)
    transfer = _transfer(options)
    fetcher = Fetcher(options.data, kind, transfer, options.keep_archives)
    open_plans = [plan for plan in plans if fetcher.missing(plan)]
    ending = {"frames": "_frames.tar.gz", "boxes": "_annotations.tar.gz"}[kind]
    report: dict[str, Any] = {
        "kind": kind,
        "archives": {plan.video_id: plan.video_id + ending for plan in plans},
        "videos": {plan.video_id: list(plan.numbers) for plan in plans},
    }
    sources: dict[str, Source] = {}
    if open_plans and not options.dry_run:
        listing = read_listing(transfer, options.listing or LISTING)
        sources = {plan.video_id: archive_of(kind, plan.video_id, listing) for plan in open_plans}
    report["estimate"] = _announce(open_plans, sources, options, kind)
    results = []
    if not options.dry_run:
        for plan in open_plans:
            source = sources[plan.video_id]
            with typer.progressbar(length=source.size or 1, label=source.name) as bar:
                transfer.report = bar.update
                done = fetcher.fetch(plan, source)
            results.append(asdict(done))
            typer.echo(f"{plan.video_id}: {done.written} written, {done.present} were there")
        typer.echo(f"{options.data}: complete for {sum(len(plan.numbers) for plan in plans)} {kind}")
    if options.json is not None:
        write_json(options.json, {**report, "results": results})


def _plans(options: FetchOptions, taxonomy: Taxonomy) -> list[VideoPlan]:
    from surgvivqa_audio.data.folder import data_rows, select_videos, video_table
    from surgvivqa_audio.data.plan import extend_clip, fetch_plan
    from surgvivqa_audio.errors import ConfigError

    samples = select_videos(data_rows(options.data, taxonomy, options.rows), options.videos)
    videos = video_table(options.data)
    if options.frames == 16:
        unknown = sorted({row.video_id for row in samples} - set(videos))
        if unknown:
            raise ConfigError(f"--frames 16 needs video_info.csv with {', '.join(unknown)}")
        longer = [
            extend_clip(
                row.frame_numbers[0], row.frame_numbers[-1], 16, options.how, videos[row.video_id].frames - 1
            )
            for row in samples
        ]
        samples = [
            row.model_copy(update={"frame_numbers": numbers})
            for row, numbers in zip(samples, longer, strict=True)
        ]
    elif options.frames != 8:
        raise ConfigError(f"--frames {options.frames}: 8 or 16")
    return fetch_plan(samples, videos)


def _announce(
    plans: list[VideoPlan], sources: dict[str, Source], options: FetchOptions, kind: str
) -> dict[str, Any]:
    from surgvivqa_audio.data.plan import BOX_BYTES, FRAME_BYTES, estimate, human_bytes

    sizes = {video: source.size for video, source in sources.items() if source.size is not None}
    figures = estimate(plans, sizes, options.rate_limit * 1e6, FRAME_BYTES if kind == "frames" else BOX_BYTES)
    known = "" if sizes or not plans else " (sizes estimated)"
    typer.echo(
        f"to fetch: {figures['frames']} {kind} from {figures['archives']} archives{known}; "
        f"{human_bytes(figures['transfer_bytes'])} to transfer, "
        f"{human_bytes(figures['disk_bytes'])} to keep, "
        f"{figures['seconds'] / 60:.0f} min at {options.rate_limit:g} MB/s"
    )
    return figures

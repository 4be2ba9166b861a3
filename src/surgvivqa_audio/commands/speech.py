"""`surgvivqa speech`: Speak the questions of an annotation file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surgvivqa_audio.speech.engine import SpeechEngine, Voice

app = typer.Typer(help="Speak the questions of an annotation file.", no_args_is_help=True)


def _engine(name: str, online: bool, binary: str | None) -> SpeechEngine:
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.speech.engine import EspeakEngine

    if name == "espeak":
        return EspeakEngine(binary)
    raise ConfigError(f"unknown engine '{name}'; choose espeak or edge")


def _voices(names: list[str] | None, rates: list[int] | None, engine: str) -> list[Voice]:
    from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, Voice, parse_voice

    chosen: list[Voice] = []
    for name in names or ["en-US-AriaNeural" if engine == "edge" else "en-us"]:
        if name in ("train", "held-out"):
            chosen += VOICES if name == "train" else HELD_OUT_VOICES
        else:
            chosen.append(parse_voice(name))
    if rates:
        chosen = [Voice(voice.name, rate, voice.pitch) for voice in chosen for rate in rates]
    return list(dict.fromkeys(chosen))


@app.command()
def make(
    annotations: Annotated[Path, typer.Argument(help="JSONL annotation file.")],
    out: Annotated[Path, typer.Argument(help="Folder for audio, manifest and assignments.")],
    engine: Annotated[str, typer.Option(help="espeak (offline) or edge (online extra).")] = "espeak",
    voice: Annotated[
        list[str] | None, typer.Option(help="Voice, or 'train' / 'held-out' for the whole list. Repeatable.")
    ] = None,
    rate: Annotated[list[int] | None, typer.Option(help="Words per minute. Repeatable.")] = None,
    phrasings: Annotated[str, typer.Option(help="row, in, out, bank, held-out or new-words.")] = "row",
    spread: Annotated[bool, typer.Option(help="One voice per question, chosen by its key.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", min=1)] = None,
    taxonomy: Annotated[str, typer.Option(help="Taxonomy of the annotation file.")] = "realcolon",
    espeak_binary: Annotated[
        str | None, typer.Option(help="System espeak-ng instead of the library.")
    ] = None,
    allow_online: Annotated[
        bool, typer.Option(help="Agree that the edge engine sends the question texts to a third party.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Speak every question; one file per distinct text and voice. Run again to resume."""
    from contextlib import closing
    from dataclasses import asdict

    from rich.progress import Progress

    from surgvivqa_audio.errors import ConfigError, SpeechError
    from surgvivqa_audio.sample import read_samples
    from surgvivqa_audio.speech.make import PHRASINGS, make_speech
    from surgvivqa_audio.taxonomy import load_taxonomy

    if phrasings not in PHRASINGS:
        raise ConfigError(f"unknown phrasings '{phrasings}'; choose from {', '.join(PHRASINGS)}")
    vocabulary = load_taxonomy(taxonomy)
    samples = read_samples(annotations, vocabulary)[:limit]
    voices = _voices(voice, rate, engine)
    with (
        closing(_engine(engine, allow_online, espeak_binary)) as speaker,
        Progress(disable=as_json, transient=True) as bar,
    ):
        task = bar.add_task("speaking", total=None)
        report = make_speech(
            samples,
            out,
            voices,
            engine=speaker,
            phrasings=phrasings,
            taxonomy=vocabulary,
            spread=spread,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        typer.echo(
            f"{report.rows} rows, {len(voices)} voices: {report.distinct} distinct files, "
            f"{report.synthesised} synthesised now, {len(report.failed)} failed; {out / 'manifest.jsonl'}"
        )
    if report.failed:
        raise SpeechError(f"{len(report.failed)} of {report.distinct} not spoken, first: {report.failed[0]}")

"""`surgvivqa speech`: Speak the questions of an annotation file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from surgvivqa_audio.speech.engine import SpeechEngine, Voice
    from surgvivqa_audio.speech.recipe import SpeechRecipe

app = typer.Typer(help="Speak the questions of an annotation file.", no_args_is_help=True)


def _engine(name: str, online: bool, binary: str | None) -> SpeechEngine:
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.speech.edge import EdgeEngine
    from surgvivqa_audio.speech.engine import EspeakEngine
    from surgvivqa_audio.speech.flite import FliteEngine
    from surgvivqa_audio.speech.human import HumanEngine

    if name == "espeak":
        return EspeakEngine(binary)
    if name == "flite":
        return FliteEngine()
    if name == "edge":
        return EdgeEngine(allow_online=online)
    if name == "human":
        return HumanEngine()
    raise ConfigError(f"unknown engine '{name}'; choose espeak, flite, edge or human")


def _voices(names: Sequence[str], rates: Sequence[int], engine: str) -> list[Voice]:
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.speech.edge import DEFAULT_VOICE
    from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, Voice, parse_voice
    from surgvivqa_audio.speech.flite import DEFAULT_VOICE as FLITE_VOICE

    default = {"espeak": "en-us", "flite": FLITE_VOICE, "edge": DEFAULT_VOICE}.get(engine)
    if not names and default is None:
        raise ConfigError("name the speaker with --voice human-<speaker>, as given to `speech import`")
    chosen: list[Voice] = []
    for name in names or [str(default)]:
        if name in ("train", "held-out"):
            chosen += VOICES if name == "train" else HELD_OUT_VOICES
        else:
            chosen.append(parse_voice(name))
    if rates:
        chosen = [
            voice if voice.human else Voice(voice.name, rate, voice.pitch)
            for voice in chosen
            for rate in rates
        ]
    return list(dict.fromkeys(chosen))


def _recipe(path: Path | None, given: dict[str, Any]) -> SpeechRecipe:
    """The recipe with the options that were given on the command line in place of its own."""
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.speech.make import PHRASINGS
    from surgvivqa_audio.speech.recipe import SpeechRecipe, read_recipe

    if given.get("phrasings") not in (None, *PHRASINGS):
        raise ConfigError(f"unknown phrasings '{given['phrasings']}'; choose from {', '.join(PHRASINGS)}")
    recipe = read_recipe(path) if path is not None else SpeechRecipe()
    return recipe.model_copy(update={name: value for name, value in given.items() if value})


@app.command()
def make(
    annotations: Annotated[Path, typer.Argument(help="JSONL annotation file.")],
    out: Annotated[Path, typer.Argument(help="Folder for audio, manifest and assignments.")],
    engine: Annotated[
        str | None,
        typer.Option(
            help="espeak (offline, default), flite (system), edge (online extra) or human (imported)."
        ),
    ] = None,
    voice: Annotated[
        list[str] | None, typer.Option(help="Voice, or 'train' / 'held-out' for the whole list. Repeatable.")
    ] = None,
    rate: Annotated[list[int] | None, typer.Option(help="Words per minute. Repeatable.")] = None,
    phrasings: Annotated[
        str | None, typer.Option(help="row (default), in, out, bank, held-out or new-words.")
    ] = None,
    noise: Annotated[
        list[str] | None, typer.Option(help="Degraded copies: suction@10, room@5, reverb, clip. Repeatable.")
    ] = None,
    spread: Annotated[bool, typer.Option(help="One voice per question, chosen by its key.")] = False,
    recipe: Annotated[Path | None, typer.Option(help="YAML with these options; options win.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", min=1)] = None,
    taxonomy: Annotated[str, typer.Option(help="Taxonomy of the annotation file.")] = "realcolon",
    espeak_binary: Annotated[
        str | None, typer.Option(help="System espeak-ng instead of the library.")
    ] = None,
    allow_online: Annotated[
        bool, typer.Option(help="Agree that the edge engine sends the question texts to Microsoft.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Speak every question; one file per distinct text and voice. Run again to resume."""
    from contextlib import closing
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from surgvivqa_audio.errors import SpeechError
    from surgvivqa_audio.sample import read_samples
    from surgvivqa_audio.speech.make import make_speech
    from surgvivqa_audio.taxonomy import load_taxonomy

    given = {"engine": engine, "voices": voice, "rates": rate, "phrasings": phrasings, "noises": noise}
    plan = _recipe(recipe, {**given, "spread": spread})
    voices = _voices(plan.voices, plan.rates, plan.engine)
    vocabulary = load_taxonomy(taxonomy)
    samples = read_samples(annotations, vocabulary)[:limit]
    with (
        closing(_engine(plan.engine, allow_online, espeak_binary)) as speaker,
        Progress(console=Console(stderr=True), disable=as_json, transient=True) as bar,
    ):
        task = bar.add_task("speaking", total=None)
        report = make_speech(
            samples,
            out,
            voices,
            engine=speaker,
            phrasings=plan.phrasings,
            taxonomy=vocabulary,
            spread=plan.spread,
            noises=plan.noises,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        typer.echo(
            f"{report.rows} rows, voices: {len(voices)}, files: {report.distinct} ({report.synthesised} "
            f"synthesised now, {len(report.failed)} failed); see {out / 'manifest.jsonl'}"
        )
    if report.failed:
        raise SpeechError(f"{len(report.failed)} of {report.distinct} not spoken, first: {report.failed[0]}")


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(help="Folder for the recordings and their list.")],
    speaker: Annotated[str, typer.Option(help="Pseudonym of the person who speaks.")],
    port: Annotated[int, typer.Option(help="Loopback port; 0 takes a free one.", min=0, max=65535)] = 0,
    taxonomy: Annotated[str, typer.Option(help="Taxonomy whose questions are read.")] = "realcolon",
) -> None:
    """Walk a person through the published questions on a page of this machine."""
    from surgvivqa_audio.speech.recorder import LISTING, RecorderServer, RecordingFolder
    from surgvivqa_audio.taxonomy import load_taxonomy

    takes = RecordingFolder(folder, speaker, load_taxonomy(taxonomy))
    with RecorderServer(takes, port) as server:
        typer.echo(f"Open {server.url} in a browser on this machine. Ctrl-C ends.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            state = takes.state()["prompts"]
            typer.echo(f"{sum(prompt['done'] for prompt in state)} of {len(state)} questions recorded.")
    typer.echo(f"Next: surgvivqa speech import {folder} {folder / LISTING} OUT --consent '...'")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that holds the recordings.")],
    listing: Annotated[Path, typer.Argument(help="CSV: file, speaker, and text or question_type,template.")],
    out: Annotated[Path, typer.Argument(help="Speech folder to import into.")],
    consent: Annotated[str, typer.Option(help="What the speakers agreed to; stored beside each recording.")],
    taxonomy: Annotated[str, typer.Option(help="Taxonomy of the questions.")] = "realcolon",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Take recordings of people over; nothing is stored unless every file is usable."""
    from dataclasses import asdict

    from surgvivqa_audio.speech.human import import_recordings
    from surgvivqa_audio.taxonomy import load_taxonomy

    report = import_recordings(folder, listing, out, consent, load_taxonomy(taxonomy))
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
        return
    typer.echo(f"{report.imported} recordings imported.")
    for name in report.speakers:
        typer.echo(f"{name}: {report.missing[name]} of the published wordings not recorded")
        typer.echo(f"Next: surgvivqa speech make ANN.jsonl {out} --engine human --voice {name}")

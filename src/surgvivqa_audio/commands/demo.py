"""`surgvivqa demo`: spoken questions about a clip that no model was trained on, then the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from surgvivqa_audio.apps.serve import Settings

# Far from every seed that the recipes in recipes/nano use.
DEMO_SEED = 77_000_001


def demo(
    out: Annotated[Path, typer.Option(help="Where clip and recordings are written.")] = Path("runs/demo"),
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: the nano model.")] = None,
    questions: Annotated[
        int, typer.Option(min=0, max=8, help="How many questions to speak first; 0 opens the page at once.")
    ] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the simulated patient.")] = DEMO_SEED,
    page: Annotated[bool, typer.Option(help="Open the page afterwards (never without a terminal).")] = True,
    serve: Annotated[bool, typer.Option("--serve", help="Open the page even without a terminal.")] = False,
    data: Annotated[Path | None, typer.Option(help="DATA folder; default: simulated patients.")] = None,
    split: Annotated[str, typer.Option(help="Split file of the DATA folder: train, eval or test.")] = "",
    report: Annotated[
        Path | None, typer.Option(help="Folder of `eval report`, for measured figures.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address; any but loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8501,
    token: Annotated[
        str, typer.Option(envvar="SURGVIVQA_TOKEN", help="What visitors must enter; better set as variable.")
    ] = "",
    cert: Annotated[Path | None, typer.Option(help="Certificate (PEM), for HTTPS.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key (PEM) of the certificate.")] = None,
) -> None:
    """Speak questions about a simulated clip, then open the page. Research only, not for clinical use."""
    from surgvivqa_audio.apps.serve import Settings, check

    settings = Settings(
        data=str(data.resolve()) if data else "",
        split=split,
        model=str(model.resolve()) if model else "",
        report=str(report.resolve()) if report else "",
        host=host,
        port=port,
        token=token,
        seed=seed,
    )
    opens = serve or (page and _has_terminal())
    warnings = check(settings, cert, key) if opens else []
    if questions:
        _answer_aloud(out, model, questions, seed)
    if opens:
        _open_page(settings, warnings, cert, key)
    elif page:
        typer.echo("\nThe page: `surgvivqa demo --serve`, then open http://127.0.0.1:8501 in a browser.")


def _has_terminal() -> bool:
    """Whether somebody is there: continuous integration must end after the answers."""
    import os
    import sys

    quiet = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    return sys.stdin.isatty() and sys.stdout.isatty() and not quiet


def _open_page(settings: Settings, warnings: list[str], cert: Path | None, key: Path | None) -> None:
    """Serve until Ctrl+C."""
    from surgvivqa_audio.apps.serve import run

    for line in warnings:
        typer.echo(f"warning: {line}", err=True)
    scheme = "https" if cert else "http"
    typer.echo(f"\nOpening the page at {scheme}://{settings.host}:{settings.port} (Ctrl+C ends it)")
    try:
        run(settings, cert, key)
    except KeyboardInterrupt:
        return


def _answer_aloud(out: Path, model: Path | None, questions: int, seed: int) -> None:
    """Make a clip, speak questions about it and print the answers."""
    from surgvivqa_audio.answering.bundle import load_engine
    from surgvivqa_audio.commands.ask import describe
    from surgvivqa_audio.data.stores import read_frames_folder
    from surgvivqa_audio.speech.audio import read_audio, write_wav
    from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine
    from surgvivqa_audio.speech.speakable import speakable

    folder, asked, fps = _make_clip(out, seed, questions)
    typer.echo(f"Simulated clip (never trained on): {folder}")
    engine = load_engine(model)
    clip = engine.open(read_frames_folder(folder, 8), fps)
    with EspeakEngine() as voice:
        for number, (question, expected) in enumerate(asked, start=1):
            recording = out / f"question-{number}.wav"
            write_wav(recording, voice.synthesize(speakable(question), HELD_OUT_VOICES[0]))
            answer = clip.ask(read_audio(recording))
            typer.echo(f'\n{number}. spoken: "{question}"  ({recording})')
            typer.echo(describe(answer))
            typer.echo(f"  simulator's truth: {expected}")
    typer.echo("\nSimulated scenes and synthetic voices only. Research only, not for clinical use.")


def _make_clip(out: Path, seed: int, count: int) -> tuple[Path, list[tuple[str, str]], float]:
    """Write one clip as images; return its folder, ``(question, true answer)`` pairs and its frame rate."""
    import PIL.Image

    from surgvivqa_audio.colonsim import Procedure, render
    from surgvivqa_audio.errors import ConfigError
    from surgvivqa_audio.files import atomic_writer
    from surgvivqa_audio.speech.phrasing import phrasing_bank
    from surgvivqa_audio.taxonomy import load_taxonomy

    taxonomy = load_taxonomy()
    bank = phrasing_bank(taxonomy)
    procedure = Procedure(seed)
    index = next((i for i in range(1000) if len(procedure.clip(i).answers) >= count), None)
    if index is None:
        raise ConfigError(f"--questions {count}: no clip of this patient allows that many; ask fewer")
    spec = procedure.clip(index)
    folder = out / spec.video_id
    for number, frame in zip(spec.frame_numbers, render(spec, size=384).frames, strict=True):
        with atomic_writer(folder / f"{spec.video_id}_{number}.jpg") as stream:
            PIL.Image.fromarray(frame).save(stream, format="JPEG", quality=90)
    asked = [
        (bank[name].held_out[0], taxonomy.types[name].answer(short).sentence)
        for name, short in sorted(spec.answers.items())[:count]
    ]
    return folder, asked, 25.0 / 4

"""`surgvivqa demo`: three spoken questions about a clip that no model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Far from every seed that the recipes in recipes/nano use.
DEMO_SEED = 77_000_001


def demo(
    out: Annotated[Path, typer.Option(help="Where clip and recordings are written.")] = Path("runs/demo"),
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: the nano model.")] = None,
    questions: Annotated[int, typer.Option(min=1, max=8, help="How many questions to speak.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the simulated patient.")] = DEMO_SEED,
) -> None:
    """Make a simulated clip, speak questions about it, answer them. Research only, not for clinical use."""
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

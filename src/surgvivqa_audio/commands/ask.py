"""`surgvivqa ask`: one spoken question about one clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ask(
    clip: Annotated[Path, typer.Option(help="Folder of 8 images in numeric order, or a video file.")],
    question: Annotated[Path, typer.Option(help="Recording of the question (WAV, FLAC, OGG, MP3, WebM).")],
    model: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: the nano model.")] = None,
    frames: Annotated[int, typer.Option(min=1, max=64, help="Frames of the clip.")] = 8,
    stride: Annotated[
        int, typer.Option(min=1, help="Frames between two frames of the clip, in a video.")
    ] = 4,
    start: Annotated[
        int | None, typer.Option(min=0, help="First frame, in a video; default: the middle.")
    ] = None,
    fps: Annotated[
        float, typer.Option(min=0.1, help="Frame rate of the source, for a folder of images.")
    ] = 25.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer one spoken question about one clip. Research only, not for clinical use."""
    import json

    from surgvivqa_audio.data.stores import frame_files, read_content, read_video_clip
    from surgvivqa_audio.speech.audio import read_audio

    wave = read_audio(question)
    if clip.is_file():
        images, fps = read_video_clip(clip, frames, stride, start)
    else:
        files = frame_files(clip, frames)
        contents = [read_content(file) for file in files]

    from surgvivqa_audio.answering.bundle import default_model_dir, load_engine
    from surgvivqa_audio.answering.frames import decode_frames
    from surgvivqa_audio.processing.video import saved_geometry

    if not clip.is_file():
        geometry = saved_geometry(model or default_model_dir())
        images = decode_frames(contents, geometry, names=[str(file) for file in files])
    opened = load_engine(model).open(images, fps / stride)
    answer = opened.ask(wave)
    if as_json:
        typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
        return
    typer.echo(describe(answer))


def describe(answer: object) -> str:
    """An answer in three lines for a terminal."""
    from surgvivqa_audio.answering.base import Answer

    if not isinstance(answer, Answer):
        raise TypeError(f"an Answer is needed, not {type(answer).__name__}")
    if answer.reason == "silence":
        return "No question heard."
    lines = [answer.answer if not answer.abstained else f"(abstains) {answer.answer}"]
    lines.append(
        f"  confidence {answer.confidence:.2f}  question understood as: {answer.question_type or '-'}"
    )
    times = answer.timings_ms
    lines.append(
        f"  clip {times['open_clip']:.0f} ms, audio {times['audio']:.0f} ms, answer {times['answer']:.0f} ms"
    )
    return "\n".join(lines)

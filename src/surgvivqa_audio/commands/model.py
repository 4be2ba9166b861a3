"""`surgvivqa model`: Graft, inspect and import checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Graft, inspect and import checkpoints.", no_args_is_help=True)


@app.command()
def graft(
    vlm: Annotated[str, typer.Option(help="Folder or Hub id of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model.")],
    audio: Annotated[str, typer.Option(help="Folder or Hub id of a Whisper model of any size.")],
    out: Annotated[Path, typer.Option(help="New folder for the grafted checkpoint.")],
    stack: Annotated[int, typer.Option(help="Encoder frames per audio token: 1, 2, 4 or 8.")] = 4,
    projector: Annotated[str, typer.Option(help="mlp (SwiGLU) or linear.")] = "mlp",
    max_side: Annotated[int, typer.Option(min=28, help="Longest side of a frame in pixels.")] = 384,
    dtype: Annotated[str, typer.Option(help="Stored weights: bf16, fp16 or fp32.")] = "bf16",
    seed: Annotated[int, typer.Option(help="Of the projector's random start.")] = 0,
) -> None:
    """Join a vision-language model and a Whisper encoder; only the projector is new."""
    from surgvivqa_audio.model.loading import parse_dtype
    from surgvivqa_audio.processing.assemble import graft_checkpoint

    kind = parse_dtype(dtype)
    model = graft_checkpoint(
        vlm, audio, out, dtype=kind, seed=seed, stack=stack, projector=projector, max_side=max_side
    )
    count = sum(parameter.numel() for parameter in model.audio_projector.parameters())
    typer.echo(
        f"{out}: grafted; the projector ({count:,} parameters) is untrained, `surgvivqa train` aligns it"
    )


@app.command("import-seed")
def import_seed(
    source: Annotated[str, typer.Argument(help="Folder or Hub id of the predecessor's merged checkpoint.")],
    out: Annotated[Path, typer.Option(help="New folder for the imported checkpoint.")],
    adapter: Annotated[str | None, typer.Option(help="Folder or Hub id of its LoRA adapter.")] = None,
) -> None:
    """Rewrite the predecessor's checkpoint (audio first, 1,500 tokens, 8 images) for this program."""
    from surgvivqa_audio.processing.assemble import import_seed_checkpoint

    import_seed_checkpoint(source, out, adapter)
    typer.echo(f"{out}: imported, layout seed{' with adapter' if adapter else ''}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a checkpoint, or nano, slice, 7b.")],
    gpu: Annotated[list[str] | None, typer.Option(help="4090, a100 or h200; several times.")] = None,
    layout: Annotated[str, typer.Option(help="Of slice and 7b: stream or seed.")] = "stream",
    batch: Annotated[int, typer.Option(min=1, help="Batch of the QLoRA estimate.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of the spoken question.")] = 3.5,
    height: Annotated[int, typer.Option(help="Of a source frame.")] = 1080,
    width: Annotated[int, typer.Option(help="Of a source frame.")] = 1350,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Parameters, tokens, memory and the least time to an answer, from the config alone."""
    import json

    from surgvivqa_audio.model.info import describe

    config = _config(model, layout)
    facts = describe(config, gpu, batch=batch, seconds=seconds, height=height, width=width)
    if as_json:
        typer.echo(json.dumps({"model": model, **facts}, indent=2))
        return
    for line in _lines(model, facts):
        typer.echo(line)


def _config(name: str, layout: str) -> Any:
    from surgvivqa_audio.model.config import AudioGraftConfig
    from surgvivqa_audio.model.sizes import named_config
    from surgvivqa_audio.model.source import resolve

    if name in ("slice", "7b"):
        return named_config(name, layout)
    if name == "nano":
        from surgvivqa_audio.answering.bundle import default_model_dir

        return AudioGraftConfig.from_folder(default_model_dir())
    return AudioGraftConfig.from_folder(resolve(name))


def _lines(name: str, facts: dict[str, Any]) -> list[str]:
    lines = [f"{name}: {facts['family']}, layout {facts['layout']}", "", "parameters"]
    lines += [f"  {part:<16}{count:>16,}" for part, count in facts["parameters"].items()]
    lines += ["", f"audio tokens per second of speech: {facts['tokens_per_second']:g}"]
    lines += [f"audio tokens of the question: {facts['audio_tokens']}", "", "estimated memory in GiB"]
    lines.append(f"  {'pixels':>6} {'frames':>6} {'visual tokens':>14}  bf16   fp8   nf4 QLoRA")
    for row in facts["clips"]:
        memory = row["memory_gib"]
        lines.append(
            f"  {row['max_side']:>6} {row['frames']:>6} {row['visual_tokens']:>14} {memory['bf16']:>5.1f} "
            f"{memory['fp8']:>5.1f} {memory['nf4']:>5.1f} {row['qlora_gib']:>5.1f}"
        )
    lines += ["", "least milliseconds to an answer at the GPU's published peak (bf16, 8 frames)"]
    for gpu, times in facts["roofline_ms"].items():
        ready = times["prefix_ready"]
        opened = "not possible (audio first)" if ready is None else f"{ready:.1f}"
        lines.append(
            f"  {gpu:<6} clip unseen {times['cold']:.1f}, clip open {opened}, "
            f"each further token {times['per_token']:.1f}"
        )
    return lines


@app.command()
def check(
    size: Annotated[
        str, typer.Argument(help="slice (fits a CPU with 16 GiB) or 7b (needs a GPU).")
    ] = "slice",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    frames: Annotated[int, typer.Option(min=1, help="Frames of the clip.")] = 8,
    max_side: Annotated[int, typer.Option(min=28, help="Longest side of a frame in pixels.")] = 384,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """One forward pass, one answer and one training step at true widths with random weights."""
    import json

    from surgvivqa_audio.bench.slice import run_check

    facts = run_check(size, device=device, frames=frames, max_side=max_side)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(
        f"{size} on {device}: {facts['parameters']:,} parameters, prompt {facts['tokens']['prompt']} tokens"
    )
    for name, step in facts["steps"].items():
        typer.echo(f"  {name:<11} {step['seconds']:>8.2f} s   peak {step['peak_gib']:.2f} GiB")

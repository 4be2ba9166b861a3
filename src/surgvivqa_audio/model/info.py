"""What a model costs, from its config alone: parameters, memory, and the time physics allows.

Everything is counted on the meta device, so a 7B model takes no memory. Memory and time are estimates with
their assumptions written beside them; parameters are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.counts import Parts, Shape, count_parts, shape_of
from surgvivqa_audio.model.memory import PRECISIONS, inference_gib, qlora_gib


@dataclass(frozen=True)
class Gpu:
    """Dense bf16 peak in FLOP/s, memory bandwidth in byte/s, memory in GiB."""

    flops: float
    bandwidth: float
    memory: float


GPUS = {
    "4090": Gpu(165e12, 1.008e12, 24),
    "a100": Gpu(312e12, 2.04e12, 80),
    "h200": Gpu(790e12, 4.8e12, 141),
}


@dataclass(frozen=True)
class Times:
    """Least milliseconds on a GPU, at its published peak: no real system is faster.

    ``cold``: clip and question unseen. ``prefix_ready``: the clip was prepared before; None in the seed
    layout, where audio comes first. ``per_token``: one further token of free generation.
    """

    cold: float
    prefix_ready: float | None
    per_token: float


def roofline(config: AudioGraftConfig, parts: Parts, shape: Shape, gpu: Gpu, tree: int = 280) -> Times:
    """bf16 time to an answer scored in one pass over ``tree`` option tokens.

    Each stage costs the larger of its arithmetic (2 FLOP per weight and row, plus attention) and of reading
    its weights once.
    """
    text = config.get_text_config()

    def stage(weights: int, rows: int, extra: float = 0.0) -> float:
        return max((2.0 * weights * rows + extra) / gpu.flops, 2.0 * weights / gpu.bandwidth)

    def attention(rows: int, seen: int, width: int, layers: int) -> float:
        return 4.0 * rows * seen * width * layers

    head = parts.head or parts.embedding
    audio = config.audio_config
    hear = stage(
        parts.audio_encoder,
        shape.frames,
        attention(shape.frames, shape.frames, audio.d_model, audio.encoder_layers),
    )
    see = stage(parts.vision, shape.patches)
    ask = shape.audio + 20
    language = parts.projections
    prefix = shape.visual + 40
    depth, width = text.num_hidden_layers, text.hidden_size
    rows = ask + tree
    ready = hear + stage(language, rows, attention(rows, prefix + rows, width, depth)) + stage(head, tree)
    whole = prefix + rows
    cold = hear + see + stage(head, tree)
    cold += stage(language, whole, attention(whole, whole // 2, width, depth))
    per_token = 2.0 * (language + head) / gpu.bandwidth
    return Times(cold * 1e3, None if config.layout == "seed" else ready * 1e3, per_token * 1e3)


def describe(
    config: AudioGraftConfig,
    gpus: Sequence[str] | None = None,
    *,
    batch: int = 1,
    seconds: float = 3.5,
    height: int = 1080,
    width: int = 1350,
) -> dict[str, Any]:
    """Everything ``model info`` prints.

    Args:
        config: of the model.
        gpus: names of :data:`GPUS`; None is all.
        batch: of the QLoRA estimate.
        seconds: length of the question.
        height, width: of a source frame.

    Raises:
        ConfigError: an unknown GPU or an impossible size.
    """
    names = list(gpus or GPUS)
    if unknown := [name for name in names if name not in GPUS]:
        raise ConfigError(f"unknown GPU '{unknown[0]}'; use one of {', '.join(GPUS)}")
    parts = count_parts(config)
    default = shape_of(config, height, width, 8, config.max_side, seconds)
    clips = []
    for side in sorted({384, 768, config.max_side}):
        for frames in (8, 16):
            shape = shape_of(config, height, width, frames, side, seconds)
            memory = {name: round(inference_gib(config, parts, shape, name), 2) for name in PRECISIONS}
            clips.append(
                {
                    "max_side": side,
                    "frames": frames,
                    "visual_tokens": shape.visual,
                    "memory_gib": memory,
                    "qlora_gib": round(qlora_gib(config, parts, shape, batch), 2),
                }
            )
    counts = {name: count for name, count in asdict(parts).items() if name != "sides"}
    return {
        "family": config.vlm_config.model_type,
        "layout": config.layout,
        "parameters": {**counts, "vlm": parts.vlm, "total": parts.total},
        "tokens_per_second": 50 / config.stack,
        "audio_tokens": default.audio,
        "clips": clips,
        "qlora_batch": batch,
        "roofline_ms": {
            name: {key: value and round(value, 2) for key, value in asdict(times).items()}
            for name in names
            for times in [roofline(config, parts, default, GPUS[name])]
        },
    }

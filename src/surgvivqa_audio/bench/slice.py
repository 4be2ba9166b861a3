"""One forward pass, one training step and one answer at true widths: shapes, memory and time, no checkpoint.

The ``slice`` (four layers per tower, random weights) fits a laptop's memory; ``7b`` is the same script for
whoever has a GPU.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.counts import Shape, count_parts, shape_of
from surgvivqa_audio.model.device import find_device
from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.model.loading import add_adapter
from surgvivqa_audio.model.memory import inference_gib, qlora_gib
from surgvivqa_audio.model.packing import additive_mask
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.model.sizes import named_config

_SIDES = (1080, 1350)
_TREE = 280  # tokens of all answer sentences
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak(device: str) -> None:
    """Start a new peak; where the system cannot (not Linux), peaks are those since the start."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_gib(device: str) -> float:
    """Most memory held since :func:`reset_peak`: of the process on a CPU, of the allocator on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def synthetic_batch(
    config: AudioGraftConfig, shape: Shape, frames: int, max_side: int, device: str
) -> dict[str, Any]:
    """Random patches, sound and text of the true sizes; ids between text and placeholders are arbitrary."""
    vision = config.vlm_config.vision_config
    merge, patch = vision.spatial_merge_size, vision.patch_size
    slices = -(-frames // vision.temporal_patch_size)
    scale = min(1.0, max_side / max(_SIDES))
    rows, columns = (round(side * scale / (patch * merge)) * merge for side in _SIDES)
    vlm = config.vlm_config
    ids = [1] * 20 + [vlm.vision_start_token_id] + [vlm.video_token_id] * shape.visual
    ids += [vlm.vision_end_token_id] + [2] * 20 + [int(config.audio_token_id or 0)] * shape.audio + [3] * 12
    tokens = torch.tensor([ids], device=device)
    dtype = torch.bfloat16
    return {
        "input_ids": tokens,
        "mm_token_type_ids": (tokens == vlm.video_token_id).long() * 2,
        "pixel_values_videos": torch.randn(
            shape.patches, 3 * vision.temporal_patch_size * patch**2, device=device, dtype=dtype
        ),
        "video_grid_thw": torch.tensor([[slices, rows, columns]], device=device),
        "input_features": torch.randn(
            1, config.audio_config.num_mel_bins, 2 * shape.frames, device=device, dtype=dtype
        ),
        "audio_lengths": torch.tensor([2 * shape.frames], device=device),
    }


@torch.no_grad()
def _answer(model: AudioGraft, batch: dict[str, Any]) -> Callable[[], Tensor]:
    """Open the clip, and return the question: audio and a tree of answers behind the cached prefix."""
    ids = batch["input_ids"]
    start = int((ids[0] == model.config.audio_token_id).nonzero()[0])
    cache = DynamicCache(config=model.config.get_text_config())
    prefix = {name: value for name, value in batch.items() if not name.startswith(("input_f", "audio"))}
    prefix |= {name: prefix[name][:, :start] for name in ("input_ids", "mm_token_type_ids")}
    positions, after = model.positions(
        prefix["input_ids"], prefix["mm_token_type_ids"], video_grid_thw=batch["video_grid_thw"]
    )
    model.hidden_states(**prefix, position_ids=positions, past_key_values=cache, use_cache=True)

    @torch.no_grad()
    def ask() -> Tensor:
        tokens = torch.cat([ids[:, start:], torch.full((1, _TREE), 5, device=ids.device)], dim=1)
        size = tokens.shape[1]
        allowed = torch.ones(size, start + size, dtype=torch.bool, device=ids.device).tril(start)
        features = model.get_audio_features(batch["input_features"], batch["audio_lengths"])
        embedded = model.embed(tokens, features)
        outputs = model.vlm.model(
            inputs_embeds=embedded,
            position_ids=(int(after[0]) + torch.arange(size, device=ids.device)).expand(3, 1, -1),
            attention_mask={"full_attention": additive_mask(allowed, embedded.dtype)[None, None]},
            past_key_values=cache,
            use_cache=True,
        )
        cache.crop(start - cache.get_seq_length())
        return model.get_output_embeddings()(outputs.last_hidden_state[:, -_TREE - 1 :])

    return ask


def run_check(
    size: str = "slice", *, device: str = "cpu", frames: int = 8, max_side: int = 384, seconds: float = 3.5
) -> dict[str, Any]:
    """Build, run forward, answer and train once.

    Returns:
        ``steps``: seconds and peak GiB after each; ``estimate_gib`` of inference (bf16); ``tokens``.

    Raises:
        ConfigError: an unknown size, or a GPU that is not there.
    """
    if size not in ("slice", "7b"):
        raise ConfigError(f"size '{size}' has no random weights to check; use slice or 7b")
    device = find_device(device)
    config = named_config(size)
    shape = shape_of(config, *_SIDES, frames, max_side, seconds)
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        reset_peak(device)
        began = perf_counter()
        yield
        if device != "cpu":
            torch.cuda.synchronize(device)
        steps[name] = {"seconds": round(perf_counter() - began, 3), "peak_gib": round(peak_gib(device), 2)}

    torch.manual_seed(0)
    with step("build"), torch.device(device):
        model: AudioGraft = AudioGraft._from_config(config, dtype=torch.bfloat16)
        model.start_projector()
        fast_vision(model.vlm)
    batch = synthetic_batch(config, shape, frames, max_side, device)
    with step("forward"), torch.no_grad():
        logits = model.eval()(**batch, logits_to_keep=1).logits
    with step("open_clip"):
        ask = _answer(model, batch)
    with step("answer"):
        tree = ask()
    with step("train_step"):
        loss = _train_step(model, batch)
    if not (torch.isfinite(logits).all() and torch.isfinite(tree).all() and torch.isfinite(loss)):
        raise ConfigError(f"{size}: a result is not finite")
    parts = count_parts(config)
    return {
        "size": size,
        "device": device,
        "parameters": parts.total,
        "tokens": {"visual": shape.visual, "audio": shape.audio, "prompt": batch["input_ids"].shape[1]},
        "steps": steps,
        "estimate_gib": round(inference_gib(config, parts, shape, "bf16"), 2),
        "estimate_qlora_gib": round(qlora_gib(config, parts, shape, 1), 2),
    }


def _train_step(model: AudioGraft, batch: dict[str, Any]) -> Tensor:
    tuned = add_adapter(model).train()
    model.vlm.activation_checkpointing_enable({"use_reentrant": False})
    model.vlm.enable_input_require_grads()
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    labels = torch.full_like(batch["input_ids"], IGNORE)
    labels[:, -8:] = batch["input_ids"][:, -8:]
    loss: Tensor = tuned(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    return loss.detach()

"""Clips -> prefixes: vision on the slices that are new, then one prefill of what precedes the question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.answering.prefix import Prefix, device_of, frame_digest, joined_digest
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.text import Layers, run_prefix
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example
from surgvivqa_audio.processing.video import VideoInputs, resize
from surgvivqa_audio.sample import Image

# In these families the vision tower looks at one slice at a time, so features of a slice can be reused, and
# they enter as tokens alone. Qwen3-VL hands several layers' features over; it takes the stock way.
_SLICEWISE = ("qwen2_vl", "qwen2_5_vl")
_WORKERS = 2


@dataclass
class Prepared:
    """A clip on its way to the model. ``slices`` names every pair of frames by content."""

    example: Example
    slices: tuple[str, ...]


class Shrinker:
    """Hashes and resizes frames on two threads (Pillow and hashlib release the interpreter lock)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="frames")

    def digests(self, frames: Sequence[Image]) -> list[str]:
        """Content of every frame."""
        return list(self._pool.map(frame_digest, frames))

    def shrink(self, frames: Sequence[Image], processor: AudioGraftProcessor) -> Sequence[Image]:
        """Frames at their final size, where resizing again changes nothing; else as they are."""
        geometry = processor.geometry
        if any(frame.shape != frames[0].shape or frame.ndim != 3 for frame in frames):
            return frames  # the processor says what is wrong
        size = geometry.target_size(*frames[0].shape[:2])
        if frames[0].shape[:2] == size or geometry.target_size(*size) != size:
            return frames
        return list(self._pool.map(lambda frame: resize(frame, size), frames))

    def prepare(
        self,
        processor: AudioGraftProcessor,
        frames: Sequence[Image] | None,
        fps: float,
        digests: Sequence[str],
    ) -> Prepared:
        """Patches, prompt and slice names of one clip. Raises BadImage."""
        if frames is None:
            return Prepared(processor.encode(None, []), ())
        video = processor.clip(self.shrink(frames, processor) if len(frames) else frames, fps)
        step = processor.temporal
        names = [joined_digest(*digests[start : start + step]) for start in range(0, len(digests), step)]
        return Prepared(processor.encode(video, []), tuple(names))


def vision_features(
    model: AudioGraft, clips: Sequence[Prepared], known: dict[str, Tensor]
) -> list[dict[str, Tensor]] | None:
    """Features (tokens, d) of every slice of every clip; only unknown ones are computed, in one call.

    None where the family does not work slice by slice.
    """
    if model.config.vlm_config.model_type not in _SLICEWISE:
        return None
    device = device_of(model)
    wanted: dict[tuple[int, int], dict[str, Tensor]] = defaultdict(dict)
    found: dict[str, Tensor] = {}
    for clip in clips:
        video = clip.example.video
        if not isinstance(video, VideoInputs):
            continue
        _, height, width = video.grid
        rows = torch.from_numpy(video.pixels).split(height * width)
        for name, patches in zip(clip.slices, rows, strict=True):
            if name in known:
                found[name] = known[name]
            else:
                wanted[height, width][name] = patches
    for (height, width), slices in wanted.items():
        grid = torch.tensor([[len(slices), height, width]], device=device)
        pixels = torch.cat(list(slices.values())).to(device)
        outputs = model.vlm.model.get_video_features(pixels, grid, return_dict=True)
        parts = torch.cat(list(outputs.pooler_output)).chunk(len(slices))
        found |= {name: part.clone() for name, part in zip(slices, parts, strict=True)}
    return [{name: found[name] for name in clip.slices} for clip in clips]


def prefill(model: AudioGraft, pad: int, clips: Sequence[Prepared], known: dict[str, Tensor]) -> list[Prefix]:
    """Run clips whose prompts have one length together, and take their keys and values apart."""
    device = device_of(model)
    config = model.vlm.config.get_text_config()
    features = vision_features(model, clips, known)
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[len(clip.example.ids), clip.example.video is None].append(index)
    done: dict[int, Prefix] = {}
    for indices in groups.values():
        batch: dict[str, Any] = collate([clips[index].example for index in indices], pad, labels=False)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        grids = {name: batch[name] for name in ("video_grid_thw", "second_per_grid_ts") if name in batch}
        positions, after = model.positions(batch["input_ids"], batch["mm_token_type_ids"], **grids)
        if features is None:
            layers = _stock(model, config, batch, positions)
        else:
            # by name and not by entry: a still clip names one slice several times
            seen = [features[index][name] for index in indices for name in clips[index].slices]
            layers = _prefix(model, batch["input_ids"], positions, seen)
        for row, index in enumerate(indices):
            own = tuple(_row(keys, values, row) for keys, values in layers)
            slices = {} if features is None else features[index]
            done[index] = Prefix(config, own, int(after[row]), slices)
    return [done[index] for index in range(len(clips))]


def _prefix(model: AudioGraft, ids: Tensor, positions: Tensor, seen: Sequence[Tensor]) -> Layers:
    """Keys and values of prompts (b, p) that show vision features (tokens, d), slice by slice, row by row."""
    embeddings = model.embed(ids, None)
    if seen:
        shown = ids == model.config.vlm_config.video_token_id
        embeddings[shown] = torch.cat(list(seen)).to(embeddings.dtype)
    return run_prefix(model.vlm, embeddings, positions)


def _stock(model: AudioGraft, config: Any, batch: dict[str, Any], positions: Tensor) -> Layers:
    """The same by the stock forward: Qwen3-VL adds vision features to several layers."""
    cache = DynamicCache(config=config)
    del batch["attention_mask"]  # all ones: rows of one length
    model.hidden_states(**batch, position_ids=positions, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _row(keys: Tensor, values: Tensor, row: int) -> tuple[Tensor, Tensor]:
    if keys.shape[0] == 1:
        return keys, values
    return keys[row : row + 1].clone(), values[row : row + 1].clone()

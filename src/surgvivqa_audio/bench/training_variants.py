"""Ways to train on the same rows: the predecessor's, ours, and every step between, on one set of weights.

Towers, language model and adapters are shared; a way has its own projector only, because that belongs to how
sound becomes tokens. One optimizer serves all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import IGNORE, AudioGraft, new_projector
from surgvivqa_audio.model.loading import add_adapter
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.feature_cache import CachingCollate, FeatureCache, Towers, tower_names

_CACHE_BYTES = 4 << 30
_RATE = 1e-5


@dataclass(frozen=True)
class Variant:
    """One way to train. The defaults are the predecessor's: audio first and 30 s of it, one token per encoder
    frame, separate pictures, the question typed too, all logits, recomputing, one row at a time, no cache."""

    name: str = "seed"
    mode: QuestionMode = "audio+text"
    all_logits: bool = True
    recompute: bool = True
    true_length: bool = False
    stack: int = 1
    video: bool = False
    stream: bool = False
    batched: bool = False
    packed: bool = False
    cached: bool = False


def ladder(questions: int) -> list[Variant]:
    """From ``seed`` to ``fast``, one switch at a time; packing only where a clip has several questions."""
    steps: list[dict[str, Any]] = [
        {"name": "answer logits", "all_logits": False},
        {"name": "no recomputing", "recompute": False},
        {"name": "no typed question", "mode": "audio"},
        {"name": "true-length audio", "true_length": True},
        {"name": "stacked frames", "stack": 4},
        {"name": "video pathway", "video": True},
        {"name": "prompt order", "stream": True},
        {"name": "rows in one batch", "batched": True},
    ]
    if questions > 1:
        steps.append({"name": "packed questions", "packed": True})
    steps.append({"name": "fast", "cached": True})
    found = [Variant()]
    for change in steps:
        found.append(replace(found[-1], **change))
    return found


@dataclass(frozen=True)
class Asked:
    """One row: the clip's JPEG files, the recording, the typed question, the answer sentence."""

    jpegs: list[bytes]
    wave: Wave
    text: str
    answer: str


class Rig:
    """Everything the steps of all variants share.

    Args:
        work: model, processor and media.
        clips, questions: of one update; their product is its samples.
    """

    def __init__(self, work: Workload, clips: int, questions: int) -> None:
        self.work, self.clips, self.questions = work, clips, questions
        self.samples = clips * questions
        self.base = work.engine.model
        types = list(load_taxonomy().types.values())
        self.answers = {kind.in_template: kind.answers[0].sentence for kind in types}
        adapted = add_adapter(self.base)
        self.adapters = [p for n, p in adapted.named_parameters() if "lora_" in n]
        self.base.requires_grad_(False)
        for parameter in self.adapters:
            parameter.requires_grad_(True)
        self.base.vlm.enable_input_require_grads()
        self.device = torch.device(work.device)
        self.dtype = next(self.base.vlm.parameters()).dtype
        self.models: dict[int, AudioGraft] = {}
        self.optimizer = torch.optim.AdamW(self.adapters, lr=_RATE)
        self.names = tower_names(self.base)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-features-")
        self.cache = FeatureCache(Path(self._folder.name), _CACHE_BYTES)

    def model(self, stack: int) -> AudioGraft:
        """The graft with the projector for this many frames a token; all else is shared."""
        if stack not in self.models:
            fields = self.base.config.to_dict() | {
                "stack": stack,
                "projector": "linear" if stack == 1 else "mlp",
            }
            config = AudioGraftConfig.from_dict(fields)
            with torch.device("meta"):
                model = AudioGraft(config)
            model.vlm, model.audio_encoder = self.base.vlm, self.base.audio_encoder
            model.audio_projector = new_projector(config).to(self.device)
            model.start_projector()
            self.optimizer.add_param_group({"params": list(model.audio_projector.parameters())})
            self.models[stack] = model.train()
        return self.models[stack]

    def processor(self, variant: Variant) -> AudioGraftProcessor:
        """Prompt, sound and frames of a variant."""
        ours = self.work.engine.processor
        return AudioGraftProcessor(
            ours.feature_extractor, ours.tokenizer, patch=ours.patch, merge=ours.merge,
            temporal=ours.temporal, max_side=ours.max_side, stack=variant.stack, family=ours.family,
            layout="stream" if variant.stream else "seed", audio_token_id=ours.special.audio,
            audio_length="natural" if variant.true_length else "30s",
            pathway="video" if variant.video else "images",
        )  # fmt: skip

    def group(self, number: int) -> list[list[Asked]]:
        """The rows of one update: clips nobody has seen, each with its questions."""
        texts, waves = self.work.texts, self.work.waves
        found = []
        for clip in range(self.clips):
            jpegs = self.work.jpegs(100_000 + number * self.clips + clip)
            first = (number * self.clips + clip) * self.questions
            chosen = [(first + n) % len(texts) for n in range(self.questions)]
            found.append([Asked(jpegs, waves[n], texts[n], self.answers[texts[n]]) for n in chosen])
        return found

    def batches(self, variant: Variant, group: Sequence[Sequence[Asked]]) -> list[dict[str, Any]]:
        """Micro-batches of one update, as a data loader would make them, from JPEG bytes and samples."""
        processor = self.processor(variant)
        rows = list(group) if variant.packed else [[asked] for clip in group for asked in clip]
        examples = [self._example(processor, variant, row) for row in rows]
        pad = processor.special.pad

        def join(part: Sequence[Any]) -> dict[str, Any]:
            return dict(collate(part, pad, packed=variant.packed))

        lookup = CachingCollate(join, self.cache, self.names) if variant.cached else join
        parts = [examples] if variant.batched else [[example] for example in examples]
        return [lookup(part) for part in parts]

    def _example(self, processor: AudioGraftProcessor, variant: Variant, row: Sequence[Asked]) -> Example:
        clip = processor.clip(decode_frames(row[0].jpegs, processor.geometry), FPS)
        asked = [Spoken(variant.mode, processor.mel(one.wave), one.text, one.answer) for one in row]
        return processor.encode(clip, asked)

    def step(self, variant: Variant, group: Sequence[Sequence[Asked]]) -> dict[str, float]:
        """One update on the rows of ``group``; mean loss per supervised token and tokens of the batch."""
        model = self.model(variant.stack)
        if variant.recompute:
            self.base.vlm.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.base.vlm.activation_checkpointing_disable()
        batches = self.batches(variant, group)
        supervised = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches)
        total, tokens = 0.0, 0
        for batch in batches:
            batch = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with self._autocast():
                if variant.cached:
                    batch = Towers(model, self.cache).fill(batch)
                loss = model(**batch, num_items_in_batch=supervised, all_logits=variant.all_logits).loss
            loss.backward()
            total += float(loss.detach())
            tokens += batch["input_ids"].numel()
        trained = [parameter for part in self.optimizer.param_groups for parameter in part["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": total, "tokens": float(tokens)}

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

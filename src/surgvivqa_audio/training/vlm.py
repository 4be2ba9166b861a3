"""Pretraining of the nano vision-language model: typed questions, many of them behind one visual prefix.

Two things make a few million random weights learn to see in minutes: Muon for the matrices, and targets for
every visual token (what is in its cell, how it moves, where it is), read off by small heads that are not
shipped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.files import write_json
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.clip_pool import PoolClip, answer_counts
from surgvivqa_audio.training.optim import build_optimizer, lr_factor, set_lr


class VlmConfig(BaseModel):
    """One pretraining run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = 1500
    batch: int = 32
    questions: int = 10
    lr_muon: float = 0.02
    lr_adamw: float = 3e-3
    weight_decay: float = 0.01
    auxiliary: float = 0.5
    trivial_weight: float = 0.2
    refusals: float = 0.08
    checkpoint_every: int = 100
    bf16: bool = False
    seed: int = 0


class TokenHeads(nn.Module):
    """Targets of every visual token, predicted from the vision tower and again from the language model."""

    OUTPUTS = 3 + 2 + 4 + 4 + 4 + 4  # occupancy, flow, row, column, lesion centre and its drift, spare

    def __init__(self, width: int) -> None:
        super().__init__()
        self.low = nn.Linear(width, self.OUTPUTS)
        self.high = nn.Linear(width, self.OUTPUTS)


def token_loss(predicted: Tensor, clips: Sequence[PoolClip], size: int) -> Tensor:
    """Mean loss over the targets of all visual tokens; ``predicted`` (b, slices, grid, grid, outputs)."""
    grid = predicted.shape[2]
    occupancy = torch.from_numpy(np.stack([clip.occupancy for clip in clips]))
    flow = torch.from_numpy(np.stack([clip.flow for clip in clips])).nan_to_num().clamp(-20, 20)
    centre = torch.from_numpy(np.stack([clip.centre for clip in clips]))
    present = (occupancy > 0.04).float()
    loss = nn.functional.binary_cross_entropy_with_logits(predicted[..., :3], present)
    loss = loss + nn.functional.smooth_l1_loss(predicted[..., 3:5], flow / 4)
    index = torch.arange(grid).expand(*predicted.shape[:2], grid, grid)
    for start, target in ((5, index.transpose(2, 3)), (9, index)):
        logits = predicted[..., start : start + 4]
        loss = loss + 0.25 * nn.functional.cross_entropy(logits.reshape(-1, 4), target.reshape(-1))
    place = (centre[:, 0::2] + centre[:, 1::2]) / 2
    drift = (place - centre[:, :1]) / (size * 0.1)
    wanted = torch.cat([place / size - 0.5, drift], dim=-1)[:, :, None, None, :].expand(
        -1, -1, grid, grid, -1
    )
    known = ~wanted.isnan()
    if known.any():
        loss = loss + nn.functional.smooth_l1_loss(predicted[..., 13:17][known], wanted[known])
    return loss


class QuestionSampler:
    """Draws clips and questions: uniform over types, and over the answers of a type."""

    def __init__(
        self, clips: Sequence[PoolClip], taxonomy: Taxonomy, config: VlmConfig, rng: random.Random
    ) -> None:
        self.clips, self.taxonomy, self.config, self.rng = clips, taxonomy, config, rng
        self.bank = {name: split.train for name, split in phrasing_bank(taxonomy).items()}
        counts = answer_counts(list(clips))
        self.weight = {pair: (1.0 / count) ** 0.75 for pair, count in counts.items()}

    def draw(self) -> tuple[PoolClip, list[tuple[str, str]]]:
        """One clip and ``(typed question, answer sentence)`` pairs about it."""
        clip = self.clips[self.rng.randrange(len(self.clips))]
        types = list(clip.answers)
        keys = {
            name: self.rng.random() ** (1.0 / (1e4 * self.weight[name, clip.answers[name]])) for name in types
        }
        chosen = sorted(types, key=lambda name: -keys[name])[: self.config.questions]
        pairs = [
            (self.rng.choice(self.bank[name]), self.taxonomy.types[name].answer(clip.answers[name]).sentence)
            for name in chosen
        ]
        refusal = self.taxonomy.refusal.sentence
        if self.rng.random() < self.config.refusals * self.config.questions:
            if clip.unanswerable and self.rng.random() < 0.6:
                question = self.rng.choice(self.bank[self.rng.choice(clip.unanswerable)])
            else:
                question = self.rng.choice(self.taxonomy.out_of_scope.train)
            pairs.append((question, refusal))
        self.rng.shuffle(pairs)
        return clip, pairs


def decisive_tokens(processor: AudioGraftProcessor, taxonomy: Taxonomy) -> dict[str, list[bool]]:
    """For every sentence, which of its tokens choose between sentences (the tree branches there)."""
    encoded = {sentence: processor.answer_ids(sentence) for sentence in taxonomy.sentences()}
    children: dict[tuple[int, ...], set[int]] = {}
    for ids in encoded.values():
        for depth, token in enumerate(ids):
            children.setdefault(tuple(ids[:depth]), set()).add(token)
    return {
        sentence: [len(children[tuple(ids[:depth])]) > 1 for depth in range(len(ids))]
        for sentence, ids in encoded.items()
    }


class VlmTrainer:
    """State of a pretraining run; ``run`` continues it to the end."""

    def __init__(
        self,
        model: AudioGraft,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        clips: Sequence[PoolClip],
        config: VlmConfig,
        out: Path,
    ) -> None:
        self.model, self.processor, self.taxonomy = model, processor, taxonomy
        self.config, self.out = config, out
        torch.manual_seed(config.seed)
        self.heads = TokenHeads(model.config.vlm_config.get_text_config().hidden_size)
        self.trained = nn.ModuleDict({"vlm": model.vlm, "heads": self.heads})
        self.optimizer = build_optimizer(
            self.trained, config.lr_muon, config.lr_adamw, weight_decay=config.weight_decay
        )
        self.sampler = QuestionSampler(clips, taxonomy, config, random.Random(config.seed))
        self.decisive = decisive_tokens(processor, taxonomy)
        self.step = 0

    def batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor, list[PoolClip]]]:
        """Endless ``(inputs, weight of every label, clips)``."""
        while True:
            examples, weights, clips = [], [], []
            for _ in range(self.config.batch):
                clip, pairs = self.sampler.draw()
                video = self.processor.clip(list(clip.frames), fps=6.25)
                spoken = [Spoken("text", text=question, answer=answer) for question, answer in pairs]
                example = self.processor.encode(video, spoken)
                examples.append(example)
                clips.append(clip)
                flags = [flag for _, answer in pairs for flag in self.decisive[answer]]
                weights += [1.0 if flag else self.config.trivial_weight for flag in flags]
            batch = collate(examples, self.processor.special.pad, packed=True)
            yield batch, torch.tensor(weights), clips

    def loss(self, batch: dict[str, Any], weights: Tensor, clips: list[PoolClip]) -> tuple[Tensor, Tensor]:
        """Weighted answer loss and the loss of the token heads."""
        labels = batch.pop("labels")
        grid = batch["video_grid_thw"]
        seen = self.model.vlm.get_video_features(batch.pop("pixel_values_videos"), grid, return_dict=True)
        outputs = self.model.hidden_states(**batch, mm_encoder_outputs={"video": seen})
        hidden = outputs.last_hidden_state
        chosen = labels[:, 1:] != -100
        logits = self.model.get_output_embeddings()(hidden[:, :-1][chosen]).float()
        each = nn.functional.cross_entropy(logits, labels[:, 1:][chosen], reduction="none")
        answers = (each * weights).sum() / weights.sum()
        slices, rows, columns = (int(side) for side in grid[0])
        merge = self.processor.merge
        shape = (len(clips), slices, rows // merge, columns // merge, -1)
        low = torch.cat(list(seen.pooler_output)).float().reshape(shape)
        high = hidden[batch["mm_token_type_ids"] != 0].float().reshape(shape)
        size = clips[0].frames.shape[1]
        tokens = token_loss(self.heads.low(low), clips, size) + token_loss(self.heads.high(high), clips, size)
        return answers, tokens

    def run(self, progress: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train to the last step, logging to ``log.jsonl`` and checkpointing on the way."""
        self.out.mkdir(parents=True, exist_ok=True)
        started, first = monotonic(), self.step
        batches = self.batches()
        self.model.train()
        while self.step < self.config.steps:
            batch, weights, clips = next(batches)
            set_lr(self.optimizer, lr_factor(self.step / self.config.steps))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
                answers, tokens = self.loss(batch, weights, clips)
            total = answers + self.config.auxiliary * tokens
            if not torch.isfinite(total):
                raise ModelError(f"step {self.step}: the loss is not finite; lower lr_muon or lr_adamw")
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            record = {
                "step": self.step,
                "answers": round(answers.item(), 4),
                "tokens": round(tokens.item(), 4),
                "seconds_per_step": round((monotonic() - started) / (self.step - first), 3),
            }
            if self.step % 10 == 0:
                with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
                if progress is not None:
                    progress(record)
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save()

    def save(self) -> None:
        """Write a complete checkpoint: weights, optimizer, position, random state."""
        folder = self.out / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights|{name}": value for name, value in self.trained.state_dict().items()}
        tensors |= {f"optimizer|{name}": value for name, value in self.optimizer.state_tensors().items()}
        tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        staged = folder / f"step-{self.step:06d}.safetensors.tmp"
        state = {"step": self.step, "rng": self.sampler.rng.getstate()}
        save_file(tensors, staged, metadata={"state": json.dumps(state)})
        staged.replace(folder / f"step-{self.step:06d}.safetensors")
        for old in sorted(folder.glob("step-*.safetensors"))[:-2]:
            old.unlink()
        write_json(self.out / "state.json", {"step": self.step, "config": self.config.model_dump()})

    def resume(self) -> bool:
        """Continue from the newest checkpoint; False when there is none."""
        found = sorted((self.out / "checkpoint").glob("step-*.safetensors"))
        if not found:
            return False
        with safe_open(found[-1], framework="pt") as handle:
            state = json.loads(handle.metadata()["state"])
        tensors = load_file(found[-1])
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split("|", 1)
            parts[part][rest] = value
        self.trained.load_state_dict(parts["weights"])
        self.optimizer.load_state_tensors(parts["optimizer"])
        version, internal, gauss = state["rng"]
        self.sampler.rng.setstate((version, tuple(internal), gauss))
        self.step = state["step"]
        return True

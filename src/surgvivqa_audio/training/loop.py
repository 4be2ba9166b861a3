"""The loop of the nano stages. A step depends on the seed and its number alone: a run resumes exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.files import write_bytes
from surgvivqa_audio.training.cpu import bfloat16_pays
from surgvivqa_audio.training.optim import build_optimizer, lr_factor, set_lr

Progress = Callable[[dict[str, Any]], None]
StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]


class LoopConfig(BaseModel):
    """Length, learning rates and checkpoints of one run; ``bf16`` by itself where the processor gains."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int
    lr_muon: float = 0.02
    lr_adamw: float = 3e-3
    weight_decay: float = 0.01
    checkpoint_every: int = 100
    bf16: bool = Field(default_factory=bfloat16_pays)


def _checkpoints(out: Path) -> list[Path]:
    """Oldest first."""
    return sorted((out / "checkpoint").glob("step-*.safetensors"))


def steps_done(out: Path) -> int:
    """Steps of the newest checkpoint in a run folder; 0 where there is none."""
    found = _checkpoints(out)
    return int(found[-1].stem.removeprefix("step-")) if found else 0


class Loop:
    """Muon and AdamW on what ``trained`` trains, warm-up and cosine, one log line per ten steps.

    ``loss(step)`` returns the loss of a step and what to log; everything random in it comes from ``step``.
    """

    def __init__(self, trained: nn.Module, config: LoopConfig, out: Path, loss: StepLoss) -> None:
        self.trained, self.config, self.out, self.loss = trained, config, out, loss
        self.optimizer = build_optimizer(
            trained, config.lr_muon, config.lr_adamw, weight_decay=config.weight_decay
        )
        self.step = 0

    def run(self, progress: Progress | None = None) -> None:
        """Train to the last step.

        Raises:
            ModelError: the loss is not finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        started, first = monotonic(), self.step
        self.trained.train()
        while self.step < self.config.steps:
            set_lr(self.optimizer, lr_factor(self.step / self.config.steps))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16):
                loss, logged = self.loss(self.step)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"{self.out}: the loss of step {self.step} is not finite; lower lr_muon or lr_adamw"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(list(self._weights().values()), 1.0)
            self.optimizer.step()
            self.step += 1
            if self.step % 10 == 0:
                pace = (monotonic() - started) / (self.step - first)
                self._log({"step": self.step, **logged, "seconds_per_step": round(pace, 3)}, progress)
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save()
        self.trained.eval()

    def _log(self, record: dict[str, Any], progress: Progress | None) -> None:
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if progress is not None:
            progress(record)

    def _weights(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def save(self) -> None:
        """Write trained weights, optimizer state and position, complete or not at all."""
        tensors = {f"weights|{name}": value for name, value in self._weights().items()}
        tensors |= {f"optimizer|{name}": value for name, value in self.optimizer.state_tensors().items()}
        plain = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        folder = self.out / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(
            folder / f"step-{self.step:06d}.safetensors", save(plain, metadata={"step": str(self.step)})
        )
        for old in _checkpoints(self.out)[:-2]:
            old.unlink()

    def resume(self) -> bool:
        """Continue from the newest checkpoint; False when there is none.

        Raises:
            ModelError: the checkpoint belongs to another set of parameters.
        """
        found = _checkpoints(self.out)
        if not found:
            return False
        with safe_open(found[-1], framework="pt") as handle:
            step = int(handle.metadata()["step"])
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for name, value in load_file(found[-1]).items():
            part, rest = name.split("|", 1)
            parts[part][rest] = value
        weights = self._weights()
        if weights.keys() != parts["weights"].keys():
            raise ModelError(f"{found[-1]}: was written for other parameters; start without --resume")
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(parts["weights"][name])
        self.optimizer.load_state_tensors(parts["optimizer"])
        self.step = step
        return True

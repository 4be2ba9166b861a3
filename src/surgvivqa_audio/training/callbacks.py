"""What happens beside a training step: the log, the best state, the reason of the end."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from surgvivqa_audio.files import read_jsonl, write_jsonl
from surgvivqa_audio.model.memory import GIB
from surgvivqa_audio.processing.assemble import Staged
from surgvivqa_audio.training.loop import Progress

METRIC = "eval_loss"


def peak_gib() -> float:
    """Most memory this process has held: of its GPU where it has one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Appends to ``log.jsonl`` and reports progress with speed, memory and the time that is left.

    ``processor_seconds`` of a line is what this process has computed since training began, evaluations
    included and added up over resumes: other work on the machine lengthens the clock, not this.

    Args:
        path: of the log. After a resume, lines past the checkpoint's step are dropped.
        tokens: tokens that this process has trained on so far.
        progress: receives every line.
    """

    def __init__(self, path: Path, tokens: Callable[[], int], progress: Progress | None) -> None:
        self.path, self.tokens, self.progress = path, tokens, progress
        self.started, self.first = monotonic(), 0
        self.mark = (monotonic(), 0)
        self.busy = process_time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and cut the log back to where the run continues."""
        self.started, self.first = monotonic(), state.global_step
        self.mark = (monotonic(), self.tokens())
        self.busy = process_time()
        if state.is_world_process_zero and self.path.is_file():
            kept = [row for _, row in read_jsonl(self.path) if row.get("step", 0) <= state.global_step]
            write_jsonl(self.path, kept)
            self.busy -= kept[-1].get("processor_seconds", 0.0) if kept else 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One line of the log."""
        if not state.is_world_process_zero:
            return
        now, done = monotonic(), self.tokens()
        record = {"step": state.global_step, "of": state.max_steps, **(logs or {})}
        if "loss" in record:
            spent = max(now - self.mark[0], 1e-9)
            record["tokens_per_second"] = round((done - self.mark[1]) * args.world_size / spent, 1)
            self.mark = (now, done)
        steps = state.global_step - self.first
        if steps > 0:
            left = (state.max_steps - state.global_step) * (now - self.started) / steps
            record["eta_seconds"] = round(left, 1)
        record["processor_seconds"] = round(process_time() - self.busy, 2)
        record["memory_gib"] = round(peak_gib(), 3)
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if self.progress is not None:
            self.progress(record)


class BestKeeper(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Keeps the trained parts of the best evaluation so far in ``folder/step-N``.

    Args:
        folder: where; older bests are removed after the new one is complete.
        save: writes the trained parts into a folder.
    """

    def __init__(self, folder: Path, save: Callable[[Path], None]) -> None:
        self.folder, self.save = folder, save
        self.loss: float | None = None
        self.step = 0
        self.epoch = 0.0

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Keep the state if its eval loss is the lowest."""
        loss = (metrics or {}).get(METRIC)
        if loss is None or (self.loss is not None and loss >= self.loss):
            return
        self.loss, self.step, self.epoch = float(loss), state.global_step, float(state.epoch or 0.0)
        if state.is_world_process_zero:
            self._keep()

    def _keep(self) -> None:
        target = self.path
        shutil.rmtree(target, ignore_errors=True)
        with Staged(target) as staged:
            self.save(staged)
        for other in self.folder.glob("step-*"):
            if other != target:
                shutil.rmtree(other)

    @property
    def path(self) -> Path:
        """Where the best state lies."""
        return self.folder / f"step-{self.step}"

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"args": {}, "attributes": {"loss": self.loss, "step": self.step, "epoch": self.epoch}}


def stop_reason(stopper: EarlyStoppingCallback | None, state: Any) -> str:
    """Why a run ended, in words."""
    patience = 0 if stopper is None else stopper.early_stopping_patience
    if stopper is not None and stopper.early_stopping_patience_counter >= patience:
        return f"early stopping: {patience} evaluations without a lower {METRIC}"
    if state.global_step >= state.max_steps:
        return "all steps done"
    return "stopped from outside"

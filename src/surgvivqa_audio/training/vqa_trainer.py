"""The trainer of a data-folder run, and its accuracy at the end of every epoch."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.training.accuracy import Accuracy
from surgvivqa_audio.training.checkpoints import DurableTrainer
from surgvivqa_audio.training.sampling import EpochSampler


class WholeUpdates(EpochSampler):
    """Every row once per epoch, and the first ones of its order again until the last update is full.

    Several processes would fill it up in any case, one would not: then the same recipe gave different curves.
    ``update`` is the effective batch; the other arguments are those of :class:`EpochSampler`.
    """

    def __init__(self, rows: int, seed: int, *, update: int, **options: Any) -> None:
        super().__init__(rows, seed, **options)
        self.update = update

    def __len__(self) -> int:
        return -(-self.rows // self.update) * self.update

    def order(self, epoch: int) -> list[int]:
        """Row indices of an epoch."""
        return list(islice(cycle(super().order(epoch)), len(self)))

    def describe(self) -> dict[str, object]:
        """What must be the same for a run to go on."""
        return {**super().describe(), "update": self.update}


class VqaTrainer(DurableTrainer):
    """Counts tokens, and stops at a loss that is not finite with the keys of its rows."""

    tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch. Raises ModelError when the loss is not finite."""
        keys = inputs.pop("keys")
        self.tokens += inputs.pop("tokens")
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._finite(loss, keys, "training")
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """One eval batch. Raises ModelError when the loss is not finite."""
        keys = inputs.pop("keys")
        inputs.pop("tokens")
        result = super().prediction_step(model, inputs, *args, **options)
        self._finite(result[0], keys, "eval")
        return result

    def _finite(self, loss: Tensor, keys: list[str], part: str) -> None:
        if not bool(torch.isfinite(loss)):
            raise ModelError(
                f"update {self.state.global_step + 1}: the {part} loss is {loss.item()} on "
                f"{', '.join(keys)}; look at these rows with `surgvivqa data view`, or lower "
                "trainer.learning_rate"
            )


class EpochAccuracy(TrainerCallback):  # type: ignore[misc]
    """Measures eval accuracy per question type at the end of every epoch and of the run."""

    def __init__(self, accuracy: Accuracy) -> None:
        self.accuracy = accuracy
        self.trainer: VqaTrainer | None = None
        self.last: dict[str, float] = {}
        self.step = -1

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer, in every process."""
        if self.trainer is None or self.step == state.global_step:
            return
        self.step = state.global_step
        self.last = self.accuracy.measure(self.trainer.model, args.process_index, args.world_size)
        self.trainer.log(dict(self.last))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The state in which the run ended, where that is not the end of an epoch."""
        self.on_epoch_end(args, state, control)

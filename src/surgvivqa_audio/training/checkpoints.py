"""The stock ``Trainer`` with checkpoints that survive a kill at any moment, and an exact way back.

Only trainable tensors are stored, with the optimizer, the scheduler, every process's random state, the place
in the data, the early-stopping counter and the running loss. The frozen rest is rebuilt from the recipe.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, distributed
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState, TrainerControl

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.training.checkpoint_files import (
    check_checkpoint,
    checkpoint_folder,
    clean_leftovers,
    list_checkpoints,
    load_into,
    newest_checkpoint,
    pack_state,
    read_document,
    read_tensors,
    rotate_checkpoints,
    trained_tensors,
    unpack_state,
    write_checkpoint,
)
from surgvivqa_audio.training.feature_cache import Towers
from surgvivqa_audio.training.randomness import random_state, set_random_state
from surgvivqa_audio.training.sampling import EpochSampler

_WEIGHTS, _OPTIMIZER, _STATE = "weights", "optimizer", "trainer_state"
_log = logging.getLogger(__name__)


class DurableTrainer(Trainer):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        identity: JSON values that a run must share to continue this one (hash of the recipe, of the base).
        sampler: order of the rows; default: shuffled by ``data_seed`` (or ``seed``) and epoch.
        towers: computes features that are not in the cache yet.
        all_logits: the whole table of logits, as the predecessor computes it.

    Raises:
        ConfigError: sharded training (FSDP, DeepSpeed) with checkpoints, which hold whole tensors only.
    """

    def __init__(
        self,
        *args: Any,
        identity: Mapping[str, Any] | None = None,
        sampler: EpochSampler | None = None,
        towers: Towers | None = None,
        all_logits: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if self.args.save_strategy != "no" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ConfigError("sharded training has no durable checkpoints; set save_strategy: no")
        self.identity = dict(identity or {})
        self._order, self._towers, self._all_logits = sampler, towers, all_logits
        self._position: dict[str, Any] | None = None
        self._spent, self._began = 0.0, time.monotonic()
        self.add_callback(_Restore(self))

    @property
    def root(self) -> Path:
        """Where the checkpoints lie."""
        return Path(self.args.output_dir)

    @property
    def order(self) -> EpochSampler:
        """The order of the rows."""
        if self._order is None:
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            self._order = EpochSampler(len(self.train_dataset), seed)
        return self._order

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.order

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **options: Any) -> Any:
        """Train, or go on from a checkpoint.

        Args:
            resume_from_checkpoint: ``True``: the newest whole checkpoint of ``output_dir``, or the beginning
                when none was ever written; a path: that one.

        Raises:
            ModelError: all checkpoints are damaged, or the folder cannot be written.
            ConfigError: the checkpoint is of another run, data order or batch size; or a new run would mix
                its checkpoints with those already there.
        """
        chosen, self._position = self._on_first(lambda: self._start(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=chosen, **options)

    def _start(self, wanted: str | Path | bool | None) -> tuple[str | None, dict[str, Any] | None]:
        chosen = self._choose(wanted)
        return (None, None) if chosen is None else (str(chosen), self._same_run(chosen))

    def _choose(self, wanted: str | Path | bool | None) -> Path | None:
        if self.args.save_strategy != "no":
            clean_leftovers(self.root)
        if wanted is True:
            found = newest_checkpoint(self.root)
            if found is None:
                _log.warning("%s: no checkpoint was written yet; the run starts at step 0", self.root)
            return found
        if wanted:  # its hashes are checked with its identity
            return Path(wanted)
        if list_checkpoints(self.root):
            raise ConfigError(
                f"{self.root}: already holds checkpoints; go on with --resume, or choose another --out"
            )
        return None

    def _same_run(self, folder: Path) -> dict[str, Any]:
        identity = check_checkpoint(folder)["identity"]
        for key in sorted({*identity, *self.identity}):
            if identity.get(key) != self.identity.get(key):
                raise ConfigError(
                    f"{folder}: '{key}' was {identity.get(key)}, is {self.identity.get(key)} now; go on with "
                    "the recipe it was started with"
                )
        position: dict[str, Any] = read_document(folder, "position")
        for key, now in self._data().items():
            if (before := position["data"].get(key)) != now:
                raise ConfigError(f"{folder}: data '{key}' was {before}, is {now} now; the place is lost")
        return position

    def _data(self) -> dict[str, Any]:
        args = self.args
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return {**self.order.describe(), "rows_per_step": rows}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """The loss of one micro-batch, on cached features where a cache is on."""
        if self._towers is not None:
            with self.accelerator.autocast():  # as the model's own forward runs
                inputs = self._towers.fill(inputs)
        if self._all_logits:
            inputs = {**inputs, "all_logits": True}
        return super().compute_loss(model, inputs, *args, **options)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        # Stock training takes one more step when it goes on from a finished run in mid-epoch.
        stopped = self._position is not None and self._position["stopped_at"] == self.state.global_step
        if stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # Stock skipping wraps the sampler so that several processes do not reach its epoch any more.
        self.order.set_epoch(options["epoch"])
        super()._run_epoch(*args, **options)

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self._spent)

    def restore_running(self) -> None:
        """Bring back the running loss, the clock and the best checkpoint; called as training begins."""
        self._began = time.monotonic()
        if self._position is None:
            self._spent = 0.0
            return
        self._spent = self._position["seconds"]
        self._tr_loss.fill_(self._position["running_loss"])
        self._total_loss_scalar = self._position["total_loss"]
        self._globalstep_last_logged = self._position["last_logged"]
        self._initial_global_step = self._initial_num_input_tokens_seen = 0
        best = checkpoint_folder(self.root, self.state.best_global_step or -1)
        self.state.best_model_checkpoint = str(best) if best.is_dir() else None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.store_flos()
        states = self._gather(random_state())
        self._on_first(lambda: self._write(states))

    def _write(self, states: list[Any]) -> None:
        state, step = self.state, self.state.global_step
        if state.best_global_step is not None:
            best = checkpoint_folder(self.root, state.best_global_step)
            if best.is_dir() or state.best_global_step == step:
                state.best_model_checkpoint = str(best)
        state.stateful_callbacks = self._callback_states()
        weights = {k: v.detach().cpu().contiguous() for k, v in trained_tensors(self.model).items()}
        moments: dict[str, Tensor] = {}
        optimizer = pack_state(self.optimizer.state_dict(), moments, "optimizer")
        stopped = self.control.should_training_stop and step < state.max_steps
        position = {
            "data": self._data(),
            "epoch": state.epoch,
            "running_loss": self._tr_loss.item(),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "seconds": self._spent + time.monotonic() - self._began,
            "stopped_at": step if stopped else None,
        }
        scaler = getattr(self.accelerator, "scaler", None)
        documents = {
            _OPTIMIZER: optimizer,
            "scheduler": pack_state(self.lr_scheduler.state_dict(), {}, "scheduler"),
            "scaler": None if scaler is None else pack_state(scaler.state_dict(), {}, "scaler"),
            "random": states,
            "position": position,
            _STATE: dataclasses.asdict(state),
        }
        tensors = {_WEIGHTS: weights, _OPTIMIZER: moments}
        write_checkpoint(self.root, step, tensors=tensors, documents=documents, identity=self.identity)
        rotate_checkpoints(self.root, self.args.save_total_limit, state.best_global_step)

    def _stateful(self) -> list[Any]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, ExportableState)]

    def _callback_states(self) -> dict[str, Any]:
        table: dict[str, list[Any]] = {}
        for one in [*self._stateful(), self.control]:
            table.setdefault(type(one).__name__, []).append(one.state())
        return {name: states[0] if len(states) == 1 else states for name, states in table.items()}

    def _load_callback_state(self) -> None:
        """Restore callbacks in place; the early-stopping counter is one of their attributes."""
        seen: dict[str, int] = {}
        for one in self._stateful():
            name = type(one).__name__
            stored = self.state.stateful_callbacks.get(name, [])
            stored = stored if isinstance(stored, list) else [stored]
            number = seen[name] = seen.get(name, -1) + 1
            if number < len(stored) and not isinstance(one, TrainerControl):
                vars(one).update(stored[number].get("attributes", {}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_into(trained_tensors(model or self.model), read_tensors(folder, _WEIGHTS), folder)

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint)
        check_checkpoint(folder)
        self._load_from_checkpoint(str(folder))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            folder = Path(checkpoint)
            moments = read_tensors(folder, _OPTIMIZER)
            self.optimizer.load_state_dict(unpack_state(read_document(folder, _OPTIMIZER), moments))
            self.lr_scheduler.load_state_dict(unpack_state(read_document(folder, "scheduler"), {}))

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None:
            stored = read_document(Path(checkpoint), "scaler")
            if stored is not None:
                scaler.load_state_dict(unpack_state(stored, {}))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = read_document(Path(checkpoint), "random")
        if self.args.process_index < len(states):
            set_random_state(states[self.args.process_index])
        else:
            _log.warning("%s: holds no random state of process %d", checkpoint, self.args.process_index)

    def _gather(self, value: Any) -> list[Any]:
        if self.args.world_size == 1 or not distributed.is_initialized():
            return [value]
        gathered: list[Any] = [None] * self.args.world_size
        distributed.all_gather_object(gathered, value)
        return gathered

    def _on_first(self, work: Any) -> Any:
        """Run on the first process; its result, or its error, reaches all of them."""
        outcome: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                outcome[0] = work()
            except (ConfigError, ModelError) as error:
                if self.args.world_size == 1:
                    raise
                outcome[1] = error
        if self.args.world_size > 1 and distributed.is_initialized():
            distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


class _Restore(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: DurableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **options: Any) -> None:
        self.trainer.restore_running()

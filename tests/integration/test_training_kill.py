"""SIGKILL of a fine-tuning run: every resume works, and ends where the uninterrupted run ends.

A child is killed before and after every write of a checkpoint, with half a file written, and at uniformly
random times. Steps that were done and not yet in a whole checkpoint are lost work; such kills are counted.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.training import checkpoint_files
from surgvivqa_audio.training.checkpoint_files import check_checkpoint, list_checkpoints
from surgvivqa_audio.training.checkpoints import DurableTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a program, the helpers are not on the path

from boundary import Boundary
from tiny_run import largest_difference, outcome, set_one_thread, tiny_trainer

pytestmark = pytest.mark.integration

TOLERANCE = 1e-6
_RESULT = "outcome"


class CheckpointBoundary(Boundary):
    """Kills at every write of a checkpoint, with half a tensor file written too."""

    def tensors(self, table: Any, path: Path, **options: Any) -> None:
        """A tensor file: nothing, half of it, all of it."""
        self.step()
        save_file(table, path, **options)
        if self.left == 0:
            os.truncate(path, path.stat().st_size // 2)
        self.step()
        self.step()

    def install(self) -> None:
        super().install()
        os.mkdir = self.around(os.mkdir)  # type: ignore[assignment]
        os.rmdir = self.around(os.rmdir)  # type: ignore[assignment]
        checkpoint_files.save_file = self.tensors


class Count(TrainerCallback):  # type: ignore[misc]
    """Steps done, where the parent sees them after a kill."""

    def __init__(self, counter: mmap.mmap) -> None:
        self.counter = counter

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        self.counter[:8] = struct.pack("q", state.global_step)


@cache
def _template(folder: Path) -> DurableTrainer:
    """A trainer that has not begun, made once; every child has its own copy by forking."""
    return tiny_trainer(folder)


def _child(
    folder: Path, counter: mmap.mmap, *, resume: bool, boundary: int | None, delay: float | None
) -> bool:
    """Run in a child; whether it was killed. A run that ends leaves its outcome beside ``folder``."""
    pid = os.fork()
    if pid == 0:
        try:
            if boundary is not None:
                CheckpointBoundary(boundary).install()
            trainer = _template(folder.parent / "template")
            trainer.args.output_dir = str(folder)
            trainer.add_callback(Count(counter))
            trainer.train(resume_from_checkpoint=resume)
            _keep(outcome(trainer), folder)
        except BaseException as error:  # noqa: BLE001 - the child must never return into the caller
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    timer = None if delay is None else threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    if timer is not None:
        timer.start()
    _, status = os.waitpid(pid, 0)
    if timer is not None:
        timer.cancel()
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"the child failed (status {os.WEXITSTATUS(status)})")
    return False


def _keep(found: dict[str, Any], folder: Path) -> None:
    losses = [[step, name, value] for (step, name), value in found["losses"].items()]
    content = {"losses": losses, "best": found["best"]}
    folder.with_suffix(f".{_RESULT}.json").write_text(json.dumps(content))
    save_file({k: v.contiguous() for k, v in found["weights"].items()}, folder.with_suffix(f".{_RESULT}"))


def _kept(folder: Path) -> dict[str, Any]:
    content = json.loads(folder.with_suffix(f".{_RESULT}.json").read_text())
    losses = {(step, name): value for step, name, value in content["losses"]}
    return {
        "losses": losses,
        "best": content["best"],
        "weights": load_file(folder.with_suffix(f".{_RESULT}")),
    }


def _durable(folder: Path) -> int:
    """Step of the newest whole checkpoint, 0 without one; a folder with the name must be whole."""
    found = list_checkpoints(folder)
    for _, path in found:
        check_checkpoint(path)
    return found[-1][0] if found else 0


def _trial(
    folder: Path, counter: mmap.mmap, wanted: dict[str, Any], boundary: int | None, delay: float | None
) -> tuple[bool, bool, list[str]]:
    """One killed and finished run: ``(killed, work was lost, faults)``."""
    shutil.rmtree(folder, ignore_errors=True)
    counter[:8] = struct.pack("q", 0)
    killed = _child(folder, counter, resume=False, boundary=boundary, delay=delay)
    if not killed:
        return False, False, []
    done = int(struct.unpack("q", counter[:8])[0])
    faults: list[str] = []
    try:
        lost = done > _durable(folder)
        _child(folder, counter, resume=True, boundary=None, delay=None)
        difference = largest_difference(wanted, _kept(folder))
        if not difference <= TOLERANCE:
            faults.append(f"ended {difference} away from the uninterrupted run")
    except (ModelError, RuntimeError) as error:
        lost = True
        faults.append(str(error))
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    faults += [f"left behind: {name}" for name in left]
    return True, lost, faults


def kill_training(
    root: Path, *, random_kills: int, boundaries: range | None = None, seed: int = 0
) -> dict[str, Any]:
    """Kill runs at write boundaries (all of them by default) and ``random_kills`` times at random.

    A random kill counts when it lost work. Returns counts and ``faults``, an empty list when every run went
    on and ended within ``TOLERANCE`` of the uninterrupted one: every logged loss, the best step, the weights.
    """
    set_one_thread()
    root.mkdir(parents=True, exist_ok=True)
    _template(root / "template")
    gc.collect()
    gc.freeze()  # children then neither walk nor copy what they share
    generator, counter = random.Random(seed), mmap.mmap(-1, 8)
    result: dict[str, Any] = {
        "boundary_kills": 0, "boundary_lost_work": 0, "random_kills": 0, "random_tries": 0,
        "tolerance": TOLERANCE, "faults": [],
    }  # fmt: skip
    began = time.monotonic()
    _child(root / "whole", counter, resume=False, boundary=None, delay=None)
    duration, wanted = time.monotonic() - began, _kept(root / "whole")
    for boundary in boundaries or range(100_000):
        killed, lost, faults = _trial(root / "trial", counter, wanted, boundary, None)
        if not killed:
            break
        result["boundary_kills"] += 1
        result["boundary_lost_work"] += int(lost)
        result["faults"] += [f"boundary {boundary}: {fault}" for fault in faults]
    while result["random_kills"] < random_kills and result["random_tries"] < 20 * random_kills:
        delay = generator.uniform(0, duration)
        killed, lost, faults = _trial(root / "trial", counter, wanted, None, delay)
        result["random_tries"] += 1
        result["random_kills"] += int(killed and lost)
        result["faults"] += [f"random kill after {delay:.3f} s: {fault}" for fault in faults]
    return result


def test_killed_runs_end_where_the_uninterrupted_one_ends(tmp_path: Path) -> None:
    # In a process of its own: a process that has computed gradients on a GPU cannot fork children that do.
    command = [sys.executable, __file__, str(tmp_path), "1", "3", "60", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert found["boundary_kills"] == 5
    assert found["random_kills"] == 1


if __name__ == "__main__":
    # python tests/integration/test_training_kill.py FOLDER RANDOM_KILLS [FIRST STOP STEP of the boundaries]
    which = range(*map(int, sys.argv[3:6])) if sys.argv[3:] else None
    sys.stdout.write(
        json.dumps(kill_training(Path(sys.argv[1]), random_kills=int(sys.argv[2]), boundaries=which)) + "\n"
    )

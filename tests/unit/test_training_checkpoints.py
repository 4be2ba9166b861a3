"""Checkpoints: whole or absent, exact on resume, and what is said when there is none left."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
from pathlib import Path

import bitsandbytes
import pytest
import torch

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.training.checkpoint_files import (
    check_checkpoint,
    clean_leftovers,
    list_checkpoints,
    newest_checkpoint,
    pack_state,
    rotate_checkpoints,
    unpack_state,
    write_checkpoint,
)
from surgvivqa_audio.training.sampling import EpochSampler
from tiny_run import largest_difference, outcome, set_one_thread, tiny_trainer


def _write(root: Path, step: int) -> Path:
    tensors = {"weights": {"a": torch.full((3,), float(step))}}
    return write_checkpoint(root, step, tensors=tensors, documents={"position": {"n": step}}, identity={})


def test_states_come_back_as_they_were_without_pickle() -> None:
    first = torch.tensor([1.5, -2.0])
    state = {
        "state": {0: {"step": torch.tensor(3.0), "m": first}, 1: {"m": first}},
        "betas": (0.9, 0.98),
        "n": [None],
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack_state(state, tensors)))
    again = unpack_state(packed, tensors)
    assert list(again["state"]) == [0, 1]
    assert torch.equal(again["state"][1]["m"], first)
    assert again["state"][0]["step"].item() == 3.0
    assert again["betas"] == (0.9, 0.98)
    assert again["n"] == [None]
    with pytest.raises(ConfigError, match=r"state\.hook: a function cannot be stored"):
        pack_state({"hook": _write}, {})


def test_optimizer_in_eight_bit_goes_on_exactly() -> None:
    def optimizer(weight: torch.nn.Parameter) -> torch.optim.Optimizer:
        return bitsandbytes.optim.AdamW8bit([weight], lr=0.01, min_8bit_size=1024)

    def step(one: torch.optim.Optimizer, weight: torch.nn.Parameter, seed: int) -> None:
        weight.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
        one.step()

    weight = torch.nn.Parameter(torch.zeros(64, 64))
    whole = optimizer(weight)
    step(whole, weight, 1)
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack_state(whole.state_dict(), tensors)))
    assert torch.uint8 in {tensor.dtype for tensor in tensors.values()}
    copy = torch.nn.Parameter(weight.detach().clone())
    again = optimizer(copy)
    again.load_state_dict(unpack_state(packed, tensors))
    step(whole, weight, 2)
    step(again, copy, 2)
    assert torch.equal(weight, copy)


def test_damaged_newest_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4, 10):
        _write(tmp_path, step)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    weights = tmp_path / "checkpoint-10" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert "checkpoint-10/weights.safetensors: does not have the bytes it was written with" in caplog.text
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()
    (tmp_path / "checkpoint-2" / "position.json").unlink()
    with pytest.raises(ModelError, match="none of the 3 checkpoints is whole"):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_full_disk_leaves_earlier_checkpoints_and_says_so(tmp_path: Path) -> None:
    _write(tmp_path, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ModelError, match=r"checkpoint-4: cannot be written .*free disk space"):
            write_checkpoint(
                tmp_path, 4, tensors={"weights": {"a": torch.zeros(9000)}}, documents={}, identity={}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    check_checkpoint(tmp_path / "checkpoint-2")


def test_folder_that_cannot_be_written_is_named_before_the_first_step(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    pid = os.fork()
    if pid == 0:  # the administrator may write anywhere, so a child gives its rights away
        code = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            clean_leftovers(folder)
        except ModelError as error:
            code = 0 if "checkpoints cannot be written there" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        _write(tmp_path, step)
    rotate_checkpoints(tmp_path, 3, 4)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 8, 10]
    rotate_checkpoints(tmp_path, 1, 4)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [4, 10]
    (tmp_path / ".checkpoint-12.staged").mkdir()
    (tmp_path / ".checkpoint-2.gone").mkdir()
    clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]


@pytest.mark.parametrize("muon", [False, True])
def test_resumed_run_is_the_uninterrupted_run(tmp_path: Path, muon: bool) -> None:
    set_one_thread()
    whole = tiny_trainer(tmp_path / "whole", muon=muon)
    whole.train()
    assert [step for step, _ in list_checkpoints(tmp_path / "whole")] == [4, 6]
    names = {path.suffix for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert names == {".safetensors", ".json"}
    stored = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-4").iterdir())
    assert stored < 600_000  # the graft alone has 3 MB
    folder = tmp_path / "again"
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", folder / "checkpoint-4")
    again = tiny_trainer(folder, muon=muon)
    again.train(resume_from_checkpoint=True)
    assert largest_difference(outcome(whole), outcome(again)) <= 1e-6
    assert largest_difference(outcome(tiny_trainer(tmp_path / "fresh")), outcome(again)) > 1e-3


def test_early_stop_that_was_saved_stays_a_stop(tmp_path: Path) -> None:
    # No evaluation can be better by 1000, so the first one after the best ends the run.
    whole = tiny_trainer(tmp_path, patience=1, learning_rate=0.0)
    whole.train()
    assert whole.state.global_step == 4
    again = tiny_trainer(tmp_path, patience=1, learning_rate=0.0)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert again.state.best_global_step == 2
    stopper = next(
        one for one in again.callback_handler.callbacks if type(one).__name__ == "EarlyStoppingCallback"
    )
    assert stopper.early_stopping_patience_counter == 1


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ConfigError, match="already holds checkpoints"):
        tiny_trainer(tmp_path).train()
    with pytest.raises(ConfigError, match="'recipe' was tiny, is other now"):
        tiny_trainer(tmp_path, identity={"recipe": "other"}).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="data 'rows_per_step' was 2, is 4 now"):
        tiny_trainer(tmp_path, gradient_accumulation_steps=4).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="data 'seed' was 5, is 9 now"):
        tiny_trainer(tmp_path, sampler=EpochSampler(8, 9)).train(resume_from_checkpoint=True)

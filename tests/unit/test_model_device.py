"""Where a model computes, by name: what is there, what is not, and that the commands ask before they work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from surgvivqa_audio.answering.builder import SystemBuilder
from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.cascade import AsrSystem
from surgvivqa_audio.commands.evaluate import app
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.device import default_dtype, find_device
from tiny_graft import tone


@pytest.mark.parametrize(
    ("name", "gpu", "found"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_device_by_name(name: str, gpu: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert find_device(name) == found


def test_a_gpu_that_is_not_there_is_an_error_and_so_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'cuda' is not there: torch sees no GPU .* use auto or cpu"):
        find_device("cuda")
    with pytest.raises(ConfigError, match="device 'tpu': one of auto, cpu, cuda"):
        SystemBuilder(device="tpu")


@pytest.mark.parametrize("command", [["run", "--system", "audio"], ["suite"], ["baselines"]])
def test_evaluation_says_so_before_it_writes(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [*command, str(tmp_path), "--out", str(out), "--device", "cuda"])
    assert isinstance(done.exception, ConfigError)
    assert "'cuda' is not there" in str(done.exception)
    assert not out.exists()


def test_on_a_cpu_the_shipped_model_computes_in_fp32() -> None:
    model = load_engine(device="cpu").model
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("cpu", torch.float32)}
    assert default_dtype("cuda") == torch.bfloat16


def test_the_transcribing_baseline_follows_the_precision_of_its_engine() -> None:
    system = AsrSystem(load_engine(dtype=torch.bfloat16), None)
    assert {p.dtype for p in system.whisper.parameters()} == {torch.bfloat16}
    assert isinstance(system.hear(tone(0.5)), str)

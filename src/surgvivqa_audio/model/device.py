"""Where a model computes: the name a user gives, checked before anything is loaded."""

from __future__ import annotations

import torch

from surgvivqa_audio.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


def find_device(name: str = "auto") -> str:
    """``cpu`` or ``cuda``; ``auto`` is the GPU where torch has one.

    Raises:
        ConfigError: an unknown name, or a GPU that is not there.
    """
    if name not in DEVICES:
        raise ConfigError(f"device '{name}': one of {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError(
            "device 'cuda' is not there: torch sees no GPU (`surgvivqa doctor` says why); use auto or cpu"
        )
    return "cuda" if there and name != "cpu" else "cpu"


def default_dtype(device: str) -> torch.dtype:
    """What a model is computed in where nothing else is asked for: fp32 on a CPU, bf16 on a GPU."""
    return torch.float32 if device == "cpu" else torch.bfloat16

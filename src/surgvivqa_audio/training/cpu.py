"""How the nano stages compute on a processor: in which type, on how many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def bfloat16_pays() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in units of their own (AMX).

    With vector instructions alone they take longer than those of float32 (measured: docs/experiments.md).
    A torch that cannot tell (an older one) gets float32.
    """
    capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(capabilities().get("amx_bf16", False))


@contextmanager
def frozen() -> Iterator[None]:
    """What a part that no longer learns computes, in the type that is faster here."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16_pays()):
        yield


def use_threads(count: int) -> None:
    """Compute on ``count`` threads, and take what is too small for a normal float32 (1.2e-38) for nothing.

    Sharp attention leaves such numbers, on which a processor takes its slow path: a step of the tower came to
    take half as long again (docs/experiments.md). Threads inherit the setting, so it comes before them.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(count)

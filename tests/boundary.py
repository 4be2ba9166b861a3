"""Every sync and rename as a place to be killed at. No tests here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


class Boundary:
    """Kills this process at the n-th write boundary; only ever used inside a child."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = call(*arguments, **options)
            self.step()
            return result

        return wrapped

    def install(self) -> None:
        os.replace = self.around(os.replace)  # type: ignore[assignment]
        os.fsync = self.around(os.fsync)  # type: ignore[assignment]


def die_before(function: str, call: int) -> None:
    """From here on this process, a child, kills itself just before the ``call``-th ``os.<function>``."""
    original, calls = getattr(os, function), 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(os, function, counted)

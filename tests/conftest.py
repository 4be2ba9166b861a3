"""What every test shares: no network, pinned threads, honest skips, and two fixtures.

Environment variables are set before torch or the Hub client can be imported by a test module.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from surgvivqa_audio.sample import Image
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy

SKIPPABLE = ("weights", "data")


class NetworkBlocked(RuntimeError):
    """A test tried to leave the machine. Not an OSError, so that no offline handling swallows it."""


def is_loopback(host: object) -> bool:
    """Whether an address or host name stays on this machine; None and '' mean the local side."""
    if host in (None, "", b"", "localhost", b"localhost", "localhost.localdomain"):
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return name == socket.gethostname()


@pytest.fixture(autouse=True)
def _offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections and name look-ups that leave the machine, except in ``weights`` tests."""
    if request.node.get_closest_marker("weights"):
        return

    def guard(method: str) -> Callable[..., Any]:
        original = getattr(socket.socket, method)

        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
                raise NetworkBlocked(f"{request.node.nodeid} tried to connect to {address}")
            return original(self, address)

        return guarded

    resolve = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host):
            raise NetworkBlocked(f"{request.node.nodeid} tried to look up {host!r}")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guard("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", guard("connect_ex"))
    monkeypatch.setattr(socket, "getaddrinfo", look_up)


class SkipLedger:
    """Counts skips per marker; a skip without one of ``SKIPPABLE`` fails the run."""

    def __init__(self) -> None:
        self.allowed: Counter[str] = Counter()
        self.refused: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.skipped and not hasattr(report, "wasxfail"):
            marker = next((name for name in SKIPPABLE if item.get_closest_marker(name)), None)
            if marker is None:
                self.refused.append(item.nodeid)
            else:
                self.allowed[marker] += 1
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.refused.append(f"{report.nodeid} (whole file)")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counts = ", ".join(f"{self.allowed[name]} {name}" for name in SKIPPABLE)
        total = sum(self.allowed.values()) + len(self.refused)
        terminalreporter.write_line(f"skipped tests: {total} ({counts}, {len(self.refused)} not allowed)")
        for nodeid in self.refused:
            terminalreporter.write_line(
                f"skip refused: {nodeid} (only tests marked {' or '.join(SKIPPABLE)} may skip)", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkipLedger(), "skip-ledger")


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    """The REAL-Colon-VQA taxonomy of the package."""
    return load_taxonomy()


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., list[Image]]:
    """A function giving ``count`` different RGB frames, uint8 (size, size, 3), fixed by ``seed``."""

    def make(count: int = 8, size: int = 64, seed: int = 0) -> list[Image]:
        generator = np.random.default_rng(seed)
        rows, columns = np.mgrid[0:size, 0:size] / size
        frames = []
        for _ in range(count):
            red, green, blue = generator.uniform(40, 215, size=3)
            stack = np.stack([red + 40 * rows, green + 40 * columns, blue - 40 * rows], axis=-1)
            noise = generator.normal(0, 6, size=stack.shape)
            frames.append(np.clip(stack + noise, 0, 255).astype(np.uint8))
        return frames

    return make

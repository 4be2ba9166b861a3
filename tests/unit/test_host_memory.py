"""How much memory there is, on a bare machine and in a container."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from surgvivqa_audio import host_memory

TOTAL, AVAILABLE = 1000, 600


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty control group on a machine of 1,000 bytes, 600 of them to be had."""
    monkeypatch.setattr(host_memory, "CONTROL_GROUP", tmp_path)
    machine = SimpleNamespace(total=TOTAL, available=AVAILABLE)
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", lambda: machine)
    return tmp_path


def _limited(group: Path, limit: str) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("300\n")
    (group / "memory.stat").write_text("anon 180\nfile 120\ninactive_file 70\nactive_file 20\n")


def test_without_a_limit_it_is_the_machine_s(group: Path) -> None:
    assert (host_memory.total_memory(), host_memory.available_memory()) == (1000, 600)
    _limited(group, "max")
    assert (host_memory.total_memory(), host_memory.available_memory()) == (1000, 600)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("500", (500, 290)),  # 500 - 300 in use + 90 of cached files
        ("900", (900, 600)),  # no more than the machine has left
        ("5000", (1000, 600)),
        ("200", (200, 0)),
    ],
)
def test_a_container_may_use_less(group: Path, limit: str, expected: tuple[int, int]) -> None:
    _limited(group, limit)
    assert (host_memory.total_memory(), host_memory.available_memory()) == expected

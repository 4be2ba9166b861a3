"""Memory of this machine, or of the container this process runs in where that may use less.

The container's limit is that of control groups, version 2: kernel.org, admin-guide/cgroup-v2, "Memory".
"""

from __future__ import annotations

from pathlib import Path

import psutil

CONTROL_GROUP = Path("/sys/fs/cgroup")


def total_memory() -> int:
    """Bytes that may be used at all."""
    limit = _limit()
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def available_memory() -> int:
    """Bytes that may still be used; what only caches files counts, because it is given back."""
    available, limit = int(psutil.virtual_memory().available), _limit()
    if limit is None:
        return available
    used = int((CONTROL_GROUP / "memory.current").read_text())
    facts = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
    return max(0, min(available, limit - used + int(facts["inactive_file"]) + int(facts["active_file"])))


def _limit() -> int | None:
    path = CONTROL_GROUP / "memory.max"
    text = path.read_text().strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else None

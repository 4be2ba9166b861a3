"""Who is writing into a folder, so that what a killed process left can be removed safely."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

LOCK = ".lock"


def enter(folder: Path) -> IO[bytes]:
    """Announce this process as a writer of ``folder`` until the returned file is closed.

    The first writer removes unfinished files (``.*.tmp``) of processes that were killed; while others
    write, their unfinished files are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = open(folder / LOCK, "ab")  # noqa: SIM115 - held open by the caller
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # others are at work here
    else:
        for litter in folder.rglob(".*.tmp"):
            litter.unlink(missing_ok=True)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle

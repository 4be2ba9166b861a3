"""The run record: what is needed to say how a file came about."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from surgvivqa_audio import __version__
from surgvivqa_audio.files import sha256_file

_LIBRARIES = ("torch", "transformers", "peft", "numpy", "pillow", "soundfile", "bitsandbytes")


def git_commit() -> str | None:
    """Commit of the checkout this package runs from (``-dirty`` when changed), None when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    outputs = []
    for command in commands:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            return None
        outputs.append(done.stdout.strip())
    return outputs[0] + ("-dirty" if outputs[1] else "")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a result; those not installed are left out."""
    versions = {"python": platform.python_version(), "surgvivqa_audio": __version__}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def run_record(
    *, seed: int | None, config: Mapping[str, Any], data_files: Iterable[str | Path] = ()
) -> dict[str, Any]:
    """Seed, resolved configuration, hashes of the data files, commit and versions."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "config": dict(config),
        "data_sha256": {Path(path).name: sha256_file(path) for path in data_files},
        "git_commit": git_commit(),
        "versions": library_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
    }

"""The Makefile refuses what cannot work before it touches anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell: a surrounding make would pass its own variables down."""
    inherited = ("MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def fake_python(folder: Path) -> Path:
    """An interpreter that fails every version check, as an old one does."""
    path = folder / "python-old"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    done = make("setup", f"PYTHON={fake_python(tmp_path)}", f"VENV={venv}")
    assert done.returncode != 0
    assert "is not Python 3.11 or newer; name one: make setup PYTHON=python3.12" in done.stderr
    assert not venv.exists()


def test_an_unknown_torch_build_is_refused(tmp_path: Path) -> None:
    done = make("setup", "TORCH=rocm", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "TORCH=rocm is unknown; use TORCH=cpu or TORCH=cuda" in done.stderr


def test_the_build_chosen_once_stays_chosen(tmp_path: Path) -> None:
    (tmp_path / ".torch").write_text("cuda\n")
    (tmp_path / ".ready-cuda").touch()
    done = make("-n", "setup", f"VENV={tmp_path}")
    assert done.returncode == 0
    assert "pip" not in done.stdout


def test_the_pinned_torch_is_what_setup_installs(tmp_path: Path) -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in constraints if line.startswith("torch==")]
    planned = make("-n", "setup", f"VENV={tmp_path / 'venv'}").stdout
    assert len(pins) == 1
    assert f"install {pins[0]} -c constraints.txt" in planned
    assert 'install -e ".[train,dev,ui]" -c constraints.txt' in planned


def test_help_lists_every_documented_target() -> None:
    done = make("help")
    assert done.returncode == 0
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert listed >= {"setup", "demo", "test", "lint", "unit", "integration", "nano-report"}
    rules = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    named = [line.partition(":")[2].split() for line in rules if line.startswith(".PHONY:")]
    assert listed == {target for line in named for target in line}

"""`surgvivqa demo` where nobody sits at a terminal: it answers and ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from surgvivqa_audio.model.loading import ADAPTER, add_adapter
from tiny_graft import nano_graft, nano_processor

pytestmark = pytest.mark.integration


def _demo(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "surgvivqa_audio.cli", "demo", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=300
    )


def test_without_a_terminal_it_answers_and_ends(tmp_path: Path) -> None:
    model = tmp_path / "model"
    processor = nano_processor()
    graft = nano_graft(processor)
    graft.save_pretrained(model)
    processor.save_pretrained(model)
    add_adapter(graft, rank=2).save_pretrained(str(model / ADAPTER))
    done = _demo("--out", tmp_path / "out", "--model", model, "--questions", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("simulator's truth: ") == 2
    assert "Research only, not for clinical use." in done.stdout
    assert "Opening the page" not in done.stdout


def test_a_host_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    done = _demo("--questions", 0, "--serve", "--host", "0.0.0.0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --host 0.0.0.0 can be reached by others: set --token")

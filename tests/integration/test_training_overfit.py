"""The feasibility recipes on the nano model: ten rows are learnt by heart; fifty meet their other wording.

The recipes are run as shipped except for what a CPU forces: the nano model in fp32, its frame size, the
stock AdamW, and the short prompt (the published one is 1,500 audio tokens). ColonSim data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgvivqa_audio.colonsim import make_dataset
from surgvivqa_audio.files import read_jsonl, write_jsonl
from surgvivqa_audio.sample import read_samples
from surgvivqa_audio.speech.engine import Voice
from surgvivqa_audio.speech.make import make_speech
from surgvivqa_audio.taxonomy import Taxonomy

pytestmark = pytest.mark.integration
RECIPES = Path(__file__).parents[2] / "recipes"
NANO = {
    "model": "nano",
    "threads": 1,
    "prompt.layout": "stream",
    "prompt.pathway": "video",
    "prompt.audio_length": "natural",
    "prompt.stack": 4,
    "prompt.projector": "mlp",
    "prompt.max_side": 112,
    "tune.quantise": "none",
    "tune.weights": "fp32",
    "trainer.optim": "adamw_torch",
    "trainer.bf16": False,
    "fast.checkpointing": "never",
    "fast.logits": "answers",
    "trainer.dataloader_num_workers": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, taxonomy: Taxonomy) -> Path:
    """Fifty rows of one simulated procedure in both wordings, with frames and recordings."""
    folder = tmp_path_factory.mktemp("colonsim")
    make_dataset(folder, 1, 9, 3, 112)
    for template in ("in", "out"):
        rows = [row for _, row in read_jsonl(folder / f"{template}_template.jsonl")][:50]
        path = folder / "splits" / "overfit" / f"{template}.jsonl"
        write_jsonl(path, rows)
        make_speech(read_samples(path, taxonomy), folder / "speech", [Voice("en-us")])
    return folder


def train(name: str, data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Run a shipped recipe in a process of its own and return its summary.

    Up to ten questions of a clip share a row, and the frozen towers look and listen once.
    """
    chosen = {"data.folder": data, "data.pack": 10, "fast.cache": data / "features", **NANO, **settings}
    chosen |= {"accuracy": "never"}
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "surgvivqa_audio.cli", "train", str(RECIPES / f"{name}.yaml")]
    done = subprocess.run([*command, "--out", str(out), *sets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def test_ten_rows_are_learnt_by_heart(data: Path, tmp_path: Path) -> None:
    fast = {"trainer.learning_rate": 0.003, "trainer.max_steps": 30, "trainer.gradient_accumulation_steps": 2}
    summary = train("overfit-10", data, tmp_path / "run", **fast, **{"trainer.eval_steps": 25})
    losses = [row["loss"] for _, row in read_jsonl(tmp_path / "run" / "log.jsonl") if "loss" in row]
    # The shipped model knows such scenes: what counts is that the rest of the loss goes too.
    assert losses[0] > 2 * losses[-1]
    assert losses[-1] < 0.02
    assert summary["rows"] == {"train": 10, "eval": 10}
    assert summary["steps"] == 30
    assert summary["stopped"] == "all steps done"
    assert summary["best"]["step"] in (25, 30)
    assert summary["projector"] == "as it was"
    assert list(summary["peak_memory_gib"]) == ["cpu:0"]
    assert summary["run"]["data_sha256"].keys() == {"in.jsonl", "out.jsonl"}
    names = {"train_loss.png", "eval_loss.png", "training.html", "log.jsonl", "summary.json", "model"}
    assert names <= {path.name for path in (tmp_path / "run").iterdir()}
    assert (tmp_path / "run" / "model" / "adapter" / "adapter_model.safetensors").is_file()
    assert not list((tmp_path / "run").rglob("*.bin")) + list((tmp_path / "run").rglob("*.pt"))


def test_fifty_rows_meet_their_other_wording(data: Path, tmp_path: Path) -> None:
    fast = {"trainer.learning_rate": 0.002, "trainer.max_steps": 12, "data.mode": "audio"}
    summary = train("overfit-50", data, tmp_path / "run", **fast)
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "log.jsonl")]
    assert summary["rows"] == {"train": 50, "eval": 50}
    assert [row["step"] for row in rows if "eval_loss" in row] == [10, 12]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]

"""Two processes with half the rows each train as one process with all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from test_vqa_data import make_folder

from surgvivqa_audio.files import read_jsonl
from surgvivqa_audio.taxonomy import Taxonomy
from tiny_graft import nano_graft, nano_processor

pytestmark = pytest.mark.integration
STEPS = 50
RECIPE = """
stage: vqa
seed: 7
threads: 1
model: {model}
accuracy: epoch
data: {{folder: {folder}, train: train.jsonl, eval: eval.jsonl, mode: audio}}
prompt: {{max_side: 64}}
tune: {{weights: fp32, lora_rank: 4, lora_dropout: 0.0}}
trainer:
  processes: 2
  per_device_train_batch_size: {batch}
  gradient_accumulation_steps: 1
  max_steps: {steps}
  learning_rate: 0.002
  bf16: false
  logging_steps: 1
  eval_steps: 25
  save_steps: 50
"""


def run(folder: Path, model: Path, out: Path, processes: int) -> list[dict[str, Any]]:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(RECIPE.format(model=model, folder=folder, batch=2, steps=STEPS))
    arguments = ["-m", "surgvivqa_audio.cli", "train", str(recipe), "--out", str(out)]
    if processes > 1:
        port = f"--master-port={29_500 + os.getpid() % 2_000}"
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", port]
        arguments = [*launcher, *arguments]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (out / "summary.json").is_file(), done.stderr[-3000:]
    return [row for _, row in read_jsonl(out / "log.jsonl")]


def test_loss_curves_of_two_processes_and_one_are_equal(
    tmp_path: Path, taxonomy: Taxonomy, make_frames: Any
) -> None:
    folder = make_folder(tmp_path / "data", taxonomy, make_frames, clips=6)
    processor = nano_processor()
    nano_graft(processor).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    two = run(folder, tmp_path / "base", tmp_path / "two", 2)
    one = run(folder, tmp_path / "base", tmp_path / "one", 1)
    curves = [[row["loss"] for row in rows if "loss" in row] for rows in (one, two)]
    assert [len(curve) for curve in curves] == [STEPS, STEPS]
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) <= 1e-4
    assert curves[0][-1] < curves[0][0] - 0.1
    scores = [[row["eval_accuracy"] for row in rows if "eval_accuracy" in row][-1] for rows in (one, two)]
    assert scores[0] == scores[1]
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    assert [entry["processes"] for entry in summaries] == [1, 2]
    assert [entry["gradient_accumulation_steps"] for entry in summaries] == [2, 1]
    assert [list(entry["peak_memory_gib"]) for entry in summaries] == [["cpu:0"], ["cpu:0", "cpu:1"]]
    assert summaries[0]["tokens"] == summaries[1]["tokens"]

"""Alignment on a corpus with the shipped nano model, and the error rates of what comes out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from surgvivqa_audio import cli
from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.model.loading import load_graft
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.engine import VOICES, EspeakEngine
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.taxonomy import load_taxonomy

pytestmark = pytest.mark.integration


def _run(*words: object) -> int:
    sys.argv = ["surgvivqa", *map(str, words)]
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``speech make`` to train on, and a LibriSpeech folder of another voice."""
    folder = tmp_path_factory.mktemp("corpora")
    questions = [kind.in_template for kind in load_taxonomy().types.values()]
    with EspeakEngine() as engine, SpeechCache(folder / "speech", engine) as cache:
        for number, question in enumerate(questions[:12]):
            cache.get(question, VOICES[9 * (number % 3)])
        held = [cache.get(question, VOICES[40]) for question in questions[:4]]
        lines = []
        chapter = folder / "libri" / "7" / "1"
        chapter.mkdir(parents=True)
        for number, path in enumerate(held):
            shutil.move(path, chapter / f"7-1-{number:04d}.wav")
            lines.append(f"7-1-{number:04d} {speakable(questions[number]).upper()}\n")
        (chapter / "7-1.trans.txt").write_text("".join(lines))
    listing = folder / "speech" / "manifest.jsonl"
    kept = [
        row
        for row in listing.read_text().splitlines(True)
        if (folder / "speech" / json.loads(row)["file"]).is_file()
    ]
    listing.write_text("".join(kept))
    return folder


@pytest.fixture(scope="module")
def aligned(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the stage that trains the projector alone."""
    folder = tmp_path_factory.mktemp("run")
    recipe = {
        "stage": "transcribe", "model": "nano", "threads": 1, "seed": 0,
        "corpus": {"train": str(corpora / "speech"), "eval": str(corpora / "libri")},
        "prompt": {"stack": 4, "projector": "mlp"},
        "tune": {"parts": "projector", "weights": "fp32"},
        "trainer": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 24,
                    "learning_rate": 3e-3, "bf16": False, "logging_steps": 4, "eval_steps": 12,
                    "save_steps": 24, "early_stopping_patience": 0},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert _run("train", folder / "recipe.yaml", "--out", folder / "out") == 0
    return folder / "out"


def test_the_loss_falls_and_only_the_projector_moved(aligned: Path) -> None:
    rows = [json.loads(line) for line in (aligned / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    summary = json.loads((aligned / "summary.json").read_text())
    assert summary["utterances"] == {"train": 12, "eval": 4, "too_long": 0}
    assert (summary["steps"], summary["projector"]) == (24, "as it was")
    before = load_graft(default_model_dir(), stage="base").state_dict()
    after = load_graft(aligned / "model", stage="base").state_dict()
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"audio_projector"}


def test_the_second_run_leaves_a_merged_model_that_says_the_same(
    aligned: Path, corpora: Path, tmp_path: Path
) -> None:
    recipe = {
        "stage": "transcribe", "model": str(aligned / "model"), "threads": 1,
        "corpus": {"train": str(corpora / "speech"), "eval": str(corpora / "libri")},
        "tune": {"parts": "lora", "lora_rank": 8, "quantise": "nf4", "weights": "fp32"},
        "trainer": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 2,
                    "learning_rate": 1e-3, "bf16": False, "eval_steps": 2, "save_steps": 2},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert _run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out") == 0
    mel = torch.randn(1, 80, 101, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        models = [
            load_graft(tmp_path / "out" / "model"),
            load_graft(tmp_path / "out" / "merged", stage="base"),
        ]
        base = load_graft(aligned / "model", stage="base")
        heard = [model.get_audio_features(mel, torch.tensor([101]))[0] for model in (*models, base)]
        logits = [model(input_ids=ids).logits for model in (*models, base)]
    assert torch.equal(heard[0], heard[1])
    assert torch.equal(logits[0], logits[1])
    assert float((heard[1] - heard[2]).abs().max()) > 0
    assert float((logits[1] - logits[2]).abs().max()) > 0


def test_error_rates_of_the_aligned_model(
    aligned: Path, corpora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = tmp_path / "asr.json"
    options = [
        "--model",
        aligned / "model",
        "--max-tokens",
        24,
        "--json",
        figures,
        "--out",
        tmp_path / "rows.jsonl",
    ]
    assert _run("eval", "asr", corpora / "libri", *options) == 0
    shown = capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert (found["by"], found["model"], found["recordings"]) == ("graft", "model-base", 4)
    assert found["interval_over"] == "recordings"  # one speaker
    assert found["wer_ci95"][0] <= found["wer"] <= found["wer_ci95"][1]
    assert "n = 4 recordings" in shown
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


def test_the_shipped_decoder_writes_down_what_a_training_voice_says(
    corpora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = tmp_path / "asr.json"
    assert _run("eval", "asr", corpora / "speech", "--json", figures) == 0
    found = json.loads(figures.read_text())
    assert (found["by"], found["recordings"], found["interval_over"]) == ("decoder", 12, "speakers")
    assert found["wer"] < 0.4
    assert "(decoder): WER" in capsys.readouterr().out


def test_a_recording_that_cannot_be_used_counts_as_wrong(
    corpora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(corpora / "libri", tmp_path / "libri")
    broken = next((tmp_path / "libri").rglob("7-1-0001.wav"))
    broken.write_bytes(b"RIFF....")
    figures = tmp_path / "asr.json"
    assert _run("eval", "asr", tmp_path / "libri", "--json", figures) == 0
    found = json.loads(figures.read_text())
    assert (found["recordings"], found["failed"]) == (4, 1)
    assert "7-1.trans.txt:2: " in capsys.readouterr().err

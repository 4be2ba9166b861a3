"""A whole small run: it resumes exactly and writes a loadable folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.training.asr import AsrConfig, _Run, run_asr
from surgvivqa_audio.training.asr_data import AugmentConfig, PoolConfig
from surgvivqa_audio.training.asr_eval import EvalConfig
from surgvivqa_audio.training.asr_model import AsrModel, WhisperSize

pytestmark = pytest.mark.integration

_SIZE = WhisperSize(d_model=16, encoder_layers=1, decoder_layers=1, heads=2, ffn=32)


def _config(**changes: object) -> AsrConfig:
    base = AsrConfig(
        steps=4,
        frames=300,
        log_every=2,
        evaluate_every=2,
        size=_SIZE,
        pool=PoolConfig(utterances=6, shard=3),
        augment=AugmentConfig(noise_seconds=0.5),
        evaluation=EvalConfig(wordings=2, sentences=1, quick=1),
    )
    return base.model_copy(update=changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asr")
    run_asr(_config(), out)
    return out


def test_the_folder_is_stock(finished: Path) -> None:
    whisper = WhisperForConditionalGeneration.from_pretrained(finished / "whisper")
    tokenizer = AutoTokenizer.from_pretrained(finished / "whisper")
    assert WhisperFeatureExtractor.from_pretrained(finished / "whisper").feature_size == 80
    config = whisper.config
    assert (config.vocab_size, len(tokenizer)) == (1024, 1024)
    assert (config.pad_token_id, config.decoder_start_token_id, config.eos_token_id) == (0, 1, 2)
    assert config.max_source_positions == 1500
    assert not list((finished / "whisper").rglob("*.bin"))


def test_the_summary_names_every_set(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert sorted(summary["wer"]) == [
        "published",
        "sentences",
        "sentences_known_voices",
        "wordings",
        "wordings_noise",
    ]
    assert summary["steps"] == 4
    assert summary["utterances"]["wordings"] == 2
    assert summary["run"]["seed"] == 0
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 4]


def test_a_resumed_run_ends_with_the_same_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    (out).mkdir()
    (out / "pool").symlink_to(finished / "pool")
    original = AsrModel.losses
    calls = []

    def failing(self: AsrModel, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)  # type: ignore[arg-type]

    config = _config(save_minutes=0.0)
    monkeypatch.setattr(AsrModel, "losses", failing)
    with pytest.raises(KeyboardInterrupt):
        run_asr(config, out)
    with pytest.raises(ConfigError, match="pass --resume"):
        run_asr(config, out)
    with pytest.raises(ConfigError, match="'seed' was 0, is 5 now"):
        run_asr(_config(seed=5, save_minutes=0.0), out, resume=True)
    run_asr(config, out, resume=True)
    assert len(calls) == 5
    straight = load_file(finished / "whisper" / "model.safetensors")
    resumed = load_file(out / "whisper" / "model.safetensors")
    assert sorted(straight) == sorted(resumed)
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_late_in_a_run_random_sentences_are_visited_in_one_step_of_six(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "pool").symlink_to(finished / "pool")
    run = _Run(_config(steps=20, questions_from=0.5), tmp_path, lambda line: None)
    assert (run.order.size, run.questions.size) == (6, 3)
    asked = sorted(run.pool.utterances[index].text for index in run.questions)
    assert asked == [
        "In what quadrant do we see the polyp?",
        "Is the scope actually moving?",
        "Was methylene blue present in this clip?",
    ]

    def everything(step: int) -> bool:
        run.step = step
        return run.visited() is run.order

    assert [step for step in range(20) if everything(step)] == [*range(10), 12, 18]

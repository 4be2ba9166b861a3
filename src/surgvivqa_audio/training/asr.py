"""Pretraining of the tiny Whisper on synthetic speech: an encoder that hears, a decoder that writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.files import read_jsonl, write_bytes, write_json, write_jsonl
from surgvivqa_audio.processing.features import batch_mels, make_feature_extractor
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import load_taxonomy
from surgvivqa_audio.training.asr_data import (
    AugmentConfig,
    Batcher,
    PoolConfig,
    by_length,
    ctc_labels,
    make_pool,
    noise_bank,
    plan_pool,
    trained_questions,
)
from surgvivqa_audio.training.asr_eval import EvalConfig, EvalSet, error_rates, examples, make_sets, plan_sets
from surgvivqa_audio.training.asr_model import AsrModel, WhisperSize, build_whisper, save_whisper
from surgvivqa_audio.training.begun import SUMMARY, same
from surgvivqa_audio.training.cpu import use_threads
from surgvivqa_audio.training.nano_tokenizer import build_nano_tokenizer, common_words, nano_corpus
from surgvivqa_audio.training.optim import MuonAdamW, build_optimizer, lr_factor, set_lr

_EVERYTHING = 6  # late in a run, one step in so many visits the sentences of random words too
_STRICT = ConfigDict(frozen=True, extra="forbid")

Progress = Callable[[str], None]


class AsrConfig(BaseModel):
    """One run. With ``minutes`` the schedule ends at whichever comes first, steps or time: a run that the
    clock ended is complete, but not repeatable bit for bit. ``bf16`` multiplies in bfloat16. ``easy`` is the
    share of the steps over which utterances become long and augmented; from the share ``questions_from`` on,
    sentences of random words are spoken in one step of six only: they teach letters, and then take time."""

    model_config = _STRICT
    stage: Literal["asr"] = "asr"
    taxonomy: str = "realcolon"
    seed: int = 0
    steps: int = Field(2400, ge=1)
    minutes: float | None = None
    frames: int = Field(6000, ge=100)
    easy: float = Field(0.0, ge=0, le=1)
    questions_from: float = Field(1.0, ge=0, le=1)
    lr_muon: float = 0.02
    lr_adamw: float = 3e-3
    weight_decay: float = 0.01
    ctc_weight: float = 1.0
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    log_every: int = 25
    evaluate_every: int = 300
    save_minutes: float = 4.0
    threads: int = 1
    workers: int = 2
    bf16: bool = False
    size: WhisperSize = WhisperSize()
    pool: PoolConfig = PoolConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluation: EvalConfig = EvalConfig()


class _Run:
    """State of one run: model, optimizer, log, clock."""

    def __init__(self, config: AsrConfig, out: Path, progress: Progress) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out, self.progress = config, out, progress
        taxonomy = load_taxonomy(config.taxonomy)
        bank, vocabulary = phrasing_bank(taxonomy), common_words()
        self.tokenizer = build_nano_tokenizer(taxonomy, nano_corpus(taxonomy))
        self.extractor = make_feature_extractor(config.size.mel_bins)
        self.model = AsrModel(build_whisper(config.size, self.tokenizer))
        if config.bf16:  # the fused attention's backward pass alone would cost more than bfloat16 saves
            self.model.whisper.set_attn_implementation("eager")
        self.optimizer: MuonAdamW = build_optimizer(
            self.model, config.lr_muon, config.lr_adamw, weight_decay=config.weight_decay
        )
        plan = plan_pool(config.pool, taxonomy, bank, vocabulary)
        progress(f"speaking {len(plan)} utterances (kept in {out / 'pool'})")
        self.pool = make_pool(out / "pool", plan, config.pool.shard, config.workers)
        tests = plan_sets(config.evaluation, config.pool, taxonomy, bank, vocabulary)
        self.sets = make_sets(tests, out / "pool", self.extractor, config.evaluation)
        noises = noise_bank(config.seed, config.augment.noise_seconds)
        easy = round(config.easy * config.steps)
        self.batcher = Batcher(
            self.pool, self.extractor, config.augment, noises, config.frames, config.seed, easy
        )
        self.order = by_length(self.pool)
        asked = set(trained_questions(taxonomy, bank))
        self.questions = self.order[[self.pool.utterances[index].text in asked for index in self.order]]
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []

    @property
    def done(self) -> float:
        """Share of the run that is over, 0 to 1."""
        by_steps = self.step / self.config.steps
        by_clock = self.seconds / 60 / self.config.minutes if self.config.minutes else 0.0
        return min(max(by_steps, by_clock), 1.0)

    def visited(self) -> NDArray[np.int64]:
        """The utterances that the next step draws from, shortest first."""
        late = self.step >= self.config.questions_from * self.config.steps
        return self.questions if late and self.step % _EVERYTHING else self.order

    def train_step(self) -> tuple[float, float]:
        """One update; returns both losses."""
        config = self.config
        mels, texts = self.batcher.batch(self.step, self.visited())
        limit = config.size.target_positions
        start, end = self.model.whisper.config.decoder_start_token_id, self.tokenizer.eos_token_id
        tokens = [[start, *self.tokenizer.encode(text)[: limit - 1], end] for text in texts]
        features, lengths = batch_mels(mels)
        letters = [ctc_labels(text) for text in texts]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            written, heard = self.model.losses(features, lengths, tokens, letters, config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(written + config.ctc_weight * heard)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise ModelError(f"step {self.step}: the gradient is not finite; lower the learning rates")
        set_lr(self.optimizer, lr_factor(self.done))
        self.optimizer.step()
        self.step += 1
        return float(written.detach()), float(heard.detach())

    def log(self, row: dict[str, Any]) -> None:
        """Append to ``log.jsonl`` and tell the user."""
        self.rows.append({"step": self.step, "minutes": round(self.seconds / 60, 2), **row})
        write_jsonl(self.out / "log.jsonl", self.rows)
        self.progress(json.dumps(self.rows[-1]))

    def quick_rates(self) -> dict[str, float]:
        """Error rates on the beginning of each clean set."""
        count = self.config.evaluation.quick
        sets: dict[str, EvalSet] = {name: chosen.head(count) for name, chosen in self.sets.items()}
        return error_rates(self.model.whisper, self.tokenizer, sets)

    def save(self) -> None:
        """The loadable snapshot and everything needed to go on."""
        save_whisper(self.out / "whisper", self.model.whisper, self.tokenizer, self.extractor)
        tensors: dict[str, Tensor] = {
            f"model|{name}": parameter.detach() for name, parameter in self.model.named_parameters()
        }
        tensors |= {f"optimizer|{name}": tensor for name, tensor in self.optimizer.state_tensors().items()}
        about = {
            "step": str(self.step),
            "seconds": str(self.seconds),
            "config": self.config.model_dump_json(),
        }
        write_bytes(self.out / "checkpoint.safetensors", save(tensors, metadata=about))

    def restore(self) -> None:
        """Go on from the checkpoint."""
        about, tensors = _read_checkpoint(self.out / "checkpoint.safetensors")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model|{name}"])
        prefix = "optimizer|"
        self.optimizer.load_state_tensors(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
        self.step, self.seconds = int(about["step"]), float(about["seconds"])
        logged = self.out / "log.jsonl"
        if logged.is_file():
            self.rows = [row for _, row in read_jsonl(logged) if row["step"] <= self.step]


def _read_checkpoint(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be resumed ({error}); use another output folder") from error


def _resumable(config: AsrConfig, path: Path, resume: bool) -> bool:
    """Whether there is a run to go on with; refuses one that is not asked for or does not fit."""
    if not path.is_file():
        return False
    if not resume:
        raise ConfigError(f"{path}: an unfinished or finished run; pass --resume or use another folder")
    same(path, json.loads(_read_checkpoint(path)[0]["config"]), config)
    return True


def _train(run: _Run) -> None:
    config, recent = run.config, []
    saved = started = monotonic()
    before = run.seconds
    run.model.train()
    while run.done < 1.0:
        recent.append(run.train_step())
        run.seconds = before + monotonic() - started
        if run.step % config.log_every == 0:
            written, heard = (round(sum(column) / len(recent), 4) for column in zip(*recent, strict=True))
            run.log({"loss": written, "ctc": heard})
            recent.clear()
        if run.step % config.evaluate_every == 0:
            run.log({"wer": run.quick_rates()})
        if monotonic() - saved > 60 * config.save_minutes:
            run.save()
            saved = monotonic()


def run_asr(
    config: AsrConfig, out: Path, resume: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Speak the pool, train, measure; ``out`` receives ``whisper/``, ``log.jsonl`` and ``summary.json``.

    Args:
        config: the recipe.
        out: output folder; its ``pool/`` and ``checkpoint.safetensors`` make a restart cheap.
        resume: go on from the checkpoint instead of refusing a folder that has one.
        progress: receives one line of text per event.

    Returns:
        What ``summary.json`` holds: word error rates per test set, steps, minutes, parameters, run record.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is false, or a run of another recipe.
        ModelError: the checkpoint cannot be read, or training diverged.
        SpeechError: the speech cannot be synthesised.
    """
    resuming = _resumable(config, out / "checkpoint.safetensors", resume)
    use_threads(config.threads)
    run = _Run(config, out, progress or (lambda line: None))
    if resuming:
        run.restore()
    _train(run)
    run.save()
    run.model.eval()
    rates = error_rates(run.model.whisper, run.tokenizer, run.sets)
    run.log({"wer": rates, "final": True})
    heard = examples(run.model.whisper, run.tokenizer, run.sets["wordings"].head(40))
    write_jsonl(out / "transcripts.jsonl", heard)
    summary = {
        "wer": rates,
        "steps": run.step,
        "minutes": round(run.seconds / 60, 2),
        "parameters": sum(parameter.numel() for parameter in run.model.whisper.parameters()),
        "utterances": {name: len(chosen.texts) for name, chosen in run.sets.items()},
        "run": run_record(seed=config.seed, config=config.model_dump(mode="json")),
    }
    write_json(out / SUMMARY, summary)
    return summary

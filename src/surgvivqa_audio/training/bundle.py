"""The shipped form of the nano model: bf16 weights, stages kept apart, one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from surgvivqa_audio.answering.cascade import ASR_FOLDER
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import sha256_file, write_json
from surgvivqa_audio.model.loading import ADAPTER, load_graft, read_model, save_decoder
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.provenance import run_record

CARD = "nano.json"
LIMIT_BYTES = 16_000_000


class BundleRecipe(BaseModel):
    """Which run folders are joined: stage 1, stage 2 and the Whisper whose decoder the ASR baseline needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: Literal["bundle"]
    aligned: str
    tuned: str
    whisper: str


def run_bundle(recipe: BundleRecipe, out: Path) -> dict[str, Any]:
    """Write ``out``: base with stage-1 projector, ``adapter/`` (stage 2), ``asr/`` (decoder), hashes.

    Raises:
        ModelError: a run folder is incomplete.
        ConfigError: the bundle is larger than what the package may carry.
    """
    staged = out.with_name(f".{out.name}.staged")
    shutil.rmtree(staged, ignore_errors=True)
    model = load_graft(recipe.aligned, stage="base")
    model.to(torch.bfloat16).save_pretrained(staged)
    AudioGraftProcessor.from_pretrained(recipe.aligned).save_pretrained(staged)
    shutil.copytree(
        Path(recipe.tuned) / ADAPTER, staged / ADAPTER, ignore=shutil.ignore_patterns("README.md")
    )
    _forget_origin(staged / ADAPTER / "adapter_config.json")
    weights = staged / ADAPTER / "adapter_model.safetensors"
    state = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}
    save_file(state, weights, metadata={"format": "pt"})
    whisper = read_model(WhisperForConditionalGeneration, Path(recipe.whisper))
    save_decoder(whisper, staged / ASR_FOLDER)
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if size > LIMIT_BYTES:
        raise ConfigError(f"{staged}: {size} bytes are more than the {LIMIT_BYTES} the package may carry")
    summary = {
        "bytes": size,
        "sha256": {str(path.relative_to(staged)): sha256_file(path) for path in files},
        "run": run_record(seed=None, config=recipe.model_dump()),
    }
    write_json(staged / CARD, summary)
    shutil.rmtree(out, ignore_errors=True)
    staged.replace(out)
    return {"bytes": size, "files": len(files)}


def _forget_origin(path: Path) -> None:
    """The adapter belongs to the folder it lies in, not to the run folder it was trained from."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, fields | {"base_model_name_or_path": None})

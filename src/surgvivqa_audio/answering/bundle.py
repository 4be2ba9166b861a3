"""From a checkpoint folder to a ready engine: model, processor, taxonomy and decision rule together."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import torch

from surgvivqa_audio.answering.decision import Decision
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.device import default_dtype, find_device
from surgvivqa_audio.model.loading import Stage, load_graft
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import load_taxonomy

DECISION_FILE = "decision.json"


def default_model_dir() -> Path:
    """The nano model that ships with the package.

    Raises:
        ModelError: this installation carries no weights.
    """
    folder = Path(str(files("surgvivqa_audio") / "assets" / "nano"))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: the nano weights are not installed; `make nano` trains them")
    return folder


def read_decision(folder: Path, stage: str) -> Decision:
    """Temperature and abstention threshold fitted on the eval split, kept beside the weights.

    Raises:
        ModelError: the file is there but not of the expected form.
    """
    path = folder / DECISION_FILE
    if not path.is_file():
        return Decision()
    try:
        fields = json.loads(path.read_text(encoding="utf-8")).get(stage, {})
        return Decision(**{name: float(value) for name, value in fields.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a decision file ({error}); delete it or calibrate again") from error


def load_engine(
    folder: str | Path | None = None,
    *,
    stage: Stage = "tuned",
    taxonomy: str = "realcolon",
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> AnswerEngine:
    """Load a grafted checkpoint into an engine.

    Args:
        folder: checkpoint folder; None is the nano model of the package.
        stage: ``tuned`` with the stage-2 adapter, ``base`` before fine-tuning.
        taxonomy: whose sentences form the closed set.
        dtype: compute precision; None is fp32 on a CPU, bf16 on a GPU.
        threads: CPU threads; None leaves torch's setting.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the device is not there.
        ModelError: the folder is not a complete checkpoint.
    """
    device = find_device(device)
    folder = default_model_dir() if folder is None else Path(folder)
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_graft(folder, stage=stage, dtype=dtype or default_dtype(device)).to(device)
    processor = AudioGraftProcessor.from_pretrained(folder)
    name = f"{folder.name}-{stage}"
    return AnswerEngine(
        model, processor, load_taxonomy(taxonomy), name=name, decision=read_decision(folder, stage)
    )

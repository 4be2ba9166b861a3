"""The published checkpoints, where the Hub cache holds them or HF_HUB_OFFLINE=0 allows to fetch them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.loading import load_graft
from surgvivqa_audio.model.seed import SEED_ADAPTER, SEED_BASE
from surgvivqa_audio.model.source import resolve
from surgvivqa_audio.processing.assemble import graft_checkpoint, import_seed_checkpoint
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken

pytestmark = pytest.mark.weights


def _need(source: str, marker: str = "config.json") -> str:
    try:
        resolve(source, marker=marker)
    except ModelError as error:
        pytest.skip(f"needs published weights: {error}")
    return source


def test_the_predecessor_loads_with_its_adapter(tmp_path: Path) -> None:
    base = _need(SEED_BASE)
    adapter = _need(SEED_ADAPTER, "adapter_config.json")
    out = tmp_path / "seed"
    import_seed_checkpoint(base, out, adapter)
    processor = AudioGraftProcessor.from_pretrained(out)
    assert (processor.layout, processor.special.audio) == ("seed", 151657)
    model = load_graft(out, stage="tuned", dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.audio_projector.parameters()) == 4_587_520


@pytest.mark.parametrize(
    "vlm", ["Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"]
)
def test_stock_models_graft(vlm: str, tmp_path: Path) -> None:
    audio = _need("openai/whisper-large-v3-turbo")
    model = graft_checkpoint(_need(vlm), audio, tmp_path / "grafted")
    processor = AudioGraftProcessor.from_pretrained(tmp_path / "grafted")
    assert len(processor.tokenizer) <= model.get_input_embeddings().weight.shape[0]
    question = Spoken("text", text="Is a polyp visible?")
    assert processor.special.audio not in processor.encode(None, [question]).ids

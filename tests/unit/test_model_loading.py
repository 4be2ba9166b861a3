"""Checkpoints come back bit for bit through the Auto classes, and bad ones give one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoProcessor, WhisperForConditionalGeneration

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import (
    ADAPTER,
    add_adapter,
    graft,
    load_graft,
    load_whisper,
    save_decoder,
)
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.registry import register
from tiny_graft import nano_graft, nano_processor, tone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint with processor and adapter."""
    folder = tmp_path_factory.mktemp("graft")
    processor = nano_processor()
    model = nano_graft(processor)
    model.save_pretrained(folder, max_shard_size="200KB")
    processor.save_pretrained(folder)
    tuned = add_adapter(model, rank=2, alpha=4, dropout=0.0)
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(str(folder / ADAPTER))
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The same checkpoint, free to be damaged."""
    for path in saved.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def _logits(model: Any, processor: Any, make_frames: Any) -> torch.Tensor:
    clip = processor.clip(make_frames(2, 64), 6.25)
    example = processor.encode(clip, [Spoken("audio", processor.mel(tone(0.3)))])
    with torch.no_grad():
        return model(**collate([example], processor.special.pad, labels=False)).logits


def test_auto_classes_bring_everything_back_bit_for_bit(saved: Path, make_frames: Any) -> None:
    register()
    register()
    config = AutoConfig.from_pretrained(saved)
    model = AutoModel.from_pretrained(saved).eval()
    processor = AutoProcessor.from_pretrained(saved)
    assert isinstance(config, AudioGraftConfig)
    assert isinstance(model, AudioGraft)
    assert isinstance(processor, AudioGraftProcessor)
    assert (config.stack, config.layout, config.audio_token_id) == (4, "stream", processor.special.audio)
    fresh_processor = nano_processor()
    fresh = nano_graft(fresh_processor)
    state = model.state_dict()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert processor.special == fresh_processor.special
    assert processor.geometry == fresh_processor.geometry
    assert torch.equal(_logits(model, processor, make_frames), _logits(fresh, fresh_processor, make_frames))
    assert len(list(saved.glob("*.safetensors"))) > 1
    assert not [path for path in saved.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_adapter_changes_the_logits_and_merging_does_not(saved: Path, make_frames: Any) -> None:
    processor = nano_processor()
    base = _logits(load_graft(saved, stage="base"), processor, make_frames)
    merged = _logits(load_graft(saved), processor, make_frames)
    beside = _logits(load_graft(saved, merge=False), processor, make_frames)
    assert float((merged - base).abs().max()) > 1e-2
    assert float((merged - beside).abs().max()) <= 1e-4


def _missing_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def _truncated(folder: Path) -> None:
    path = sorted(folder.glob("model-*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:1000])


def _noise(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[0].write_bytes(b"\xff" * 4096)


def _wrong_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vlm_config"]["text_config"]["hidden_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _missing_key(folder: Path) -> None:
    for path in folder.glob("model-*.safetensors"):
        tensors = load_file(path)
        if tensors.pop("audio_projector.up.weight", None) is not None:
            save_file(tensors, path, metadata={"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["audio_projector.up.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _adapter(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / ADAPTER / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def _drop_lora(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "lora_A" in name)]


def _old_prefix(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name.replace("model.language_model.layers", "model.layers")] = tensors.pop(name)


def _drop_projector(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "audio_projector" in name)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing_shard, "cannot be loaded"),
        (_truncated, "cannot be loaded"),
        (_noise, "cannot be loaded"),
        (_wrong_width, "cannot be loaded|mismatched keys"),
        (_no_config, "no config.json"),
        (_missing_key, r"1 missing keys: audio_projector\.up\.weight"),
        (_adapter(_drop_lora), "missing keys: .*lora_A"),
        (_adapter(_old_prefix), "unexpected keys: .*lora_A"),
        (_adapter(_drop_projector), "missing keys: .*audio_projector"),
    ],
)
def test_damaged_checkpoints_give_one_clear_error(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message) as caught:
        load_graft(copy)
    assert str(copy) in str(caught.value)


def test_missing_adapter_names_the_remedy(copy: Path) -> None:
    (copy / ADAPTER / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="fine-tune first, or load stage 'base'"):
        load_graft(copy)


def test_grafting_takes_the_weights_as_they_are(tmp_path: Path) -> None:
    processor = nano_processor()
    parts = nano_graft(processor)
    parts.vlm.save_pretrained(tmp_path / "vlm")
    whisper = WhisperForConditionalGeneration(parts.config.audio_config)
    whisper.model.encoder.load_state_dict(parts.audio_encoder.state_dict())
    whisper.save_pretrained(tmp_path / "whisper")
    model = graft(tmp_path / "vlm", tmp_path / "whisper", audio_token_id=processor.special.audio, stack=2)
    for name, tensor in parts.state_dict().items():
        if not name.startswith("audio_projector"):
            assert torch.equal(model.state_dict()[name], tensor), name
    assert model.config.stack == 2
    scale = float(model.get_input_embeddings().weight.detach().pow(2).mean().sqrt())
    assert float(model.audio_projector.norm_out.weight.detach().min()) == pytest.approx(scale, rel=1e-5)
    with pytest.raises(ModelError, match="missing"):
        graft(tmp_path / "missing", tmp_path / "whisper", audio_token_id=1)

    save_decoder(whisper, tmp_path / "asr")
    rebuilt = load_whisper(tmp_path / "asr", model.audio_encoder)
    stored = whisper.model.decoder.state_dict()
    for name, tensor in rebuilt.model.decoder.state_dict().items():
        assert torch.equal(tensor, stored[name].bfloat16().float()), name
    (tmp_path / "asr" / "decoder.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="decoder cannot be loaded"):
        load_whisper(tmp_path / "asr", model.audio_encoder)

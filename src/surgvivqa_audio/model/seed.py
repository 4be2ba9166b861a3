"""Checkpoints of the predecessor: Qwen2-VL with Whisper's encoder and one matrix in the same file.

Its keys are those of an older transformers: ``model.layers.*`` and ``visual.*`` where now stands
``model.language_model.layers.*`` and ``model.visual.*``. Every key is mapped or the import fails naming it.
Source of the layout: the public repositories SurgViVQA-Audio and Qwen2-VL-Audio-Adapter of kulsoom-abdullah.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import Qwen2VLConfig, WhisperConfig

from surgvivqa_audio.errors import ModelError
from surgvivqa_audio.files import write_bytes, write_json
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import ADAPTER, LORA_TARGETS, complete
from surgvivqa_audio.model.source import read_json, shard_files, tensors

SEED_BASE = "kulsoom-abdullah/Qwen2-Audio-7B-Transcription"
SEED_ADAPTER = "kulsoom-abdullah/surgvivqa-qwen7b-audio"
_AUDIO_FIELDS = ("audio_token_id", "audio_hidden_size", "use_audio_encoder")
_RENAMES = (
    (re.compile(r"(?:model\.)?visual\.(.+)"), r"vlm.model.visual.\1"),
    (re.compile(r"model\.(?:language_model\.)?((?:embed_tokens|layers|norm)\..+)"),
     r"vlm.model.language_model.\1"),
    (re.compile(r"(lm_head\.weight)"), r"vlm.\1"),
    (re.compile(r"(audio_encoder\..+|audio_projector\.weight)"), r"\1"),
)  # fmt: skip
_PEFT = "base_model.model."


def map_key(key: str) -> str | None:
    """The name of a published parameter in :class:`AudioGraft`, or None when there is none."""
    for pattern, replacement in _RENAMES:
        if pattern.fullmatch(key):
            return pattern.sub(replacement, key)
    return None


def _mapped(folder: Path, stem: str, prefix: str = "") -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in tensors(shard_files(folder, stem)):
        plain = (
            key.removeprefix(prefix)
            .replace(".modules_to_save.default.", ".")
            .replace(".modules_to_save.", ".")
        )
        name = map_key(plain)
        if name is None or not key.startswith(prefix):
            unknown.append(key)
        elif name in state:
            raise ModelError(f"{folder}: two keys stand for {name}; one of them is {key}")
        else:
            state[name] = tensor
    if unknown:
        raise ModelError(
            f"{folder}: {len(unknown)} keys of no known layout: {', '.join(sorted(unknown)[:3])}"
        )
    return state


def whisper_config(state: dict[str, Tensor], source: Path) -> WhisperConfig:
    """The encoder's config from its tensors, which is all a seed checkpoint says about it.

    Raises:
        ModelError: the encoder is missing or its tensors do not fit each other.
    """
    try:
        convolution = state["audio_encoder.conv1.weight"]
        positions = state["audio_encoder.embed_positions.weight"]
        ffn = state["audio_encoder.layers.0.fc1.weight"]
        projector = state["audio_projector.weight"]
    except KeyError as error:
        raise ModelError(f"{source}: no {error.args[0]}; this is not a seed checkpoint") from error
    width = convolution.shape[0]
    if projector.shape[1] != width:
        raise ModelError(
            f"{source}: the projector reads {projector.shape[1]} channels, the encoder gives {width}"
        )
    layers = {int(match[1]) for name in state if (match := re.match(r"audio_encoder\.layers\.(\d+)\.", name))}
    heads = width // 64  # every Whisper has 64 channels per head
    return WhisperConfig(
        d_model=width,
        encoder_layers=len(layers),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=ffn.shape[0],
        num_mel_bins=convolution.shape[1],
        max_source_positions=positions.shape[0],
    )


def load_seed(folder: Path, dtype: torch.dtype | None = None) -> AudioGraft:
    """A predecessor's merged checkpoint as a graft of layout ``seed``.

    Args:
        folder: ``config.json`` (Qwen2-VL with ``audio_token_id``) and safetensors.
        dtype: None keeps that of the file.

    Raises:
        ModelError: a shard is missing or corrupted, a key has no place or a place no key, or shapes differ.
    """
    fields = read_json(folder / "config.json")
    if fields.get("model_type") != "qwen2_vl" or "audio_token_id" not in fields:
        raise ModelError(f"{folder / 'config.json'}: not a seed checkpoint (qwen2_vl with an audio_token_id)")
    vlm_fields = {name: value for name, value in fields.items() if name not in _AUDIO_FIELDS}
    state = _mapped(folder, "model")
    config = AudioGraftConfig(
        vlm_config=Qwen2VLConfig.from_dict(vlm_fields),
        audio_config=whisper_config(state, folder),
        audio_token_id=int(fields["audio_token_id"]),
        stack=1,
        projector="linear",
        layout="seed",
    )
    if dtype is None:
        dtype = state["audio_projector.weight"].dtype
    try:
        model, report = AudioGraft.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: the tensors do not fit config.json ({error})") from error
    complete(folder, report)
    return model.eval()


def import_adapter(folder: Path, out: Path) -> None:
    """Rewrite a predecessor's LoRA adapter (with its projector) for :func:`load_graft`, as ``out/adapter``.

    Raises:
        ModelError: a file is missing or corrupted, a key has no place, or the projector is not in it.
    """
    settings: dict[str, Any] = read_json(folder / "adapter_config.json")
    state = _mapped(folder, "adapter_model", _PEFT)
    if "audio_projector.weight" not in state:
        raise ModelError(f"{folder}: the adapter holds no audio_projector; is modules_to_save missing?")
    settings |= {
        "target_modules": LORA_TARGETS,
        "modules_to_save": ["audio_projector"],
        "base_model_name_or_path": None,
        "auto_mapping": None,
        "task_type": None,
    }
    named = {f"{_PEFT}{name}": tensor.contiguous() for name, tensor in state.items()}
    target = out / ADAPTER
    target.mkdir(parents=True, exist_ok=True)
    write_bytes(target / "adapter_model.safetensors", save(named, metadata={"format": "pt"}))
    write_json(target / "adapter_config.json", settings)

"""Grafting, loading and saving of checkpoints: safetensors only, no key missing or left over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft, new_projector
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.model.source import resolve, shard_files

ADAPTER = "adapter"
ADAPTER_FILE = "adapter_model.safetensors"
DECODER = "decoder.safetensors"
Stage = Literal["base", "tuned"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# All attention and MLP projections of the language model; towers and head stay as they are.
LORA_TARGETS = (
    r".*vlm\.model\.language_model\.layers\.\d+\.(self_attn|mlp)\."
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
ENCODER_TARGETS = r".*audio_encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2)"
EncoderTraining = Literal["frozen", "trainable", "lora"]


def graft(
    vlm_folder: str | Path,
    audio_folder: str | Path,
    *,
    audio_token_id: int,
    new_ids: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    **joint: Any,
) -> AudioGraft:
    """Join a stock vision-language model and a stock Whisper; only the projector is new.

    Args:
        vlm_folder: folder or Hub id of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model.
        audio_folder: folder or Hub id of a Whisper model.
        audio_token_id: the placeholder's id in the language model's vocabulary.
        new_ids: ids that the tokenizer did not have before; their embeddings start at the mean of the table,
            which grows only when they do not fit into it.
        dtype: of the weights.
        joint: further fields of :class:`AudioGraftConfig`.

    Raises:
        ModelError: a checkpoint is incomplete or of the wrong kind.
        ConfigError: the vision-language family is not supported.
    """
    vlm = _stock(AutoModelForImageTextToText, vlm_folder, dtype)
    whisper = _stock(WhisperForConditionalGeneration, audio_folder, dtype)
    audio_config = WhisperConfig(**whisper.config.to_dict())
    config = AudioGraftConfig(
        vlm_config=vlm.config, audio_config=audio_config, audio_token_id=audio_token_id, **joint
    )
    # Built without memory, then given the loaded parts: a 7B model is held once, not twice.
    with torch.device("meta"):
        model = AudioGraft(config)
    model.vlm, model.audio_encoder = vlm, whisper.model.encoder
    model.audio_projector = new_projector(config).to(dtype)
    if new_ids:
        _start_tokens(model, new_ids)
    model.start_projector()
    return model


def _start_tokens(model: AudioGraft, ids: Sequence[int]) -> None:
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if max(ids) >= rows:
        model.vlm.resize_token_embeddings(max(ids) + 1, pad_to_multiple_of=64)
    tables: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for table in tables if tables[0].weight is not tables[1].weight else tables[:1]:
            known = table.weight[: min(rows, min(ids))].float()
            # Distinct rows: the stock models recognise picture placeholders by their embedding.
            noise = torch.randn(len(ids), known.shape[1]) * known.std() * 0.1
            table.weight[list(ids)] = (known.mean(dim=0) + noise).to(table.weight.dtype)


def _stock(kind: Any, source: str | Path, dtype: torch.dtype) -> Any:
    folder = resolve(source)
    shard_files(folder)
    return read_model(kind, folder, dtype=dtype)


def read_model(kind: Any, folder: Path, **options: Any) -> Any:
    """``kind.from_pretrained`` from safetensors alone, every key accounted for.

    Raises:
        ModelError: a file is missing or corrupted, or keys do not match; names the folder.
    """
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded ({error})") from error
    complete(folder, report)
    return model


def complete(source: str | Path, report: dict[str, Any]) -> None:
    """Turn transformers' loading report into an error.

    Raises:
        ModelError: a key is missing, left over or of the wrong shape.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind, ()))
        if keys:
            shown = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
            raise ModelError(f"{source}: {len(keys)} {kind.replace('_', ' ')}: {shown}")


def parse_dtype(name: str) -> torch.dtype:
    """``bf16``, ``fp16`` or ``fp32``. Raises ConfigError."""
    if name not in DTYPES:
        raise ConfigError(f"dtype '{name}' is unknown; use one of {', '.join(DTYPES)}")
    return DTYPES[name]


def freeze_all_but_projector(model: AudioGraft) -> None:
    """Stage 1: towers, language model and head are frozen."""
    model.requires_grad_(False)
    model.audio_projector.requires_grad_(True)


def add_adapter(
    model: AudioGraft,
    *,
    rank: int = 64,
    alpha: int = 16,
    dropout: float = 0.05,
    encoder: EncoderTraining = "frozen",
) -> PeftModel:
    """LoRA on the language model; the projector is trained in full and saved with it.

    Args:
        model: the base, which is changed in place.
        rank, alpha, dropout: of every adapter.
        encoder: ``frozen``, ``trainable`` in full, or ``lora`` on its projections.

    Raises:
        ConfigError: an unknown way to train the encoder.
    """
    if encoder not in ("frozen", "trainable", "lora"):
        raise ConfigError(f"encoder '{encoder}' is unknown; use frozen, trainable or lora")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=f"{LORA_TARGETS}|{ENCODER_TARGETS}" if encoder == "lora" else LORA_TARGETS,
        modules_to_save=["audio_projector", *(["audio_encoder"] if encoder == "trainable" else [])],
    )
    return get_peft_model(model, config)


def load_graft(
    folder: str | Path,
    *,
    stage: Stage = "tuned",
    dtype: torch.dtype = torch.float32,
    merge: bool = True,
    attention: str = "sdpa",
) -> AudioGraft:
    """Load a grafted model, with its stage-2 adapter (``tuned``) or before it (``base``).

    Args:
        folder: of the checkpoint.
        stage: with or without the adapter in its folder ``adapter``.
        dtype: of the weights.
        merge: fold the adapter into the weights.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``. The last cannot take the masks of packed
            questions and answer trees; it is for one question a row and free generation.

    Raises:
        ModelError: a file is missing or corrupted, or keys do not match; names the folder.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; a grafted checkpoint is made by `surgvivqa model graft`")
    model: AudioGraft = read_model(AudioGraft, folder, dtype=dtype, attn_implementation=attention)
    if stage == "tuned":
        model = load_adapter(model, folder / ADAPTER, merge=merge)
    fast_vision(model.vlm)
    return model.eval()


def _same_keys(source: Path, expected: set[str], found: set[str]) -> None:
    for kind, keys in (("unexpected", found - expected), ("missing", expected - found)):
        if keys:
            raise ModelError(f"{source}: {len(keys)} {kind} keys: {', '.join(sorted(keys)[:3])}")


def load_adapter(model: AudioGraft, folder: Path, *, merge: bool) -> Any:
    """Put a saved adapter on a base model.

    Raises:
        ModelError: the adapter is missing, corrupted, or names parameters the model does not have.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: no adapter_config.json; fine-tune first, or load stage 'base'")
    try:
        tuned = get_peft_model(model, LoraConfig.from_pretrained(str(folder)))
        state = load_file(folder / ADAPTER_FILE)
        expected = set(get_peft_model_state_dict(tuned))
        _same_keys(folder, expected, set(state))
        set_peft_model_state_dict(tuned, state)
    except (OSError, ValueError, TypeError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded ({error})") from error
    return tuned.merge_and_unload() if merge else tuned


def save_decoder(whisper: WhisperForConditionalGeneration, folder: Path) -> None:
    """Save a Whisper without its encoder, which the graft already holds."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in whisper.state_dict().items()
        if not name.startswith("model.encoder.") and name != "proj_out.weight"
    }
    staged = folder / ".decoder.safetensors.tmp"
    save_file(state, staged)
    staged.replace(folder / DECODER)
    whisper.config.save_pretrained(folder)


def load_whisper(folder: Path, encoder: WhisperEncoder) -> WhisperForConditionalGeneration:
    """Rebuild the Whisper whose decoder lies in ``folder`` around an encoder that is already loaded.

    Raises:
        ModelError: the decoder is missing, corrupted or does not fit.
    """
    try:
        config = WhisperConfig.from_pretrained(folder)
        state = load_file(folder / DECODER)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: the Whisper decoder cannot be loaded ({error})") from error
    whisper = WhisperForConditionalGeneration(config)
    whisper.model.encoder = encoder
    try:
        report = whisper.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{folder}: the Whisper decoder does not fit ({error})") from error
    missing = [
        name
        for name in report.missing_keys
        if not name.startswith("model.encoder.") and name != "proj_out.weight"
    ]
    if missing or report.unexpected_keys:
        raise ModelError(
            f"{folder}: Whisper decoder keys differ: {', '.join([*missing, *report.unexpected_keys][:3])}"
        )
    return whisper.eval()

"""From two stock checkpoints to a grafted one: tokens, processor, model and card together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, WhisperConfig

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.files import fsync_path, write_text
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.families import get_family
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import graft
from surgvivqa_audio.model.seed import import_adapter, load_seed
from surgvivqa_audio.model.source import read_json, resolve
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.processing.prompts import AUDIO_TOKENS

SHARD_SIZE = "4GB"


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint. Raises ModelError when it is missing or broken."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({error})") from error


def add_audio_tokens(tokenizer: Any) -> list[int]:
    """Add the audio tokens that are missing; returns their ids. A second call adds nothing."""
    known = tokenizer.get_vocab()
    new = [token for token in AUDIO_TOKENS if token not in known]
    tokenizer.add_tokens(new, special_tokens=True)
    return [int(index) for index in tokenizer.convert_tokens_to_ids(new)]


def make_processor(tokenizer: Any, config: AudioGraftConfig) -> AudioGraftProcessor:
    """The processor that fits a model's config."""
    vision = config.vlm_config.vision_config
    family = get_family(config.vlm_config.model_type)
    return AudioGraftProcessor(
        make_feature_extractor(config.audio_config.num_mel_bins),
        tokenizer,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        temporal=vision.temporal_patch_size,
        max_side=config.max_side,
        stack=config.stack,
        mean=family.mean,
        std=family.std,
        family=config.vlm_config.model_type,
        layout=config.layout,
        audio_token_id=config.audio_token_id if config.layout == "seed" else None,
    )


def graft_checkpoint(
    vlm: str, audio: str, out: Path, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0, **joint: Any
) -> AudioGraft:
    """Graft two stock checkpoints and write the result, complete or not at all.

    Args:
        vlm, audio: folders or Hub ids.
        out: a folder that does not exist yet, or is empty.
        dtype: of the stored weights.
        seed: of the projector's start.
        joint: further fields of :class:`AudioGraftConfig` (``stack``, ``projector``, ``max_side`` …).

    Raises:
        ModelError: a checkpoint is incomplete, corrupted or of the wrong kind.
        ConfigError: a field has a wrong value, or ``out`` is in use.
    """
    vlm_folder, audio_folder = resolve(vlm), resolve(audio)
    get_family(str(read_json(vlm_folder / "config.json").get("model_type")))
    if read_json(audio_folder / "config.json").get("model_type") != WhisperConfig.model_type:
        raise ModelError(f"{audio}: not a Whisper checkpoint")
    tokenizer = load_tokenizer(vlm_folder)
    new_ids = add_audio_tokens(tokenizer)
    torch.manual_seed(seed)
    audio_id = int(tokenizer.convert_tokens_to_ids(AUDIO_TOKENS[1]))
    model = graft(vlm_folder, audio_folder, audio_token_id=audio_id, new_ids=new_ids, dtype=dtype, **joint)
    processor = make_processor(tokenizer, model.config)
    with Staged(out) as folder:
        _write(
            model, processor, folder, f"A fresh graft of {vlm} and {audio}: the projector is not trained yet."
        )
    return model


def import_seed_checkpoint(source: str, out: Path, adapter: str | None = None) -> AudioGraft:
    """Rewrite a predecessor's checkpoint, with its LoRA adapter if given, complete or not at all.

    Raises:
        ModelError: a file is missing or corrupted, or a key has no place.
        ConfigError: ``out`` is in use.
    """
    folder = resolve(source)
    adapter_folder = None if adapter is None else resolve(adapter, marker="adapter_config.json")
    model = load_seed(folder)
    processor = make_processor(load_tokenizer(folder), model.config)
    with Staged(out) as staged:
        _write(
            model, processor, staged, f"Imported from {source}, the predecessor's layout (audio first, 30 s)."
        )
        if adapter_folder is not None:
            import_adapter(adapter_folder, staged)
    return model


def _write(model: AudioGraft, processor: AudioGraftProcessor, folder: Path, origin: str) -> None:
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    processor.save_pretrained(folder)
    config = model.config
    lines = [
        "# Grafted audio-vision-language model",
        "",
        f"{origin} Research only, not for clinical use.",
        "",
        f"- family `{config.vlm_config.model_type}`, layout `{config.layout}`",
        f"- Whisper encoder of width {config.audio_config.d_model}, {config.stack} frames per audio token, "
        f"projector `{config.projector}`",
        f"- frames at most {config.max_side} pixels a side",
        "",
        "Licences: those of the two models it was made of.",
    ]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


class Staged:
    """A folder that appears under its name only when everything in it was written."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.partial")

    def __enter__(self) -> Path:
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ConfigError(f"{self.out}: already there; choose another --out")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self.folder

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is not None:
            shutil.rmtree(self.folder)
            return
        if self.out.exists():
            self.out.rmdir()
        self.folder.rename(self.out)
        fsync_path(self.out.parent)

"""Where checkpoints come from: a local folder, or a repository of the Hugging Face Hub by its id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from surgvivqa_audio.errors import ModelError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.json", "*.jinja")


def resolve(source: str | Path, *, marker: str = "config.json") -> Path:
    """A folder as it is; a Hub id downloaded (weights as safetensors only) or taken from the cache.

    Args:
        source: folder or ``owner/name``.
        marker: a file the folder must hold.

    Raises:
        ModelError: neither a folder nor an id, or the Hub cannot be reached; names the remedy.
    """
    folder = Path(source)
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(str(source)):
            raise ModelError(f"{source}: neither a folder nor a Hub id of the form owner/name")
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=list(_FILES)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(
                f"{source}: not a folder, and the Hub does not give it ({type(error).__name__}); download it "
                "on a machine with network and pass its folder"
            ) from error
    if not (folder / marker).is_file():
        raise ModelError(f"{folder}: no {marker}; is this the folder of a checkpoint?")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises ModelError when it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: not a JSON object")
    return value


def shard_files(folder: Path, stem: str = "model") -> list[Path]:
    """The safetensors files of a checkpoint, by its index where it is sharded.

    Raises:
        ModelError: a shard is missing, or there are no weights at all.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        single = folder / f"{stem}.safetensors"
        if not single.is_file():
            raise ModelError(f"{folder}: neither {single.name} nor {index.name}; only safetensors are read")
        return [single]
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing or not names:
        raise ModelError(
            f"{folder}: shard {', '.join(missing) or '(none listed)'} is missing; download it again"
        )
    return [folder / name for name in names]


def tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of safetensors files, one at a time. Raises ModelError for a corrupted file."""
    for path in files:
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - the handle is not a mapping
                    yield name, handle.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: cannot be read ({error}); download it again") from error

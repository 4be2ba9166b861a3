"""Checkpoint folders that are whole or absent: staged, synced, hashed, then renamed. No pickle.

A folder ``checkpoint-N`` holds tensors as safetensors, everything else as JSON, and ``manifest.json`` with
the size and SHA-256 of each file. The manifest is written last, while the folder does not have its name yet.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.files import fsync_path, sha256_file

PREFIX = "checkpoint-"
MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(rf"{PREFIX}(\d+)")
_LEFTOVER = re.compile(rf"\.{PREFIX}\d+\.(staged|gone)")
_log = logging.getLogger(__name__)


def pack_state(value: Any, tensors: dict[str, Tensor], where: str = "state") -> Any:
    """A nested state (of an optimizer, a scheduler) as JSON; its tensors go into ``tensors`` by number.

    Raises:
        ConfigError: a value that neither JSON nor safetensors can hold.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        key = str(len(tensors))
        # A copy: two entries may share memory (8-bit tables do), which safetensors refuses.
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": key}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack_state(item, tensors, f"{where}[{n}]") for n, item in enumerate(value)]}
    if isinstance(value, Mapping):
        pairs = [
            [pack_state(key, tensors, where), pack_state(item, tensors, f"{where}.{key}")]
            for key, item in value.items()
        ]
        return {"dict": pairs}
    raise ConfigError(f"{where}: a {type(value).__name__} cannot be stored in a checkpoint without pickle")


def unpack_state(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`pack_state` packed."""
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unpack_state(key, tensors): unpack_state(item, tensors) for key, item in content}
    items = [unpack_state(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of this step lies, or would lie."""
    return root / f"{PREFIX}{step}"


def list_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """Folders that have a checkpoint's name, whole or not, by step."""
    if not root.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in found if match)


def write_checkpoint(
    root: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> Path:
    """Write ``checkpoint-<step>`` below ``root``; it appears complete or not at all.

    Args:
        root: made when it is missing.
        step: a folder of the same step is replaced.
        tensors: file stem -> named tensors.
        documents: file stem -> JSON value.
        identity: what a run must share to continue this one.

    Raises:
        ModelError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    final = checkpoint_folder(root, step)
    staged = root / f".{final.name}.staged"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for stem, table in tensors.items():
            path = staged / f"{stem}.safetensors"
            save_file(dict(table), path, metadata={"format": "pt"})
            fsync_path(path)
        for stem, document in documents.items():
            _write(staged / f"{stem}.json", document)
        listed = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(staged.iterdir())
        }
        manifest = {"format": FORMAT, "step": step, "files": listed, "identity": dict(identity)}
        _write(staged / MANIFEST, manifest)
        fsync_path(staged)
        if final.exists():
            remove_checkpoint(final)
        os.replace(staged, final)
        fsync_path(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ModelError(
            f"{final}: cannot be written ({error}); free disk space or make the folder writable, then go on "
            "with --resume; earlier checkpoints are untouched"
        ) from error
    return final


def _write(path: Path, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files all have their size and hash.

    Raises:
        ModelError: names the file that is missing, cut or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ModelError(f"{folder}: written by another version (format {manifest['format']})")
        files, step = dict(manifest["files"]), int(manifest["step"])
        if folder.name != f"{PREFIX}{step}":
            raise ModelError(f"{folder}: holds step {step}, its name says another")
        for name, expected in files.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
                raise ModelError(f"{path}: does not have the bytes it was written with")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: not a whole checkpoint ({type(error).__name__}: {error})") from error
    return dict(manifest)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are passed over with a warning. None: none was ever written.

    Raises:
        ModelError: checkpoints exist, and all of them are damaged.
    """
    found = list_checkpoints(root)
    problems = []
    for _, folder in reversed(found):
        try:
            check_checkpoint(folder)
        except ModelError as error:
            _log.warning("passed over: %s", error)
            problems.append(str(error))
            continue
        return folder
    if found:
        raise ModelError(
            f"{root}: none of the {len(found)} checkpoints is whole ({problems[0]}); restore one from a "
            "backup, or remove them and start again"
        )
    return None


def read_tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """Tensors of one file, on the CPU. Raises ModelError."""
    path = folder / f"{stem}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def read_document(folder: Path, stem: str) -> Any:
    """One JSON file of a checkpoint. Raises ModelError."""
    path = folder / f"{stem}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def remove_checkpoint(folder: Path) -> None:
    """Take the name away first, so that a kill leaves no half-removed checkpoint."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def rotate_checkpoints(root: Path, limit: int | None, best: int | None) -> None:
    """Remove the oldest checkpoints above ``limit``; the newest and the one of step ``best`` always stay."""
    found = list_checkpoints(root)
    if not limit or len(found) <= limit:
        return
    protected = {found[-1][0], best}
    spare = [folder for step, folder in found if step not in protected]
    for folder in spare[: len(found) - limit]:
        try:
            remove_checkpoint(folder)
        except OSError as error:
            _log.warning("%s: cannot be removed (%s)", folder, error)


def clean_leftovers(root: Path) -> None:
    """Remove what a kill left half written or half removed.

    Raises:
        ModelError: the folder cannot be made or written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for path in root.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        probe = root / ".writable"
        _write(probe, None)
        probe.unlink()
    except OSError as error:
        raise ModelError(
            f"{root}: checkpoints cannot be written there ({error}); choose another --out"
        ) from error


def load_into(parameters: Mapping[str, Tensor], stored: Mapping[str, Tensor], source: Path) -> None:
    """Copy stored tensors into the tensors of a model, name by name.

    Raises:
        ModelError: names or shapes differ.
    """
    for kind, keys in (
        ("missing", set(parameters) - set(stored)),
        ("left over", set(stored) - set(parameters)),
    ):
        if keys:
            raise ModelError(f"{source}: {len(keys)} tensors {kind}: {', '.join(sorted(keys)[:3])}")
    with torch.no_grad():
        for name, target in parameters.items():
            if target.shape != stored[name].shape or target.dtype != stored[name].dtype:
                raise ModelError(f"{source}: '{name}' has another shape or type than the model")
            target.copy_(stored[name])


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, and stored buffers of the modules that own one (running statistics)."""
    table: dict[str, Tensor] = {n: value for n, value in model.named_parameters() if value.requires_grad}
    for prefix, module in model.named_modules():
        if any(value.requires_grad for value in module.parameters(recurse=False)):
            for name, value in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    table[f"{prefix}.{name}" if prefix else name] = value
    return table

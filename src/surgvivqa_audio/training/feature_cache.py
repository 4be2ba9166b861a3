"""What the frozen towers compute, kept on disk: a clip is seen once, an utterance heard once.

An entry is named by its content, the digest of the tower's weights and the type it was computed in, so that
another model, another resolution or a changed recording is another entry. Entries appear complete or not at
all; any number of processes may write. The folder never holds more bytes than its limit.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.encoder import encode_audio, encoder_length
from surgvivqa_audio.model.graft import AudioGraft

_LOCK, _SUFFIX, _STAGED = ".lock", ".safetensors", ".tmp"
_ABANDONED_SECONDS = 3600  # a staged file of this age belongs to a writer that was killed
_ROOM = 0.9  # eviction stops here, so that not every further entry evicts again
# The tower of the third family hands several layers over; one tensor per clip is not enough for it.
_FAMILIES = ("qwen2_vl", "qwen2_5_vl")
_log = logging.getLogger(__name__)

Collate = Callable[[Sequence[Any]], dict[str, Any]]


class FeatureCache:
    """Tensors by name in a folder of at most ``limit_bytes``; the least recently read go first.

    Raises:
        ModelError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, limit_bytes: int) -> None:
        self.folder, self.limit = Path(folder), limit_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(f"*/.*{_STAGED}"):
                with suppress(FileNotFoundError):  # another writer has just finished it
                    if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                        path.unlink()
        except OSError as error:
            raise ModelError(f"{self.folder}: the feature cache cannot be made ({error})") from error

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}{_SUFFIX}"

    def get(self, name: str) -> Tensor | None:
        """The tensor of this name on the CPU; None where it is absent, was evicted, or is damaged."""
        path = self._path(name)
        try:
            # Read once: the library's own reader opens the name again, which may be evicted by then.
            found = load(path.read_bytes())["features"]
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            _log.warning("%s: computed again (%s)", path, error)
            return None
        return found

    def put(self, name: str, features: Tensor) -> None:
        """Store a tensor; one that is larger than the whole cache is left out.

        Raises:
            ModelError: the disk is full or the folder cannot be written.
        """
        content = save({"features": features.detach().to("cpu", copy=True).contiguous()})
        if len(content) > self.limit:
            _log.warning("%s: %d bytes exceed the limit of %d", name, len(content), self.limit)
            return
        path = self._path(name)
        staged = path.with_name(f".{name}.{os.getpid()}{_STAGED}")
        try:
            path.parent.mkdir(exist_ok=True)
            with open(staged, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            with self._locked():
                self._make_room(len(content), path)
                os.replace(staged, path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise ModelError(
                f"{self.folder}: features cannot be stored ({error}); free space, or lower the cache's limit"
            ) from error

    def entries(self) -> list[tuple[float, int, Path]]:
        """Last use, bytes and path of every entry, the least recently used first."""
        found = []
        for path in self.folder.glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self.entries())

    def _make_room(self, size: int, own: Path) -> None:
        """Evict under the lock until ``size`` more bytes fit; the total is kept in the lock's file."""
        total = self._total() - (own.stat().st_size if own.exists() else 0)
        if total + size > self.limit:
            kept = self.entries()
            total = sum(one for _, one, _ in kept)
            for _, one, path in kept:
                if total + size <= self.limit * _ROOM or total == 0:
                    break
                path.unlink(missing_ok=True)
                total -= one
        (self.folder / _LOCK).write_text(str(total + size), encoding="ascii")

    def _total(self) -> int:
        text = (self.folder / _LOCK).read_text(encoding="ascii")
        return int(text) if text.isdigit() else self.nbytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / _LOCK, "a", encoding="ascii") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def tower_digest(tower: nn.Module) -> str:
    """SHA-256 over names, types and bytes of a module's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TowerNames:
    """How entries are called: the digests of both towers and the type they compute in."""

    vision: str
    audio: str
    dtype: str

    def clip(self, pixels: Tensor, grid: Sequence[int]) -> str:
        """Name of a clip's features by its patches (t * h * w, width) and grid."""
        return self._name("clip", self.vision, pixels, grid)

    def utterance(self, mel: Tensor) -> str:
        """Name of a recording's encoding by its log-mel (m, t)."""
        return self._name("utterance", self.audio, mel, mel.shape)

    def _name(self, kind: str, tower: str, content: Tensor, shape: Sequence[int]) -> str:
        digest = hashlib.sha256(f"{kind} {tower} {self.dtype} {[int(side) for side in shape]}\n".encode())
        digest.update(content.contiguous().numpy().data)
        return digest.hexdigest()


def tower_names(model: AudioGraft, dtype: torch.dtype | None = None) -> TowerNames:
    """Names for a model whose towers do not learn; ``dtype`` is that of autocast, where it is on.

    Raises:
        ConfigError: a tower is trained, or the family hands over more than one tensor per clip.
    """
    visual, encoder = model.vlm.model.visual, model.audio_encoder
    if any(value.requires_grad for tower in (visual, encoder) for value in tower.parameters()):
        raise ConfigError("a tower is trained; its features cannot be cached, switch the feature cache off")
    if model.config.vlm_config.model_type not in _FAMILIES:
        raise ConfigError(f"the feature cache knows {', '.join(_FAMILIES)}; switch it off")
    kind = dtype or next(visual.parameters()).dtype
    return TowerNames(tower_digest(visual), tower_digest(encoder), str(kind).removeprefix("torch."))


@dataclass(frozen=True)
class CachingCollate:
    """A collator that puts stored features in place of patches and spectrograms.

    It runs where the rows are decoded (in the workers), hashes what the towers would see, and looks it up. If
    all clips of a batch are known, ``vision_features`` replaces the patches; if all recordings are,
    ``audio_hidden`` and ``audio_frames`` replace the spectrograms. Else the names go along for
    :class:`Towers`.
    """

    collate: Collate
    cache: FeatureCache
    names: TowerNames

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        batch = self.collate(rows)
        if "pixel_values_videos" in batch:
            grids = batch["video_grid_thw"]
            parts = batch["pixel_values_videos"].split(grids.prod(dim=1).tolist())
            names = [self.names.clip(part, grid.tolist()) for part, grid in zip(parts, grids, strict=True)]
            found = [self.cache.get(name) for name in names]
            if all(one is not None for one in found):
                del batch["pixel_values_videos"]
                batch["vision_features"] = torch.cat(found)  # type: ignore[arg-type]
            else:
                batch["clip_names"] = names
        if "input_features" in batch:
            mels, lengths = batch["input_features"], batch["audio_lengths"].tolist()
            names = [self.names.utterance(mel[:, :size]) for mel, size in zip(mels, lengths, strict=True)]
            found = [self.cache.get(name) for name in names]
            if all(one is not None for one in found):
                del batch["input_features"], batch["audio_lengths"]
                batch |= joined(found, [encoder_length(size) for size in lengths])  # type: ignore[arg-type]
            else:
                batch["utterance_names"] = names
        return batch


def joined(encoded: Sequence[Tensor], frames: Sequence[int]) -> dict[str, Tensor]:
    """Encoder states (s, d) of recordings as the graft takes them: padded, with their lengths."""
    hidden = nn.utils.rnn.pad_sequence(list(encoded), batch_first=True)
    return {"audio_hidden": hidden, "audio_frames": torch.tensor(frames, device=hidden.device)}


class Towers:
    """Computes and stores what a :class:`CachingCollate` did not find."""

    def __init__(self, model: AudioGraft, cache: FeatureCache) -> None:
        self.model, self.cache = model, cache

    @torch.no_grad()
    def fill(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with features in place of what the towers would see; a new dictionary."""
        batch = dict(batch)
        clips, utterances = batch.pop("clip_names", None), batch.pop("utterance_names", None)
        if clips is not None:
            pixels, grids = batch.pop("pixel_values_videos"), batch["video_grid_thw"]
            visual = self.model.vlm.model
            seen = visual.get_video_features(pixels, grids, return_dict=True).pooler_output
            for name, features in zip(clips, seen, strict=True):
                self.cache.put(name, features)
            batch["vision_features"] = torch.cat(list(seen))
        if utterances is not None:
            lengths = batch.pop("audio_lengths")
            hidden = encode_audio(self.model.audio_encoder, batch.pop("input_features"), lengths)
            frames = [encoder_length(size) for size in lengths.tolist()]
            encoded = [row[:size] for row, size in zip(hidden, frames, strict=True)]
            for name, features in zip(utterances, encoded, strict=True):
                self.cache.put(name, features)
            batch |= joined(encoded, frames)
        return batch


def fill_cache(
    rows: Any,
    collate: CachingCollate,
    towers: Towers,
    *,
    shard: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute the features of every ``n``-th row of a dataset, starting with row ``i``; rows done.

    Several machines that share the folder each take one ``shard`` ``(i, n)``.

    Raises:
        ConfigError: not 0 <= i < n.
    """
    first, step = shard
    if not 0 <= first < step:
        raise ConfigError(f"--shard {first}/{step}: the first number must be from 0 to {step - 1}")
    wanted = range(first, len(rows), step)
    for done, index in enumerate(wanted, start=1):
        batch = collate([rows[index]])
        if "clip_names" in batch or "utterance_names" in batch:
            names = ("pixel_values_videos", "video_grid_thw", "input_features", "audio_lengths")
            towers.fill({k: v.to(device) if k in names else v for k, v in batch.items()})
        if progress is not None:
            progress(done, len(wanted))
    return len(wanted)

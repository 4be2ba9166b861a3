"""What an opened clip keeps, and how many opened clips are kept."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from surgvivqa_audio.sample import Image

DEFAULT_BYTES = 1 << 30


@dataclass(frozen=True)
class Prefix:
    """Keys and values of [system][video][instruction], read-only.

    ``layers``: (1, heads, p, width) pairs. ``position``: where a question starts (M-RoPE, of this clip).
    ``slices``: vision features (tokens, d) of every pair of frames, by content.
    """

    config: Any
    layers: tuple[tuple[Tensor, Tensor], ...]
    position: int
    slices: dict[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens."""
        return int(self.layers[0][0].shape[-2])

    @property
    def nbytes(self) -> int:
        """Memory of keys, values and features."""
        tensors = [*(part for pair in self.layers for part in pair), *self.slices.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def fork(self) -> DynamicCache:
        """A stock cache that starts with this prefix; it joins into new tensors, so none is copied here."""
        cache = DynamicCache(config=self.config)
        for layer, (keys, values) in zip(cache.layers, self.layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return cache


def joined(prefixes: Sequence[Prefix]) -> Sequence[tuple[Tensor, Tensor]]:
    """Keys and values of several prefixes of one length, row by row; of batch 1 where all are one."""
    if all(prefix.layers is prefixes[0].layers for prefix in prefixes):
        return prefixes[0].layers
    layers = zip(*(prefix.layers for prefix in prefixes), strict=True)
    return [(torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs])) for pairs in layers]


class PrefixCache:
    """The most recently used prefixes whose memory stays under a limit. Thread-safe."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[str, Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Prefix | None:
        """The prefix of a key, which becomes the most recent."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, prefix: Prefix) -> None:
        """Keep a prefix and drop the least recent ones over the limit; one over it alone is not kept."""
        with self._lock:
            if key in self._kept:
                self.nbytes -= self._kept.pop(key).nbytes
            if prefix.nbytes > self.max_bytes:
                return
            self._kept[key] = prefix
            self.nbytes += prefix.nbytes
            while self.nbytes > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.nbytes -= dropped.nbytes

    def slices(self) -> dict[str, Tensor]:
        """Vision features of every pair of frames that is kept."""
        with self._lock:
            return {name: part for prefix in self._kept.values() for name, part in prefix.slices.items()}

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.nbytes = 0


def device_of(model: Any) -> torch.device:
    """Where a grafted model lives."""
    found: torch.device = model.get_input_embeddings().weight.device
    return found


def frame_digest(frame: Image) -> str:
    """Name of a frame by its pixels and shape."""
    digest = hashlib.blake2b(str(frame.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def joined_digest(*parts: object) -> str:
    """Name of several things together."""
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def model_digest(model: nn.Module) -> str:
    """Name of a model by its configuration, shapes and 64 values spread over every parameter.

    Hashing all 18 GB of a 7B model would take longer than loading it; training or merging an adapter
    changes every value of a matrix, so a sample tells such models apart.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // 64)
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def system_facts(model: nn.Module) -> dict[str, Any]:
    """Digest of the weights, and the device where it is not the CPU: bf16 gives other rows."""
    device = device_of(model).type
    return {"weights": model_digest(model)} | ({} if device == "cpu" else {"device": device})

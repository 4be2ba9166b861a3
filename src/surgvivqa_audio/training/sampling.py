"""The order of the rows: a function of seed and epoch alone, with rows of similar length side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from surgvivqa_audio.errors import ConfigError

_POOL = 32  # batches that are sorted together: enough to find neighbours, few enough to stay random


class EpochSampler(Sampler[int]):
    """Every row once per epoch, in an order that depends on ``seed`` and the epoch only.

    A run that goes on from a checkpoint sets the epoch and skips what was seen; nothing else is to be kept.

    Args:
        rows: of the dataset.
        seed: of the order.
        lengths: cost of every row (tokens); rows of similar length then share a batch.
        batch: rows that should be alike: rows of a batch times processes.

    Raises:
        ConfigError: the lengths are not one per row, or there is no row.
    """

    def __init__(self, rows: int, seed: int, lengths: Sequence[int] | None = None, batch: int = 1) -> None:
        if rows < 1 or batch < 1:
            raise ConfigError(f"{rows} rows in batches of {batch}: nothing to train on")
        if lengths is not None and len(lengths) != rows:
            raise ConfigError(f"{len(lengths)} lengths for {rows} rows; one per row is needed")
        self.rows, self.seed, self.batch = rows, seed, batch
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.epoch = 0

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """Row indices of an epoch."""
        rng = np.random.default_rng((self.seed, 11, epoch))
        rows = rng.permutation(self.rows)
        if self.lengths is None:
            return [int(row) for row in rows]
        batches: list[np.ndarray] = []
        span = self.batch * _POOL
        for start in range(0, self.rows, span):
            pool = rows[start : start + span]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[first : first + self.batch] for first in range(0, len(pool), self.batch)]
        # An incomplete batch stays last: elsewhere it would shift the borders of all that follow.
        short = [batches.pop()] if len(batches[-1]) < self.batch else []
        mixed = [batches[index] for index in rng.permutation(len(batches))] + short
        return [int(row) for batch in mixed for row in batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch))

    def describe(self) -> dict[str, object]:
        """What must be the same for a run to go on."""
        alike = None if self.lengths is None else self.batch
        return {"rows": self.rows, "seed": self.seed, "rows_alike": alike}

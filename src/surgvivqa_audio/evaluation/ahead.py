"""Clips decoded while the system answers about the clips before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from surgvivqa_audio.evaluation.controls import clip_name
from surgvivqa_audio.sample import FrameStore, Image, Sample, read_clip

THREADS = 2  # clips decoded at a time; decoding releases the interpreter lock
AHEAD = 4  # clips that wait: eight frames of 1350x1080 are 35 MB


class ClipsAhead:
    """Reads clips in a few threads before they are asked for, at most ``AHEAD`` of them.

    Which frames a row gets does not depend on the number of threads, nor on whether its clip was foreseen.

    Args:
        store: allows reads from several threads, as every store of this project does.
        wanted: one sample of every clip in the order in which the clips will be asked for; repeats are fine.
        threads: clips decoded at a time.
    """

    def __init__(self, store: FrameStore, wanted: Iterable[Sample], threads: int = THREADS) -> None:
        self._store = store
        self._wanted = _changes(wanted)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clips")
        self._waiting: deque[tuple[str, Future[list[Image]]]] = deque()

    def __enter__(self) -> ClipsAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, sample: Sample) -> list[Image]:
        """The frames of a sample's clip; raises what :func:`read_clip` raises, when they are asked for."""
        self._fill()
        name = clip_name(sample)
        if all(waiting != name for waiting, _ in self._waiting):
            return read_clip(self._store, sample)  # asked for again, after it failed
        while self._waiting[0][0] != name:
            self._waiting.popleft()  # its questions could not be put
        _, coming = self._waiting.popleft()
        self._fill()
        return coming.result()

    def _fill(self) -> None:
        while len(self._waiting) < AHEAD and (sample := next(self._wanted, None)) is not None:
            self._waiting.append((clip_name(sample), self._pool.submit(read_clip, self._store, sample)))


def clips_ahead(
    store: FrameStore | None, wanted: Iterable[Sample]
) -> AbstractContextManager[ClipsAhead | None]:
    """The clips of a run; None where there is no store."""
    return nullcontext() if store is None else ClipsAhead(store, wanted)


def _changes(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Samples whose clip is another than that of the sample before."""
    before = None
    for sample in samples:
        if clip_name(sample) != before:
            before = clip_name(sample)
            yield sample

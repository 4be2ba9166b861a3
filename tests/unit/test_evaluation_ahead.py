"""Clips are decoded ahead: the same frames in the same order, few at a time, errors in their place."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation_loop import Listener, PaintedStore, make_samples, speak

from surgvivqa_audio.errors import MissingFrame
from surgvivqa_audio.evaluation.ahead import AHEAD, ClipsAhead
from surgvivqa_audio.evaluation.loop import Settings, Sources, run_eval


class CountingStore(PaintedStore):
    """Also notes which clips were begun."""

    def __init__(self, missing: set[tuple[str, int]] | None = None) -> None:
        super().__init__(missing)
        self.begun: list[tuple[str, int]] = []

    def read(self, video_id: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if number % 100 == 0:
            self.begun.append((video_id, number))
        return super().read(video_id, number)


def shown(frames: Any) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_every_clip_is_decoded_once_and_only_a_few_wait() -> None:
    samples = make_samples(videos=2, clips=5)
    store = CountingStore()
    with ClipsAhead(store, samples) as clips:
        first = clips.read(samples[0])
        assert shown(first) == [0, 4, 8, 12, 16, 20, 24, 28]
        assert len(clips._waiting) == AHEAD
        rest = [shown(clips.read(sample))[0] for sample in samples[3::3]]
    assert rest == [100, 200, 300 % 256, 400 % 256, 0, 100, 200, 300 % 256, 400 % 256]
    assert sorted(store.begun) == [(f"v{video}", 100 * clip) for video in range(2) for clip in range(5)]


def test_an_error_belongs_to_its_clip_and_skipped_clips_are_passed_over() -> None:
    samples = make_samples(videos=1, clips=4)
    store = PaintedStore(missing={("v0", 104)})
    with ClipsAhead(store, samples) as clips:
        assert shown(clips.read(samples[0]))[0] == 0
        for _ in range(2):  # each question about the broken clip hears why
            with pytest.raises(MissingFrame, match="v0_104"):
                clips.read(samples[3])
        assert shown(clips.read(samples[9]))[0] == 300 % 256
        assert shown(clips.read(samples[6]))[0] == 200


def test_threads_end_with_the_run() -> None:
    with ClipsAhead(PaintedStore(), make_samples()) as clips:
        clips.read(make_samples()[0])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


def test_predictions_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(ClipsAhead.__init__, "__defaults__", (threads,))
        out = tmp_path / f"{threads}.jsonl"
        sources = Sources(store=PaintedStore(missing={("v1", 104)}), speak=speak)
        run_eval(make_samples(), Listener(), sources, out, Settings(batch_size=4))
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        written.append([{k: v for k, v in row.items() if k not in ("wall_ms", "run")} for row in rows])
    assert written[0] == written[1] == written[2]
    assert [row["key"] for row in written[0]] == [sample.key for sample in make_samples()]
    assert sum(row["error"] is not None for row in written[0]) == 3

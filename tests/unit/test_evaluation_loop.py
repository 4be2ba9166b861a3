"""The one loop with a system that reports what it was given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgvivqa_audio.answering.base import Answer, Clip, Option, Query
from surgvivqa_audio.errors import ConfigError, MissingFrame, SurgVivqaError
from surgvivqa_audio.evaluation.controls import CONTROLS, Planner, change_audio, change_frames, generator
from surgvivqa_audio.evaluation.leak import text_leak
from surgvivqa_audio.evaluation.loop import Settings, Sources, run_eval, select, sidecar
from surgvivqa_audio.evaluation.reference import reference_answers, run_reference
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.score import score_file
from surgvivqa_audio.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
KINDS = ("scope_motion", "scope_outside", "flush_action")


def make_samples(videos: int = 2, clips: int = 3, kinds: Sequence[str] = KINDS) -> list[Sample]:
    samples = []
    for video in range(videos):
        for clip in range(clips):
            for at, kind in enumerate(kinds):
                answer = TAXONOMY.type_of(kind).answers[(clip + at) % 2]
                numbers = tuple(range(100 * clip, 100 * clip + 32, 4))
                samples.append(
                    Sample(
                        key=f"in/v{video}/{numbers[0]}/{kind}",
                        id=f"qa_{len(samples)}",
                        template="in",
                        video_id=f"v{video}",
                        frames=tuple(f"v{video}_{number}" for number in numbers),
                        frame_numbers=numbers,
                        question=TAXONOMY.type_of(kind).in_template,
                        question_type=kind,
                        answer=answer.sentence,
                        short_answer=answer.short,
                    )
                )
    return samples


class PaintedStore:
    """Every pixel of a frame holds its number; frames in ``missing`` are not there."""

    def __init__(self, missing: set[tuple[str, int]] | None = None) -> None:
        self.missing = missing or set()
        self.reads = 0

    def has(self, video_id: str, number: int) -> bool:
        return (video_id, number) not in self.missing

    def read(self, video_id: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if not self.has(video_id, number):
            raise MissingFrame(f"{video_id}_{number} is not here")
        self.reads += 1
        return np.full((4, 4, 3), number % 256, np.uint8)


def speak(sample: Sample, variant: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    level = 0.1 * (1 + KINDS.index(sample.question_type)) + (0.01 if variant == "voice" else 0.0)
    return np.full(1600, level, np.float32)


class Listener:
    """Answers the question it hears (told by loudness) with yes; keeps what it saw."""

    name = "listener"
    needs = frozenset({"audio", "frames"})

    def __init__(self, fail_on: set[int] | None = None) -> None:
        self.facts = {"weights": "none"}
        self.fail_on = fail_on or set()
        self.calls: list[list[Query]] = []

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        self.calls.append(list(queries))
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Answer:
        assert query.audio is not None
        if any(int(frame[0, 0, 0]) in self.fail_on for frame in query.clip.frames):
            raise RuntimeError("out of memory")
        heard = round(float(query.audio[0]) / 0.1) - 1
        if heard < 0:
            return Answer(TAXONOMY.refusal.sentence, "unanswerable", "", 1.0, True, (), {}, "m", "silence")
        option = TAXONOMY.type_of(KINDS[heard]).answer("yes")
        options = (Option("yes", option.sentence, KINDS[heard], 0.8), Option("no", "x", KINDS[heard], 1e-9))
        return Answer(option.sentence, "yes", KINDS[heard], 0.8, False, options, {"total": 2.5}, "m")


def run(tmp_path: Path, system: Any = None, samples: Any = None, store: Any = None, **settings: Any) -> Any:
    rows = make_samples() if samples is None else samples
    sources = Sources(store=store or PaintedStore(), speak=speak, add_noise=lambda wave, *_: wave)
    return run_eval(rows, system or Listener(), sources, tmp_path / "pred.jsonl", Settings(**settings))


def test_rows_have_the_agreed_fields_and_can_be_scored(tmp_path: Path) -> None:
    rows = run(tmp_path)
    assert [row["key"] for row in rows] == [sample.key for sample in make_samples()]
    first = rows[0]
    assert list(first)[:6] == [
        "key", "question_id", "question_type", "question", "ground_truth", "short_answer",
    ]  # fmt: skip
    assert first["predicted_answer"] == "Yes, the scope is moving across the frames."
    assert (first["confidence"], first["inference_time_ms"], first["error"]) == (0.8, 2.5, None)
    assert first["options"] == [["scope_motion", "yes", 0.8]]
    assert first["run"]["system"] == "listener"
    result = score_file(tmp_path / "pred.jsonl", TAXONOMY)
    assert result["rows"] == 18
    assert result["closed_set"] == pytest.approx(10 / 18)
    record = json.loads(sidecar(tmp_path / "pred.jsonl").read_text())
    assert (record["rows"], record["failed"], record["seed"]) == (18, 0, 42)
    assert not (tmp_path / "pred.jsonl.parts").exists()


def test_system_sees_neither_type_nor_question_nor_gold(tmp_path: Path) -> None:
    system = Listener()
    run(tmp_path, system)
    query = system.calls[0][0]
    assert {one.name for one in fields(query)} == {"key", "clip", "audio", "text"}
    assert query.text is None
    for sample in make_samples():
        assert sample.question_type not in query.key
        assert sample.video_id not in query.key
    assert len({query.key for call in system.calls for query in call}) == 18


def test_clips_are_read_once_and_batches_have_their_size(tmp_path: Path) -> None:
    system, store = Listener(), PaintedStore()
    run(tmp_path, system, store=store, batch_size=6)
    assert [len(call) for call in system.calls] == [6, 6, 6]
    assert store.reads == 6 * 8
    assert system.calls[0][0].clip is system.calls[0][1].clip


def test_missing_frame_and_failing_model_are_rows_that_count_wrong(tmp_path: Path) -> None:
    store = PaintedStore({("v0", 108)})
    rows = run(tmp_path, Listener(fail_on={200}), store=store)
    failed = {row["key"]: row["error"] for row in rows if row["error"]}
    assert len(rows) == 18
    assert len(failed) == 3 + 6
    assert failed["in/v0/100/scope_motion"] == "MissingFrame: v0_108 is not here"
    assert failed["in/v1/200/scope_motion"] == "RuntimeError: out of memory"
    assert all(row["predicted_answer"] is None for row in rows if row["error"])
    result = score_file(tmp_path / "pred.jsonl", TAXONOMY)
    assert (result["rows"], result["errors"]) == (18, 9)


def test_a_run_in_which_everything_fails_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SurgVivqaError, match=r"all 18 rows failed.*out of memory"):
        run(tmp_path, Listener(fail_on=set(range(256))))
    assert list(tmp_path.iterdir()) == []


def test_killed_run_continues_and_gives_the_same_rows(tmp_path: Path) -> None:
    class Killed(Listener):
        def predict(self, queries: Sequence[Query]) -> list[Answer]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().predict(queries)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Killed(), batch_size=4)
    assert not (tmp_path / "pred.jsonl").exists()
    with pytest.raises(ConfigError, match="other settings"):
        run(tmp_path, batch_size=4, seed=7)
    second = Listener()
    resumed = run(tmp_path, second, batch_size=4)
    assert sum(map(len, second.calls)) == 10
    whole = run(tmp_path / "whole", batch_size=4)
    for row in (*resumed, *whole):
        row.pop("run")
        assert row.pop("wall_ms") >= 0
    assert resumed == whole


def test_shards_and_limit_cover_the_rows_once() -> None:
    samples = make_samples()
    shards = [select(samples, Settings(shard=(number, 4))) for number in range(4)]
    keys = [sample.key for shard in shards for sample in shard]
    assert sorted(keys) == sorted(sample.key for sample in samples)
    assert all(len(shard) % 3 == 0 for shard in shards)
    assert select(samples, Settings(limit=4)) == samples[:4]
    with pytest.raises(ConfigError, match="shard 4/4"):
        Settings(shard=(4, 4))


def test_a_drawn_sample_is_fixed_nested_and_takes_procedures_in_turn() -> None:
    samples = [
        one.model_copy(update={"video_id": video, "key": f"{one.key}/{video}"})
        for video in ("a", "b", "c")
        for one in make_samples(1, 4)
    ]
    small, large = (select(samples, Settings(sample=rows)) for rows in (9, 18))
    assert (len(small), len(large)) == (9, 18)
    assert {one.video_id for one in small} == {"a", "b", "c"}
    assert {one.key for one in small} < {one.key for one in large}
    assert select(samples, Settings(sample=9, seed=7)) == small
    halves = [select(samples, Settings(sample=9, shard=(number, 2))) for number in range(2)]
    assert sorted(one.key for half in halves for one in half) == sorted(one.key for one in small)
    assert len(select(samples, Settings(sample=1000))) == len(samples)


def test_swap_across_speaks_another_type_of_the_same_clip(tmp_path: Path) -> None:
    for row in run(tmp_path, control="swap-across"):
        assert row["asked_type"] != row["question_type"]
        assert row["asked_same_clip"] is True
        assert row["predicted_type"] == row["asked_type"]
        assert row["question_type"] == row["key"].rsplit("/", 1)[1]


def test_swap_within_speaks_the_same_type_of_another_row(tmp_path: Path) -> None:
    for row in run(tmp_path, control="swap-within"):
        assert row["asked_type"] == row["question_type"]
        assert row["asked_key"] != row["key"]


def test_silence_and_other_clip(tmp_path: Path) -> None:
    rows = run(tmp_path / "silence", control="silence")
    assert {row["abstain_reason"] for row in rows} == {"silence"}
    system = Listener()
    rows = run(tmp_path / "other", system, control="other-clip")
    assert all(row["seen_clip"].split("/")[0] != row["key"].split("/")[1] for row in rows)
    clips: dict[str, set[str]] = {}
    for row in rows:
        clips.setdefault(row["key"].rsplit("/", 1)[0], set()).add(row["seen_clip"])
    assert all(len(seen) == 1 for seen in clips.values())


def test_every_control_runs_and_repeats(tmp_path: Path) -> None:
    for control in CONTROLS:
        first = run(tmp_path / "a", control=control, limit=4)
        second = run(tmp_path / "b", control=control, limit=4)
        for row in (*first, *second):
            row.pop("run")
            row.pop("wall_ms")
        assert first == second, control
    with pytest.raises(ConfigError, match=r"unknown control 'mute'.*silence"):
        Planner("mute", make_samples(), 1)


def test_frame_controls_by_pixel() -> None:
    frames = [np.full((2, 2, 3), value, np.uint8) for value in range(8)]

    def values(control: str | None, seed: int = 1) -> list[int]:
        return [int(frame[0, 0, 0]) for frame in change_frames(control, frames, generator(seed, "x"))]

    assert values(None) == list(range(8))
    assert values("blank") == [128] * 8
    assert values("frozen") == [0] * 8
    assert values("reverse") == [7, 6, 5, 4, 3, 2, 1, 0]
    assert sorted(values("shuffle")) == list(range(8))
    assert all(values("shuffle", seed) != list(range(8)) for seed in range(50))
    pair = [frames[0], frames[1]]
    swapped = [change_frames("shuffle", pair, generator(seed, "x")) for seed in range(20)]
    assert all(int(one[0][0, 0, 0]) == 1 for one in swapped)


def test_audio_controls() -> None:
    wave = np.full(10, 0.5, np.float32)
    asked: list[tuple[str, float]] = []

    def noise(one: Any, kind: str, level: float, rng: Any) -> Any:
        asked.append((kind, level))
        return one + 1

    assert change_audio("silence", wave, generator(1), None).tolist() == [0.0] * 10
    assert change_audio("noise-5", wave, generator(1), noise).tolist() == [1.5] * 10
    assert asked[0][1] == 5.0
    assert change_audio("reverse", wave, generator(1), None) is wave
    with pytest.raises(ConfigError, match="noise function"):
        change_audio("noise-0", wave, generator(1), None)


def test_typed_question_reaches_only_systems_that_read(tmp_path: Path) -> None:
    class Reader(Listener):
        needs = frozenset({"text"})

        def predict(self, queries: Sequence[Query]) -> list[Answer]:
            self.calls.append(list(queries))
            return [Answer("yes", "yes", "", 0.5, False, (), {}, "m") for _ in queries]

    reader = Reader()
    run(tmp_path, reader, limit=2)
    assert reader.calls[0][0].text == "Is the scope moving during this sequence?"
    assert reader.calls[0][0].audio is None
    assert reader.calls[0][0].clip.frames == ()
    run(tmp_path, reader, limit=2, control="silence")
    assert reader.calls[1][0].text == ""
    with pytest.raises(ConfigError, match="changes only sound"):
        run(tmp_path, reader, limit=2, control="noise-10")


def test_text_leak_detector() -> None:
    class Peeker(Listener):
        def _one(self, query: Query) -> Answer:
            answer = super()._one(query)
            return replace(answer, confidence=0.1) if query.text else answer

    clip = Clip((np.zeros((2, 2, 3), np.uint8),), 1.0)
    queries = [
        Query(key=str(number), clip=clip, audio=speak(make_samples()[number], "")) for number in range(3)
    ]
    assert text_leak(Listener(), queries) == []
    assert text_leak(Peeker(), queries) == ["0", "1", "2"]


def test_floors_as_rows(tmp_path: Path) -> None:
    samples = make_samples(videos=1, clips=3, kinds=("scope_motion",))  # yes, no, yes
    other = make_samples(videos=2, clips=1, kinds=("scope_motion",))  # yes in both videos
    assert reference_answers("constant", samples, None) == ["yes", "yes", "yes"]
    assert reference_answers("majority", samples, other) == ["yes", "yes", "yes"]
    assert reference_answers("majority", samples, None) == ["yes", "yes", "yes"]
    assert reference_answers("majority", samples, make_samples(1, 1, ("scope_outside",))) == [None] * 3
    assert reference_answers("nearest", samples, None) == ["no", "yes", "no"]
    assert reference_answers("nearest", samples, other) == ["yes", "yes", "yes"]
    with pytest.raises(ConfigError, match="unknown floor"):
        reference_answers("guess", samples, None)
    rows = run_reference("nearest", samples, None, TAXONOMY, tmp_path / "near.jsonl")
    assert rows[0]["predicted_answer"] == "No, the scope is not moving in these frames."
    assert score_file(tmp_path / "near.jsonl", TAXONOMY)["closed_set"] == 0.0

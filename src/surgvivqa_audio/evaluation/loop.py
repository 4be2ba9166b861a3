"""The one loop: every system, ours and the baselines, is run by it.

The system gets frames and sound (or text) under an opaque name. Question type, question and gold answer
stay on this side and meet the answer again in the prediction row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from surgvivqa_audio.answering.base import Answer, Clip, Query, System
from surgvivqa_audio.errors import ConfigError, SurgVivqaError
from surgvivqa_audio.evaluation.ahead import ClipsAhead, clips_ahead
from surgvivqa_audio.evaluation.answered import answer_fields
from surgvivqa_audio.evaluation.controls import (
    AddNoise,
    Plan,
    Planner,
    Wave,
    change_audio,
    change_frames,
    change_text,
    clip_name,
    generator,
)
from surgvivqa_audio.evaluation.drawing import draw
from surgvivqa_audio.evaluation.parts import Parts
from surgvivqa_audio.files import write_json, write_jsonl
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.sample import FrameStore, Sample

Speak = Callable[[Sample, str], Wave]  # (sample, variant) -> mono 16 kHz waveform
Wording = Callable[[Sample, str], str]  # (sample, variant) -> question as typed
Progress = Callable[[int, int], None]

_NO_FRAMES = Clip((), 1.0)


@dataclass(frozen=True)
class Sources:
    """Where frames, speech and typed wordings come from. ``rate`` is frames per second after the stride."""

    store: FrameStore | None = None
    speak: Speak | None = None
    wording: Wording = field(default=lambda sample, _variant: sample.question)
    rate: Callable[[Sample], float] = field(default=lambda _sample: 6.25)
    add_noise: AddNoise | None = None


@dataclass(frozen=True)
class Settings:
    """What a run is; two runs with equal settings and data give equal rows, times excepted."""

    control: str | None = None
    seed: int = 42
    limit: int | None = None
    shard: tuple[int, int] = (0, 1)
    batch_size: int = 16
    sample: int | None = None  # about so many rows, whole clips of all procedures in turn

    def __post_init__(self) -> None:
        number, count = self.shard
        if not 0 <= number < count:
            raise ConfigError(f"shard {number}/{count}: the number runs from 0 to {count - 1}")
        if self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size} is not positive")


def select(samples: Sequence[Sample], settings: Settings) -> list[Sample]:
    """The rows of this run, grouped by clip in file order.

    Of the first ``limit`` rows a fixed ``sample`` is drawn, and of its clips every n-th is this shard's.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples[: settings.limit]:
        groups.setdefault(clip_name(sample), []).append(sample)
    if settings.sample is not None:
        groups = draw(groups, settings.sample)
    number, count = settings.shard
    return [sample for group in list(groups.values())[number::count] for sample in group]


def run_eval(
    samples: Sequence[Sample],
    system: System,
    sources: Sources,
    out: str | Path,
    settings: Settings | None = None,
    *,
    data_files: Sequence[str | Path] = (),
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run ``system`` over ``samples`` and write one prediction row for each to ``out``.

    Interrupted, it continues where it stopped: finished batches lie beside ``out`` until the file is
    complete. A row whose media are missing or on which the system fails is written with its ``error``.
    The run record is written to ``<out>.run.json`` and, in short, into every row; ``facts`` are what else
    belongs into it, such as where the frame rate comes from.

    Returns:
        The rows, in the order of ``samples``.

    Raises:
        ConfigError: unknown control, or parts of a different run lie beside ``out``.
        SurgVivqaError: every single row failed; the first failure is named.
    """
    settings = settings or Settings()
    out = Path(out)
    planner = Planner(settings.control, samples, settings.seed)
    chosen = select(samples, settings)
    config = _config(system, settings) | dict(facts or {})
    record = run_record(seed=settings.seed, config=config, data_files=data_files)
    parts = Parts(out, {"config": config, "seed": settings.seed, "data": record["data_sha256"]})
    rows = parts.finished()
    todo = [sample for sample in chosen if sample.key not in rows]
    store = sources.store if "frames" in system.needs else None
    with clips_ahead(store, (planner.plan(sample).seen for sample in todo)) as clips:
        runner = _Runner(system, sources, settings, planner, _short_record(record), clips)
        for batch in _batches(todo, settings.batch_size):
            done = runner.run(batch)
            parts.add(done)
            rows |= {row["key"]: row for row in done}
            if progress is not None:
                progress(len(rows), len(chosen))
    order = {sample.key: at for at, sample in enumerate(samples)}
    ordered = sorted(rows.values(), key=lambda row: order[row["key"]])
    _write(out, ordered, record, parts)
    return ordered


def _config(system: System, settings: Settings) -> dict[str, Any]:
    return {
        "system": system.name,
        "needs": sorted(system.needs),
        "control": settings.control,
        "limit": settings.limit,
        "shard": list(settings.shard),
        "batch_size": settings.batch_size,
        "sample": settings.sample,
        **system.facts,
    }


def _write(out: Path, rows: Sequence[dict[str, Any]], record: dict[str, Any], parts: Parts) -> None:
    """The finished file and its record; the parts go, whether or not there is anything to keep."""
    failed = [row for row in rows if row["error"]]
    if rows and len(failed) == len(rows):
        parts.discard()
        raise SurgVivqaError(
            f"all {len(failed)} rows failed, {out} was not written; first: {failed[0]['error']}"
        )
    write_json(sidecar(out), record | {"rows": len(rows), "failed": len(failed)})
    write_jsonl(out, rows)
    parts.discard()


def sidecar(out: Path) -> Path:
    """Where the run record of a prediction file lies."""
    return out.with_name(out.name + ".run.json")


def _short_record(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "system": record["config"]["system"],
        "control": record["config"]["control"],
        "seed": record["seed"],
        "weights": record["config"].get("weights"),
        "git_commit": record["git_commit"],
        "data_sha256": record["data_sha256"],
        "created": record["created"],
    }


def _batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


class _Runner:
    """Builds queries, asks the system, and puts answers back beside the gold."""

    def __init__(
        self,
        system: System,
        sources: Sources,
        settings: Settings,
        planner: Planner,
        record: dict[str, Any],
        clips: ClipsAhead | None,
    ) -> None:
        self.system = system
        self.sources = sources
        self.settings = settings
        self.planner = planner
        self.record = record
        self.clips = clips
        self._clip: tuple[str, Clip] | None = None

    def run(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Rows of one batch; what fails alone, fails alone."""
        plans = [self.planner.plan(sample) for sample in samples]
        outcomes: list[Answer | str] = []
        queries: list[Query] = []
        places: list[int] = []
        for at, (sample, plan) in enumerate(zip(samples, plans, strict=True)):
            outcomes.append("not answered")
            try:
                queries.append(self._query(sample, plan))
                places.append(at)
            except ConfigError:
                raise  # a run that cannot be made, not a row that failed
            except SurgVivqaError as error:
                outcomes[at] = f"{type(error).__name__}: {error}"
        start = perf_counter()
        answers = self._answers(queries)
        wall_ms = (perf_counter() - start) * 1e3 / max(len(queries), 1)
        for at, outcome in zip(places, answers, strict=True):
            outcomes[at] = outcome
        return [
            self._row(sample, plan, outcome) | {"wall_ms": round(wall_ms, 3)}
            for sample, plan, outcome in zip(samples, plans, outcomes, strict=True)
        ]

    def _answers(self, queries: Sequence[Query]) -> list[Answer | str]:
        if not queries:
            return []
        try:
            answers = self.system.predict(queries)
        except (SurgVivqaError, RuntimeError) as error:  # RuntimeError: what torch raises, memory included
            if len(queries) == 1:
                return [f"{type(error).__name__}: {error}"]
            return [outcome for query in queries for outcome in self._answers([query])]
        if len(answers) != len(queries):
            raise SurgVivqaError(
                f"system {self.system.name} gave {len(answers)} answers to {len(queries)} questions"
            )
        return list(answers)

    def _query(self, sample: Sample, plan: Plan) -> Query:
        control, seed = self.settings.control, self.settings.seed
        needs = self.system.needs
        audio = text = None
        if "audio" in needs:
            if self.sources.speak is None:
                raise ConfigError(f"system {self.system.name} listens, but no recordings were given")
            wave = self.sources.speak(plan.asked, plan.variant)
            rng = generator(seed, control, sample.key)
            audio = change_audio(control, wave, rng, self.sources.add_noise)
        if "text" in needs:
            words = self.sources.wording(plan.asked, plan.variant)
            text = change_text(None if "audio" in needs and control != "silence" else control, words)
        clip = self._frames(plan) if "frames" in needs else _NO_FRAMES
        name = hashlib.sha256(f"{seed}/{sample.key}".encode()).hexdigest()[:16]
        return Query(key=name, clip=clip, audio=audio, text=text)

    def _frames(self, plan: Plan) -> Clip:
        if self.clips is None:
            raise ConfigError(f"system {self.system.name} looks, but no frames were given")
        name = clip_name(plan.seen)
        if self._clip is None or self._clip[0] != name:
            frames = self.clips.read(plan.seen)
            rng = generator(self.settings.seed, self.settings.control, name)
            changed = change_frames(self.settings.control, frames, rng)
            self._clip = (name, Clip(changed, self.sources.rate(plan.seen)))
        return self._clip[1]

    def _row(self, sample: Sample, plan: Plan, outcome: Answer | str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "key": sample.key,
            "question_id": sample.id,
            "question_type": sample.question_type,
            "question": sample.question,
            "ground_truth": sample.answer,
            "short_answer": sample.short_answer,
        }
        if isinstance(outcome, str):
            row |= {"predicted_answer": None, "confidence": None, "inference_time_ms": None}
            row["error"] = outcome
        else:
            row |= answer_fields(outcome)
        row["variant"] = plan.variant
        words = self.sources.wording(plan.asked, plan.variant)
        if words != sample.question:
            row["asked_text"] = words  # a recording or a control may use other words than the row
        if plan.asked.key != sample.key:
            row |= {"asked_key": plan.asked.key, "asked_type": plan.asked.question_type}
            row |= {"asked_short_answer": plan.asked.short_answer}
            row["asked_same_clip"] = clip_name(plan.asked) == clip_name(sample)
        if plan.seen.key != sample.key:
            row["seen_clip"] = clip_name(plan.seen)
        return row | {"run": self.record}

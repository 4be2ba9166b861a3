"""Where clips come from: simulated patients, or the rows and frames of a DATA folder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from surgvivqa_audio.colonsim import Procedure, render
from surgvivqa_audio.colonsim.dataset import samples_of
from surgvivqa_audio.colonsim.spec import FPS, STRIDE
from surgvivqa_audio.data.folder import data_rows, video_table
from surgvivqa_audio.data.stores import open_store
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.sample import Image, Sample, clips, read_samples
from surgvivqa_audio.taxonomy import Taxonomy

# Far from every seed that a recipe uses; each visit draws its patients from this range.
FIRST_SEED, LAST_SEED = 77_000_001, 77_999_999
CLIPS_PER_PATIENT = 28  # one turn of the simulator's plan: every question type comes up
SIDE = 384  # pixels of a simulated frame, the size that training clips are recorded at


@dataclass(frozen=True)
class ClipView:
    """A clip as a visitor sees it and as the model receives it: the same frames, in the same order.

    Attributes:
        frames: RGB uint8 (height, width, 3), all of one size.
        numbers: frame number of each frame in its source.
        fps: frames per second of ``frames`` (source rate divided by the stride).
        truth: short answer per question type, empty when nobody knows.
        source: ``simulated``, ``data`` or ``own``.
    """

    title: str
    source: str
    frames: tuple[Image, ...]
    numbers: tuple[int, ...]
    fps: float
    truth: dict[str, str] = field(default_factory=dict)

    def seconds(self) -> list[float]:
        """Time of each frame since the first, in seconds, as the model is told."""
        return [index / self.fps for index in range(len(self.frames))]


@dataclass(frozen=True)
class Case:
    """One clip of a list, not loaded yet. ``index`` is its place in the procedure."""

    procedure: str
    index: int
    first_frame: int
    truth: dict[str, str]

    @property
    def label(self) -> str:
        """One line of the case list."""
        return f"clip {self.index + 1} · frame {self.first_frame} · {len(self.truth)} questions"


class Cases(Protocol):
    """A source of clips for one visit."""

    def procedures(self) -> list[str]:
        """Names of the procedures."""
        ...

    def cases(self, procedure: str, question_type: str = "") -> list[Case]:
        """Clips of a procedure that answer this question type, all when it is empty."""
        ...

    def load(self, case: Case) -> ClipView:
        """Frames and truth of a clip."""
        ...


class SimCases:
    """Simulated patients; a new one is a new seed."""

    def __init__(self, seeds: Sequence[int] = (FIRST_SEED,)) -> None:
        self._patients = {Procedure(seed).video_id: Procedure(seed) for seed in seeds}
        self._listed: dict[str, list[Case]] = {}

    def new_patient(self, chance: random.Random) -> str:
        """Add a patient that this visit has not seen; returns its name."""
        while True:
            patient = Procedure(chance.randint(FIRST_SEED, LAST_SEED))
            if patient.video_id not in self._patients:
                self._patients[patient.video_id] = patient
                return patient.video_id

    def procedures(self) -> list[str]:
        """Names of the patients, the newest last."""
        return list(self._patients)

    def cases(self, procedure: str, question_type: str = "") -> list[Case]:
        """The patient's clips whose scene answers this question type."""
        if procedure not in self._listed:
            specs = [self._patient(procedure).clip(index) for index in range(CLIPS_PER_PATIENT)]
            self._listed[procedure] = [
                Case(procedure, spec.index, spec.frame_numbers[0], dict(spec.known)) for spec in specs
            ]
        return [case for case in self._listed[procedure] if not question_type or question_type in case.truth]

    def load(self, case: Case) -> ClipView:
        """Render the clip; about half a second."""
        spec = self._patient(case.procedure).clip(case.index)
        return ClipView(
            title=f"{case.procedure}, clip {case.index + 1}",
            source="simulated",
            frames=tuple(render(spec, size=SIDE).frames),
            numbers=spec.frame_numbers,
            fps=FPS / STRIDE,
            truth=dict(spec.known),
        )

    def samples(self, procedure: str, taxonomy: Taxonomy, count: int) -> list[Sample]:
        """Rows of the patient's first ``count`` clips, as a dataset would hold them."""
        specs = [self._patient(procedure).clip(index) for index in range(count)]
        return [
            sample
            for spec in specs
            for sample in samples_of(spec, "out", taxonomy, include_unanswerable=False)
        ]

    def _patient(self, procedure: str) -> Procedure:
        if procedure not in self._patients:
            raise ConfigError(f"no simulated patient {procedure}; known: {', '.join(self._patients)}")
        return self._patients[procedure]


class DataCases:
    """Clips of a DATA folder, of one split file or of everything that is there.

    Raises:
        ConfigError: the folder has no such split or no annotation file.
        BadAnnotation: a row breaks the schema.
        MissingFrame: there is no folder of frames.
    """

    def __init__(self, data: Path, taxonomy: Taxonomy, split: str = "") -> None:
        if split and not (data / f"{split}.jsonl").is_file():
            raise ConfigError(f"{data}: no {split}.jsonl; `surgvivqa data split` writes train, eval and test")
        rows = read_samples(data / f"{split}.jsonl", taxonomy) if split else data_rows(data, taxonomy)
        self._store = open_store(data / "frames" if (data / "frames").is_dir() else data)
        self._videos = video_table(data)
        self._clips: dict[str, list[list[Sample]]] = {}
        for (video, _), samples in clips(rows).items():
            self._clips.setdefault(video, []).append(samples)

    def procedures(self) -> list[str]:
        """Video names in order of first appearance."""
        return list(self._clips)

    def cases(self, procedure: str, question_type: str = "") -> list[Case]:
        """The procedure's clips that some row asks this question type about."""
        if procedure not in self._clips:
            raise ConfigError(f"no clips of {procedure}; known: {', '.join(self._clips)}")
        found = []
        for index, samples in enumerate(self._clips[procedure]):
            truth = {sample.question_type: sample.short_answer for sample in samples}
            if not question_type or question_type in truth:
                found.append(Case(procedure, index, samples[0].first_frame, truth))
        return found

    def load(self, case: Case) -> ClipView:
        """Read the frames of a clip; raises MissingFrame or BadImage with the frame's name."""
        sample = self._clips[case.procedure][case.index][0]
        info = self._videos.get(case.procedure)
        numbers = sample.frame_numbers
        stride = max(1, numbers[1] - numbers[0]) if len(numbers) > 1 else 1
        return ClipView(
            title=f"{case.procedure}, frame {sample.first_frame}",
            source="data",
            frames=tuple(self._store.read(case.procedure, number) for number in numbers),
            numbers=numbers,
            fps=(info.fps if info else FPS) / stride,
            truth=dict(case.truth),
        )

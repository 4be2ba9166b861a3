"""Prediction files read back: rows, parsed answers, right or wrong, and where they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.scoring.parse import OUT_OF_SCOPE, AnswerParser, Label
from surgvivqa_audio.scoring.rows import Prediction, read_predictions
from surgvivqa_audio.scoring.score import judge, score_rows
from surgvivqa_audio.scoring.statistics import Paired, mcnemar
from surgvivqa_audio.taxonomy import Taxonomy

SIMULATED = "sim-"  # video ids of the simulator begin with it


@dataclass(frozen=True)
class Run:
    """One prediction file, judged."""

    path: Path
    system: str
    control: str | None
    template: str  # in, out, mixed, or empty for rows without key
    rows: tuple[Prediction, ...]
    labels: tuple[Label | None, ...]
    correct: tuple[bool, ...]
    score: dict[str, Any]
    label: str = ""  # tells two runs of the same system apart

    @property
    def name(self) -> str:
        """System, wording and control, for tables."""
        parts = [self.system, self.template, f"[{self.control}]" if self.control else ""]
        parts += ["out of scope" if self.outside else "", f"({self.label})" if self.label else ""]
        return " ".join(part for part in parts if part)

    @property
    def outside(self) -> bool:
        """Whether it asks only what no clip answers."""
        return all(row.question_type == OUT_OF_SCOPE for row in self.rows)

    @property
    def simulated(self) -> bool:
        """Whether any row is about a simulated procedure."""
        return any(row.video.startswith(SIMULATED) for row in self.rows)

    @property
    def keyed(self) -> dict[str, int]:
        """Row number by identity: the key, or (id, type, wording) where that is unique."""
        names: dict[str, int] = {}
        repeated: set[str] = set()
        for number, row in enumerate(self.rows):
            name = row.key or f"{row.question_id} {row.question_type} {row.question}"
            repeated |= {name} & names.keys()
            names[name] = number
        return {name: number for name, number in names.items() if name not in repeated}


def load_run(path: str | Path, taxonomy: Taxonomy, train: Sequence[Sample] | None = None) -> Run:
    """Read and judge a prediction file.

    Raises:
        BadAnnotation: names file, line and field.
        UnknownQuestionType: names file, line and type.
    """
    path = Path(path)
    rows = read_predictions(path, taxonomy)
    parser = AnswerParser(taxonomy)
    records = [(row.extra or {}).get("run") or {} for row in rows]
    systems = {str(record.get("system") or path.stem) for record in records}
    controls = {record.get("control") for record in records}
    if len(systems) > 1 or len(controls) > 1:
        raise BadAnnotation(f"{path}: rows of several runs in one file ({', '.join(sorted(systems))})")
    templates = {row.key.split("/")[0] for row in rows if row.key}
    return Run(
        path=path,
        system=systems.pop(),
        control=controls.pop(),
        template=templates.pop() if len(templates) == 1 else "mixed" if templates else "",
        rows=tuple(rows),
        labels=tuple(parser.parse(row.predicted, row.question_type) for row in rows),
        correct=tuple(judge(rows, parser)),
        score=score_rows(rows, taxonomy, train),
    )


@dataclass(frozen=True)
class Comparison:
    """Two runs over the rows both have; lists hold row numbers of each."""

    first: Run
    second: Run
    pairs: tuple[tuple[int, int], ...]
    paired: Paired

    def right(self, which: int) -> list[bool]:
        """Correctness of one side (0 or 1) over the pairs."""
        run = self.second if which else self.first
        return [run.correct[pair[which]] for pair in self.pairs]

    def only(self, keep: Callable[[int], bool]) -> Comparison:
        """The pairs whose row number in the first run passes ``keep``."""
        return _pair(self.first, self.second, tuple(pair for pair in self.pairs if keep(pair[0])))


def compare(first: Run, second: Run) -> Comparison:
    """Match rows by identity and test the difference.

    Raises:
        BadAnnotation: no row in common, or a shared row with two different gold answers.
    """
    ours, theirs = first.keyed, second.keyed
    pairs = tuple((number, theirs[name]) for name, number in ours.items() if name in theirs)
    if not pairs:
        raise BadAnnotation(f"{first.path} and {second.path} share no rows; nothing can be compared")
    for one, other in pairs:
        row = second.rows[other]
        if first.rows[one].short_answer != row.short_answer:
            raise BadAnnotation(
                f"{second.path}: {row.key or row.question_id} has the gold answer '{row.short_answer}', "
                f"in {first.path} it is '{first.rows[one].short_answer}'"
            )
    return _pair(first, second, pairs)


def _pair(first: Run, second: Run, pairs: tuple[tuple[int, int], ...]) -> Comparison:
    right = [first.correct[one] for one, _ in pairs], [second.correct[other] for _, other in pairs]
    return Comparison(first, second, pairs, mcnemar(*right))

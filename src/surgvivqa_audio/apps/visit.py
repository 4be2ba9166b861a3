"""One visitor's state: the open clip, the questions asked about it, the answers and their times.

Each visit has its own object, kept by the browser session; only the model behind the engine is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from surgvivqa_audio.answering.base import Answer
from surgvivqa_audio.answering.engine import AnswerEngine, OpenClip
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.apps.cases import ClipView
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.audio import Wave, wav_bytes
from surgvivqa_audio.taxonomy import Taxonomy

Way = Literal["microphone", "upload", "voice", "typed"]
WAYS: dict[Way, str] = {
    "microphone": "spoken into the microphone",
    "upload": "uploaded recording",
    "voice": "spoken by the built-in voice",
    "typed": "typed, not spoken",
}
MAX_TYPED = 300  # characters of a typed question


@dataclass(frozen=True)
class Card:
    """One question and its answer.

    Attributes:
        question: its words where they are known; a recording has none, no transcript is made.
        asked_type: the question type where the demo itself posed the question, else empty.
        confirmed: for a free question, whether the visitor said that the understood question was the one
            asked; None where nobody said so. Only the visitor knows.
        recording: WAV bytes, only when the visitor asked to keep recordings.
    """

    number: int
    clip: str
    way: Way
    question: str
    asked_type: str
    answer: Answer
    truth: dict[str, str] = field(default_factory=dict)
    recording: bytes = b""
    confirmed: bool | None = None

    @property
    def judged_type(self) -> str:
        """Which type's ground truth applies: the one asked, else the one the model understood."""
        return self.asked_type or self.answer.question_type

    def understood(self) -> bool | None:
        """Whether the model understood the question that was asked; None where nobody knows."""
        return self.answer.question_type == self.asked_type if self.asked_type else self.confirmed

    def correct(self) -> bool | None:
        """Whether the answer is right; None where nobody can tell.

        A misheard question is never right, whatever the answer says: a free question is judged only after
        the visitor said that it was understood.
        """
        truth, understood = self.truth.get(self.judged_type), self.understood()
        if truth is None or understood is None:
            return None
        return understood and self.answer.short_answer == truth and not self.answer.abstained


def headline(answer: Answer) -> str:
    """The sentence that is shown large; abstention is said in words."""
    if answer.reason == "silence":
        return "No question heard."
    return answer.answer


def explanation(answer: Answer, taxonomy: Taxonomy) -> str:
    """One line under the sentence: how sure, or why there is no answer."""
    if answer.reason == "silence":
        return "The recording holds no speech. Speak closer to the microphone and record again."
    if answer.reason == "refused":
        return "The model abstains: it takes the question as one that this clip cannot answer."
    if answer.reason == "uncertain":
        best = answer.options[0]
        guess = f'"{best.sentence}" ({type_label(best.question_type)})'
        return f"The model abstains: its best guess, {guess}, has only {100 * best.probability:.0f} %."
    return f"Understood as: {understood_as(answer.question_type, taxonomy)}"


def understood_as(question_type: str, taxonomy: Taxonomy) -> str:
    """A type with its published wording, so that a visitor sees which question was answered."""
    return f"{type_label(question_type)}, “{taxonomy.types[question_type].out_template}”"


def verdict(card: Card, taxonomy: Taxonomy) -> str:
    """What the ground truth says about an answer, in words. Colours follow :meth:`Card.correct`."""
    answer, kind = card.answer, card.judged_type
    if not card.truth:
        return "Nobody has told the ground truth of this clip."
    if answer.reason == "silence":
        return "No question was heard, so there is nothing to judge."
    if not kind:
        return "The model took the question as one that this clip cannot answer; all that is known is below."
    if kind not in card.truth:
        return f"The ground truth of this clip says nothing about “{type_label(kind)}”."
    sentence = taxonomy.types[kind].answer(card.truth[kind]).sentence
    truth = f"Ground truth for “{type_label(kind)}”: {sentence}"
    if card.understood() is None:
        agrees = "agrees" if answer.short_answer == card.truth[kind] else "does not agree"
        return f"{truth} The answer {agrees} with it. Was that your question?"
    if not card.understood():
        asked = f" You asked about “{type_label(kind)}”. {truth}" if card.asked_type else ""
        heard = "the model took it as one that this clip cannot answer"
        if answer.question_type:
            heard = f"the model understood “{type_label(answer.question_type)}”"
        return f"Wrong, because the question was misunderstood: {heard}.{asked}"
    if answer.abstained:
        return f"{truth} The model gave no answer."
    return f"{truth} The answer is {'right' if card.correct() else 'wrong'}."


def type_label(question_type: str) -> str:
    """``lesion_site`` → ``Lesion site``."""
    text = question_type.replace("_", " ")
    return (text[:1].upper() + text[1:]).replace("Nbi", "NBI") if text else "no question type"


def percentile(values: list[float], share: float) -> float | None:
    """Nearest-rank percentile, None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


class Visit:
    """What one visitor sees. Never shared between browser sessions."""

    def __init__(self, engine: AnswerEngine) -> None:
        self.engine = engine
        self.clip: ClipView | None = None
        self.cards: list[Card] = []
        self.opened_ms: list[float] = []
        self.keep_recordings = False
        self.serial = 0  # counts opened clips; widgets of an older clip are dropped
        self._open: OpenClip | None = None
        self._asked_before = 0  # cards about earlier clips

    def show(self, clip: ClipView) -> None:
        """Open a clip: the model prepares its frames once, before any question.

        Raises:
            BadImage: the frames cannot be used; the clip before stays open.
        """
        self._open = self.engine.open(list(clip.frames), clip.fps)
        self.clip = clip
        self.serial += 1
        self._asked_before = len(self.cards)
        self.opened_ms.append(self._open.open_ms)

    def ask(self, way: Way, wave: Wave | None = None, question: str = "", asked_type: str = "") -> Card:
        """Answer one question about the open clip and keep the card.

        Args:
            wave: the recording, mono 16 kHz, for every way but ``typed``.
            question: the words, where they are known. In a spoken way they never reach the model.

        Raises:
            ConfigError: no clip is open, or the question is missing or too long.
        """
        if self._open is None or self.clip is None:
            raise ConfigError("no clip is open; choose one first")
        if way == "typed":
            question = question.strip()
            if not question or len(question) > MAX_TYPED:
                raise ConfigError(f"type a question of 1 to {MAX_TYPED} characters")
            answer = self._open.ask(text=question, mode="text")
        elif wave is None:
            raise ConfigError("no recording; record or upload the question first")
        else:
            answer = self._open.ask(wave)
        recording = wav_bytes(listen(wave)) if self.keep_recordings and wave is not None else b""
        card = Card(
            len(self.cards) + 1,
            self.clip.title,
            way,
            question,
            asked_type,
            answer,
            dict(self.clip.truth),
            recording,
        )
        self.cards.append(card)
        return card

    def current(self) -> Card | None:
        """The newest card about the clip that is open."""
        return self.cards[-1] if len(self.cards) > self._asked_before else None

    def confirm(self, number: int, yes: bool) -> None:
        """Note whether card ``number`` understood the question that the visitor had asked."""
        self.cards[number - 1] = replace(self.cards[number - 1], confirmed=yes)

    def performance(self) -> dict[str, float | int | None]:
        """Times of this visit in milliseconds; a silent recording counts, but is no quick answer."""
        totals = [card.answer.timings_ms["total"] for card in self.cards if card.answer.reason != "silence"]
        return {
            "questions": len(self.cards),
            "clips": len(self.opened_ms),
            "answer_p50": percentile(totals, 0.5),
            "answer_p95": percentile(totals, 0.95),
            "open_p50": percentile(self.opened_ms, 0.5),
            "open_p95": percentile(self.opened_ms, 0.95),
        }

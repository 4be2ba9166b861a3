"""From free text to an option of the closed set, or to nothing.

Whole sentences are looked for first, those of *all* question types: an answer that is right for
another question is wrong for this one. Then short forms and synonyms of the row's own type, with
negation and units. Two different options in one answer are no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from surgvivqa_audio.scoring.polarity import Polarity
from surgvivqa_audio.scoring.words import Words, find, words
from surgvivqa_audio.taxonomy import QuestionType, Taxonomy

SCORER_VERSION = "2"
OUT_OF_SCOPE = "out_of_scope"  # the type of a question that no clip answers; its only answer is the refusal

_NEGATORS = frozenset({"not", "no", "non", "without", "never", "neither", "nor", "except", "unlike"})
_BE = frozenset({"is", "are", "was", "were", "do", "does", "can", "could"})
_AFTER_NOT = frozenset({"visible", "present", "seen", "it", "correct", "shown", "there"})
_CLEARED = frozenset({"visible", "clear", "free", "clean", "open", "unobstructed"})
_FOREIGN_UNITS = frozenset(
    {"cm", "centimeter", "centimeters", "centimetre", "centimetres", "m", "inch", "um"}
)
_IDIOMS = (("none", "of"), ("no", "doubt"), ("without", "doubt"), ("no", "question"), ("no", "idea"))


class Label(NamedTuple):
    """One option: question type (empty for the refusal) and short answer."""

    question_type: str
    short: str


_Phrase = tuple[tuple[str, ...], Label | None]


class _Hit(NamedTuple):
    start: int
    end: int
    label: Label | None  # None: words that must not be read as an option of this type


@dataclass(frozen=True)
class _Grammar:
    phrases: tuple[_Phrase, ...]  # longest first
    polarity: Polarity | None  # only where the options are yes and no


def _longest_first(entries: Iterable[_Phrase]) -> tuple[_Phrase, ...]:
    return tuple(sorted(entries, key=lambda entry: -len(entry[0])))


class AnswerParser:
    """Parser of one taxonomy; prepares its word lists once."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.refusal = Label("", taxonomy.refusal.short)
        self._sentences = _longest_first(
            [(words(text).tokens, Label(*label)) for text, label in taxonomy.sentences().items()]
        )
        answers = [answer for kind in taxonomy.types.values() for answer in kind.answers]
        self._forms = [words(form).tokens for one in answers for form in (one.short, *one.synonyms)]
        self._grammars = {name: self._grammar(kind) for name, kind in taxonomy.types.items()}
        self._grammars[OUT_OF_SCOPE] = _Grammar(_longest_first(self._refusals().items()), None)
        self._seen: dict[tuple[str, str], Label | None] = {}

    def parse(self, predicted: str, question_type: str) -> Label | None:
        """The option that ``predicted`` names, None when it names none or more than one.

        The label's type differs from ``question_type`` when the text is a sentence of another type;
        it is empty for the refusal.

        Raises:
            ConfigError: the taxonomy has no such question type.
        """
        if question_type != OUT_OF_SCOPE:
            self.taxonomy.type_of(question_type)
        memo = (predicted, question_type)
        if memo not in self._seen:
            self._seen[memo] = self._parse(words(predicted), question_type)
        return self._seen[memo]

    def _parse(self, text: Words, question_type: str) -> Label | None:
        grammar = self._grammars[question_type]
        taken = [False] * len(text.tokens)
        found = {hit.label for hit in _claim(text, self._sentences, taken) if not _negated(text, hit, taken)}
        if grammar.polarity is not None:
            rest = text.without(taken) if found else text
            found |= self._binary(text, grammar, question_type, taken)
            found |= {Label(question_type, short) for short in grammar.polarity.read(rest)}
        else:
            hits = _claim(text, grammar.phrases, taken)
            found |= {hit.label for hit in hits if hit.label is not None and not _negated(text, hit, taken)}
        return next(iter(found)) if len(found) == 1 else None

    def _binary(
        self, text: Words, grammar: _Grammar, question_type: str, taken: list[bool]
    ) -> set[Label | None]:
        """Synonyms of yes and no, a denied one standing for the other; and the refusal."""
        found: set[Label | None] = set()
        for hit in _claim(text, grammar.phrases, taken):
            if hit.label is None:
                continue
            if hit.label.question_type and _negated(text, hit, taken):
                found.add(Label(question_type, "no" if hit.label.short == "yes" else "yes"))
            else:
                found.add(hit.label)
        return found

    def _grammar(self, kind: QuestionType) -> _Grammar:
        phrases = self._refusals()
        own: dict[tuple[str, ...], Label | None] = {}
        for answer in kind.answers:
            forms = answer.synonyms if kind.binary else (answer.short, *answer.synonyms)
            for form in forms:
                for spelling in _spellings(words(form).tokens):
                    own[spelling] = Label(kind.name, answer.short)
        if not kind.binary:
            phrases |= dict.fromkeys(self._lookalikes(own))
        polarity = Polarity.of(kind) if kind.binary else None
        return _Grammar(_longest_first((phrases | own).items()), polarity)

    def _refusals(self) -> dict[tuple[str, ...], Label | None]:
        refusal = self.taxonomy.refusal
        phrases: dict[tuple[str, ...], Label | None] = dict.fromkeys(_IDIOMS)
        return phrases | {words(form).tokens: self.refusal for form in (refusal.short, *refusal.synonyms)}

    def _lookalikes(self, own: dict[tuple[str, ...], Label | None]) -> Iterator[tuple[str, ...]]:
        """Phrases of other types that contain an option of this one: "upper left" is not "left"."""
        for tokens in self._forms:
            if len(tokens) > 1 and tokens not in own and any(find(tokens, mine) for mine in own):
                yield tokens


def parse(predicted: str, taxonomy: Taxonomy, question_type: str) -> Label | None:
    """One-off form of :meth:`AnswerParser.parse`."""
    return AnswerParser(taxonomy).parse(predicted, question_type)


def _spellings(tokens: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The phrase and, where its last word is a noun-like word, its plural or singular."""
    yield tokens
    last = tokens[-1]
    if last.isalpha() and len(last) >= 5:
        yield (*tokens[:-1], last[:-1] if last.endswith("s") else last + "s")


def _claim(text: Words, phrases: tuple[_Phrase, ...], taken: list[bool]) -> list[_Hit]:
    """Occurrences of the phrases, longest first; a word belongs to one occurrence only."""
    hits: list[_Hit] = []
    for phrase, label in phrases:
        for start in find(text.tokens, phrase):
            end = start + len(phrase)
            if any(taken[start:end]) or not _whole_number(text, start, end):
                continue
            taken[start:end] = [True] * len(phrase)
            hits.append(_Hit(start, end, label))
    return hits


def _whole_number(text: Words, start: int, end: int) -> bool:
    """Whether a size is not cut out of a longer one ("<5" of "<5-9") or given in another unit."""
    tokens = text.tokens
    if not any(token[0].isdigit() for token in tokens[start:end]):
        return True
    before = tokens[start - 1] if start else ""
    after = tokens[end] if end < len(tokens) else ""
    if tokens[start][0].isdigit() and (before[:1] in ("<", ">") or before == "to"):
        return False
    if after == "to" and end + 1 < len(tokens) and tokens[end + 1][0].isdigit():
        return False
    return after not in _FOREIGN_UNITS


def _negated(text: Words, hit: _Hit, taken: list[bool]) -> bool:
    """Whether the clause denies the occurrence: "not a snare", "the snare is not visible"."""
    tokens, clause = text.tokens, text.clauses[hit.start]
    before = hit.start - 1
    while before >= 0 and text.clauses[before] == clause:
        if not taken[before] and _denies(tokens, before):
            return True
        before -= 1
    after = [
        tokens[at]
        for at in range(hit.end, min(hit.end + 3, len(tokens)))
        if text.clauses[at] == text.clauses[hit.end - 1]
    ]
    if len(after) > 1 and after[0] in _BE and after[1] in ("not", "absent"):
        return True
    if len(after) > 1 and after[0] == "not" and after[1] in _AFTER_NOT:
        return True
    adverb = hit.end - hit.start == 1 and tokens[hit.start].endswith("ly")
    return adverb and bool(after) and after[0] in _CLEARED


def _denies(tokens: tuple[str, ...], at: int) -> bool:
    following = tokens[at + 1] if at + 1 < len(tokens) else ""
    return (
        tokens[at] in _NEGATORS
        or (tokens[at] == "rather" and following == "than")
        or (tokens[at] == "instead" and following == "of")
    )

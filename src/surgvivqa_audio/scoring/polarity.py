"""Reading yes or no out of an answer to a yes/no question."""

from __future__ import annotations

from dataclasses import dataclass

from surgvivqa_audio.scoring.words import Words, find, stem, words
from surgvivqa_audio.taxonomy import QuestionType

_YES = frozenset({"yes", "yeah", "yep", "yup"})
_NO = frozenset({"no", "nope", "nah"})
_YES_FIRST = _YES | {"true", "correct", "affirmative"}
_NO_FIRST = _NO | {"false", "incorrect", "negative"}
_SUBJECTS = frozenset(
    {"it", "the", "there", "this", "that", "these", "they", "i", "we", "a", "an", "not", "only", "because"}
)
_FILLERS = frozenset(
    {"a", "an", "the", "any", "really", "being", "in", "to", "at", "very", "currently", "yet", "seem", "be"}
    | {"appear", "it", "that", "this", "there", "of"}
)
_FUNCTION = _FILLERS | {"yes", "no", "is", "are", "and", "by", "with", "for"}
_NOT = frozenset({"not", "no", "without", "never"})
_SHORTEST_CORE = 4  # words; fewer do not tell a statement from a stub


@dataclass(frozen=True)
class Polarity:
    """What tells yes from no for one question type."""

    cores: tuple[tuple[tuple[str, ...], str], ...]  # the sentences without their yes or no
    yes_stems: frozenset[str]  # content words of the yes sentence

    @classmethod
    def of(cls, kind: QuestionType) -> Polarity:
        """Take the statements of both options from the taxonomy."""
        cores = []
        stems: frozenset[str] = frozenset()
        for answer in kind.answers:
            tokens = words(answer.sentence).tokens
            cores.append((tokens[1:] if tokens[0] == answer.short else tokens, answer.short))
            if answer.short == "yes":
                stems = frozenset(stem(token) for token in tokens if token not in _FUNCTION)
        return cls(tuple(cores), stems)

    def read(self, text: Words) -> set[str]:
        """The set of polarities the text expresses; both when it contradicts itself."""
        return self._words(text) | self._statements(text)

    def _words(self, text: Words) -> set[str]:
        tokens = text.tokens
        found: set[str] = set()
        for at, token in enumerate(tokens):
            if token in _YES or (at == 0 and token in _YES_FIRST):
                found.add("yes")
            elif (token in _NO or (at == 0 and token in _NO_FIRST)) and self._is_answer(text, at):
                found.add("no")
            if token in _NOT and self._denies_yes(text, at):
                found.add("no")
        return found

    def _is_answer(self, text: Words, at: int) -> bool:
        """Whether "no" is the answer itself, not the determiner of "no debris"."""
        return text.clause_end(at) or (at == 0 and text.tokens[1] in _SUBJECTS | _YES | {"or", "and"})

    def _denies_yes(self, text: Words, at: int) -> bool:
        """Whether the first content word after "not" is what the yes sentence affirms."""
        for index in range(at + 1, len(text.tokens)):
            if text.clauses[index] != text.clauses[at]:
                return False
            token = text.tokens[index]
            if token in _FILLERS or token.endswith("ly"):
                continue
            return stem(token) in self.yes_stems
        return False

    def _statements(self, text: Words) -> set[str]:
        found = {short for core, short in self.cores if find(text.tokens, core)}
        if found or len(text.tokens) < _SHORTEST_CORE:
            return found
        opening = {short for core, short in self.cores if core[: len(text.tokens)] == text.tokens}
        return opening if len(opening) == 1 else set()

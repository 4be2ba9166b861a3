"""Answer text as words: spelling variants are folded before anything is compared."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_TOKEN = re.compile(r"[<>]=?|\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?|[.,;:!?()/\n]|-")
_BOUNDARY = frozenset(".,;:!?()/\n")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": "'", "≤": "<=", "≥": ">=", "_": " "})
_NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_CONTRACTIONS = (("can't", "can not"), ("cannot", "can not"), ("won't", "will not"), ("n't", " not"))


@dataclass(frozen=True)
class Words:
    """Words of a text and, for each, the number of the clause it stands in."""

    tokens: tuple[str, ...]
    clauses: tuple[int, ...]

    def clause_end(self, index: int) -> bool:
        """Whether no further word follows in the clause of word ``index``."""
        return index + 1 == len(self.tokens) or self.clauses[index + 1] != self.clauses[index]

    def without(self, taken: list[bool]) -> Words:
        """The words that are not marked in ``taken``."""
        kept = [at for at in range(len(self.tokens)) if not taken[at]]
        return Words(tuple(self.tokens[at] for at in kept), tuple(self.clauses[at] for at in kept))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).translate(_DASHES).translate(_QUOTES).lower()
    for contraction, full in _CONTRACTIONS:
        folded = folded.replace(contraction, full)
    folded = re.sub(r"\b(" + "|".join(_NUMBERS) + r")\b", lambda match: _NUMBERS[match[1]], folded)
    folded = re.sub(r"\b(?:less|fewer|smaller|lower) than\b", "<", folded)
    folded = re.sub(r"\b(?:more|greater|larger|bigger) than\b", ">", folded)
    folded = re.sub(r"\b(?:under|below)(?=\s*\d)", "<", folded)
    folded = re.sub(r"\b(?:over|above)(?=\s*\d)", ">", folded)
    folded = re.sub(r"(?<=\d)\s*(?:mm|millimet(?:er|re)s?)\s*(?=-|to\b|and\b)", " ", folded)
    folded = re.sub(r"(?<=\d)\s*-\s*(?=\d)", " to ", folded)
    return re.sub(r"\bbetween\s+(\d+)\s+and\s+(\d+)", r"\1 to \2", folded)


def words(text: str) -> Words:
    """Split ``text`` into lower-case words with their clause numbers.

    Hyphens between letters separate words, a dash between numbers reads "to", number words become
    digits, comparisons in words become ``<`` and ``>``, contractions are written out.
    """
    tokens: list[str] = []
    clauses: list[int] = []
    clause = 0
    for match in _TOKEN.finditer(_fold(text)):
        token = match[0]
        if token in _BOUNDARY:
            clause += 1
        elif token == "but":
            clause += 1
            tokens.append(token)
            clauses.append(clause)
        elif token != "-":
            tokens.append(token)
            clauses.append(clause)
    return Words(tuple(tokens), tuple(clauses))


def stem(word: str) -> str:
    """A crude stem, enough to see that "blocked" and "blocks", "moving" and "movement" belong together."""
    for suffix in ("ement", "ing", "ed", "ion", "es", "s", "e"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def find(tokens: tuple[str, ...], phrase: tuple[str, ...]) -> list[int]:
    """Every position at which ``phrase`` stands in ``tokens``."""
    width = len(phrase)
    return [at for at in range(len(tokens) - width + 1) if tokens[at : at + width] == phrase]

"""How far a transcript is from what was said: word and character errors, case and punctuation left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import jiwer

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def spoken_words(text: str) -> list[str]:
    """Lower-case words without punctuation, in any alphabet: "Don't - stop!" -> ``don't``, ``stop``."""
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


@dataclass(frozen=True)
class Edits:
    """Least substitutions, insertions and deletions between two texts, and the size of the reference."""

    word_errors: int
    words: int
    char_errors: int
    chars: int


def compare(said: str, heard: str) -> Edits:
    """Edits that turn what was said into what was heard; a reference without words counts insertions only."""
    reference, transcript = " ".join(spoken_words(said)), " ".join(spoken_words(heard))
    by_word = jiwer.process_words(reference, transcript)
    by_char = jiwer.process_characters(reference, transcript)
    return Edits(
        by_word.substitutions + by_word.deletions + by_word.insertions,
        len(reference.split()),
        by_char.substitutions + by_char.deletions + by_char.insertions,
        len(reference),
    )


def word_error_rate(edits: Iterable[Edits]) -> float:
    """Word errors over reference words, of all texts together; above 1 with many insertions."""
    listed = list(edits)
    return sum(one.word_errors for one in listed) / max(sum(one.words for one in listed), 1)


def character_error_rate(edits: Iterable[Edits]) -> float:
    """Character errors over reference characters, of all texts together."""
    listed = list(edits)
    return sum(one.char_errors for one in listed) / max(sum(one.chars for one in listed), 1)

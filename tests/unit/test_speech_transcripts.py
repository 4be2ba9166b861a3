"""Word and character errors between what was said and what was heard."""

from __future__ import annotations

import pytest

from surgvivqa_audio.speech.transcripts import (
    Edits,
    character_error_rate,
    compare,
    spoken_words,
    word_error_rate,
)


def test_case_and_punctuation_do_not_count() -> None:
    assert spoken_words("Don’t - STOP! 5 mm?") == ["don't", "stop", "5", "mm"]
    assert spoken_words("Où est l'été") == ["où", "est", "l'été"]
    assert compare("Is the scope moving?", "is the scope moving") == Edits(0, 4, 0, 19)


def test_errors_are_counted_by_hand() -> None:
    # "the" -> "a" and "moving" left out; nothing heard; a word too many
    assert compare("Is the scope moving?", "Is a scope?") == Edits(2, 4, 10, 19)
    assert compare("No.", "") == Edits(1, 1, 2, 2)
    assert compare("...", "well") == Edits(1, 0, 4, 0)


def test_rates_are_those_of_all_texts_together() -> None:
    pairs = [("Is the scope moving?", "Is a scope?"), ("Yes.", "Yes.")]
    edits = [compare(said, heard) for said, heard in pairs]
    assert word_error_rate(edits) == pytest.approx(2 / 5)
    assert character_error_rate(edits) == pytest.approx(10 / 22)
    assert word_error_rate([]) == 0.0

"""Phrasing grammar, the split of the bank, questions out of scope, speakable text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.speech.phrasing import expand, phrasing_bank, training_vocabulary, words
from surgvivqa_audio.speech.speakable import number_words, speakable
from surgvivqa_audio.taxonomy import load_taxonomy


@pytest.fixture(scope="module")
def bank():
    return phrasing_bank(load_taxonomy())


def test_expand_nests_and_skips_optional_branches():
    assert expand("is (it|the (scope|tip)) moving (now|)") == [
        "is it moving now",
        "is it moving",
        "is the scope moving now",
        "is the scope moving",
        "is the tip moving now",
        "is the tip moving",
    ]


def test_expand_drops_repeats_and_space_before_punctuation():
    assert expand("in (a|a) , or (b|)") == ["in a, or b", "in a, or"]


@pytest.mark.parametrize("pattern", ["(a|b", "a)b", "a|b", "((a)"])
def test_expand_refuses_unbalanced_patterns(pattern):
    with pytest.raises(ConfigError, match="phrasing pattern"):
        expand(pattern)


def test_every_type_has_enough_wordings(bank):
    assert set(bank) == set(load_taxonomy().types)
    for split in bank.values():
        assert len(split.train) + len(split.held_out) >= 150
        assert len(split.held_out) >= 20
        assert len(split.new_words) >= 10


def test_no_wording_belongs_to_two_types_or_two_splits(bank):
    owners = {}
    for name, split in bank.items():
        for part in ("train", "held_out", "new_words"):
            for text in getattr(split, part):
                assert owners.setdefault(words(text), (name, part, text)) == (name, part, text)


def test_held_out_wordings_use_trained_words_and_new_ones_do_not(bank):
    vocabulary = training_vocabulary(bank)
    for split in bank.values():
        for text in split.held_out:
            assert vocabulary.issuperset(words(text)), text
        for text in split.new_words:
            assert not vocabulary.issuperset(words(text)), text


def test_published_wordings(bank):
    same = []
    for name, question_type in load_taxonomy().types.items():
        spoken = {words(text) for text in bank[name].train}
        assert question_type.in_template in bank[name].train
        if words(question_type.in_template) == words(question_type.out_template):
            same.append(name)
            continue
        everything = spoken | {words(text) for text in bank[name].held_out + bank[name].new_words}
        assert words(question_type.out_template) not in everything
    assert sorted(same) == ["endoscope_visibility", "scope_motion_type"]


def test_split_is_deterministic_and_keeps_a_known_member(bank):
    assert phrasing_bank(load_taxonomy()) == bank
    assert "Is NBI turned on?" in bank["nbi_status"].train
    share = sum(len(split.held_out) for split in bank.values()) / sum(
        len(split.train) + len(split.held_out) for split in bank.values()
    )
    assert 0.12 < share < 0.18


def test_a_shared_wording_is_refused():
    taxonomy = load_taxonomy()
    phrasings = dict(taxonomy.phrasings)
    phrasings["nbi_status"] = phrasings["nbi_status"].model_copy(
        update={"patterns": (*phrasings["nbi_status"].patterns, "is the scope moving")}
    )
    with pytest.raises(ConfigError, match=r"Is the scope moving.*both nbi_status and scope_motion"):
        phrasing_bank(taxonomy.model_copy(update={"phrasings": phrasings}))


def test_out_of_scope_questions_are_disjoint(bank):
    scope = load_taxonomy().out_of_scope
    train, test = {words(text) for text in scope.train}, {words(text) for text in scope.test}
    held = {words(text) for text in scope.eval}
    assert len(held) == len(scope.eval) >= 40
    assert not held & (train | test)
    assert len(train) == len(scope.train) >= 80
    assert len(test) == len(scope.test) >= 60
    assert not train & test
    asked = {words(text) for split in bank.values() for text in split.train + split.held_out}
    assert not asked & (train | test | held)
    known = set().union(*train)
    assert not [text for text in (*scope.test, *scope.eval) if known.issuperset(words(text))]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (
            "Which size? (<5 mm, 5-9 mm, >9 mm)",
            "Which size? less than five millimeters, five to nine millimeters, more than nine millimeters",
        ),
        ("Is the NBI light on?", "Is the N B I light on?"),
        ("1 mm or 2.5 cm", "one millimeter or two point five centimeters"),
        ("yes/no at 40 %", "yes or no at forty percent"),
        ("case 4821", "case four eight two one"),
    ],
)
def test_speakable(written, spoken):
    assert speakable(written) == spoken


def test_every_published_wording_is_speakable_in_plain_letters():
    for question_type in load_taxonomy().types.values():
        for text in (question_type.in_template, question_type.out_template):
            assert not set(speakable(text)) - set(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,?-.'"
            )


@given(st.text(max_size=60))
def test_speakable_twice_changes_nothing(text):
    assert speakable(speakable(text)) == speakable(text)


def test_number_words():
    assert [number_words(value) for value in (0, 13, 40, 86, 100, 215)] == [
        "zero",
        "thirteen",
        "forty",
        "eighty six",
        "one hundred",
        "two hundred fifteen",
    ]

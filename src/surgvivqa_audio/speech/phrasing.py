"""Wordings of each question type from the grammar in the taxonomy, split into trained and held out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.taxonomy import QuestionType, Taxonomy

_HELD_OUT_PERCENT = 15
_LITERAL = re.compile(r"[^()|]+")
_IMPERATIVES = frozenset(
    "classify estimate give grade identify name predict rate recognize show tell".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class PhrasingSplit:
    """Wordings of one type; ``new_words`` holds wordings with words that no training string has."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    new_words: tuple[str, ...]


def _alternatives(pattern: str, position: int, depth: int) -> tuple[list[str], int]:
    """Strings of ``pattern`` from ``position`` to the closing bracket (or the end), and where that is."""
    done: list[str] = []
    current = [""]
    while position < len(pattern):
        symbol = pattern[position]
        if symbol == "(":
            inner, position = _alternatives(pattern, position + 1, depth + 1)
            current = [head + tail for head in current for tail in inner]
        elif symbol == ")":
            if depth == 0:
                raise ConfigError(
                    f"phrasing pattern '{pattern}': ')' without '(' at character {position + 1}"
                )
            return done + current, position + 1
        elif symbol == "|":
            if depth == 0:
                raise ConfigError(f"phrasing pattern '{pattern}': '|' outside brackets")
            done, current = done + current, [""]
            position += 1
        else:
            literal = _LITERAL.match(pattern, position)
            assert literal is not None
            current = [head + literal.group() for head in current]
            position = literal.end()
    if depth:
        raise ConfigError(f"phrasing pattern '{pattern}': a '(' is not closed")
    return done + current, position


def expand(pattern: str) -> list[str]:
    """All strings of a grammar such as ``(is|are) there (any|) forceps``, in order, without repeats.

    Raises:
        ConfigError: unbalanced brackets or a bar outside of them.
    """
    strings, _ = _alternatives(pattern, 0, 0)
    tidy = (re.sub(r"\s+([,?.!])", r"\1", " ".join(string.split())) for string in strings)
    return list(dict.fromkeys(string for string in tidy if string))


@lru_cache(maxsize=1 << 16)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words of a wording, punctuation left out; equal tuples sound the same."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    if text[-1] in "?.!":
        return text
    return text + ("." if words(text)[0] in _IMPERATIVES else "?")


def _wordings(patterns: tuple[str, ...]) -> list[str]:
    return [_sentence(string) for pattern in patterns for string in expand(pattern)]


def _held_out(type_name: str, text: str) -> bool:
    digest = hashlib.sha256(f"{type_name}\n{' '.join(words(text))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < _HELD_OUT_PERCENT


def _raw_split(question_type: QuestionType, patterns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    own = words(question_type.in_template)
    seen = {own, words(question_type.out_template)}
    train: list[str] = [question_type.in_template]
    held_out: list[str] = []
    for text in _wordings(patterns):
        if words(text) in seen:
            continue
        seen.add(words(text))
        (held_out if _held_out(question_type.name, text) else train).append(text)
    return train, held_out


def _reject_shared(taxonomy: Taxonomy, bank: dict[str, PhrasingSplit]) -> None:
    owners = {words(taxonomy.types[name].out_template): name for name in bank}
    for name, split in bank.items():
        for text in (*split.train, *split.held_out, *split.new_words):
            owner = owners.setdefault(words(text), name)
            if owner != name:
                raise ConfigError(
                    f"taxonomy {taxonomy.name}: the wording '{text}' belongs to both {owner} and {name}"
                )


def phrasing_bank(taxonomy: Taxonomy) -> dict[str, PhrasingSplit]:
    """Training, held-out and new-word wordings per type; the split depends on the strings alone.

    The in-template wording is always trained on. The out-of-template wording is in none of the lists (unless
    it equals the in-template one). Held-out wordings use only words of some training wording.

    Raises:
        ConfigError: a faulty pattern, or a wording that belongs to two types.
    """
    raw = {
        name: _raw_split(
            question_type, taxonomy.phrasings[name].patterns if name in taxonomy.phrasings else ()
        )
        for name, question_type in taxonomy.types.items()
    }
    vocabulary = {word for train, _ in raw.values() for text in train for word in words(text)}
    bank = {}
    for name, (train, held_out) in raw.items():
        known = tuple(text for text in held_out if vocabulary.issuperset(words(text)))
        extra = tuple(text for text in held_out if not vocabulary.issuperset(words(text)))
        fresh = _wordings(taxonomy.phrasings[name].new_words) if name in taxonomy.phrasings else []
        bank[name] = PhrasingSplit((*train, *extra), known, tuple(fresh))
    _reject_shared(taxonomy, bank)
    return bank


def training_vocabulary(bank: dict[str, PhrasingSplit]) -> set[str]:
    """Every word of every training wording."""
    return {word for split in bank.values() for text in split.train for word in words(text)}

"""Question types, their closed answer sets and wordings, read from a TOML file.

The strings of a dataset are label vocabulary; they live in the TOML files and nowhere else.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from surgvivqa_audio.errors import ConfigError

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """One option of a closed set."""

    model_config = _STRICT
    short: str
    sentence: str
    synonyms: tuple[str, ...] = ()
    published: bool


class QuestionType(BaseModel):
    """A question type: its domain, wordings and closed answer set."""

    model_config = _STRICT
    name: str
    domain: str
    in_template: str
    out_template: str
    requires: Literal["", "lesion", "tool"] = ""
    answers: tuple[Answer, ...]

    @property
    def binary(self) -> bool:
        """Whether the options are yes and no."""
        return {answer.short for answer in self.answers} == {"yes", "no"}

    def answer(self, short: str) -> Answer:
        """The option with this short answer.

        Raises:
            ConfigError: the type has no such option.
        """
        for answer in self.answers:
            if answer.short == short:
                return answer
        raise ConfigError(f"question type {self.name} has no answer '{short}'")

    def template(self, which: str) -> str:
        """The published wording, ``in`` or ``out``."""
        return self.in_template if which == "in" else self.out_template


class Refusal(BaseModel):
    """What is said when a question cannot be answered from the clip."""

    model_config = _STRICT
    short: str
    sentence: str
    synonyms: tuple[str, ...] = ()


class Phrasings(BaseModel):
    """Grammar of one type's wordings: ``(a|b)`` alternates, an empty branch is optional."""

    model_config = _STRICT
    patterns: tuple[str, ...]
    new_words: tuple[str, ...] = ()


class OutOfScope(BaseModel):
    """Questions nobody can answer from a clip; only ``train`` is trained on, ``eval`` sets thresholds."""

    model_config = _STRICT
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


class Dataset(BaseModel):
    """Where the vocabulary comes from and which version of the data it belongs to."""

    model_config = _STRICT
    title: str
    source: str
    licence: str
    rows: int
    sha256: dict[str, str] = Field(default_factory=dict)


class Taxonomy(BaseModel):
    """All question types of one dataset."""

    model_config = _STRICT
    name: str
    dataset: Dataset
    domains: dict[str, str]
    refusal: Refusal
    types: dict[str, QuestionType]
    phrasings: dict[str, Phrasings] = Field(default_factory=dict)
    out_of_scope: OutOfScope = OutOfScope()

    def sentences(self) -> dict[str, tuple[str, str]]:
        """Every answer sentence, refusal last, mapped to ``(question type, short answer)``.

        The refusal belongs to no type; its type is the empty string.
        """
        table = {
            answer.sentence: (question_type.name, answer.short)
            for question_type in self.types.values()
            for answer in question_type.answers
        }
        table[self.refusal.sentence] = ("", self.refusal.short)
        return table

    def type_of(self, name: str) -> QuestionType:
        """The type with this name.

        Raises:
            ConfigError: no such type; the message lists those that exist.
        """
        if name not in self.types:
            raise ConfigError(f"unknown question type '{name}'; known: {', '.join(sorted(self.types))}")
        return self.types[name]


def _check(taxonomy: Taxonomy, path: Path) -> None:
    total = sum(len(question_type.answers) for question_type in taxonomy.types.values())
    if len(taxonomy.sentences()) != total + 1:
        raise ConfigError(f"{path}: two answers share one sentence; sentences must tell types apart")
    for question_type in taxonomy.types.values():
        if question_type.domain not in taxonomy.domains:
            raise ConfigError(f"{path}: [types.{question_type.name}] unknown domain '{question_type.domain}'")
        shorts = [answer.short for answer in question_type.answers]
        if len(set(shorts)) != len(shorts):
            raise ConfigError(f"{path}: [types.{question_type.name}] repeats a short answer")
    unknown = set(taxonomy.phrasings) - set(taxonomy.types)
    if unknown:
        raise ConfigError(f"{path}: [phrasings] of unknown types: {', '.join(sorted(unknown))}")


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Read a taxonomy file.

    Raises:
        ConfigError: the file is missing, not TOML, or breaks the schema; names file and key.
    """
    path = Path(path)
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from error
    for name, entry in raw.get("types", {}).items():
        entry["name"] = name
    try:
        taxonomy = Taxonomy.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: key '{key}': {first['msg']}") from error
    _check(taxonomy, path)
    return taxonomy


@cache
def load_taxonomy(name: str = "realcolon") -> Taxonomy:
    """A taxonomy that ships with the package.

    Raises:
        ConfigError: the package has no taxonomy of that name.
    """
    path = Path(str(files("surgvivqa_audio") / "taxonomy" / f"{name}.toml"))
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.toml")))
        raise ConfigError(f"no taxonomy '{name}' in the package; known: {known}")
    return read_taxonomy(path)

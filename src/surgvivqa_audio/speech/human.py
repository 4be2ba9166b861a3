"""Recordings of people: which questions to read, importing the files, and the engine that never speaks.

Synthetic voices support no claim about human ones; recordings are the only route to it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from surgvivqa_audio.errors import BadAnnotation, BadAudio, ConfigError, MissingAudio, SpeechError
from surgvivqa_audio.speech.audio import Wave, is_silent, read_audio, trim_silence
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.voices import HUMAN, Voice
from surgvivqa_audio.taxonomy import Taxonomy

COLUMNS = ("file", "speaker", "question_type", "template", "text")
_MARGIN_S = 0.25
_MAX_ROWS = 100_000


@dataclass(frozen=True)
class Prompt:
    """One question to be read aloud."""

    number: int
    question_type: str
    template: str
    text: str


@dataclass
class ImportReport:
    """What :func:`import_recordings` took over."""

    imported: int = 0
    speakers: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)


class HumanEngine:
    """Stands for people in the cache: it finds recordings and never makes one up."""

    name = "human"
    version = "1"

    def __init__(self, consent: str = "") -> None:
        self.licence = (
            f"recording of a person; consent: {consent or 'not stated'}; not to be published without it"
        )

    def synthesize(self, text: str, voice: Voice) -> Wave:
        """Always fails: what nobody recorded cannot be spoken.

        Raises:
            SpeechError: names the speaker, the question and the commands that record it.
        """
        raise SpeechError(
            f"{voice.name} has not recorded '{text}'; use `surgvivqa speech record`, then `speech import`"
        )

    def close(self) -> None:
        """Nothing is open."""


def speaker_voice(speaker: str) -> Voice:
    """The voice of a person, ``human-<speaker>``.

    Raises:
        ConfigError: the name is not made of letters, digits and hyphens.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", speaker):
        raise ConfigError(
            f"speaker '{speaker}': use letters, digits and hyphens; a pseudonym, not a person's name"
        )
    return Voice(HUMAN + speaker)


def prompts(taxonomy: Taxonomy) -> list[Prompt]:
    """The published wordings, in and out of template: 40 questions for REAL-Colon-VQA."""
    listed = [
        (question_type.name, which, question_type.template(which))
        for which in ("in", "out")
        for question_type in taxonomy.types.values()
    ]
    return [Prompt(number, *entry) for number, entry in enumerate(listed, start=1)]


def check_take(wave: Wave, name: str) -> Wave:
    """Cut the silence around a take.

    Raises:
        BadAudio: nothing was said, or so loudly that the recording is cut off.
    """
    if is_silent(wave):
        raise BadAudio(f"{name}: no speech heard; check the microphone and record the question again")
    if float((abs(wave) > 0.999).mean()) > 0.01:
        raise BadAudio(f"{name}: overdriven; move away from the microphone and record the question again")
    return trim_silence(wave, _MARGIN_S)


def _text_of(row: dict[str, str], where: str, taxonomy: Taxonomy) -> str:
    if row.get("text"):
        return row["text"]
    kind, template = row.get("question_type", ""), row.get("template", "")
    if kind not in taxonomy.types or template not in ("in", "out"):
        raise BadAnnotation(
            f"{where}: give 'text', or a known 'question_type' with 'template' in or out (here '{kind}', "
            f"'{template}')"
        )
    return taxonomy.types[kind].template(template)


def read_recording_list(path: str | Path, taxonomy: Taxonomy) -> list[tuple[str, str, str, str]]:
    """Rows ``(where, file, speaker, text)`` of a CSV with the columns of :data:`COLUMNS`.

    Raises:
        BadAnnotation: the file cannot be read, lacks a column or a value; names file and line.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadAnnotation(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows = []
    try:
        reader = csv.DictReader(io.StringIO(content), strict=True)
        if not {"file", "speaker"} <= set(reader.fieldnames or ()):
            raise BadAnnotation(
                f"{path}: needs the columns file, speaker, and text or question_type,template"
            )
        for row in reader:
            where = f"{path}:{reader.line_num}"
            values = {str(name): value.strip() for name, value in row.items() if isinstance(value, str)}
            if not values.get("file") or not values.get("speaker"):
                raise BadAnnotation(f"{where}: 'file' and 'speaker' must not be empty")
            rows.append((where, values["file"], values["speaker"], _text_of(values, where, taxonomy)))
            if len(rows) > _MAX_ROWS:
                raise BadAnnotation(f"{path}: more than {_MAX_ROWS} rows; split the list")
    except csv.Error as error:
        raise BadAnnotation(f"{path}: not a valid CSV file ({error})") from error
    if not rows:
        raise BadAnnotation(f"{path}: lists no recording")
    return rows


def _inside(folder: Path, name: str, where: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadAnnotation(f"{where}: file '{name}' lies outside {folder}; copy it there")
    if not path.is_file():
        raise MissingAudio(f"{where}: {path} does not exist; correct the list or add the file")
    return path


def import_recordings(
    folder: str | Path, listing: str | Path, out: str | Path, consent: str, taxonomy: Taxonomy
) -> ImportReport:
    """Take recordings over into the cache ``out``; all of them are checked before the first is stored.

    Afterwards ``speech make ANN.jsonl OUT --engine human --voice human-<speaker>`` assigns them to rows.

    Raises:
        BadAnnotation, MissingAudio, BadAudio, ConfigError: names list and line, and the remedy.
    """
    if not consent.strip():
        raise ConfigError("say what the speakers agreed to (--consent); it is stored beside every recording")
    checked: list[tuple[str, Voice, Wave]] = []
    for where, name, speaker, text in read_recording_list(listing, taxonomy):
        path = _inside(Path(folder), name, where)
        try:
            checked.append((text, speaker_voice(speaker), check_take(read_audio(path), str(path))))
        except BadAudio as error:
            raise BadAudio(f"{where}: {error}") from error
    with SpeechCache(out, HumanEngine(consent)) as cache:
        for text, voice, wave in checked:
            cache.put(text, voice, wave)
    return _summary(checked, taxonomy)


def _summary(checked: Iterable[tuple[str, Voice, Wave]], taxonomy: Taxonomy) -> ImportReport:
    spoken: dict[str, set[str]] = {}
    report = ImportReport()
    for text, voice, _ in checked:
        report.imported += 1
        spoken.setdefault(voice.name, set()).add(text)
    report.speakers = sorted(spoken)
    wanted = {prompt.text for prompt in prompts(taxonomy)}
    report.missing = {name: len(wanted - texts) for name, texts in sorted(spoken.items())}
    return report

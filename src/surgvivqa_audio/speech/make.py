"""Speak the questions of an annotation file, and find the recording of a question again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from surgvivqa_audio.errors import ConfigError, MissingAudio, SpeechError
from surgvivqa_audio.files import read_jsonl, write_jsonl
from surgvivqa_audio.sample import Sample
from surgvivqa_audio.speech.cache import SpeechCache
from surgvivqa_audio.speech.engine import EspeakEngine, SpeechEngine, Voice
from surgvivqa_audio.speech.noise import parse_degradation
from surgvivqa_audio.speech.phrasing import PhrasingSplit, phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy

ASSIGNMENTS = "assignments.jsonl"

Phrasings = Literal["row", "in", "out", "bank", "held-out", "new-words"]
PHRASINGS: tuple[Phrasings, ...] = ("row", "in", "out", "bank", "held-out", "new-words")


@dataclass
class SpeechReport:
    """What :func:`make_speech` did; ``failed`` lists one message per text and voice."""

    rows: int = 0
    assignments: int = 0
    distinct: int = 0
    synthesised: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SpeechPlan:
    """Who speaks which wording, and under which noise."""

    voices: tuple[Voice, ...]
    phrasings: Phrasings
    spread: bool
    noises: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """One question to be spoken for one sample."""

    sample: Sample
    voice: Voice
    text: str
    noise: str
    phrasings: str

    @property
    def variant(self) -> str:
        """Voice, then wording and noise where they are not as written."""
        parts = [self.voice.id, "" if self.phrasings == "row" else self.phrasings, self.noise]
        return ".".join(part for part in parts if part)


def _pick(key: str, options: Sequence[Any], purpose: str) -> Any:
    """One option per key, independent of order and of the other rows."""
    digest = hashlib.sha256(f"{purpose}\n{key}".encode()).digest()
    return options[int.from_bytes(digest[:8], "big") % len(options)]


def _text(sample: Sample, phrasings: Phrasings, taxonomy: Taxonomy, bank: dict[str, PhrasingSplit]) -> str:
    if phrasings == "row":
        return sample.question
    if phrasings in ("in", "out"):
        return taxonomy.type_of(sample.question_type).template(phrasings)
    split = bank[sample.question_type]
    options = {"bank": split.train, "held-out": split.held_out, "new-words": split.new_words}[phrasings]
    if not options:
        raise ConfigError(
            f"taxonomy {taxonomy.name} has no '{phrasings}' wordings for {sample.question_type}; "
            "choose other phrasings or add patterns"
        )
    return str(_pick(sample.key, options, phrasings))


def _lines(samples: Iterable[Sample], plan: SpeechPlan, taxonomy: Taxonomy) -> list[_Line]:
    banked = plan.phrasings in ("bank", "held-out", "new-words")
    bank = phrasing_bank(taxonomy) if banked else {}
    lines = []
    for sample in samples:
        text = _text(sample, plan.phrasings, taxonomy, bank)
        for voice in [_pick(sample.key, plan.voices, "voice")] if plan.spread else plan.voices:
            for noise in ("", *plan.noises):
                lines.append(_Line(sample, voice, text, noise, plan.phrasings))
    return lines


_Identity = tuple[str, Voice, str]


def _speak(
    lines: Sequence[_Line], cache: SpeechCache, report: SpeechReport, progress: Callable[[int, int], None]
) -> dict[_Identity, tuple[str, str]]:
    """File and error (one of them empty) of each distinct text, voice and noise."""
    results: dict[_Identity, tuple[str, str]] = {}
    distinct = list(dict.fromkeys((line.text, line.voice, line.noise) for line in lines))
    for count, (text, voice, noise) in enumerate(distinct, start=1):
        try:
            path = cache.get(text, voice, noise)
            results[text, voice, noise] = (path.relative_to(cache.folder).as_posix(), "")
        except SpeechError as error:
            results[text, voice, noise] = ("", str(error))
            if not noise:
                report.failed.append(f"'{text}' with {voice.id}: {error}")
        progress(count, len(distinct))
    report.distinct, report.synthesised = len(distinct), cache.synthesised
    return results


def _assignment(line: _Line, cache: SpeechCache, result: tuple[str, str]) -> dict[str, Any]:
    return {
        "key": line.sample.key,
        "variant": line.variant,
        "question_type": line.sample.question_type,
        "text": line.text,
        "phrasing": line.phrasings,
        "voice": line.voice.id,
        "noise": line.noise,
        "engine": f"{cache.engine.name} {cache.engine.version}",
        "file": result[0],
        "status": "failed" if result[1] else "ok",
        "error": result[1],
    }


def _merge(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    table = {(row["key"], row["variant"]): row for _, row in read_jsonl(path)} if path.exists() else {}
    for row in rows:
        earlier = table.get((row["key"], row["variant"]))
        if earlier is not None and earlier.get("status") == "ok" and earlier["engine"] != row["engine"]:
            raise SpeechError(
                f"{path}: variant {row['variant']} of {row['key']} was made by {earlier['engine']}; "
                f"engines are never mixed in one variant, choose another folder for {row['engine']}"
            )
        table[row["key"], row["variant"]] = row
    write_jsonl(path, table.values())
    return len(table)


def make_speech(
    samples: Sequence[Sample],
    out: str | Path,
    voices: Sequence[Voice],
    *,
    engine: SpeechEngine | None = None,
    phrasings: Phrasings = "row",
    taxonomy: Taxonomy | None = None,
    spread: bool = False,
    noises: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SpeechReport:
    """Speak every sample with every voice; one file per distinct text and voice, whatever the row count.

    Writes ``out/audio/``, ``out/manifest.jsonl`` (files) and ``out/assignments.jsonl`` (key, variant, file,
    status per row). Run again after a kill or a failure: only what is missing is made.

    Args:
        samples: questions; ``phrasings`` other than ``row`` replace their wording by one of the same type.
        out: folder, made if absent.
        voices: each sample is spoken by all of them, or by one chosen by its key when ``spread``.
        engine: espeak-ng when None.
        phrasings: ``row`` as written, ``in``/``out`` published wording, ``bank`` a training wording,
            ``held-out`` and ``new-words`` wordings that are never trained on.
        taxonomy: the shipped one when None.
        noises: degraded copies to make beside each clean file, such as ``suction@10`` or ``reverb``.
        progress: called with (done, total) after each file.

    Raises:
        SpeechError: the folder holds these variants from another engine, or the engine cannot start.
        ConfigError: no voices, or the taxonomy lacks the wordings asked for.
        BadAudio: a noise is not understood.
    """
    if not voices:
        raise ConfigError("no voice given; name at least one, for example en-us")
    folder, report = Path(out), SpeechReport(rows=len(samples))
    for noise in noises:
        parse_degradation(noise)
    plan = SpeechPlan(tuple(voices), phrasings, spread, tuple(noises))
    lines = _lines(samples, plan, taxonomy or load_taxonomy())
    own = EspeakEngine() if engine is None else None
    try:
        with SpeechCache(folder, engine or own) as cache:  # type: ignore[arg-type]
            results = _speak(lines, cache, report, progress)
            rows = [_assignment(line, cache, results[line.text, line.voice, line.noise]) for line in lines]
            with cache.locked("assignments"):  # another run may add its voices at this moment
                report.assignments = _merge(folder / ASSIGNMENTS, rows)
    finally:
        if own is not None:
            own.close()
    return report


@lru_cache(maxsize=8)
def _assigned(path: str, _modified: int, _size: int) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for _, row in read_jsonl(path):
        if row.get("status") == "ok":
            table.setdefault(str(row["key"]), {})[str(row["variant"])] = str(row["file"])
    return table


def variants_of(speech_dir: str | Path, sample: Sample) -> list[str]:
    """Variants recorded for this key, in the order they were made."""
    return list(_files(Path(speech_dir), sample))


def _files(folder: Path, sample: Sample) -> dict[str, str]:
    path = folder / ASSIGNMENTS
    if not path.is_file():
        return {}
    status = path.stat()
    return _assigned(str(path), status.st_mtime_ns, status.st_size).get(sample.key, {})


def find_recording(speech_dir: str | Path, sample: Sample, variant: str | None = None) -> Path:
    """The recording of a question: by key, else ``{in,out}_<video>/<id>.mp3`` (or ``.wav``).

    ``variant`` names voice and phrasing; without it the first one made is taken. The second layout is looked
    up by video and id, which is unique there, and only when no variant is asked for.

    Raises:
        MissingAudio: there is none; says which variants exist. Silence is never put in its place.
    """
    folder = Path(speech_dir)
    files = _files(folder, sample)
    if variant is None and not files:
        for suffix in (".mp3", ".wav"):
            path = folder / f"{sample.template}_{sample.video_id}" / f"{sample.id}{suffix}"
            if path.is_file():
                return path
    chosen = files.get(next(iter(files), "") if variant is None else variant)
    if chosen is None:
        known = f"; variants of this question: {', '.join(files)}" if files else ""
        raise MissingAudio(
            f"{folder}: no recording of {sample.key}{f' as {variant}' if variant else ''}{known}; "
            "run `surgvivqa speech make`"
        )
    path = folder / chosen
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise MissingAudio(f"{path}: listed for {sample.key} but absent; run `surgvivqa speech make` again")
    return path

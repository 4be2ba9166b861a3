"""Word and character error rates of a model over a corpus of speech.

Two ways to a transcript: the model's own Whisper decoder, where one lies beside it, or the grafted model
asked to write down what it hears, which shows whether its projector is aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from surgvivqa_audio.answering.bundle import default_model_dir
from surgvivqa_audio.answering.cascade import ASR_FOLDER
from surgvivqa_audio.errors import BadAudio, ConfigError, MissingAudio, ModelError
from surgvivqa_audio.evaluation.parts import Parts
from surgvivqa_audio.files import dump_json, sha256_bytes, write_json, write_jsonl
from surgvivqa_audio.model.device import find_device
from surgvivqa_audio.model.loading import ADAPTER, Stage, load_graft, load_whisper, parse_dtype
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Mel
from surgvivqa_audio.processing.transcribe import transcribe, transcribe_graft
from surgvivqa_audio.provenance import run_record
from surgvivqa_audio.scoring.statistics import cluster_bootstrap
from surgvivqa_audio.speech.corpora import Recording
from surgvivqa_audio.speech.transcripts import Edits, character_error_rate, compare, word_error_rate

By = Literal["decoder", "graft"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Transcriber:
    """A loaded model; ``write`` gives the transcripts of log-mels (m, t) in their order."""

    name: str
    by: By
    processor: AudioGraftProcessor
    write: Callable[[Sequence[Mel]], list[str]]


@dataclass(frozen=True)
class Transcript:
    """One recording: what was said, what was heard, and why not when it could not be used."""

    recording: Recording
    heard: str
    edits: Edits
    error: str = ""

    def row(self) -> dict[str, Any]:
        """For a JSONL file."""
        return {
            "where": self.recording.where,
            "file": str(self.recording.path),
            "speaker": self.recording.speaker,
            "said": self.recording.text,
            "heard": self.heard,
            "word_errors": self.edits.word_errors,
            "words": self.edits.words,
            "error": self.error,
        }


def load_transcriber(
    model: Path | None,
    by: By | None = None,
    *,
    stage: Stage | None = None,
    dtype: str = "fp32",
    device: str = "cpu",
    batch: int = 8,
    max_tokens: int = 200,
) -> Transcriber:
    """Load what transcribes.

    Args:
        model: folder of a grafted checkpoint; None is the nano model of the package.
        by: ``decoder`` or ``graft``; None is the decoder where the folder has one.
        stage: with the adapter (``tuned``) or without; None is with it where the folder has one.
        dtype: of the weights.
        device: where they go, as ``find_device`` takes it.
        batch: recordings of one pass.
        max_tokens: longest transcript of the grafted model.

    Raises:
        ModelError: the checkpoint is incomplete, or has no decoder where one is asked for.
        ConfigError: an unknown way to transcribe, or a device that is not there.
    """
    if by not in (None, "decoder", "graft"):
        raise ConfigError(f"'{by}' cannot transcribe; use decoder or graft")
    device = find_device(device)
    folder = default_model_dir() if model is None else model
    decoder = folder / ASR_FOLDER
    by = by or ("decoder" if decoder.is_dir() else "graft")
    if by == "decoder" and not decoder.is_dir():
        raise ModelError(f"{decoder}: no Whisper decoder beside the model; use --by graft")
    kind = parse_dtype(dtype)
    stage = stage or ("tuned" if (folder / ADAPTER).is_dir() else "base")
    graft = load_graft(folder, stage=stage, dtype=kind).to(device)
    processor = AudioGraftProcessor.from_pretrained(folder)
    name = f"{folder.name}-{stage}"
    if by == "graft":
        return Transcriber(
            name,
            by,
            processor,
            lambda mels: transcribe_graft(graft, processor, mels, batch=batch, max_tokens=max_tokens),
        )
    whisper = load_whisper(decoder, graft.audio_encoder).to(device, kind)
    return Transcriber(
        name, by, processor, lambda mels: transcribe(whisper, processor.tokenizer, mels, batch=batch)
    )


def drawn(recordings: Sequence[Recording], limit: int | None, seed: int) -> list[Recording]:
    """Up to ``limit`` recordings, drawn by seed over the whole corpus, in its order."""
    if limit is None or limit >= len(recordings):
        return list(recordings)
    places = np.random.default_rng(seed).choice(len(recordings), limit, replace=False)
    return [recordings[int(place)] for place in np.sort(places)]


def transcribe_corpus(
    recordings: Sequence[Recording],
    transcriber: Transcriber,
    *,
    group: int = 64,
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> list[Transcript]:
    """Transcribe in groups of ``group``; a recording that cannot be used is a row without a transcript.

    Finished groups are kept in ``parts``, where those of an interrupted run are found again.
    """
    kept = {} if parts is None else parts.finished()
    todo = [recording for recording in recordings if recording.where not in kept]
    for first in range(0, len(todo), group):
        chosen = todo[first : first + group]
        found = [
            {"key": recording.where, "heard": text, "error": error}
            for recording, (text, error) in zip(chosen, _heard(chosen, transcriber), strict=True)
        ]
        if parts is not None:
            parts.add(found)
        kept |= {row["key"]: row for row in found}
        if progress is not None:
            progress(len(kept), len(recordings))
    rows = [(recording, kept[recording.where]) for recording in recordings]
    return [Transcript(one, row["heard"], compare(one.text, row["heard"]), row["error"]) for one, row in rows]


def _heard(recordings: Sequence[Recording], transcriber: Transcriber) -> list[tuple[str, str]]:
    """Transcript and error of each, one of them empty."""
    mels: list[Mel] = []
    errors: list[str] = []
    for recording in recordings:
        try:
            mels.append(transcriber.processor.mel(recording.wave()))
            errors.append("")
        except (BadAudio, MissingAudio) as error:
            errors.append(str(error))
    texts = iter(transcriber.write(mels))
    return [("" if error else next(texts), error) for error in errors]


def error_rates(rows: Sequence[Transcript]) -> dict[str, Any]:
    """WER with its interval, CER, and how many of what.

    The interval draws whole speakers with replacement where the corpus names at least two of them for all
    recordings, else recordings: recordings of one voice are not independent.

    Raises:
        ConfigError: no reference holds a word.
    """
    edits = [row.edits for row in rows]
    errors, words = (np.array([getattr(one, name) for one in edits]) for name in ("word_errors", "words"))
    if not words.sum():
        raise ConfigError("no transcript of the corpus holds a word, so there is no word error rate")
    speakers = [row.recording.speaker for row in rows]
    named = all(speakers) and len(set(speakers)) > 1
    clusters = speakers if named else list(range(len(rows)))
    low, high = cluster_bootstrap(clusters, lambda at: float(errors[at].sum() / max(int(words[at].sum()), 1)))
    return {
        "recordings": len(rows),
        "words": int(words.sum()),
        "wer": word_error_rate(edits),
        "wer_ci95": [low, high],
        "interval_over": "speakers" if named else "recordings",
        "speakers": len(set(filter(None, speakers))),
        "cer": character_error_rate(edits),
        "failed": sum(bool(row.error) for row in rows),
    }


def run_corpus(
    corpus: Path,
    recordings: Sequence[Recording],
    transcriber: Transcriber,
    settings: dict[str, Any],
    *,
    seed: int = 42,
    out: Path | None = None,
    json_file: Path | None = None,
    group: int = 64,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[Transcript]]:
    """Transcribe and write transcripts (JSONL) and figures with the run record where asked.

    Finished groups lie beside the first of the two files until both are complete; interrupted, the same run
    continues from them. ``settings`` are what else the transcripts depend on, ``recordings`` those of
    ``corpus`` that were drawn by ``seed``.

    Raises:
        ConfigError: the unfinished rows of another run lie there, or no transcript holds a word.
    """
    beside = out or json_file
    parts = None
    if beside is not None:
        listed = dump_json([[one.where, str(one.path), one.text] for one in recordings])
        identity = {"model": transcriber.name, "by": transcriber.by, "seed": seed, **settings}
        parts = Parts(beside, {**identity, "recordings": sha256_bytes(listed.encode("utf-8"))})
    rows = transcribe_corpus(recordings, transcriber, group=group, progress=progress, parts=parts)
    figures = {"corpus": str(corpus), "model": transcriber.name, "by": transcriber.by, **error_rates(rows)}
    if out is not None:
        write_jsonl(out, (row.row() for row in rows))
    if json_file is not None:
        files = [corpus] if corpus.is_file() else []
        write_json(json_file, {**figures, "run": run_record(seed=seed, config=settings, data_files=files)})
    if parts is not None:
        parts.discard()
    return figures, rows

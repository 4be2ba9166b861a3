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
from surgvivqa_audio.model.loading import ADAPTER, Stage, load_graft, load_whisper, parse_dtype
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Mel
from surgvivqa_audio.processing.transcribe import transcribe, transcribe_graft
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
        device: where they go.
        batch: recordings of one pass.
        max_tokens: longest transcript of the grafted model.

    Raises:
        ModelError: the checkpoint is incomplete, or has no decoder where one is asked for.
        ConfigError: an unknown way to transcribe, or a device that is not there.
    """
    import torch

    if by not in (None, "decoder", "graft"):
        raise ConfigError(f"'{by}' cannot transcribe; use decoder or graft")
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' is not there; use cpu")
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
) -> list[Transcript]:
    """Transcribe in groups of ``group``; a recording that cannot be used is a row without a transcript."""
    done: list[Transcript] = []
    for first in range(0, len(recordings), group):
        part = recordings[first : first + group]
        mels: list[Mel] = []
        heard: dict[int, int] = {}
        errors: dict[int, str] = {}
        for place, recording in enumerate(part):
            try:
                mels.append(transcriber.processor.mel(recording.wave()))
                heard[place] = len(mels) - 1
            except (BadAudio, MissingAudio) as error:
                errors[place] = str(error)
        texts = transcriber.write(mels)
        for place, recording in enumerate(part):
            text = texts[heard[place]] if place in heard else ""
            done.append(Transcript(recording, text, compare(recording.text, text), errors.get(place, "")))
        if progress is not None:
            progress(len(done), len(recordings))
    return done


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

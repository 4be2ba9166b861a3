"""Word error rates of the tiny Whisper on speech it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration

from surgvivqa_audio.processing.features import log_mel
from surgvivqa_audio.processing.transcribe import transcribe
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, Voice
from surgvivqa_audio.speech.noise import add_noise
from surgvivqa_audio.speech.phrasing import PhrasingSplit
from surgvivqa_audio.speech.transcripts import compare, word_error_rate
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.asr_data import (
    Pool,
    PoolConfig,
    Utterance,
    make_pool,
    question_vocabulary,
    random_sentence,
)

NOISE_KINDS = ("white", "pink", "hum", "babble", "beeps", "suction")


class EvalConfig(BaseModel):
    """Sizes of the test sets and of the quick look during training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    wordings: int = 400
    sentences: int = 150
    quick: int = 64
    noise_db: float = 10.0
    seed: int = 77


@dataclass(frozen=True)
class EvalSet:
    """Features and what was said."""

    mels: list[NDArray[np.float32]]
    texts: list[str]

    def head(self, count: int) -> EvalSet:
        """The first ``count`` utterances."""
        return EvalSet(self.mels[:count], self.texts[:count])


def _spoken(texts: Sequence[str], voices: Sequence[Voice], rng: np.random.Generator) -> list[Utterance]:
    return [Utterance(text, voices[int(rng.integers(len(voices)))]) for text in texts]


def plan_sets(
    config: EvalConfig,
    pool: PoolConfig,
    taxonomy: Taxonomy,
    bank: dict[str, PhrasingSplit],
    vocabulary: Sequence[str],
) -> dict[str, list[Utterance]]:
    """What each test set says, and who says it.

    ``wordings``: held-out phrasings, held-out voices, types in turn. ``published``: the out-of-template
    wording of each type, held-out voices. ``sentences`` and ``sentences_known_voices``: unseen random
    sentences by held-out and by training voices.
    """
    rng = np.random.default_rng((config.seed, 3))
    queues = {
        name: list(rng.permutation(list(split.held_out))) for name, split in bank.items() if split.held_out
    }
    wordings: list[str] = []
    while len(wordings) < config.wordings and any(queues.values()):
        wordings += [str(queue.pop()) for queue in queues.values() if queue]
    question_words = question_vocabulary(taxonomy, bank)
    sentences = [random_sentence(rng, vocabulary, question_words, pool) for _ in range(config.sentences)]
    published = [kind.out_template for kind in taxonomy.types.values() for _ in range(4)]
    return {
        "wordings": _spoken(wordings[: config.wordings], HELD_OUT_VOICES, rng),
        "published": _spoken(published, HELD_OUT_VOICES, rng),
        "sentences": _spoken(sentences, HELD_OUT_VOICES, rng),
        "sentences_known_voices": _spoken(sentences, VOICES, rng),
    }


def _featured(pool: Pool, extractor: WhisperFeatureExtractor, noise_db: float | None, seed: int) -> EvalSet:
    rng = np.random.default_rng((seed, 4))
    mels = []
    for number, wave in enumerate(pool.waves):
        sound = wave.astype(np.float32) / np.float32(32768.0)
        if noise_db is not None:
            sound = add_noise(sound, NOISE_KINDS[number % len(NOISE_KINDS)], noise_db, rng)
        mels.append(log_mel(extractor, sound))
    return EvalSet(mels, [utterance.text for utterance in pool.utterances])


def make_sets(
    plan: dict[str, list[Utterance]], folder: Path, extractor: WhisperFeatureExtractor, config: EvalConfig
) -> dict[str, EvalSet]:
    """Speak the plan (kept in ``folder``) and extract features; adds ``wordings_noise``."""
    pools = {name: make_pool(folder, utterances, 500) for name, utterances in plan.items()}
    sets = {name: _featured(pool, extractor, None, config.seed) for name, pool in pools.items()}
    sets["wordings_noise"] = _featured(pools["wordings"], extractor, config.noise_db, config.seed)
    return sets


def error_rates(
    model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, sets: dict[str, EvalSet]
) -> dict[str, float]:
    """Word error rate of each set, rounded to four digits; the mode of the model is restored."""
    training = model.training
    model.eval()
    try:
        return {
            name: round(word_error_rate(map(compare, chosen.texts, heard)), 4)
            for name, chosen in sets.items()
            for heard in [transcribe(model, tokenizer, chosen.mels)]
        }
    finally:
        model.train(training)


def examples(
    model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, chosen: EvalSet
) -> list[dict[str, Any]]:
    """Pairs of what was said and what was understood."""
    written = transcribe(model, tokenizer, chosen.mels)
    return [{"said": said, "heard": heard} for said, heard in zip(chosen.texts, written, strict=True)]

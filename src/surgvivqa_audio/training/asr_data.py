"""Speech for pretraining the tiny Whisper: what is said by whom, the pool on disk, and batches of features.

A pool is made once and read through a memory map. What varies between two visits of one utterance (tempo and
formants, level, silence around it, room, noise, masked bands) is drawn when a batch is made, from seed and
number of the step alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from transformers import WhisperFeatureExtractor

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import dump_json, read_jsonl, sha256_bytes, write_bytes, write_jsonl
from surgvivqa_audio.processing.features import SAMPLE_RATE, log_mel
from surgvivqa_audio.speech.audio import activity
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, VOICES, EspeakEngine, Voice
from surgvivqa_audio.speech.noise import make_noise, reverb
from surgvivqa_audio.speech.phrasing import PhrasingSplit, words
from surgvivqa_audio.speech.speakable import speakable
from surgvivqa_audio.speech.voices import TRAIN_VARIANTS
from surgvivqa_audio.taxonomy import Taxonomy

Wave = NDArray[np.float32]
Mel = NDArray[np.float32]

CTC_ALPHABET = "_ abcdefghijklmnopqrstuvwxyz'"  # index 0 is the blank
_MEL_SCALE = 4  # Whisper's features are a quarter of log10(power) + 4, none more than 8 under the loudest
_SHORT = 0.25  # of the utterances, the shortest, are where an easy start begins
_STRICT = ConfigDict(frozen=True, extra="forbid")


class PoolConfig(BaseModel):
    """What is spoken. Rates are words per minute, pitches 0 to 99."""

    model_config = _STRICT
    utterances: int = Field(22_000, ge=1)
    wording_share: float = Field(0.5, gt=0, le=1)
    question_word_share: float = Field(0.35, ge=0, le=1)
    min_words: int = Field(3, ge=1)
    max_words: int = Field(8, ge=1)
    accents: tuple[str, ...] = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
    variants: tuple[str, ...] = ("", *TRAIN_VARIANTS)
    rates: tuple[int, int] = (130, 200)
    pitches: tuple[int, int] = (30, 70)
    shard: int = Field(500, ge=1)
    seed: int = 1


class AugmentConfig(BaseModel):
    """How often and how far an utterance is changed.

    ``formant_bins`` bounds how far a mel band is moved, low and high bands each their own way (another vocal
    tract; vocal tract length perturbation, Jaitly and Hinton 2013, with more than one factor),
    ``equalise_db`` a smooth random gain over frequency (another mouth, microphone or room).
    """

    model_config = _STRICT
    warp: float = 0.5
    warp_range: tuple[float, float] = (0.85, 1.18)
    formant: float = 0.0
    formant_bins: float = 4.0
    equalise: float = 0.0
    equalise_db: float = 9.0
    noise: float = 0.45
    snr_db: tuple[float, float] = (0.0, 20.0)
    reverb: float = 0.15
    gain_db: tuple[float, float] = (-14.0, 4.0)
    silence_s: float = 0.3
    noise_seconds: float = 12.0
    nothing_said: float = 0.01
    mask: float = 0.5


@dataclass(frozen=True)
class Utterance:
    """A written text and its speaker."""

    text: str
    voice: Voice


@dataclass(frozen=True)
class Pool:
    """Utterances and their samples, int16 at 16 kHz, in memory maps."""

    utterances: list[Utterance]
    waves: list[NDArray[np.int16]]


def training_voice_names(config: PoolConfig) -> list[str]:
    """Names of the voices to train on.

    Raises:
        ConfigError: the configuration names an accent or variant of a held-out voice.
    """
    accents = {voice.name.partition("+")[0] for voice in HELD_OUT_VOICES} - {"en-us"}
    variants = {voice.name.partition("+")[2] for voice in HELD_OUT_VOICES} - {""}
    leaked = sorted(accents & set(config.accents)) + sorted(variants & set(config.variants))
    if leaked:
        raise ConfigError(f"pool: {', '.join(leaked)} belong to held-out voices; remove them from the recipe")
    mixed = {
        f"{accent}+{variant}" if variant else accent
        for accent in config.accents
        for variant in config.variants
    }
    return sorted(mixed | {voice.name for voice in VOICES})


def draw_voice(names: Sequence[str], config: PoolConfig, rng: np.random.Generator) -> Voice:
    """One of the voices at a random rate and pitch."""
    return Voice(
        names[int(rng.integers(len(names)))],
        int(rng.integers(config.rates[0], config.rates[1] + 1)),
        int(rng.integers(config.pitches[0], config.pitches[1] + 1)),
    )


def trained_questions(taxonomy: Taxonomy, bank: dict[str, PhrasingSplit]) -> list[str]:
    """Wordings of every type, and the off-topic questions, that are trained on."""
    return [text for split in bank.values() for text in split.train] + list(taxonomy.out_of_scope.train)


def question_vocabulary(taxonomy: Taxonomy, bank: dict[str, PhrasingSplit]) -> list[str]:
    """Words of the questions that are trained on, sorted."""
    questions = trained_questions(taxonomy, bank)
    return sorted({word for text in questions for word in words(text) if word.isalpha()})


def random_sentence(
    rng: np.random.Generator, vocabulary: Sequence[str], question_words: Sequence[str], config: PoolConfig
) -> str:
    """Unrelated words in a row, written like a statement."""
    count = int(rng.integers(config.min_words, config.max_words + 1))
    picked = []
    for _ in range(count):
        source = question_words if rng.random() < config.question_word_share else vocabulary
        picked.append(source[int(rng.integers(len(source)))])
    text = " ".join(picked)
    return text[0].upper() + text[1:] + "."


def plan_pool(
    config: PoolConfig, taxonomy: Taxonomy, bank: dict[str, PhrasingSplit], vocabulary: Sequence[str]
) -> list[Utterance]:
    """What the pool holds: training wordings and out-of-scope questions, and random sentences."""
    rng = np.random.default_rng((config.seed, 0))
    names = training_voice_names(config)
    wordings = trained_questions(taxonomy, bank) + list(taxonomy.out_of_scope.train) * 4
    question_words = question_vocabulary(taxonomy, bank)
    wanted = max(1, int(config.utterances * config.wording_share))
    order = np.concatenate([rng.permutation(len(wordings)) for _ in range(-(-wanted // len(wordings)))])
    texts = [wordings[index] for index in order[:wanted]]
    while len(texts) < config.utterances:
        texts.append(random_sentence(rng, vocabulary, question_words, config))
    return [
        Utterance(
            texts[index],
            draw_voice(names, config, rng),
        )
        for index in rng.permutation(len(texts))
    ]


def _npy(samples: NDArray[np.int16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples, allow_pickle=False)
    return buffer.getvalue()


def synthesize(utterances: Sequence[Utterance], workers: int = 1) -> list[NDArray[np.int16]]:
    """Speak in order; int16 at 16 kHz."""
    with EspeakEngine() as engine:
        items = [(speakable(utterance.text), utterance.voice) for utterance in utterances]
        waves = engine.synthesize_many(items, workers=workers)
        return [np.asarray(np.clip(np.rint(wave * 32767.0), -32768, 32767), np.int16) for wave in waves]


def make_pool(folder: Path, utterances: Sequence[Utterance], shard: int, workers: int = 1) -> Pool:
    """Speak what is not yet in ``folder`` and open it; finished shards of the same plan are kept."""
    rows = [{"text": utterance.text, "voice": utterance.voice.id} for utterance in utterances]
    folder = folder / sha256_bytes(dump_json([rows, shard]).encode())[:16]
    waves: list[NDArray[np.int16]] = []
    for first in range(0, len(utterances), shard):
        part = utterances[first : first + shard]
        stem = folder / f"shard-{first // shard:04d}"
        listing, samples = stem.with_suffix(".jsonl"), stem.with_suffix(".npy")
        if not listing.is_file():
            spoken = synthesize(part, workers)
            write_bytes(samples, _npy(np.concatenate(spoken)))
            # written last: its presence says that the shard is complete
            write_jsonl(
                listing,
                [{**row, "samples": int(wave.size)} for row, wave in zip(rows[first:], spoken, strict=False)],
            )
        sizes = [int(row["samples"]) for _, row in read_jsonl(listing)]
        mapped = np.load(samples, mmap_mode="r", allow_pickle=False)
        waves.extend(np.split(mapped, np.cumsum(sizes)[:-1]))
    return Pool(list(utterances), waves)


def ctc_labels(text: str) -> list[int]:
    """Letters of what is said, as indices into :data:`CTC_ALPHABET`."""
    spoken = " ".join(re.findall(r"[a-z']+", speakable(text).lower()))
    return [CTC_ALPHABET.index(letter) for letter in spoken]


def noise_bank(seed: int, seconds: float) -> list[Wave]:
    """Noises of this length to cut pieces from, six of each kind."""
    rng = np.random.default_rng((seed, 1))
    kinds = ("white", "pink", "hum", "babble", "beeps", "suction")
    return [make_noise(kind, int(seconds * SAMPLE_RATE), rng) for _ in range(6) for kind in kinds]


def looped(noise: Wave, start: int, size: int) -> Wave:
    """``size`` samples of a noise from ``start`` on; it begins again where it ends."""
    return np.asarray(np.take(noise, np.arange(start, start + size), mode="wrap"), np.float32)


def _noise_piece(bank: Sequence[Wave], size: int, rng: np.random.Generator) -> Wave:
    noise = bank[int(rng.integers(len(bank)))]
    return looped(noise, int(rng.integers(noise.size)), size)


def _warp(wave: Wave, factor: float) -> Wave:
    """Play faster (above 1) or slower: tempo, pitch and formants move together, as between speakers."""
    positions = np.arange(0.0, wave.size - 1, factor)
    return np.asarray(np.interp(positions, np.arange(wave.size), wave), np.float32)


def other_speaker(mel: Mel, config: AugmentConfig, rng: np.random.Generator) -> Mel:
    """Log-mel features (m, t) as another vocal tract and another microphone would make them."""
    bins = mel.shape[0]
    if rng.random() < config.formant:
        knots = np.linspace(0.0, bins - 1.0, 4)
        moved = knots + np.pad(rng.uniform(-config.formant_bins, config.formant_bins, 2), 1)
        source = np.interp(np.arange(bins), knots, moved)
        below = np.minimum(source.astype(int), bins - 2)
        share = (source - below).astype(np.float32)[:, None]
        mel = mel[below] * (1 - share) + mel[below + 1] * share
    if rng.random() < config.equalise:
        gains = rng.uniform(-config.equalise_db, config.equalise_db, 8)
        curve = np.interp(np.linspace(0, 7, bins), np.arange(8), gains).astype(np.float32)
        mel = mel + curve[:, None] / np.float32(10 * _MEL_SCALE)
        mel = np.maximum(mel, mel.max() - np.float32(8 / _MEL_SCALE))
    return mel


def _mixed(wave: Wave, bank: Sequence[Wave], snr_db: float, rng: np.random.Generator) -> Wave:
    active = activity(wave)
    if not active.any():
        return wave
    noise = _noise_piece(bank, wave.size, rng)
    speech_power = float(np.mean(np.square(wave[active])))
    noise_power = max(float(np.mean(np.square(noise[active]))), 1e-9)
    level = np.float32(np.sqrt(speech_power / noise_power / 10.0 ** (snr_db / 10.0)))
    return np.asarray(wave + noise * level, np.float32)


def augment(wave: Wave, config: AugmentConfig, bank: Sequence[Wave], rng: np.random.Generator) -> Wave:
    """One visit of an utterance: float32 (samples,) in, float32 (other samples,) out, at most 30 s."""
    if rng.random() < config.warp:
        wave = _warp(wave, float(rng.uniform(*config.warp_range)))
    before, after = (rng.uniform(0.0, config.silence_s, 2) * SAMPLE_RATE).astype(int)
    wave = np.pad(wave, (int(before), int(after)))
    if rng.random() < config.reverb:
        wave = reverb(wave, rng)
    if rng.random() < config.noise:
        wave = _mixed(wave, bank, float(rng.uniform(*config.snr_db)), rng)
    wave = wave * np.float32(10.0 ** (rng.uniform(*config.gain_db) / 20.0))
    return np.clip(wave, -1.0, 1.0).astype(np.float32)[: 30 * SAMPLE_RATE]


def _masked(mel: Mel, rng: np.random.Generator) -> Mel:
    """Blank one short stretch of time and one narrow band, at the mean level."""
    mel, level = mel.copy(), mel.mean()
    width, height = int(rng.integers(0, 13)), int(rng.integers(0, 11))
    start, low = (
        int(rng.integers(0, max(mel.shape[1] - width, 1))),
        int(rng.integers(0, mel.shape[0] - height)),
    )
    mel[:, start : start + width] = level
    mel[low : low + height] = level
    return mel


@dataclass(frozen=True)
class Batcher:
    """Batches of equal cost: neighbours in length, as many as fit ``frames`` log-mel frames.

    Over the first ``easy_steps`` a run goes from short to long utterances and from clean to augmented ones:
    letters are aligned with sound much sooner (SortaGrad, Amodei et al. 2016).
    """

    pool: Pool
    extractor: WhisperFeatureExtractor
    augment: AugmentConfig
    bank: Sequence[Wave]
    frames: int
    seed: int
    easy_steps: int = 0

    def batch(self, step: int, order: NDArray[np.int64]) -> tuple[list[Mel], list[str]]:
        """Features and texts of one step; ``order`` lists the utterances by length."""
        rng = np.random.default_rng((self.seed, 2, step))
        hard = min(step / self.easy_steps, 1.0) if self.easy_steps else 1.0
        centre = int(rng.integers(math.ceil(order.size * (_SHORT + (1 - _SHORT) * hard))))
        size = max(1, int(self.frames / (self.pool.waves[order[centre]].size / 160 + 30)))
        low = int(np.clip(centre - 2 * size, 0, max(order.size - 4 * size, 0)))
        window = order[low : low + 4 * size]
        picked = rng.choice(window, min(size, window.size), replace=False)
        mels, texts = [], []
        for index in picked:
            mel, text = self._visit(int(index), rng, hard)
            mels.append(mel)
            texts.append(text)
        return mels, texts

    def _visit(self, index: int, rng: np.random.Generator, hard: float) -> tuple[Mel, str]:
        wave = self.pool.waves[index].astype(np.float32) / 32768.0
        text = self.pool.utterances[index].text
        if rng.random() >= hard:
            return log_mel(self.extractor, wave), text
        if rng.random() < self.augment.nothing_said:
            level = np.float32(10.0 ** rng.uniform(-3.5, 0.0)) if rng.random() < 0.7 else np.float32(0)
            return log_mel(self.extractor, _noise_piece(self.bank, wave.size, rng) * level), ""
        mel = log_mel(self.extractor, augment(wave, self.augment, self.bank, rng))
        mel = other_speaker(mel, self.augment, rng)
        return (_masked(mel, rng) if rng.random() < self.augment.mask else mel), text


def by_length(pool: Pool) -> NDArray[np.int64]:
    """Indices of a pool's utterances, shortest first."""
    return np.argsort([wave.size for wave in pool.waves], kind="stable").astype(np.int64)

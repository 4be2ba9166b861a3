"""Spoken questions about pooled clips, several behind one visual prefix, with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch.utils.data import Dataset

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.asr_data import AugmentConfig, Pool, Wave, augment, noise_bank
from surgvivqa_audio.training.clip_pool import PoolClip, answer_counts

_CLIP_FPS = 6.25  # 25 fps at stride 4
OUT_OF_SCOPE = "out of scope"


class SpokenConfig(BaseModel):
    """How questions are drawn. Shares are per question."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    questions: int = 7
    absent: float = 0.06
    out_of_scope: float = 0.07
    nothing_said: float = 0.04
    text_share: float = 0.1
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class Voices:
    """Recorded questions by what they ask: question type or ``OUT_OF_SCOPE`` -> indices into the pool."""

    pool: Pool
    by_type: dict[str, list[int]]


def index_voices(pool: Pool, taxonomy: Taxonomy) -> Voices:
    """Find the utterances of the pool that ask a question of the taxonomy.

    Raises:
        ConfigError: some question type was never spoken.
    """
    asks = {text: name for name, split in phrasing_bank(taxonomy).items() for text in split.train}
    asks |= dict.fromkeys(taxonomy.out_of_scope.train, OUT_OF_SCOPE)
    by_type: dict[str, list[int]] = {name: [] for name in (*taxonomy.types, OUT_OF_SCOPE)}
    for index, utterance in enumerate(pool.utterances):
        if utterance.text in asks:
            by_type[asks[utterance.text]].append(index)
    silent = [name for name, found in by_type.items() if not found]
    if silent:
        raise ConfigError(f"the speech pool never asks: {', '.join(silent)}; make it larger")
    return Voices(pool, by_type)


class SpokenQuestions(Dataset[Example]):
    """Row ``i`` is a clip with some spoken questions; it depends on the seed and ``i`` alone."""

    def __init__(
        self,
        clips: Sequence[PoolClip],
        voices: Voices,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        config: SpokenConfig,
        *,
        rows: int,
        seed: int,
    ) -> None:
        self.clips, self.voices, self.processor = clips, voices, processor
        self.taxonomy, self.config, self.rows, self.seed = taxonomy, config, rows, seed
        self.noises = noise_bank(seed, config.augment.noise_seconds)
        counts = answer_counts(list(clips))
        self.weight = {pair: (1.0 / count) ** 0.75 for pair, count in counts.items()}

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.seed, 3, index))
        clip = self.clips[int(rng.integers(len(self.clips)))]
        video = self.processor.clip(list(clip.frames), _CLIP_FPS)
        return self.processor.encode(video, [self._question(clip, rng) for _ in range(self.config.questions)])

    def _question(self, clip: PoolClip, rng: np.random.Generator) -> Spoken:
        config, refusal = self.config, self.taxonomy.refusal.sentence
        draw = rng.random()
        if draw < config.nothing_said:
            return Spoken("audio", self.processor.mel(self._nothing(rng)), answer=refusal)
        if draw < config.nothing_said + config.out_of_scope:
            return self._spoken(OUT_OF_SCOPE, refusal, rng)
        if clip.unanswerable and draw < config.nothing_said + config.out_of_scope + config.absent:
            return self._spoken(str(rng.choice(clip.unanswerable)), refusal, rng)
        names = list(clip.answers)
        weights = np.array([self.weight[pair] for pair in clip.answers.items()])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        return self._spoken(name, self.taxonomy.types[name].answer(clip.answers[name]).sentence, rng)

    def _spoken(self, asked: str, answer: str, rng: np.random.Generator) -> Spoken:
        choices = self.voices.by_type[asked]
        index = choices[int(rng.integers(len(choices)))]
        mode: QuestionMode = "text" if rng.random() < self.config.text_share else "audio"
        if mode == "text":
            return Spoken("text", text=self.voices.pool.utterances[index].text, answer=answer)
        wave = self.voices.pool.waves[index].astype(np.float32) / 32768.0
        mel = self.processor.mel(augment(wave, self.config.augment, self.noises, rng))
        return Spoken("audio", mel, answer=answer)

    def _nothing(self, rng: np.random.Generator) -> Wave:
        size = int(rng.integers(8_000, 64_000))
        if rng.random() < 0.3:
            return np.zeros(size, np.float32)
        noise = self.noises[int(rng.integers(len(self.noises)))]
        level = np.float32(10.0 ** rng.uniform(-3.0, 0.0))
        start = int(rng.integers(noise.size))
        return np.asarray(np.take(noise, np.arange(start, start + size), mode="wrap") * level, np.float32)

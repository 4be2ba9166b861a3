"""Spoken questions as the frozen Whisper encoder hears them, computed once for both spoken stages.

Augmentation (tempo, level, silence around, room, noise at 0 to 20 dB) needs the waveform, so every utterance
is encoded in a few variants; the variants, not the utterances, are what a step draws from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save
from torch import Tensor

from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.files import dump_json, sha256_bytes, write_bytes, write_json
from surgvivqa_audio.model.encoder import encode_audio, encoder_length
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.asr_data import (
    AugmentConfig,
    Mel,
    Pool,
    PoolConfig,
    Utterance,
    Wave,
    augment,
    draw_voice,
    looped,
    noise_bank,
    other_speaker,
    training_voice_names,
)
from surgvivqa_audio.training.chatter import chatter
from surgvivqa_audio.training.cpu import frozen
from surgvivqa_audio.training.feature_cache import tower_digest

OUT_OF_SCOPE, NOTHING = "out of scope", "nothing said"
_SHARD, _BATCH = 1000, 25


class UtteranceConfig(BaseModel):
    """How much speech the spoken stages draw from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    variants: int = 3
    nothing: int = 1500
    chatter: int = 1900
    sentences: int = 800
    seed: int = 5
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class Heard:
    """Encoder states by what was said: question type, ``OUT_OF_SCOPE`` or ``NOTHING`` -> indices.

    ``states[i]`` is (n, d) bfloat16 for ``mel_frames[i]`` log-mel frames.
    """

    states: list[Tensor]
    mel_frames: list[int]
    by_kind: dict[str, list[int]]


def plan_chatter(config: UtteranceConfig, voices: PoolConfig) -> list[Utterance]:
    """Off-topic sentences, each by as many training voices as it takes."""
    rng = np.random.default_rng((config.seed, 1))
    names = training_voice_names(voices)
    texts = chatter()
    order = np.concatenate([rng.permutation(len(texts)) for _ in range(-(-config.chatter // len(texts)))])
    return [
        Utterance(
            texts[index],
            draw_voice(names, voices, rng),
        )
        for index in order[: config.chatter]
    ]


def _kinds(pool: Pool, taxonomy: Taxonomy, config: UtteranceConfig) -> list[tuple[str, int]]:
    """(kind, utterance) of every question in the speech pool, and of some sentences that are none."""
    asks = {text: name for name, split in phrasing_bank(taxonomy).items() for text in split.train}
    asks |= dict.fromkeys(taxonomy.out_of_scope.train, OUT_OF_SCOPE)
    found, sentences = [], 0
    for index, utterance in enumerate(pool.utterances):
        if utterance.text in asks:
            found.append((asks[utterance.text], index))
        elif sentences < config.sentences:
            sentences += 1
            found.append((OUT_OF_SCOPE, index))
    missing = set(taxonomy.types) - {kind for kind, _ in found}
    if missing:
        raise ConfigError(f"the speech pool never asks: {', '.join(sorted(missing))}; make it larger")
    return found


def _nothing(noises: Sequence[Wave], rng: np.random.Generator) -> Wave:
    size = int(rng.integers(8_000, 64_000))
    if rng.random() < 0.3:
        return np.zeros(size, np.float32)
    noise = noises[int(rng.integers(len(noises)))]
    level = np.float32(10.0 ** rng.uniform(-3.0, 0.0))
    return looped(noise, int(rng.integers(noise.size)), size) * level


def hear(
    encoder: Any,
    processor: AudioGraftProcessor,
    pool: Pool,
    extra: Pool,
    taxonomy: Taxonomy,
    config: UtteranceConfig,
    folder: Path,
) -> Heard:
    """Encode every variant of every utterance into ``folder``; finished shards of the same plan are kept.

    Raises:
        ConfigError: some question type was never spoken.
    """
    jobs = [
        (kind, wave_pool, index, variant)
        for wave_pool, found in (
            (pool, _kinds(pool, taxonomy, config)),
            (extra, [(OUT_OF_SCOPE, index) for index in range(len(extra.utterances))]),
        )
        for variant in range(config.variants)
        for kind, index in found
    ]
    jobs += [(NOTHING, pool, index, 0) for index in range(config.nothing)]
    weights = tower_digest(encoder)
    said = sha256_bytes(
        "\n".join(u.text + u.voice.id for u in (*pool.utterances, *extra.utterances)).encode()
    )
    plan = {"encoder": weights, "config": config.model_dump(), "said": said}
    folder = folder / sha256_bytes(dump_json(plan).encode())[:16]
    write_json(folder / "plan.json", plan)
    noises = noise_bank(config.seed, config.augment.noise_seconds)
    heard = Heard([], [], {})
    for start in range(0, len(jobs), _SHARD):
        path = folder / f"heard-{start // _SHARD:04d}.safetensors"
        part = jobs[start : start + _SHARD]
        if not path.exists():
            mels = [_mel(job, start + row, config, noises, processor) for row, job in enumerate(part)]
            write_bytes(path, save(_encode(encoder, mels)))
        stored = load_file(path)
        frames = stored["mel_frames"].tolist()
        heard.states.extend(stored["states"].split([encoder_length(count) for count in frames]))
        heard.mel_frames.extend(frames)
        for row, job in enumerate(part):
            heard.by_kind.setdefault(job[0], []).append(start + row)
    return heard


def _mel(
    job: tuple[str, Pool, int, int],
    number: int,
    config: UtteranceConfig,
    noises: Sequence[Wave],
    processor: AudioGraftProcessor,
) -> Mel:
    rng = np.random.default_rng((config.seed, 2, number))
    kind, pool, index, _ = job
    if kind == NOTHING:
        return processor.mel(_nothing(noises, rng))
    wave = augment(pool.waves[index].astype(np.float32) / 32768.0, config.augment, noises, rng)
    return other_speaker(processor.mel(wave), config.augment, rng)


def _encode(encoder: Any, mels: Sequence[Mel]) -> dict[str, Tensor]:
    frames = torch.tensor([mel.shape[-1] for mel in mels])
    states: dict[int, Tensor] = {}
    for rows in _batches(frames.tolist()):
        features, lengths = batch_mels([mels[row] for row in rows])
        with frozen():
            hidden = encode_audio(encoder, features, lengths)
        for row, each, length in zip(rows, hidden, lengths.tolist(), strict=True):
            states[row] = each[: encoder_length(length)].bfloat16()
    return {"states": torch.cat([states[row] for row in range(len(mels))]), "mel_frames": frames}


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Rows of neighbouring length, so that little is padded."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]

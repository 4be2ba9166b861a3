"""Rows of the stages after the tower: one clip's cached features and many questions packed behind them.

Typed questions train the language model, heard ones the projector and the adapter; a row is made of the seed
and its step alone. Types are drawn evenly, rare answers more often, and some questions must be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Spoken
from surgvivqa_audio.processing.video import VideoInputs
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.asr_data import PoolConfig, question_vocabulary, random_sentence
from surgvivqa_audio.training.chatter import chatter
from surgvivqa_audio.training.clip_pool import PoolClip, answer_counts
from surgvivqa_audio.training.tower import CLIP_FPS, VIEWS, view_of
from surgvivqa_audio.training.utterances import NOTHING, OUT_OF_SCOPE, Heard


class RowConfig(BaseModel):
    """What a step holds. Shares are per question; ``other_branch`` is the weight of answer tokens that decide
    nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    batch: int = 24
    questions: int = 12
    absent: float = 0.05
    out_of_scope: float = 0.05
    nothing_said: float = 0.0
    typed: float = 1.0
    other_branch: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Asked:
    """One question as the processor takes it; a heard one brings the encoder's states."""

    spoken: Spoken
    states: Tensor | None = None


class Asking(Protocol):
    """A way to put a question of a kind (a type, ``OUT_OF_SCOPE``, ``NOTHING``)."""

    def ask(self, kind: str, answer: str, rng: np.random.Generator) -> Asked:
        """One wording of it."""
        ...


class Typed:
    """Training wordings, typed."""

    def __init__(self, taxonomy: Taxonomy, vocabulary: Sequence[str]) -> None:
        bank = phrasing_bank(taxonomy)
        self.texts = {name: split.train for name, split in bank.items()}
        self.off_topic = (*taxonomy.out_of_scope.train, *chatter())
        self.vocabulary, self.question_words = vocabulary, question_vocabulary(taxonomy, bank)

    def ask(self, kind: str, answer: str, rng: np.random.Generator) -> Asked:
        """A random training wording; one in five off-topic texts is words in a row."""
        texts: Sequence[str] = self.texts.get(kind, self.off_topic)
        if kind == OUT_OF_SCOPE and rng.random() < 0.2:
            text = random_sentence(rng, self.vocabulary, self.question_words, PoolConfig())
        else:
            text = texts[int(rng.integers(len(texts)))]
        return Asked(Spoken("text", text=text, answer=answer))


class Voiced:
    """Recorded questions whose encoder states are cached."""

    def __init__(self, heard: Heard, mel_bins: int) -> None:
        self.heard, self.mel_bins = heard, mel_bins

    def ask(self, kind: str, answer: str, rng: np.random.Generator) -> Asked:
        """A random variant of a random utterance."""
        choices = self.heard.by_kind[kind]
        index = choices[int(rng.integers(len(choices)))]
        # Only its length is looked at: the features come from the cache.
        mel = np.broadcast_to(np.float32(0), (self.mel_bins, self.heard.mel_frames[index]))
        return Asked(Spoken("audio", mel, answer=answer), self.heard.states[index])


@dataclass(frozen=True)
class Batch:
    """Model inputs of one step, the weight of every label, and the clips as they were shown."""

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    clips: list[PoolClip]
    visual: Tensor
    states: list[Tensor]


@dataclass(frozen=True)
class Seen:
    """Clips of one length and their cached features (views, clips, slices, grid, grid, d)."""

    clips: Sequence[PoolClip]
    features: Tensor


class Rows:
    """Draws batches."""

    def __init__(
        self,
        seen: Sequence[Seen],
        typed: Asking,
        voiced: Asking | None,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        config: RowConfig,
    ) -> None:
        self.seen, self.typed, self.voiced = seen, typed, voiced
        self.processor, self.taxonomy, self.config = processor, taxonomy, config
        counts = answer_counts(list(seen[0].clips))
        self.weight = {pair: (1.0 / count) ** 0.75 for pair, count in counts.items()}
        self.decisive = decisive_tokens(processor, taxonomy)

    def batch(self, step: int) -> Batch:
        """The rows of a step. Every eighth step shows the second set of clips, which are longer."""
        config = self.config
        rng = np.random.default_rng((config.seed, 6, step))
        seen = self.seen[1] if step % 8 == 7 and len(self.seen) > 1 else self.seen[0]
        size = max(1, config.batch * seen_slices(self.seen[0]) // seen_slices(seen))
        examples, clips, visual, states, weights = [], [], [], [], []
        for index in rng.integers(len(seen.clips), size=size):
            view = int(rng.integers(VIEWS))
            clip = view_of(seen.clips[index], view)
            asked = self._questions(clip, rng)
            examples.append(self._example(seen_slices(seen), clip, [each.spoken for each in asked]))
            clips.append(clip)
            visual.append(seen.features[view, index])
            states += [each.states for each in asked if each.states is not None]
            for each in asked:
                flags = self.decisive[each.spoken.answer or ""]
                weights += [1.0 if flag else config.other_branch for flag in flags]
        inputs = collate(examples, self.processor.special.pad, packed=True)
        for name in ("pixel_values_videos", "input_features", "audio_lengths"):
            inputs.pop(name, None)
        labels = inputs.pop("labels")
        return Batch(inputs, labels, torch.tensor(weights), clips, torch.stack(visual).float(), states)

    def _example(self, slices: int, clip: PoolClip, spoken: list[Spoken]) -> Example:
        side = clip.occupancy.shape[1] * self.processor.merge
        seconds = self.processor.temporal / CLIP_FPS
        stamps = tuple((slot + 0.25) * seconds for slot in range(slices))
        # Nothing to look at: the features come from the cache.
        video = VideoInputs(np.zeros((0, 1), np.float32), (slices, side, side), seconds, stamps)
        example = self.processor.encode(video, spoken)
        example.mels = []
        return example

    def _questions(self, clip: PoolClip, rng: np.random.Generator) -> list[Asked]:
        config, refusal = self.config, self.taxonomy.refusal.sentence
        names = list(clip.answers)
        draws = np.array([self.weight.get(pair, 1.0) for pair in clip.answers.items()])
        chosen: list[Asked] = []
        while len(chosen) < config.questions:
            way = self.typed if self.voiced is None or rng.random() < config.typed else self.voiced
            draw = rng.random() - config.out_of_scope
            if draw < 0:
                chosen.append(way.ask(OUT_OF_SCOPE, refusal, rng))
            elif draw < config.absent and clip.unanswerable:
                chosen.append(way.ask(str(rng.choice(clip.unanswerable)), refusal, rng))
            elif draw > 1 - config.out_of_scope - config.nothing_said and self.voiced is not None:
                chosen.append(self.voiced.ask(NOTHING, refusal, rng))
            else:
                name = names[int(rng.choice(len(names), p=draws / draws.sum()))]
                sentence = self.taxonomy.types[name].answer(clip.answers[name]).sentence
                chosen.append(way.ask(name, sentence, rng))
        return chosen


def seen_slices(seen: Seen) -> int:
    """Temporal slices of its clips."""
    return int(seen.features.shape[2])


def decisive_tokens(processor: AudioGraftProcessor, taxonomy: Taxonomy) -> dict[str, list[bool]]:
    """For every sentence, which of its tokens choose between sentences (the tree branches there)."""
    encoded = {sentence: processor.answer_ids(sentence) for sentence in taxonomy.sentences()}
    children: dict[tuple[int, ...], set[int]] = {}
    for ids in encoded.values():
        for depth, token in enumerate(ids):
            children.setdefault(tuple(ids[:depth]), set()).add(token)
    return {
        sentence: [len(children[tuple(ids[:depth])]) > 1 for depth in range(len(ids))]
        for sentence, ids in encoded.items()
    }


def answer_loss(model: AudioGraft, batch: Batch) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Weighted loss of the answer tokens; the last hidden states (b, s, d); what to log."""
    features = _project(model, batch.states) if batch.states else None
    vision = BaseModelOutputWithPooling(pooler_output=tuple(batch.visual.flatten(1, 3)))
    inputs: dict[str, Any] = {**batch.inputs, "mm_encoder_outputs": {"video": vision}}
    outputs = model.hidden_states(**inputs, audio_features=features)
    hidden = outputs.last_hidden_state
    chosen = batch.labels[:, 1:] != IGNORE
    logits = model.get_output_embeddings()(hidden[:, :-1][chosen]).float()
    wanted = batch.labels[:, 1:][chosen]
    each = nn.functional.cross_entropy(logits, wanted, reduction="none")
    loss = (each * batch.weights).sum() / batch.weights.sum()
    decides = batch.weights == 1.0
    right = (logits.argmax(-1) == wanted)[decides].float().mean()
    return loss, hidden, {"loss": round(loss.item(), 4), "right": round(right.item(), 4)}


def _project(model: AudioGraft, states: Sequence[Tensor]) -> list[Tensor]:
    """Encoder states of every recording through stacking and the projector, all at once."""
    stack = model.config.stack
    padded = [nn.functional.pad(each, (0, 0, 0, -len(each) % stack)) for each in states]
    stacked = torch.cat([each.reshape(len(each) // stack, -1) for each in padded])
    return list(model.audio_projector(stacked.float()).split([len(each) // stack for each in padded]))

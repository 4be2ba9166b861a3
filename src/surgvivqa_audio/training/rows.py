"""Rows of the stages after the tower: one clip's cached features and many questions that share them.

Typed questions train the language model, heard ones the projector and the adapter; a row is made of the seed
and its step alone. Types are drawn evenly, and the answers of each; some questions must be refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from surgvivqa_audio.answering.trie import build_trie
from surgvivqa_audio.colonsim import CLIP_FPS
from surgvivqa_audio.model.graft import IGNORE
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.video import VideoInputs
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.asr_data import PoolConfig, question_vocabulary, random_sentence
from surgvivqa_audio.training.chatter import chatter
from surgvivqa_audio.training.clip_pool import PoolClip, answer_counts
from surgvivqa_audio.training.tower import VIEWS, clip_features, view_of
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
    """One step: the clips' prefixes and, apart, the questions about them.

    ``prefix`` are the inputs of (b, p) prefix tokens; ``ids`` (n, s) the questions with their answers, padded
    at the end and the short ones first; ``owner`` (n,) the row of each question's clip; ``labels`` (n, s);
    ``weights`` of every label; ``visual`` (b, slices, grid, grid, d); ``states`` the encoder states of the
    heard questions, in order.
    """

    prefix: dict[str, Tensor]
    ids: Tensor
    owner: Tensor
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

    def first(self, count: int) -> Seen:
        """Only the first ``count`` clips."""
        return Seen(self.clips[:count], self.features[:, :count])


class Odds:
    """How often each view of a clip is shown and what is asked about it, so that every type is asked equally
    often and, within a type, every answer.

    A (type, answer) weighs 1 / (answers of the type * views with that answer). A view is drawn by the sum of
    its weights and its questions by each of them: over all views, every question has exactly its weight.
    """

    def __init__(self, views: Sequence[PoolClip]) -> None:
        counts = answer_counts(views)
        answers = Counter(name for name, _ in counts)
        self.weight = {pair: 1.0 / (answers[pair[0]] * count) for pair, count in counts.items()}
        sums = np.array([self._weights(view).sum() for view in views])
        self.of_views = sums / sums.sum()

    def of_questions(self, clip: PoolClip) -> np.ndarray:
        """Of each type in ``clip.answers``, in their order."""
        weights = self._weights(clip)
        return weights / weights.sum()

    def _weights(self, clip: PoolClip) -> np.ndarray:
        return np.array([self.weight[pair] for pair in clip.answers.items()])


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
        views = [[view_of(clip, view) for clip in each.clips for view in range(VIEWS)] for each in seen]
        self.odds = [Odds(each) for each in views]
        self.decisive = decisive_tokens(processor, taxonomy)

    def batch(self, step: int) -> Batch:
        """The rows of a step. Every eighth step shows the second set of clips, which are longer."""
        config = self.config
        rng = np.random.default_rng((config.seed, 6, step))
        longer = int(step % 8 == 7 and len(self.seen) > 1)
        seen, odds = self.seen[longer], self.odds[longer]
        size = max(1, config.batch * seen_slices(self.seen[0]) // seen_slices(seen))
        clips, visual = [], []
        asked: list[tuple[int, Asked, list[int]]] = []
        for row, drawn in enumerate(rng.choice(len(odds.of_views), size, p=odds.of_views)):
            index, view = divmod(int(drawn), VIEWS)
            clips.append(view_of(seen.clips[index], view))
            visual.append(seen.features[view, index])
            for each in self._questions(clips[-1], odds, rng):
                asked.append((row, each, self.processor.question_ids(each.spoken)))
        asked.sort(key=lambda one: len(one[2]))
        ids, labels, weights = self._tokens([(question, each.spoken) for _, each, question in asked])
        return Batch(
            self._prefix(torch.stack(visual)),
            ids,
            torch.tensor([row for row, _, _ in asked]),
            labels,
            weights,
            clips,
            torch.stack(visual).float(),
            [each.states for _, each, _ in asked if each.states is not None],
        )

    def _prefix(self, visual: Tensor) -> dict[str, Tensor]:
        slices, side = visual.shape[1], visual.shape[2] * self.processor.merge
        seconds = self.processor.temporal / CLIP_FPS
        stamps = tuple((slot + 0.25) * seconds for slot in range(slices))
        # Nothing to look at: the features come from the cache.
        video = VideoInputs(np.zeros((0, 1), np.float32), (slices, side, side), seconds, stamps)
        ids = torch.tensor([self.processor.prefix_ids(video)] * len(visual))
        return {
            "input_ids": ids,
            "mm_token_type_ids": 2 * (ids == self.processor.special.video_pad).long(),
            "video_grid_thw": torch.tensor([video.grid] * len(visual)),
        }

    def _tokens(self, asked: Sequence[tuple[list[int], Spoken]]) -> tuple[Tensor, Tensor, Tensor]:
        """Questions with answers as (n, s) ids and labels, and the weight of every label."""
        ids, labels, weights = [], [], []
        for question, each in asked:
            answer = self.processor.answer_ids(each.answer or "")
            ids.append(torch.tensor(question + answer))
            labels.append(torch.tensor([IGNORE] * len(question) + answer))
            flags = self.decisive[each.answer or ""]
            weights += [1.0 if flag else self.config.other_branch for flag in flags]
        pad = self.processor.special.pad
        return (
            nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad),
            nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE),
            torch.tensor(weights),
        )

    def _questions(self, clip: PoolClip, odds: Odds, rng: np.random.Generator) -> list[Asked]:
        config, refusal = self.config, self.taxonomy.refusal.sentence
        names, of_names = list(clip.answers), odds.of_questions(clip)
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
                name = names[int(rng.choice(len(names), p=of_names))]
                sentence = self.taxonomy.types[name].answer(clip.answers[name]).sentence
                chosen.append(way.ask(name, sentence, rng))
        return chosen


def with_features(
    vlm: Any,
    processor: AudioGraftProcessor,
    pools: Iterable[tuple[str, Sequence[PoolClip]]],
    folder: Path,
) -> list[Seen]:
    """Every named pool with its tower features, which are kept in ``folder``; its pictures are let go."""
    seen = []
    for name, clips in pools:
        features = clip_features(vlm, processor, clips, folder / f"{name}.safetensors")
        seen.append(Seen([replace(clip, frames=clip.frames[:0].copy()) for clip in clips], features))
    return seen


def seen_slices(seen: Seen) -> int:
    """Temporal slices of its clips."""
    return int(seen.features.shape[2])


def decisive_tokens(processor: AudioGraftProcessor, taxonomy: Taxonomy) -> dict[str, list[bool]]:
    """For every sentence, which of its tokens choose between sentences (the tree branches there)."""
    sentences = list(taxonomy.sentences())
    trie = build_trie([processor.answer_ids(sentence) for sentence in sentences])
    siblings = [len(trie.children[parent + 1]) for parent in trie.parents.tolist()]
    return {
        sentence: [siblings[node] > 1 for node in path]
        for sentence, path in zip(sentences, trie.paths, strict=True)
    }

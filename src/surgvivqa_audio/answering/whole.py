"""Systems for the seed layout: the sound stands first, so every question is a prompt of its own.

Nothing can be prepared before the question. The whole prompt up to its last token is run as a prefix, and
the tree of all answer sentences is scored behind it exactly as for an opened clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.answering.base import Answer, Query
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.prefix import Prefix, device_of
from surgvivqa_audio.answering.questions import Asked, score_rows
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Example, Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.speech.audio import is_silent


def whole_prompt(model: AudioGraft, example: Example, pad: int) -> Asked:
    """A prompt whose every token but the last has been read, sound and pictures included."""
    last = len(example.ids) - 1
    head = replace(
        example,
        ids=example.ids[:last],
        labels=example.labels[:last],
        segments=example.segments[:last],
        types=example.types[:last],
    )
    return Asked(_prefix(model, head, pad), example.ids[last:], None)


def _prefix(model: AudioGraft, example: Example, pad: int) -> Prefix:
    device = device_of(model)
    batch: dict[str, Any] = {
        name: tensor.to(device) for name, tensor in collate([example], pad, labels=False).items()
    }
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    grids = {name: batch[name] for name in names if name in batch}
    positions, after = model.positions(batch["input_ids"], batch["mm_token_type_ids"], **grids)
    config = model.vlm.config.get_text_config()
    cache = DynamicCache(config=config)
    del batch["attention_mask"]  # all ones
    model.hidden_states(**batch, position_ids=positions, past_key_values=cache, use_cache=True)
    return Prefix(config, tuple((layer.keys, layer.values) for layer in cache.layers), int(after[0]))


class WholePromptSystem:
    """A question mode of a model in the seed layout; see the module's docstring."""

    def __init__(self, name: str, engine: AnswerEngine, mode: QuestionMode, *, frames: bool = True) -> None:
        if mode == "text":
            raise ConfigError(
                f"system '{name}': the seed layout always holds audio; use audio or audio+text, or train a "
                "recipe with prompt.layout stream"
            )
        self.name, self.engine, self.mode, self.facts = name, engine, mode, engine.facts
        self.needs = frozenset(mode.split("+")) | (frozenset({"frames"}) if frames else frozenset())

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order.

        Raises:
            ConfigError: a query lacks what the mode needs.
            BadAudio: a recording cannot be used.
            BadImage: frames cannot be used.
        """
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Answer:
        start, processor = perf_counter(), self.engine.processor
        if query.audio is None:
            raise ConfigError(f"{query.key}: question mode '{self.mode}' needs audio")
        if is_silent(query.audio):
            return self.engine.no_question(_timings(0.0, perf_counter() - start, 0.0))
        clip = processor.clip(query.clip.frames, query.clip.fps) if "frames" in self.needs else None
        seen = perf_counter()
        question = Spoken(self.mode, processor.mel(listen(query.audio)), query.text)
        heard = perf_counter()
        scores = self.score(processor.encode(clip, [question]))
        spent = _timings(seen - start, heard - seen, perf_counter() - heard)
        return self.engine.decide(scores, spent)

    @torch.no_grad()
    def score(self, example: Example) -> Tensor:
        """Log-probability of every sentence of ``engine.sentences``, (n,), behind a prompt without answer."""
        engine = self.engine
        with engine.lock:
            asked = whole_prompt(engine.model, example, engine.processor.special.pad)
            return score_rows(engine.model, engine.processor, engine.trie, [asked])[0].cpu()


def _timings(frames: float, audio: float, answer: float) -> dict[str, float]:
    """Seconds -> the milliseconds of an answer; frames are part of the total, as nothing was prepared."""
    parts = {"open_clip": frames, "audio": audio, "answer": answer, "total": frames + audio + answer}
    return {name: round(seconds * 1e3, 3) for name, seconds in parts.items()}

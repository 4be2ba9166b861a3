"""The predecessor's zero-shot baselines: its prompts, 768 pixels, separate pictures, 50 new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from surgvivqa_audio.answering.base import Answer, Query
from surgvivqa_audio.answering.decoding import generate
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.whole import whole_prompt
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.baseline import BASELINE_TOKENS, baseline_example
from surgvivqa_audio.processing.processor import Example


class BaselineSystem:
    """One of the predecessor's baselines on the weights of an engine; ``mode`` is ``audio`` or ``text``.

    What it says is free text, so it has no option probabilities, and its confidence is not a claim (0).
    """

    def __init__(self, name: str, engine: AnswerEngine, mode: str, tokens: int = BASELINE_TOKENS) -> None:
        if mode not in ("audio", "text"):
            raise ConfigError(f"system '{name}': the predecessor's prompts exist for audio and for text only")
        self.name, self.engine, self.mode, self.tokens = name, engine, mode, tokens
        self.needs = frozenset({mode, "frames"})
        self.facts = engine.facts

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order, one at a time.

        Raises:
            ConfigError: a query lacks what the mode needs.
            BadAudio, BadImage: media cannot be used.
        """
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Answer:
        start, processor = perf_counter(), self.engine.processor
        if (query.audio if self.mode == "audio" else query.text) is None:
            raise ConfigError(f"{query.key}: system '{self.name}' needs {self.mode}")
        wave = query.audio if self.mode == "audio" else None
        mel = None if wave is None else processor.mel(listen(wave))
        heard = perf_counter()
        example = baseline_example(processor, query.clip.frames, mel, None if mel is not None else query.text)
        said = self.write(example)
        end = perf_counter()
        times = {"audio": heard - start, "answer": end - heard, "total": end - start}
        timings = {name: round(seconds * 1e3, 3) for name, seconds in times.items()}
        return Answer(said, "", "", 0.0, False, (), timings, self.engine.name, extra={"free_text": True})

    @torch.no_grad()
    def write(self, example: Example) -> str:
        """Greedy text behind a prompt."""
        engine = self.engine
        with engine.lock:
            asked = whole_prompt(engine.model, example, engine.processor.special.pad)
            ids = generate(engine.model, engine.processor, asked, self.tokens)
        return str(engine.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()

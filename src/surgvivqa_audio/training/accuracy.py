"""Eval accuracy per question type while a model trains, answered as the evaluation answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from surgvivqa_audio.answering.base import Clip, Query
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.systems import engine_system
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.sample import Sample, clips
from surgvivqa_audio.scoring.rows import Prediction
from surgvivqa_audio.scoring.score import score_rows
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.vqa_data import Media
from surgvivqa_audio.training.vqa_model import bare

_CACHE = 1 << 26  # bytes: clips are asked one after the other


class Accuracy:
    """Answers the eval rows with the model as it stands; processes share the clips among them."""

    def __init__(
        self,
        samples: Sequence[Sample],
        media: Media,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        *,
        bf16: bool,
    ) -> None:
        self.groups = list(clips(samples).values())
        self.media, self.processor, self.taxonomy, self.bf16 = media, processor, taxonomy, bf16

    def measure(self, trained: Any, rank: int = 0, world: int = 1) -> dict[str, float]:
        """Shares right: ``eval_accuracy``, ``eval_balanced`` and ``eval_accuracy/<type>``.

        The model is left in eval mode; the next training step changes that.
        """
        model = bare(trained)
        # Checkpointing would be skipped in eval mode anyway, and warns about the cache.
        engine = AnswerEngine(model, self.processor, self.taxonomy, name="training", cache_bytes=_CACHE)
        system = engine_system("training", engine, self.media.keys.mode)
        rows: list[Prediction] = []
        with torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            for group in self.groups[rank::world]:
                clip = Clip(tuple(self.media.frames(group[0])), self.media.rate(group[0]))
                queries = [Query(row.key, clip, self.media.wave(row), row.question) for row in group]
                answers = system.predict(queries)
                rows += [_prediction(row, answer.answer) for row, answer in zip(group, answers, strict=True)]
        if world > 1:
            rows = gather_object(rows)
        return figures(rows, self.taxonomy)


def _prediction(sample: Sample, answer: str) -> Prediction:
    return Prediction(
        key=sample.key,
        question_id=sample.id,
        question_type=sample.question_type,
        question=sample.question,
        ground_truth=sample.answer,
        short_answer=sample.short_answer,
        predicted=answer,
    )


def figures(rows: Sequence[Prediction], taxonomy: Taxonomy) -> dict[str, float]:
    """Shares right of answered rows, by the scorer of the evaluation."""
    score = score_rows(rows, taxonomy)
    named = {f"eval_accuracy/{kind}": entry["closed_set"] for kind, entry in score["by_type"].items()}
    return {"eval_accuracy": score["closed_set"], "eval_balanced": score["balanced"], **named}

"""An answer as fields of a prediction row."""

from __future__ import annotations

from typing import Any

from surgvivqa_audio.answering.base import Answer

_SMALLEST_PROBABILITY = 1e-3  # options below it are not written; log_probs holds every sentence


def answer_fields(answer: Answer) -> dict[str, Any]:
    """What is written of an answer; ``log_probs`` follow the order of the taxonomy's sentences."""
    options = [
        [option.question_type, option.short_answer, round(option.probability, 4)]
        for option in answer.options
        if option.probability >= _SMALLEST_PROBABILITY
    ]
    return {
        "predicted_answer": answer.answer,
        "confidence": answer.confidence,
        "inference_time_ms": answer.timings_ms.get("total"),
        "error": None,
        "predicted_type": answer.question_type,
        "abstained": answer.abstained,
        "abstain_reason": answer.reason,
        "options": options,
        "timings_ms": {name: round(value, 3) for name, value in answer.timings_ms.items()},
        "model": answer.model,
        **({"log_probs": [round(value, 4) for value in answer.log_probs]} if answer.log_probs else {}),
        **({"extra": answer.extra} if answer.extra else {}),
    }

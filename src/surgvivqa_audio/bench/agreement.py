"""Does the tree say what the model would have written? Spoken questions about simulated clips (ColonSim)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.bench.latency import Progress
from surgvivqa_audio.bench.measure import clock, machine, percentiles
from surgvivqa_audio.colonsim import CLIP_FPS, Procedure, render
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.sample import Image
from surgvivqa_audio.scoring.intervals import wilson
from surgvivqa_audio.speech.engine import HELD_OUT_VOICES, EspeakEngine
from surgvivqa_audio.speech.phrasing import phrasing_bank
from surgvivqa_audio.speech.speakable import speakable

FIRST_PROCEDURE = 91_000_000  # no recipe draws procedures from here


def spoken_cases(engine: AnswerEngine, questions: int) -> Iterator[tuple[list[Image], Spoken]]:
    """Clips never trained on, each with every question that fits it, in held-out wordings and voices."""
    bank = phrasing_bank(engine.taxonomy)
    made = number = 0
    with EspeakEngine() as voices:
        while made < questions:
            spec = Procedure(FIRST_PROCEDURE + number).clip(number % 12)
            frames = list(render(spec).frames)
            voice = HELD_OUT_VOICES[number % len(HELD_OUT_VOICES)]
            for kind in sorted(spec.answers)[: questions - made]:
                words = bank[kind].held_out
                wave = voices.synthesize(speakable(words[number % len(words)]), voice)
                yield frames, Spoken("audio", engine.processor.mel(listen(wave)))
                made += 1
            number += 1


def run_agreement(
    engine: AnswerEngine,
    questions: int,
    *,
    half: AnswerEngine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the tree's best sentence with free greedy text, with jump-forward and with a bf16 engine.

    Args:
        engine: the reference, in fp32.
        questions: how many spoken questions.
        half: the same model computed in bf16, or None.
        progress: called with questions done and all.

    Returns:
        Counts of equal answers with 95 % Wilson intervals, and the milliseconds of one scoring.

    Raises:
        ConfigError: no questions.
    """
    if questions < 1:
        raise ConfigError("ask for at least one question")
    same = dict.fromkeys(["greedy", "jump"] if half is None else ["greedy", "jump", "bf16"], 0)
    known, outside = {sentence for sentence, _ in engine.sentences}, 0
    times: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for done, (frames, question) in enumerate(spoken_cases(engine, questions), start=1):
        clip = engine.open(frames, CLIP_FPS)
        best = _best(engine, frames, question, times["fp32"])
        written = engine.generate(clip, question)
        same["greedy"] += written == engine.sentences[best][0]
        outside += written not in known
        same["jump"] += engine.jump(clip, question).sentence == best
        if half is not None:
            same["bf16"] += _best(half, frames, question, times["bf16"]) == best
        if progress is not None:
            progress(done, questions)
    return {
        "benchmark": "agreement",
        "size": "nano",
        "questions": questions,
        "agreement": {
            name: {
                "equal": count,
                "share": round(count / questions, 4),
                "ci95": [round(value, 4) for value in wilson(count, questions)],
            }
            for name, count in same.items()
        },
        "greedy_outside_the_tree": outside,
        "score_ms": {name: percentiles(spent) for name, spent in times.items() if spent},
        "workload": {"weights": engine.name, "clips": "ColonSim"},
        "machine": machine(str(engine.device), torch.float32),
    }


def _best(engine: AnswerEngine, frames: list[Image], question: Spoken, times: list[float]) -> int:
    clip = engine.open(frames, CLIP_FPS)
    start = clock()
    scores = engine.score(clip, question)
    times.append(clock() - start)
    return int(scores.argmax())

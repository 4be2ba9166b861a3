"""Ours and the baselines behind one interface, so that one loop and one scorer serve all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from surgvivqa_audio.answering.base import Answer, Clip, Query, System
from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.engine import AnswerEngine, OpenClip
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.whole import WholePromptSystem
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.speech.audio import is_silent

_MODES: dict[str, tuple[QuestionMode, str]] = {
    "audio": ("audio", "tuned"),
    "text": ("text", "tuned"),
    "audio+text": ("audio+text", "tuned"),
    "audio-zeroshot": ("audio", "base"),
    "text-zeroshot": ("text", "base"),
    "noframes": ("audio", "tuned"),
}
SYSTEMS = (*_MODES, "asr")


class EngineSystem:
    """A question mode of one engine. Clips are opened together and questions share passes."""

    def __init__(self, name: str, engine: AnswerEngine, mode: QuestionMode, *, frames: bool = True) -> None:
        self.name = name
        self.engine, self.facts = engine, engine.facts
        self.mode = mode
        self.needs = frozenset(mode.split("+")) | (frozenset({"frames"}) if frames else frozenset())
        self._last: tuple[Clip, OpenClip] | None = None

    def open(self, clip: Clip) -> OpenClip:
        """Prepare a clip, or reuse the last one if it is the very same object."""
        return self._open_all([clip])[0]

    def _open_all(self, clips: Sequence[Clip]) -> list[OpenClip]:
        ready: dict[int, OpenClip] = {} if self._last is None else {id(self._last[0]): self._last[1]}
        new = list({id(clip): clip for clip in clips if id(clip) not in ready}.values())
        frames = [clip.frames if "frames" in self.needs else None for clip in new]
        opened = self.engine.open_many([(shown, clip.fps) for shown, clip in zip(frames, new, strict=True)])
        ready |= {id(clip): prepared for clip, prepared in zip(new, opened, strict=True)}
        self._last = (clips[-1], ready[id(clips[-1])])
        return [ready[id(clip)] for clip in clips]

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order; the times of an answer are its share of the passes it took part in.

        Raises:
            ConfigError: a query lacks what the mode needs.
            BadAudio: a recording cannot be used.
            BadImage: frames cannot be used.
        """
        if not queries:
            return []
        opened = self._open_all([query.clip for query in queries])
        answers: dict[int, Answer] = {}
        asked: list[int] = []
        questions, heard = [], []
        for place, (query, clip) in enumerate(zip(queries, opened, strict=True)):
            start = perf_counter()
            wave = query.audio if "audio" in self.mode else None
            if wave is None and "audio" in self.mode:
                raise ConfigError(f"{query.key}: question mode '{self.mode}' needs audio")
            if wave is not None and is_silent(wave):
                answers[place] = self.engine.no_question(_timings(clip, perf_counter() - start, 0.0))
                continue
            mel = None if wave is None else self.engine.processor.mel(listen(wave))
            asked.append(place)
            questions.append(Spoken(self.mode, mel, query.text))
            heard.append(perf_counter() - start)
        start = perf_counter()
        scores = self.engine.score_many(
            [(opened[place], q) for place, q in zip(asked, questions, strict=True)]
        )
        share = (perf_counter() - start) / max(len(asked), 1)
        for place, scored, listening in zip(asked, scores, heard, strict=True):
            answers[place] = self.engine.decide(scored, _timings(opened[place], listening, share))
        return [answers[place] for place in range(len(queries))]


def _timings(clip: OpenClip, audio: float, answer: float) -> dict[str, float]:
    """Seconds -> the milliseconds of an answer."""
    return {
        "open_clip": round(clip.open_ms, 3),
        "audio": round(audio * 1e3, 3),
        "answer": round(answer * 1e3, 3),
        "total": round((audio + answer) * 1e3, 3),
    }


def build_system(name: str, model_dir: Path | None = None, device: str = "cpu") -> System:
    """A system by its command-line name; ``model_dir`` None is the nano model of the package.

    Raises:
        ConfigError: no such system, or no such device.
        ModelError: the checkpoint lacks what the system needs.
    """
    if name == "asr":
        from surgvivqa_audio.answering.cascade import AsrSystem

        return AsrSystem(load_engine(model_dir, device=device), model_dir)
    if name not in _MODES:
        raise ConfigError(f"unknown system '{name}'; use one of {', '.join(SYSTEMS)}")
    mode, stage = _MODES[name]
    engine = load_engine(model_dir, stage="base" if stage == "base" else "tuned", device=device)
    return engine_system(name, engine, mode, frames=name != "noframes")


def engine_system(name: str, engine: AnswerEngine, mode: QuestionMode, *, frames: bool = True) -> System:
    """A question mode of a loaded model, whichever its layout. Raises ConfigError as the layout demands."""
    kind = WholePromptSystem if engine.processor.layout == "seed" else EngineSystem
    return kind(name, engine, mode, frames=frames)

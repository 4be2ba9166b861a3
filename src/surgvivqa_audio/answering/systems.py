"""Ours and the baselines behind one interface, so that one loop and one scorer serve all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgvivqa_audio.answering.base import Answer, Clip, Query, System
from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.engine import AnswerEngine, OpenClip
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.prompts import QuestionMode

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
    """A question mode of one engine. Consecutive queries about one clip share its prepared prefix."""

    def __init__(self, name: str, engine: AnswerEngine, mode: QuestionMode, *, frames: bool = True) -> None:
        self.name = name
        self.engine = engine
        self.mode = mode
        self.needs = frozenset(mode.split("+")) | (frozenset({"frames"}) if frames else frozenset())
        self._last: tuple[Clip, OpenClip] | None = None

    def open(self, clip: Clip) -> OpenClip:
        """Prepare a clip, or reuse the last one if it is the very same object."""
        if self._last is None or self._last[0] is not clip:
            frames = clip.frames if "frames" in self.needs else None
            self._last = (clip, self.engine.open(frames, clip.fps))
        return self._last[1]

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order."""
        return [self.open(query.clip).ask(query.audio, query.text, self.mode) for query in queries]


def build_system(name: str, model_dir: Path | None = None) -> System:
    """A system by its command-line name; ``model_dir`` None is the nano model of the package.

    Raises:
        ConfigError: no such system.
        ModelError: the checkpoint lacks what the system needs.
    """
    if name == "asr":
        from surgvivqa_audio.answering.cascade import AsrSystem

        return AsrSystem(load_engine(model_dir), model_dir)
    if name not in _MODES:
        raise ConfigError(f"unknown system '{name}'; use one of {', '.join(SYSTEMS)}")
    mode, stage = _MODES[name]
    engine = load_engine(model_dir, stage="base" if stage == "base" else "tuned")
    return EngineSystem(name, engine, mode, frames=name != "noframes")

"""Systems by their command-line names, with the options that choose prompt and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgvivqa_audio.answering.base import System
from surgvivqa_audio.answering.baseline import BaselineSystem
from surgvivqa_audio.answering.bundle import load_engine
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.systems import SYSTEMS, EngineSystem, build_system
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.device import find_device
from surgvivqa_audio.model.loading import Stage

PROMPTS = ("ours", "seed")
_SEED_MODES = {"audio": "audio", "text": "text", "audio-zeroshot": "audio", "text-zeroshot": "text"}


@dataclass(frozen=True)
class SystemBuilder:
    """Builds a system by name; can be sent to another process.

    ``prompt`` ``seed`` gives ``text``, ``audio`` and their zero-shot forms the predecessor's baseline
    settings; every other system stays as it is. ``omni`` names the weights of the system ``omni``,
    ``asr`` a faster-whisper model that transcribes for the system ``asr`` instead of our own.
    ``device`` is where all of them compute: ``auto``, ``cpu`` or ``cuda``.
    """

    model: Path | None = None
    prompt: str = "ours"
    omni: str | None = None
    asr: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        find_device(self.device)
        if self.prompt not in PROMPTS:
            raise ConfigError(f"--prompt {self.prompt}: one of {', '.join(PROMPTS)}")

    def __call__(self, name: str) -> System:
        """The system of that name.

        Raises:
            ConfigError: no such system, or ``omni`` without weights.
            ModelError: the checkpoint lacks what the system needs.
        """
        if name == "omni":
            return self._omni()
        if self.prompt == "seed" and name in _SEED_MODES:
            engine = self._engine("base" if name.endswith("zeroshot") else "tuned")
            return BaselineSystem(f"{name} (seed prompt)", engine, _SEED_MODES[name])
        if name == "asr" and self.asr is not None:
            from surgvivqa_audio.answering.cascade import AsrSystem
            from surgvivqa_audio.answering.faster import FasterWhisper

            return AsrSystem(self._engine(), self.model, FasterWhisper(self.asr))
        if name == "question-only":
            return EngineSystem(name, self._engine(), "text", frames=False)
        if name not in SYSTEMS:
            known = ", ".join((*SYSTEMS, "question-only", "omni"))
            raise ConfigError(f"unknown system '{name}'; use one of {known}")
        return build_system(name, self.model, self.device)

    def _engine(self, stage: Stage = "tuned") -> AnswerEngine:
        return load_engine(self.model, stage=stage, device=self.device)

    def _omni(self) -> System:
        if self.omni is None:
            raise ConfigError("the system omni needs weights: --omni FOLDER or a Hub id of Qwen2.5-Omni")
        from surgvivqa_audio.answering.omni import load_omni

        return load_omni(self.omni, device=find_device(self.device))

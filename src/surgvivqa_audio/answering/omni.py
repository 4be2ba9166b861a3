"""One open omni model as a system: it hears and sees, was never tuned here, and answers in free text."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

from surgvivqa_audio.answering.base import Answer, Query
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.prefix import system_facts
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.device import default_dtype
from surgvivqa_audio.processing.omni import OMNI_TOKENS, OmniProcessor


class OmniSystem:
    """A stock Qwen2.5-Omni thinker behind the interface of every other system.

    Its text is scored like any other; it has no option probabilities, and its confidence is not a claim (0).
    """

    needs = frozenset({"audio", "frames"})

    def __init__(self, model: Any, processor: OmniProcessor, label: str, tokens: int = OMNI_TOKENS) -> None:
        self.name = "omni"
        self.model, self.processor, self.label, self.tokens = model.eval(), processor, label, tokens
        self.facts = system_facts(model)

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer in order, one at a time.

        Raises:
            ConfigError: a query has no sound.
            BadImage: frames cannot be used.
        """
        return [self._one(query) for query in queries]

    @torch.no_grad()
    def _one(self, query: Query) -> Answer:
        if query.audio is None:
            raise ConfigError(f"{query.key}: the omni system needs audio")
        start = perf_counter()
        weight = self.model.get_input_embeddings().weight
        inputs = self.processor(query.clip.frames, query.clip.fps, listen(query.audio))
        inputs = {name: tensor.to(weight.device) for name, tensor in inputs.items()}
        for name in ("input_features", "pixel_values_videos"):
            inputs[name] = inputs[name].to(weight.dtype)
        ready = perf_counter()
        written = self.model.generate(**inputs, max_new_tokens=self.tokens, do_sample=False)
        ids = written[0, inputs["input_ids"].shape[1] :].tolist()
        said = str(self.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        end = perf_counter()
        times = {"audio": ready - start, "answer": end - ready, "total": end - start}
        timings = {name: round(seconds * 1e3, 3) for name, seconds in times.items()}
        return Answer(said, "", "", 0.0, False, (), timings, self.label, extra={"free_text": True})


def load_omni(source: str, dtype: torch.dtype | None = None, device: str = "cpu") -> OmniSystem:
    """Load the thinker of a Qwen2.5-Omni checkpoint: a folder, or a Hub id.

    ``dtype`` is bf16 where a GPU is used and float32 elsewhere when None.

    Raises:
        ModelError: the checkpoint is missing, incomplete or of another kind.
    """
    dtype = dtype or default_dtype(device)
    try:
        model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
        extractor = WhisperFeatureExtractor.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{source}: no Qwen2.5-Omni checkpoint ({error})") from error
    processor = OmniProcessor(tokenizer, extractor, model.config.vision_config)
    return OmniSystem(model.to(device), processor, source.rstrip("/").rpartition("/")[2])

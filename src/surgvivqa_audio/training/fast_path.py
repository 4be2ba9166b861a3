"""The switches of fast training that change speed and memory alone; a recipe may set each by itself.

Video pathway, sound at its true length, stacked frames, prompt order and several questions a row belong to
the sections ``prompt`` and ``data`` of a recipe, workers to ``trainer``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.memory import GIB
from surgvivqa_audio.training.feature_cache import FeatureCache

# Most bytes a layer keeps per token, in units of (hidden, MLP) width, for LoRA in bf16 on every projection:
# inputs of the projections and of their adapters' dropout, norms, gate, up and their product.
_KEPT_HIDDEN, _KEPT_INNER = 34, 14
_HEADROOM = 0.9


class FastPath(BaseModel):
    """What changes the speed and memory of a run, and nothing else.

    ``cache``: folder of the frozen towers' features, empty for none; ``cache_gib`` bounds it.
    ``bucket``: rows of similar length share a batch. ``logits``: of the answers alone, or all of them as the
    predecessor computes them. ``checkpointing``: recompute activations always, never, or when they would
    not fit (``auto``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    cache: str = ""
    cache_gib: float = Field(default=20.0, gt=0)
    bucket: bool = False
    logits: Literal["answers", "all"] = "answers"
    checkpointing: Literal["always", "never", "auto"] = "auto"

    def open_cache(self) -> FeatureCache | None:
        """The feature cache, or None. Raises ModelError when its folder cannot be made."""
        return FeatureCache(self.cache, int(self.cache_gib * GIB)) if self.cache else None

    def recompute(self, config: AudioGraftConfig, tokens: int, free_bytes: int) -> bool:
        """Whether activations are recomputed in the backward pass.

        Args:
            config: of the model.
            tokens: of the largest micro-batch.
            free_bytes: memory left on the device once weights, gradients and moments are there.
        """
        if self.checkpointing != "auto":
            return self.checkpointing == "always"
        return activation_bytes(config, tokens) > free_bytes * _HEADROOM


def activation_bytes(config: AudioGraftConfig, tokens: int) -> int:
    """Upper estimate of what the language model keeps for the backward pass without recomputing."""
    text = config.get_text_config()
    layer = _KEPT_HIDDEN * text.hidden_size + _KEPT_INNER * text.intermediate_size
    return int(tokens * text.num_hidden_layers * layer)

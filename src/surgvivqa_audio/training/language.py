"""Stage 0b, second half: the language model learns to read the frozen tower's tokens and typed questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.taxonomy import Taxonomy
from surgvivqa_audio.training.answer_loss import answer_loss
from surgvivqa_audio.training.lean import lean_attention
from surgvivqa_audio.training.loop import Loop, LoopConfig, Progress
from surgvivqa_audio.training.rows import RowConfig, Rows, Seen, Typed
from surgvivqa_audio.training.vision_heads import TokenHeads


class LanguageConfig(LoopConfig):
    """The language model's own run; ``auxiliary`` weighs the token targets read off its last layer."""

    steps: int = 1400
    auxiliary: float = 0.3
    rows: RowConfig = RowConfig()


def train_language(
    model: AudioGraft,
    processor: AudioGraftProcessor,
    taxonomy: Taxonomy,
    seen: Sequence[Seen],
    vocabulary: Sequence[str],
    config: LanguageConfig,
    out: Path,
    resume: bool,
    progress: Progress | None = None,
) -> None:
    """Train everything of ``model.vlm`` but the vision tower, in place."""
    torch.manual_seed(config.rows.seed)
    lean_attention(model.vlm)
    model.vlm.model.visual.requires_grad_(False)
    tokens = TokenHeads(model.config.vlm_config.get_text_config().hidden_size, taxonomy)
    rows = Rows(seen, Typed(taxonomy, vocabulary), None, processor, taxonomy, config.rows)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = rows.batch(step)
        answers, hidden, logged = answer_loss(model, batch)
        high = hidden[batch.prefix["mm_token_type_ids"] != 0].reshape(batch.visual.shape)
        cells = tokens.loss(high, batch.clips)
        return answers + config.auxiliary * cells, logged | {"tokens": round(cells.item(), 4)}

    loop = Loop(nn.ModuleDict({"vlm": model.vlm, "tokens": tokens}), config, out, loss)
    if resume:
        loop.resume()
    loop.run(progress)

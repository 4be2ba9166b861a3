"""Log-mel features to text with a stock Whisper: for the transcribe-then-ask baseline and for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

from surgvivqa_audio.model.asr import greedy_transcribe
from surgvivqa_audio.processing.features import batch_mels


def transcribe(
    model: WhisperForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    mels: Sequence[NDArray[np.float32]],
    *,
    batch: int = 32,
    max_tokens: int | None = None,
) -> list[str]:
    """Greedy transcripts in the order of ``mels``, each of shape (m, t).

    Recordings of similar length share a batch; a transcript longer than ``max_tokens`` (default: what the
    decoder has positions for) is cut.

    Raises:
        ModelError: a recording exceeds the encoder's positions.
    """
    limit = max_tokens or int(model.config.max_target_positions)
    order = sorted(range(len(mels)), key=lambda index: (mels[index].shape[1], index))
    texts = [""] * len(mels)
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        features, lengths = batch_mels([mels[index] for index in chosen])
        device = model.proj_out.weight.device
        written = greedy_transcribe(model, features.to(device), lengths.to(device), limit)
        for index, ids in zip(chosen, written.tolist(), strict=True):
            end = ids.index(model.config.eos_token_id) if model.config.eos_token_id in ids else len(ids)
            texts[index] = tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return texts

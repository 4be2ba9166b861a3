"""Sound to text: by a stock Whisper, or by the grafted model asked to write down what it hears."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedTokenizerFast, WhisperForConditionalGeneration

from surgvivqa_audio.model.asr import greedy_transcribe
from surgvivqa_audio.model.encoder import audio_token_count
from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Mel, Spoken
from surgvivqa_audio.processing.prompts import TRANSCRIBE
from surgvivqa_audio.processing.seed import seed_transcription_ids


def _by_length(mels: Sequence[Mel], batch: int) -> Iterator[list[int]]:
    """Indices of recordings of similar length, ``batch`` at a time."""
    order = sorted(range(len(mels)), key=lambda index: (mels[index].shape[1], index))
    for first in range(0, len(order), batch):
        yield order[first : first + batch]


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
    texts = [""] * len(mels)
    for chosen in _by_length(mels, batch):
        features, lengths = batch_mels([mels[index] for index in chosen])
        device = model.proj_out.weight.device
        written = greedy_transcribe(model, features.to(device), lengths.to(device), limit)
        for index, ids in zip(chosen, written.tolist(), strict=True):
            texts[index] = _text(tokenizer, ids, model.config.eos_token_id)
    return texts


def _text(tokenizer: Any, ids: list[int], end: int) -> str:
    kept = ids[: ids.index(end)] if end in ids else ids
    return str(tokenizer.decode(kept, skip_special_tokens=True)).strip()


def transcription(processor: AudioGraftProcessor, mel: Mel, text: str | None = None) -> Example:
    """A recording (m, t) to be written down, with the transcript as the answer when training."""
    if processor.layout != "seed":
        return processor.encode(None, [Spoken("audio", mel, answer=text)], TRANSCRIBE)
    count = audio_token_count(mel.shape[-1], processor.stack)
    asked = seed_transcription_ids(processor.tokenizer, processor.special, count)
    answer = [] if text is None else processor.answer_ids(text)
    size = len(asked) + len(answer)
    return Example([*asked, *answer], [IGNORE] * len(asked) + answer, [0] * size, [0] * size, None, [mel])


@torch.no_grad()
def transcribe_graft(
    model: AudioGraft,
    processor: AudioGraftProcessor,
    mels: Sequence[Mel],
    *,
    batch: int = 8,
    max_tokens: int = 200,
) -> list[str]:
    """Greedy transcripts by the grafted model, in the order of ``mels``; longer ones are cut.

    Raises:
        ModelError: a recording exceeds the encoder's positions.
    """
    special = processor.special
    texts = [""] * len(mels)
    for chosen in _by_length(mels, batch):
        rows = [transcription(processor, mels[index]) for index in chosen]
        inputs = collate(rows, special.pad, side="left", labels=False)
        written = _write(model, inputs, special.im_end, special.pad, max_tokens)
        for index, ids in zip(chosen, written, strict=True):
            texts[index] = _text(processor.tokenizer, ids, special.im_end)
    return texts


def _write(
    model: AudioGraft, inputs: dict[str, torch.Tensor], end: int, pad: int, limit: int
) -> list[list[int]]:
    """Most likely ids of a left-padded batch, one after the other; ``end`` or ``pad`` closes a row."""
    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    device = table.weight.device
    batch: dict[str, Any] = {name: tensor.to(device) for name, tensor in inputs.items()}
    mask = batch["attention_mask"]
    positions, following = model.positions(batch["input_ids"], batch["mm_token_type_ids"], mask)
    cache = DynamicCache(config=model.vlm.config.get_text_config())
    outputs = model.hidden_states(**batch, position_ids=positions, past_key_values=cache, use_cache=True)
    unfinished = torch.ones(mask.shape[0], dtype=torch.bool, device=device)
    columns: list[torch.Tensor] = []
    while len(columns) < limit:
        best = head(outputs.last_hidden_state[:, -1]).argmax(dim=-1).masked_fill(~unfinished, pad)
        columns.append(best)
        unfinished = unfinished & (best != end)
        if not bool(unfinished.any()):
            break
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
        outputs = model.vlm.model(
            inputs_embeds=table(best[:, None]),
            position_ids=(following + len(columns) - 1)[None, :, None].expand(3, -1, -1),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
    return torch.stack(columns, dim=1).tolist() if columns else [[] for _ in range(mask.shape[0])]

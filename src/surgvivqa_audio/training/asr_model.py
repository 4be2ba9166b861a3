"""The tiny Whisper of pretraining: its shape, the letter head that only training needs, its folder on disk.

The decoder learns transcripts; a small head on the encoder learns letters (CTC, arXiv: Graves et al. 2006) at
the same time, which makes the encoder align sound and text long before the decoder can, and is not shipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from surgvivqa_audio.files import fsync_path
from surgvivqa_audio.model.asr import decode_audio_tokens
from surgvivqa_audio.model.encoder import encode_audio
from surgvivqa_audio.training.asr_data import CTC_ALPHABET
from surgvivqa_audio.training.nano_tokenizer import START_TOKEN

_IGNORED = -100


class WhisperSize(BaseModel):
    """Shape of the tiny Whisper; 1.7 million parameters by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    d_model: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 2
    heads: int = 4
    ffn: int = 512
    mel_bins: int = 80
    source_positions: int = 1500
    target_positions: int = 64
    init_std: float = 0.06


class AsrModel(nn.Module):
    """A stock Whisper and the letter head that only training needs."""

    def __init__(self, whisper: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.whisper = whisper
        self.ctc_head = nn.Linear(whisper.config.d_model, len(CTC_ALPHABET))

    def losses(
        self,
        features: Tensor,
        lengths: Tensor,
        tokens: list[list[int]],
        letters: list[list[int]],
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy per written token, and mean CTC loss per letter.

        Args:
            features: (b, m, t); lengths: (b,), mel frames.
            tokens: per sample start token, transcript, end token.
            letters: per sample what is said, as CTC labels; may be empty.
            smoothing: label smoothing of the written tokens.
        """
        config = self.whisper.config
        encoded = encode_audio(self.whisper.model.encoder, features, lengths)
        size = max(len(row) for row in tokens) - 1
        inputs = torch.full((len(tokens), size), config.pad_token_id)
        targets = torch.full((len(tokens), size), _IGNORED)
        for number, row in enumerate(tokens):
            inputs[number, : len(row) - 1] = torch.tensor(row[:-1])
            targets[number, : len(row) - 1] = torch.tensor(row[1:])
        logits = decode_audio_tokens(self.whisper, inputs, encoded, lengths)
        written = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_IGNORED, label_smoothing=smoothing
        )
        scores = self.ctc_head(encoded).float().log_softmax(dim=-1).transpose(0, 1)
        sizes = torch.tensor([len(row) for row in letters])
        flat = torch.tensor([letter for row in letters for letter in row], dtype=torch.int64)
        heard = nn.functional.ctc_loss(
            scores, flat, (lengths + 1) // 2, sizes, reduction="sum", zero_infinity=True
        )
        return written, heard / sizes.sum().clamp(min=1)


def build_whisper(size: WhisperSize, tokenizer: PreTrainedTokenizerFast) -> WhisperForConditionalGeneration:
    """A stock Whisper with random weights and the ids of the nano tokenizer."""
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=size.mel_bins,
        d_model=size.d_model,
        encoder_layers=size.encoder_layers,
        encoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_layers=size.decoder_layers,
        decoder_attention_heads=size.heads,
        decoder_ffn_dim=size.ffn,
        max_source_positions=size.source_positions,
        max_target_positions=size.target_positions,
        init_std=size.init_std,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.convert_tokens_to_ids(START_TOKEN),
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(START_TOKEN),
        eos_token_id=tokenizer.eos_token_id,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config)


def save_whisper(
    folder: Path,
    whisper: WhisperForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    extractor: WhisperFeatureExtractor,
) -> None:
    """Write a loadable folder beside ``folder`` and then put it in its place."""
    staged, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (staged, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staged.mkdir(parents=True)
    whisper.save_pretrained(staged)
    tokenizer.save_pretrained(staged)
    extractor.save_pretrained(staged)
    for path in staged.iterdir():
        path.chmod(0o644)  # safetensors leaves the weights readable by their owner only
    if folder.exists():
        folder.rename(old)
    staged.rename(folder)
    fsync_path(folder.parent)
    shutil.rmtree(old, ignore_errors=True)

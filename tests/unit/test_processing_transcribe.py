"""The grafted model writes down what it hears: prompts, batches and caches."""

from __future__ import annotations

import pytest
import torch

from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import IGNORE, AudioGraft
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Mel
from surgvivqa_audio.processing.transcribe import transcribe_graft, transcription
from tiny_graft import FAMILIES, nano_graft, nano_processor, tone

SECONDS = (0.31, 1.0, 0.55)


def _uncached(model: AudioGraft, processor: AudioGraftProcessor, mel: Mel, limit: int) -> list[int]:
    """Every token from a whole new forward pass."""
    row = transcription(processor, mel)
    written: list[int] = []
    while len(written) < limit:
        batch = collate([row], processor.special.pad, labels=False)
        token = int(model(**batch).logits[0, -1].argmax())
        if token == processor.special.im_end:
            break
        written.append(token)
        row.ids.append(token)
        row.types.append(0)
        row.segments.append(0)
    return written


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_and_cached_equals_one_at_a_time_without_a_cache(family: str) -> None:
    processor = nano_processor(family)
    model = nano_graft(processor, family)
    pitched = enumerate(SECONDS)
    mels = [processor.mel(tone(seconds, 300 + 200 * number, number)) for number, seconds in pitched]
    with torch.no_grad():
        expected = [_uncached(model, processor, mel, 6) for mel in mels]
    texts = [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert len(set(map(tuple, expected))) > 1  # the sound decides what is written
    assert transcribe_graft(model, processor, mels, batch=3, max_tokens=6) == texts
    assert transcribe_graft(model, processor, mels, batch=1, max_tokens=6) == texts


def test_a_transcription_supervises_the_transcript_and_the_end_token() -> None:
    processor = nano_processor()
    row = transcription(processor, processor.mel(tone(0.5)), "Is the scope moving?")
    kept = [token for token in row.labels if token != IGNORE]
    assert processor.tokenizer.decode(kept) == "Is the scope moving?<|im_end|>"
    assert row.ids.count(processor.special.audio) == 7  # 25 encoder frames in stacks of four
    assert row.ids[-len(kept) :] == kept


def test_the_seed_layout_is_asked_as_its_checkpoint_was_trained() -> None:
    stream = nano_processor()
    processor = AudioGraftProcessor(
        stream.feature_extractor,
        stream.tokenizer,
        stack=1,
        layout="seed",
        audio_token_id=stream.special.audio,
    )
    row = transcription(processor, processor.mel(tone(0.5)), "yes")
    text = processor.tokenizer.decode(row.ids)
    assert text.replace("<|AUDIO|>" * 1500, "[1500]").replace(" ", "") == (
        "<|im_start|>user\n<|audio_bos|>[1500]<|audio_eos|>\nTranscribethisaudio.<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>"
    )
    assert [token for token in row.labels if token != IGNORE] == row.ids[-len(processor.answer_ids("yes")) :]


def test_nothing_to_write_down_is_nothing() -> None:
    processor = nano_processor()
    model = nano_graft(processor)
    assert isinstance(model.config, AudioGraftConfig)
    assert transcribe_graft(model, processor, []) == []
    assert transcribe_graft(model, processor, [processor.mel(tone(0.3))], max_tokens=0) == [""]

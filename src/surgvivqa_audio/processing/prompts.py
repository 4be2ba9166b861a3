"""Every prompt string, the question modes and the special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from surgvivqa_audio.errors import ModelError

QuestionMode = Literal["audio", "text", "audio+text"]
QUESTION_MODES: tuple[QuestionMode, ...] = ("audio", "text", "audio+text")

# Prompt order of the stream layout: [system][video][instruction] | [question][assistant] | [answer].
# Everything before the first bar is known before anybody speaks.
SYSTEM = "You see a colonoscopy clip."
INSTRUCTION = "Answer the question."
# In its place when the projector is aligned on transcripts.
TRANSCRIBE = "Write down what is said."


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, read from the tokenizer; -1 for a mark the seed layout does without."""

    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    audio_bos: int
    audio: int
    audio_eos: int
    pad: int


_TOKENS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
    "video_pad": "<|video_pad|>",
    "audio_bos": "<|audio_bos|>",
    "audio": "<|AUDIO|>",
    "audio_eos": "<|audio_eos|>",
    "pad": "<|endoftext|>",
}


AUDIO_TOKENS = tuple(_TOKENS[name] for name in ("audio_bos", "audio", "audio_eos"))


def special_tokens(tokenizer: Any, audio_token_id: int | None = None) -> SpecialTokens:
    """Look every special token up.

    Args:
        tokenizer: its vocabulary is searched.
        audio_token_id: the placeholder's id where the checkpoint fixes it (seed layout); the tokenizer then
            need not know the audio tokens.

    Raises:
        ModelError: the tokenizer lacks one; names it.
    """
    vocabulary = dict(tokenizer.get_vocab())
    if audio_token_id is not None:
        vocabulary = dict.fromkeys(AUDIO_TOKENS, -1) | vocabulary
        vocabulary[_TOKENS["audio"]] = audio_token_id
    missing = [token for token in _TOKENS.values() if token not in vocabulary]
    if missing:
        raise ModelError(
            f"the tokenizer has no {', '.join(missing)}; `surgvivqa model graft` adds the audio tokens"
        )
    return SpecialTokens(**{name: vocabulary[token] for name, token in _TOKENS.items()})

"""What is measured: a model of one of three sizes, clips as JPEG bytes, spoken questions.

Speed does not depend on what the weights know, so ``slice`` and ``7b`` have random ones at true widths.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.answering.bundle import default_model_dir, load_engine
from surgvivqa_audio.answering.cascade import ASR_FOLDER
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.trie import build_trie
from surgvivqa_audio.errors import ConfigError, ModelError
from surgvivqa_audio.model.config import AudioGraftConfig
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.loading import load_whisper
from surgvivqa_audio.model.patches import fast_vision
from surgvivqa_audio.model.sizes import named_config
from surgvivqa_audio.processing.features import make_feature_extractor
from surgvivqa_audio.processing.processor import AudioGraftProcessor
from surgvivqa_audio.speech.engine import EspeakEngine
from surgvivqa_audio.speech.voices import Voice
from surgvivqa_audio.taxonomy import Taxonomy, load_taxonomy
from surgvivqa_audio.training.asr_model import WhisperSize, build_whisper
from surgvivqa_audio.training.nano import NanoSize, nano_vlm_config
from surgvivqa_audio.training.nano_tokenizer import build_nano_tokenizer, nano_corpus
from surgvivqa_audio.training.stages import nano_processor

SIZES = ("nano", "slice", "7b")
FPS = 6.25
_VOICE = "en-us"


@dataclass
class Workload:
    """Everything a measurement needs. ``height``, ``width``: of a frame as it comes from the camera."""

    size: str
    engine: AnswerEngine
    whisper: WhisperForConditionalGeneration
    height: int
    width: int
    texts: list[str]
    waves: list[Wave]
    weights: str
    device: str
    trained: bool

    @property
    def answer_tokens(self) -> int:
        """Mean length of an answer sentence with its end token, in tokens."""
        lengths = [len(path) for path in self.engine.trie.paths]
        return round(sum(lengths) / len(lengths))

    def jpegs(self, seed: int, frames: int = 8) -> list[bytes]:
        """A clip nobody has seen: JPEG bytes, distinct for every seed."""
        generator = np.random.default_rng(seed)
        coarse = generator.uniform(60, 200, size=(frames, 6, 6, 3)).astype(np.uint8)
        contents = []
        for frame in coarse:
            picture = PIL.Image.fromarray(frame).resize(
                (self.width, self.height), PIL.Image.Resampling.BICUBIC
            )
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=90)
            contents.append(stream.getvalue())
        return contents

    def describe(self) -> dict[str, Any]:
        """Sizes that explain the times."""
        trie, seconds = self.engine.trie, [len(wave) / 16_000 for wave in self.waves]
        return {
            "weights": self.weights,
            "parameters": sum(parameter.numel() for parameter in self.engine.model.parameters()),
            "frame": [self.height, self.width],
            "sentences": len(trie.paths),
            "tree_nodes": len(trie),
            "tree_nodes_run": len(trie.inner),
            "answer_tokens": self.answer_tokens,
            "question_seconds": [round(min(seconds), 2), round(max(seconds), 2)],
        }


def speak(texts: Sequence[str]) -> list[Wave]:
    """The questions in one synthetic voice."""
    with EspeakEngine() as engine:
        return [engine.synthesize(text, Voice(_VOICE)) for text in texts]


def build_workload(
    size: str, *, model: Path | None = None, device: str = "cpu", questions: int = 20
) -> Workload:
    """A workload by size; ``model`` overrides the weights of ``nano``.

    Raises:
        ConfigError: no such size.
        ModelError: ``model`` is not a complete checkpoint.
    """
    taxonomy = load_taxonomy()
    texts = [kind.in_template for kind in taxonomy.types.values()][:questions]
    torch.manual_seed(0)
    if size == "nano":
        engine, whisper, weights, trained = _nano(taxonomy, model)
        shape = (384, 384)
    elif size in SIZES:
        engine, whisper = _true_widths(size, taxonomy, device)
        weights, trained, shape = "random", False, (1080, 1350)
    else:
        raise ConfigError(f"size '{size}' is unknown; use one of {', '.join(SIZES)}")
    return Workload(size, engine, whisper, *shape, texts, speak(texts), weights, device, trained)


def _nano(
    taxonomy: Taxonomy, folder: Path | None
) -> tuple[AnswerEngine, WhisperForConditionalGeneration, str, bool]:
    if folder is None:
        try:
            folder = default_model_dir()
        except ModelError:
            return (*_random_nano(taxonomy), "random", False)
    engine = load_engine(folder)
    return engine, load_whisper(folder / ASR_FOLDER, engine.model.audio_encoder), folder.name, True


def _random_nano(taxonomy: Taxonomy) -> tuple[AnswerEngine, WhisperForConditionalGeneration]:
    size = NanoSize()
    processor = nano_processor(taxonomy, size)
    whisper = build_whisper(WhisperSize(), processor.tokenizer)
    config = AudioGraftConfig(
        vlm_config=nano_vlm_config(size, processor),
        audio_config=whisper.config,
        audio_token_id=processor.special.audio,
        max_side=size.max_side,
    )
    model = AudioGraft(config).eval()
    model.start_projector()
    fast_vision(model.vlm)
    whisper.model.encoder = model.audio_encoder
    return AnswerEngine(model, processor, taxonomy, name="nano-random"), whisper.eval()


def _true_widths(
    size: str, taxonomy: Taxonomy, device: str
) -> tuple[AnswerEngine, WhisperForConditionalGeneration]:
    config = named_config(size)
    tokenizer = build_nano_tokenizer(taxonomy, nano_corpus(taxonomy))
    processor = AudioGraftProcessor(
        make_feature_extractor(config.audio_config.num_mel_bins), tokenizer, max_side=config.max_side
    )
    special = processor.special  # the ids of the small tokenizer lie inside the large table
    config.audio_token_id = special.audio
    config.vlm_config.image_token_id = special.image_pad
    config.vlm_config.video_token_id = special.video_pad
    config.vlm_config.vision_start_token_id = special.vision_start
    config.vlm_config.vision_end_token_id = special.vision_end
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = AudioGraft(config).eval()
            whisper = WhisperForConditionalGeneration(_decoder_config(config.audio_config)).eval()
    finally:
        torch.set_default_dtype(before)
    model.start_projector()
    fast_vision(model.vlm)
    whisper.model.encoder = model.audio_encoder
    engine = AnswerEngine(model, processor, taxonomy, name=f"{size}-random")
    engine.trie = build_trie([_words(processor, sentence) for sentence, _ in engine.sentences])
    return engine, whisper


def _decoder_config(audio: WhisperConfig) -> WhisperConfig:
    """The same Whisper with a one-layer encoder, which is replaced by the graft's."""
    fields = audio.to_dict()
    return WhisperConfig(**(fields | {"encoder_layers": 1}))


def _words(processor: AudioGraftProcessor, sentence: str) -> list[int]:
    """A token per word, as in a large vocabulary; the small one holds common endings as one token."""
    split = processor.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    spans = [span for _, span in split(sentence)]
    pieces = [processor.text_ids(sentence[start:stop]) for start, stop in spans]
    return [*(token for piece in pieces for token in piece), processor.special.im_end]

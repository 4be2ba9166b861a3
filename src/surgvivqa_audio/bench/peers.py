"""Whom we are measured against, on our classes, with our precision and our threads.

``seed`` is the predecessor's recipe: sound first and 30 s of it, 1,500 audio tokens through one matrix,
eight separate pictures, then greedy generation by transformers (SDPA, last-position logits). Its towers are
ours; pictures are decoded and shrunk by our code, so that only the recipe differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from surgvivqa_audio.answering.base import Wave
from surgvivqa_audio.answering.engine import OpenClip
from surgvivqa_audio.answering.frames import decode_frames
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.bench.measure import clock
from surgvivqa_audio.bench.workload import FPS, Workload
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.asr import greedy_transcribe
from surgvivqa_audio.model.encoder import encode_audio
from surgvivqa_audio.model.fusion import splice_audio
from surgvivqa_audio.model.projector import LinearProjector, match_embedding_scale
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.features import batch_mels
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Example, Spoken
from surgvivqa_audio.processing.seed import ImageInputs

FORCED_TOKENS = 10  # answer length of the protocol


@dataclass(frozen=True)
class Times:
    """One answer in milliseconds. ``prepare``: bytes to patches, known before the question; ``answer``:
    everything after; ``natural``: the same up to the mean length of an answer of this tokenizer."""

    prepare: float
    answer: float
    natural: float


class Peer(Protocol):
    """Another way to answer the same question about the same bytes."""

    name: str

    def answer(self, jpegs: list[bytes], wave: Wave, text: str, opened: OpenClip) -> Times:
        """Answer once. ``opened`` is our own prepared clip, which only the transcribing peer uses."""
        ...


class _Marks(StoppingCriteria):  # type: ignore[misc]
    """Notes the time of every token and never stops."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.times.append(perf_counter() * 1e3)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@dataclass
class SeedPeer:
    """The predecessor's recipe; ``video`` sends frames in pairs, ``static`` uses the static cache."""

    work: Workload
    name: str = "seed"
    video: bool = False
    static: bool = False
    tokens: int = FORCED_TOKENS
    processor: AudioGraftProcessor = field(init=False)
    projector: LinearProjector = field(init=False)

    def __post_init__(self) -> None:
        model, ours = self.work.engine.model, self.work.engine.processor
        table: Any = model.get_input_embeddings()
        self.processor = AudioGraftProcessor(
            ours.feature_extractor, ours.tokenizer, patch=ours.patch, merge=ours.merge,
            temporal=ours.temporal, max_side=ours.max_side, stack=1, layout="seed",
            audio_token_id=ours.special.audio,
        )  # fmt: skip
        projector = LinearProjector(model.config.audio_config.d_model, table.weight.shape[1])
        match_embedding_scale(projector, table.weight.cpu())
        self.projector = projector.to(table.weight.device, table.weight.dtype).eval()

    def prepare(self, jpegs: list[bytes]) -> Any:
        """Bytes to patches."""
        frames = decode_frames(jpegs, self.processor.geometry)
        if not self.video:
            return self.processor.clip(frames, FPS)
        return self.work.engine.processor.clip(frames, FPS)

    def _example(self, clip: Any, question: Spoken) -> Example:
        if isinstance(clip, ImageInputs):
            return self.processor.encode(clip, [question])
        # The video pathway in the same order: one run of video placeholders where the pictures stood.
        special, merge = self.processor.special, self.processor.merge
        row = self.processor.encode(None, [question])
        run = [special.vision_start, *[special.video_pad] * clip.token_count(merge), special.vision_end]
        at = len(row.ids) - row.ids[::-1].index(special.audio) + 1
        ids = [*row.ids[:at], *run, *row.ids[at:]]
        types = [2 if token == special.video_pad else 0 for token in ids]
        return Example(ids, ids, [0] * len(ids), types, clip, row.mels)

    @torch.no_grad()
    def answer(self, jpegs: list[bytes], wave: Wave, text: str, opened: OpenClip) -> Times:
        """See the protocol; the typed question is left out, as in all spoken runs."""
        start = clock()
        clip = self.prepare(jpegs)
        ready = clock()
        model, device = self.work.engine.model, self.work.engine.device
        question = Spoken("audio", self.processor.mel(listen(wave)))
        row = self._example(clip, question)
        batch: dict[str, Any] = collate([row], self.processor.special.pad, labels=False)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        heard = encode_audio(model.audio_encoder, batch.pop("input_features"), batch.pop("audio_lengths"))
        audio = self.projector(heard[0])
        ids = batch["input_ids"]
        batch["inputs_embeds"] = splice_audio(
            model.get_input_embeddings()(ids), ids, [audio], self.processor.special.audio
        )
        batch.pop("second_per_grid_ts", None)
        marks = _Marks()
        written = model.vlm.generate(
            **batch,
            max_new_tokens=self.tokens,
            min_new_tokens=self.tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([marks]),
            **({"cache_implementation": "static"} if self.static else {}),
        )
        self.processor.tokenizer.decode(written[0, -self.tokens :].tolist(), skip_special_tokens=True)
        end = clock()
        natural = min(self.work.answer_tokens, len(marks.times))
        return Times(ready - start, end - ready, marks.times[natural - 1] - ready)


@dataclass
class AsrPeer:
    """Our Whisper writes the question down, then our own engine answers the text on the open clip."""

    work: Workload
    name: str = "asr"

    @torch.no_grad()
    def answer(self, jpegs: list[bytes], wave: Wave, text: str, opened: OpenClip) -> Times:
        """See the protocol. Random weights never end, so their transcript has the length of the text."""
        engine, whisper = self.work.engine, self.work.whisper
        start = clock()
        features, lengths = batch_mels([engine.processor.mel(listen(wave))])
        limit = int(whisper.config.max_target_positions)
        if not self.work.trained:
            limit = min(limit, len(engine.processor.text_ids(text)) + 1)
            whisper.config.eos_token_id = -1
        ids = greedy_transcribe(whisper, features.to(engine.device), lengths.to(engine.device), limit)
        if self.work.trained:
            text = str(engine.processor.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True)).strip()
        opened.ask(text=text, mode="text")
        spent = clock() - start
        return Times(0.0, spent, spent)


PEERS = ("seed", "seed-video", "static", "asr")


def build_peers(work: Workload, names: list[str]) -> list[Peer]:
    """Peers by name. Raises ConfigError."""
    known: dict[str, Any] = {
        "seed": lambda: SeedPeer(work),
        "seed-video": lambda: SeedPeer(work, name="seed-video", video=True),
        "static": lambda: SeedPeer(work, name="static", static=True),
        "asr": lambda: AsrPeer(work),
    }
    for name in names:
        if name not in known:
            raise ConfigError(f"peer '{name}' is unknown; use some of {', '.join(PEERS)}")
    return [known[name]() for name in names]

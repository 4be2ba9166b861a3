"""The answer engine: a clip is prepared once, each question costs only itself.

``engine.open(frames)`` runs vision and the prompt up to the question and keeps the cache with its own
M-RoPE position; ``clip.ask(audio)`` adds the question and scores all answer sentences in one pass.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.answering.base import Answer, Option, Wave
from surgvivqa_audio.answering.trie import Trie, build_trie, sentence_log_probs, tree_mask
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.model.packing import additive_mask
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.sample import Image
from surgvivqa_audio.taxonomy import Taxonomy


@dataclass(frozen=True)
class Decision:
    """How probabilities become an answer: ``temperature`` divides sentence log-probabilities;
    below ``abstain_below`` the engine abstains."""

    temperature: float = 1.0
    abstain_below: float = 0.0


class AnswerEngine:
    """One model, its processor and the tree of all answer sentences. Thread-safe: one call at a time."""

    def __init__(
        self,
        model: AudioGraft,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        *,
        name: str,
        decision: Decision | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.taxonomy = taxonomy
        self.name = name
        self.decision = decision or Decision()
        self.sentences = list(taxonomy.sentences().items())
        self.trie: Trie = build_trie([processor.answer_ids(sentence) for sentence, _ in self.sentences])
        self.lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.get_input_embeddings().weight.device

    @torch.no_grad()
    def open(self, frames: Sequence[Image] | None, fps: float = 1.0) -> OpenClip:
        """Prepare a clip: frames (f of (h, w, 3)) at ``fps``, or None for a prompt without video.

        Raises:
            BadImage: the frames cannot be used.
        """
        start = perf_counter()
        video = None if frames is None else self.processor.clip(frames, fps)
        example = self.processor.encode(video, [])
        batch = collate([example], self.processor.special.pad, labels=False)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with self.lock:
            cache = DynamicCache(config=self.model.vlm.config.get_text_config())
            grid = batch.get("video_grid_thw")
            positions, after = self.model.positions(
                batch["input_ids"], batch["mm_token_type_ids"], video_grid_thw=grid
            )
            self.model.hidden_states(**batch, position_ids=positions, past_key_values=cache, use_cache=True)
        return OpenClip(self, cache, int(after[0]), (perf_counter() - start) * 1e3)

    @torch.no_grad()
    def score(self, clip: OpenClip, question: Spoken) -> Tensor:
        """Log-probability of every sentence of ``self.sentences``, (n,), before temperature."""
        ids = self.processor.question_ids(question)
        tokens = torch.tensor([ids + self.trie.tokens.tolist()], device=self.device)
        audio = None
        with self.lock:
            if question.mel is not None and "audio" in question.mode:
                mel = torch.from_numpy(question.mel)[None].to(self.device)
                lengths = torch.tensor([question.mel.shape[-1]], device=self.device)
                audio = self.model.get_audio_features(mel, lengths)
            prefix = clip.cache.get_seq_length()
            kept = [(layer.keys, layer.values) for layer in clip.cache.layers]
            offsets = torch.cat([torch.arange(len(ids)), len(ids) + self.trie.depths])
            positions = (clip.position + offsets).to(self.device).expand(3, 1, -1)
            embeddings = self.model.embed(tokens, audio)
            mask = additive_mask(tree_mask(prefix, len(ids), self.trie)[None, None], embeddings.dtype)
            try:
                outputs = self.model.vlm.model(
                    inputs_embeds=embeddings,
                    position_ids=positions,
                    attention_mask={"full_attention": mask.to(self.device)},
                    past_key_values=clip.cache,
                    use_cache=True,
                )
            finally:
                # An update joins into new tensors, so the prefix is intact even if a layer failed midway.
                for layer, (keys, values) in zip(clip.cache.layers, kept, strict=True):
                    layer.keys, layer.values = keys, values
            hidden = outputs.last_hidden_state[0, len(ids) - 1 :]
            return sentence_log_probs(self.model.get_output_embeddings()(hidden), self.trie).cpu()

    def decide(self, log_probs: Tensor, timings: dict[str, float], **extra: Any) -> Answer:
        """Turn sentence log-probabilities (n,) into an answer."""
        probabilities = (log_probs / self.decision.temperature).softmax(dim=0).tolist()
        options = [
            Option(short, sentence, name, probability)
            for (sentence, (name, short)), probability in zip(self.sentences, probabilities, strict=True)
        ]
        best = max(options, key=lambda option: option.probability)
        refusal = self.taxonomy.refusal
        refused = best.question_type == ""
        uncertain = not refused and best.probability < self.decision.abstain_below
        kept = [option for option in options if option.question_type in (best.question_type, "")]
        kept.sort(key=lambda option: -option.probability)
        return Answer(
            answer=refusal.sentence if uncertain else best.sentence,
            short_answer=refusal.short if uncertain else best.short_answer,
            question_type=best.question_type,
            confidence=best.probability,
            abstained=refused or uncertain,
            options=tuple(kept),
            timings_ms=timings,
            model=self.name,
            reason="refused" if refused else "uncertain" if uncertain else "",
            extra=extra,
        )

    def no_question(self, timings: dict[str, float]) -> Answer:
        """The answer to silence."""
        refusal = self.taxonomy.refusal
        return Answer(refusal.sentence, refusal.short, "", 1.0, True, (), timings, self.name, "silence")


class OpenClip:
    """A prepared clip: cache of the visual prefix, and the position at which a question starts."""

    def __init__(self, engine: AnswerEngine, cache: DynamicCache, position: int, open_ms: float) -> None:
        self.engine = engine
        self.cache = cache
        self.position = position
        self.open_ms = open_ms

    def ask(
        self,
        audio: Wave | None = None,
        text: str | None = None,
        mode: QuestionMode = "audio",
        silent: bool = False,
    ) -> Answer:
        """Answer one question about this clip.

        Args:
            audio: mono 16 kHz, needed in ``audio`` and ``audio+text`` mode.
            text: the typed question, needed in ``text`` and ``audio+text`` mode.
            mode: which of them reaches the model.
            silent: the caller found no speech in the recording; the answer is then "no question heard".

        Raises:
            ConfigError: the mode needs something that was not given.
            BadAudio: the recording is too long.
        """
        start = perf_counter()
        if silent:
            return self.engine.no_question(self._timings(start, start))
        if "audio" in mode and audio is None:
            raise ConfigError(f"question mode '{mode}' needs audio")
        mel = self.engine.processor.mel(audio) if audio is not None and "audio" in mode else None
        heard = perf_counter()
        log_probs = self.engine.score(self, Spoken(mode, mel, text))
        return self.engine.decide(log_probs, self._timings(start, heard))

    def _timings(self, start: float, heard: float) -> dict[str, float]:
        end = perf_counter()
        return {
            "open_clip": round(self.open_ms, 3),
            "audio": round((heard - start) * 1e3, 3),
            "answer": round((end - heard) * 1e3, 3),
            "total": round((end - start) * 1e3, 3),
        }

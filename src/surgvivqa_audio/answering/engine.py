"""The answer engine: a clip is prepared once, each question costs only itself.

``engine.open(frames)`` runs vision and the prompt up to the question and keeps the cache with its own
M-RoPE position; ``clip.ask(audio)`` adds the question and scores all answer sentences in one pass.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from surgvivqa_audio.answering.base import Answer, Option, Wave
from surgvivqa_audio.answering.decision import Decision, choose
from surgvivqa_audio.answering.decoding import Jump, first_branch, generate, jump_forward
from surgvivqa_audio.answering.hearing import listen
from surgvivqa_audio.answering.opening import Shrinker, prefill
from surgvivqa_audio.answering.prefix import (
    DEFAULT_BYTES,
    Prefix,
    PrefixCache,
    device_of,
    joined_digest,
    system_facts,
)
from surgvivqa_audio.answering.questions import Asked, score_rows
from surgvivqa_audio.answering.trie import Trie, build_trie
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.model.graft import AudioGraft
from surgvivqa_audio.processing.processor import AudioGraftProcessor, Spoken
from surgvivqa_audio.processing.prompts import QuestionMode
from surgvivqa_audio.sample import Image
from surgvivqa_audio.speech.audio import is_silent
from surgvivqa_audio.taxonomy import Taxonomy

Method = Literal["tree", "jump"]
_BATCH = 8  # questions of one pass; more costs memory and gains nothing on a CPU


class AnswerEngine:
    """One model, its processor and the tree of all answer sentences. Thread-safe: one model call at a time.

    Opened clips are kept, the most recently used up to ``cache_bytes``, under the content of their frames and
    of the model. ``audio_bucket`` rounds the sound up to so many log-mel frames (0: true length).
    """

    def __init__(
        self,
        model: AudioGraft,
        processor: AudioGraftProcessor,
        taxonomy: Taxonomy,
        *,
        name: str,
        decision: Decision | None = None,
        cache_bytes: int = DEFAULT_BYTES,
        audio_bucket: int = 0,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.taxonomy = taxonomy
        self.name = name
        self.decision = decision or Decision()
        self.audio_bucket = audio_bucket
        self.sentences = list(taxonomy.sentences().items())
        self.trie: Trie = build_trie([processor.answer_ids(sentence) for sentence, _ in self.sentences])
        self.prefixes = PrefixCache(cache_bytes)
        self.lock = threading.Lock()
        self._shrinker = Shrinker()
        self._about = system_facts(model)
        self._digest = joined_digest(self._about["weights"], processor.geometry, processor.family)

    @property
    def facts(self) -> dict[str, Any]:
        """What a run record says of the model: digest of the weights, decision rule, device if not cpu."""
        return self._about | {"decision": asdict(self.decision)}

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return device_of(self.model)

    def open(self, frames: Sequence[Image] | None, fps: float = 1.0) -> OpenClip:
        """Prepare a clip: frames (f of (h, w, 3)) at ``fps``, or None for a prompt without video.

        Raises:
            BadImage: the frames cannot be used.
            ConfigError: the model's layout puts sound first, so nothing can be prepared.
        """
        return self.open_many([(frames, fps)])[0]

    @torch.no_grad()
    def open_many(self, clips: Sequence[tuple[Sequence[Image] | None, float]]) -> list[OpenClip]:
        """Prepare several clips; those that are new run through the model together. See :meth:`open`."""
        start = perf_counter()
        found: dict[str, Prefix | None] = {}
        prepared = {}
        keys = []
        for frames, fps in clips:
            digests = [] if frames is None else self._shrinker.digests(frames)
            key = joined_digest(self._digest, "none" if frames is None else fps, *digests)
            keys.append(key)
            if key not in found:
                found[key] = self.prefixes.get(key)
                if found[key] is None:
                    prepared[key] = self._shrinker.prepare(self.processor, frames, fps, digests)
        with self.lock:
            for key in list(prepared):  # somebody else may have opened it while this call waited
                if (found_now := self.prefixes.get(key)) is not None:
                    found[key] = found_now
                    del prepared[key]
            if prepared:
                pad, known = self.processor.special.pad, self.prefixes.slices()
                fresh = prefill(self.model, pad, list(prepared.values()), known)
                for key, prefix in zip(prepared, fresh, strict=True):
                    found[key] = prefix
                    self.prefixes.put(key, prefix)
        spent = (perf_counter() - start) * 1e3 / max(len(clips), 1)
        ready = {key: prefix for key, prefix in found.items() if prefix is not None}
        return [OpenClip(self, ready[key], spent) for key in keys]

    def score(self, clip: OpenClip, question: Spoken) -> Tensor:
        """Log-probability of every sentence of ``self.sentences``, (n,), before temperature."""
        return self.score_many([(clip, question)])[0]

    def score_many(self, pairs: Sequence[tuple[OpenClip, Spoken]], batch: int = _BATCH) -> list[Tensor]:
        """Log-probabilities (n,) of every pair, in order. Questions of similar length share a pass."""
        asked = [Asked.of(self.processor, clip.prefix, question) for clip, question in pairs]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, one in enumerate(asked):
            groups[one.prefix.length, one.mel_frames > 0].append(index)
        scores: dict[int, Tensor] = {}
        for members in groups.values():
            members.sort(key=lambda index: (asked[index].mel_frames, len(asked[index].ids), index))
            for first in range(0, len(members), batch):
                chosen = members[first : first + batch]
                # Inference mode keeps no versions, which a pass of many small operations notices.
                with self.lock, torch.inference_mode():
                    rows = score_rows(
                        self.model, self.processor, self.trie, [asked[i] for i in chosen], self.audio_bucket
                    )
                scores |= dict(zip(chosen, rows.clone().cpu(), strict=True))  # an ordinary tensor again
        return [scores[index] for index in range(len(pairs))]

    @torch.no_grad()
    def jump(self, clip: OpenClip, question: Spoken) -> Jump:
        """The sentence that greedy decoding inside the tree writes; see :func:`jump_forward`."""
        asked = Asked.of(self.processor, clip.prefix, question)
        with self.lock:
            return jump_forward(self.model, self.processor, self.trie, asked, self.audio_bucket)

    @torch.no_grad()
    def first_branch(self, clip: OpenClip, question: Spoken) -> Tensor:
        """Exact log-probability (n,) of each sentence up to and including the tree's first choice."""
        asked = Asked.of(self.processor, clip.prefix, question)
        with self.lock:
            return first_branch(self.model, self.processor, self.trie, asked, self.audio_bucket)

    @torch.no_grad()
    def generate(self, clip: OpenClip, question: Spoken, max_tokens: int = 48) -> str:
        """Free greedy text, not bound to the closed set."""
        asked = Asked.of(self.processor, clip.prefix, question)
        with self.lock:
            ids = generate(self.model, self.processor, asked, max_tokens, self.audio_bucket)
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def decide(self, log_probs: Tensor, timings: dict[str, float], **extra: Any) -> Answer:
        """Turn sentence log-probabilities (n,) into an answer."""
        probabilities = (log_probs / self.decision.temperature).softmax(dim=0).tolist()
        options = [
            Option(short, sentence, name, probability)
            for (sentence, (name, short)), probability in zip(self.sentences, probabilities, strict=True)
        ]
        kinds = [name for _, (name, _) in self.sentences]
        verdict = choose(probabilities, kinds, self.decision)
        best = options[verdict.sentence]
        understood = {best.question_type, ""}
        kept = sorted(
            (option for option in options if option.question_type in understood),
            key=lambda option: (option is not best, -option.probability),
        )
        known = tuple(log_probs.tolist())
        return replace(self._answer(best, verdict.reason, kept, timings, extra), log_probs=known)

    def decide_jump(self, found: Jump, timings: dict[str, float]) -> Answer:
        """Turn the end of a greedy walk into an answer; its confidence is that of the walk."""
        sentence, (name, short) = self.sentences[found.sentence]
        best = Option(short, sentence, name, math.exp(found.log_prob))
        unsure = "uncertain" if best.probability < self.decision.abstain_below else ""
        reason = unsure if name else "refused"
        return self._answer(best, reason, [best], timings, {"method": "jump"})

    def _answer(
        self,
        best: Option,
        reason: str,
        kept: Sequence[Option],
        timings: dict[str, float],
        extra: dict[str, Any],
    ) -> Answer:
        refusal = self.taxonomy.refusal
        uncertain = reason == "uncertain"
        return Answer(
            answer=refusal.sentence if uncertain else best.sentence,
            short_answer=refusal.short if uncertain else best.short_answer,
            question_type=best.question_type,
            confidence=best.probability,
            abstained=bool(reason),
            options=tuple(kept),
            timings_ms=timings,
            model=self.name,
            reason=reason,
            extra=extra,
        )

    def no_question(self, timings: dict[str, float]) -> Answer:
        """The answer to silence."""
        refusal = self.taxonomy.refusal
        return Answer(refusal.sentence, refusal.short, "", 1.0, True, (), timings, self.name, "silence")


class OpenClip:
    """A prepared clip: cache of the visual prefix, and the position at which a question starts."""

    def __init__(self, engine: AnswerEngine, prefix: Prefix, open_ms: float) -> None:
        self.engine = engine
        self.prefix = prefix
        self.open_ms = open_ms

    @property
    def cache(self) -> DynamicCache:
        """A cache that starts with the prefix, fresh at every access."""
        return self.prefix.fork()

    @property
    def position(self) -> int:
        """Where a question starts."""
        return self.prefix.position

    def ask(
        self,
        audio: Wave | None = None,
        text: str | None = None,
        mode: QuestionMode = "audio",
        method: Method = "tree",
    ) -> Answer:
        """Answer one question about this clip.

        Args:
            audio: mono 16 kHz, as it was recorded, needed in ``audio`` and ``audio+text`` mode. Where nobody
                speaks in it, the answer is "no question heard".
            text: the typed question, needed in ``text`` and ``audio+text`` mode.
            mode: which of them reaches the model.
            method: ``tree`` scores every sentence exactly in one pass; ``jump`` walks the tree greedily,
                which is faster and knows the probability of its own answer only.

        Raises:
            ConfigError: the mode needs something that was not given.
            BadAudio: the recording is empty or too long.
        """
        start = perf_counter()
        if audio is not None and audio.size and "audio" in mode and is_silent(audio):
            return self.engine.no_question(self._timings(start, start))
        question, heard = self._question(audio, text, mode)
        if method == "jump":
            found = self.engine.jump(self, question)
            return self.engine.decide_jump(found, self._timings(start, heard))
        log_probs = self.engine.score(self, question)
        return self.engine.decide(log_probs, self._timings(start, heard))

    def generate(
        self,
        audio: Wave | None = None,
        text: str | None = None,
        mode: QuestionMode = "audio",
        max_tokens: int = 48,
    ) -> str:
        """Free greedy text for an open question; arguments as in :meth:`ask`."""
        return self.engine.generate(self, self._question(audio, text, mode)[0], max_tokens)

    def _question(self, audio: Wave | None, text: str | None, mode: QuestionMode) -> tuple[Spoken, float]:
        if "audio" in mode and audio is None:
            raise ConfigError(f"question mode '{mode}' needs audio")
        mel = self.engine.processor.mel(listen(audio)) if audio is not None and "audio" in mode else None
        return Spoken(mode, mel, text), perf_counter()

    def _timings(self, start: float, heard: float) -> dict[str, float]:
        end = perf_counter()
        return {
            "open_clip": round(self.open_ms, 3),
            "audio": round((heard - start) * 1e3, 3),
            "answer": round((end - heard) * 1e3, 3),
            "total": round((end - start) * 1e3, 3),
        }

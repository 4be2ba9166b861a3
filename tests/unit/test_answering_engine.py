"""The engine scores like an exhaustive search, and an open clip answers like a cold run."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from surgvivqa_audio.answering.decision import Decision, Verdict, choose, refusal_log_odds
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.trie import build_trie, tree_mask
from surgvivqa_audio.errors import BadAudio, ConfigError
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone


@cache
def _engine(family: str = "qwen2_vl") -> AnswerEngine:
    processor = nano_processor(family)
    return AnswerEngine(nano_graft(processor, family), processor, load_taxonomy(), name="tiny")


def test_tree_of_three_sentences() -> None:
    trie = build_trie([[5, 6, 9], [5, 7, 9], [8, 9]])
    assert trie.tokens.tolist() == [5, 8, 6, 7, 9, 9, 9]
    assert trie.parents.tolist() == [-1, -1, 0, 0, 1, 2, 3]
    assert trie.depths.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert trie.paths == ((0, 2, 5), (0, 3, 6), (1, 4))
    assert trie.visible.int().tolist()[5] == [1, 0, 1, 0, 0, 1, 0]
    mask = tree_mask(2, 2, trie).int().tolist()
    assert mask[0] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert mask[1] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert mask[4 + 1] == [1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0]


@torch.no_grad()
def _exhaustive(engine: AnswerEngine, video: Any, question: Spoken) -> torch.Tensor:
    """Every sentence run on its own, in batches, without cache and without tree."""
    processor, scores = engine.processor, []
    for start in range(0, len(engine.sentences), 24):
        some = engine.sentences[start : start + 24]
        rows = [
            processor.encode(video, [Spoken(question.mode, question.mel, question.text, sentence)])
            for sentence, _ in some
        ]
        batch = collate(rows, processor.special.pad)
        labels = batch.pop("labels")[:, 1:]
        log_probs = engine.model(**batch).logits[:, :-1].log_softmax(dim=-1)
        steps = log_probs.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        scores.append(steps.masked_fill(labels == -100, 0).sum(dim=1))
    return torch.cat(scores)


@pytest.mark.parametrize(
    ("family", "mode"),
    [("qwen2_vl", "audio"), ("qwen2_vl", "text"), ("qwen2_5_vl", "text"), ("qwen3_vl", "audio")],
)
def test_one_pass_over_the_tree_equals_every_sentence_alone(family: str, mode: Any, make_frames: Any) -> None:
    engine = _engine(family)
    frames = make_frames(4, 64)
    question = Spoken(mode, engine.processor.mel(tone(0.4)), "Is a polyp visible?")
    tree = engine.score(engine.open(frames, 6.25), question)
    alone = _exhaustive(engine, engine.processor.clip(frames, 6.25), question)
    assert len(tree) == len(load_taxonomy().sentences())
    assert float(alone.std()) > 0.1
    assert float((tree - alone).abs().max()) <= 1e-4
    assert int(tree.argmax()) == int(alone.argmax())


def test_open_clips_answer_like_cold_ones_in_any_order(make_frames: Any) -> None:
    engine = _engine()
    clips = [make_frames(4, 64, seed=1), make_frames(6, 64, seed=2), None]
    sounds = [tone(0.3), tone(0.72, 900)]
    opened = [engine.open(frames, 6.25) for frames in clips]
    for clip, sound in [(0, 0), (1, 1), (2, 0), (0, 1), (1, 0), (2, 1), (0, 0)]:
        question = Spoken("audio", engine.processor.mel(sounds[sound]))
        cold = engine.score(engine.open(clips[clip], 6.25), question)
        warm = engine.score(opened[clip], question)
        assert float((warm - cold).abs().max()) <= 1e-5
    cold_again = engine.open(clips[0], 6.25)
    assert opened[0].cache.get_seq_length() == cold_again.cache.get_seq_length()
    assert opened[0].position == cold_again.position


def test_probabilities_and_abstention(make_frames: Any) -> None:
    engine = _engine()
    log_probs = torch.full((len(engine.sentences),), -20.0)
    index = next(i for i, (_, (_, short)) in enumerate(engine.sentences) if short == "no")
    log_probs[index] = 0.0
    answer = engine.decide(log_probs, {"total": 1.0})
    assert (answer.short_answer, answer.abstained, answer.reason) == ("no", False, "")
    assert answer.confidence == pytest.approx(1.0, abs=1e-5)
    assert answer.options[0].probability == max(option.probability for option in answer.options)

    strict = AnswerEngine(
        engine.model, engine.processor, engine.taxonomy, name="strict", decision=Decision(1.0, 0.9)
    )
    unsure = strict.decide(torch.zeros(len(engine.sentences)), {})
    assert (unsure.abstained, unsure.reason) == (True, "uncertain") or unsure.reason == "refused"
    assert unsure.answer == engine.taxonomy.refusal.sentence

    clip = engine.open(make_frames(2, 64), 6.25)
    silent = clip.ask(np.zeros(16_000, np.float32))
    assert (silent.abstained, silent.reason, silent.options) == (True, "silence", ())
    with pytest.raises(BadAudio, match="the recording is empty"):
        clip.ask(np.zeros(0, np.float32))
    with pytest.raises(ConfigError, match="needs audio"):
        clip.ask(text="typed")


def test_refusal_rule_by_hand() -> None:
    kinds = ["a", "a", "b", ""]
    shares = [0.3, 0.3, 0.1, 0.3]  # the refusal equals the best sentence, not the best type
    assert refusal_log_odds(shares, kinds) == pytest.approx(math.log(0.3 / 0.6))
    assert choose(shares, kinds, Decision()).sentence == 0
    assert choose(shares, kinds, Decision(refuse_at=-0.7)) == Verdict(3, "refused")
    assert choose(shares, kinds, Decision(refuse_at=-0.6)) == Verdict(0, "")
    assert choose(shares, kinds, Decision(abstain_below=0.4, refuse_at=-0.6)) == Verdict(0, "uncertain")
    likely = [
        0.1,
        0.1,
        0.1,
        0.7,
    ]  # without a threshold the likeliest sentence is said, with one it may not be
    assert choose(likely, kinds, Decision()) == Verdict(3, "refused")
    assert choose(likely, kinds, Decision(refuse_at=2.0)) == Verdict(0, "")
    assert refusal_log_odds([1.0, 0.0], ["a", ""]) < -60


def test_every_sentence_keeps_its_log_probability() -> None:
    engine = _engine()
    log_probs = torch.linspace(-9.0, -1.0, len(engine.sentences))
    answer = engine.decide(log_probs, {"total": 1.0})
    assert answer.log_probs == pytest.approx(log_probs.tolist())
    assert "log_probs" not in answer.to_dict()


def test_ask_returns_the_fields_of_the_contract(make_frames: Any) -> None:
    answer = _engine().open(make_frames(2, 64), 6.25).ask(tone(0.3))
    fields = answer.to_dict()
    assert {
        "answer",
        "short_answer",
        "question_type",
        "confidence",
        "abstained",
        "options",
        "timings_ms",
        "model",
    } <= (set(fields))
    assert set(fields["timings_ms"]) == {"open_clip", "audio", "answer", "total"}
    assert 0 < fields["confidence"] <= 1

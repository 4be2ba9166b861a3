"""Batches, buckets and the other ways to an answer agree with single questions on the whole tree."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from surgvivqa_audio.answering.base import Clip, Query
from surgvivqa_audio.answering.decoding import Jump
from surgvivqa_audio.answering.engine import AnswerEngine
from surgvivqa_audio.answering.systems import EngineSystem
from surgvivqa_audio.answering.trie import build_trie, sentence_log_probs
from surgvivqa_audio.errors import ConfigError
from surgvivqa_audio.processing.collate import collate
from surgvivqa_audio.processing.processor import Spoken
from surgvivqa_audio.taxonomy import load_taxonomy
from tiny_graft import nano_graft, nano_processor, tone


@cache
def _engine(bucket: int = 0) -> AnswerEngine:
    processor = nano_processor()
    return AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny", audio_bucket=bucket)


@pytest.mark.parametrize("most", [2_000_000, 15])  # the whole vocabulary at once, and three words at a time
def test_leaves_are_not_run(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgvivqa_audio.answering.trie._LOGITS", most)
    trie = build_trie([[5, 6, 9], [5, 7, 9], [8, 9]])
    assert trie.inner.tolist() == [0, 1, 2, 3]
    assert trie.trunk.parents.tolist() == [-1, -1, 0, 0]
    assert trie.rows.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert trie.children == ((0, 1), (2, 3), (4,), (5,), (6,), (), (), ())
    assert trie.forking.tolist() == [0]
    # Row 0 the root, then nodes 0..3; each row's logits are log-probabilities of a vocabulary of ten.
    table = torch.log_softmax(torch.arange(50.0).reshape(5, 10).sin(), dim=-1)
    # Logits that are not normalised: a constant per row is what the normaliser takes away.
    scores = sentence_log_probs(torch.eye(5)[None], (table + torch.arange(5.0)[:, None]).T, trie)
    assert scores.shape == (1, 3)
    assert float(scores[0, 1]) == pytest.approx(float(table[0, 5] + table[1, 7] + table[4, 9]), abs=1e-5)
    assert float(scores[0, 2]) == pytest.approx(float(table[0, 8] + table[2, 9]), abs=1e-5)


def test_a_walk_looks_only_at_what_leads_to_a_choice() -> None:
    trie = build_trie([[1, 2, 3, 4, 9], [1, 2, 3, 5, 9], [6, 7, 9]])
    assert trie.tokens[trie.forking].tolist() == [1, 2, 3]
    assert trie.forks.parents.tolist() == [-1, 0, 1]
    assert trie.forks.depths.tolist() == [0, 1, 2]
    assert trie.forks.visible.int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert build_trie([[1, 2, 9]]).forking.tolist() == []
    ours = _engine().trie
    assert (len(ours.inner), len(ours.forking)) == (239, 35)


def test_a_batch_of_pairs_equals_single_questions(make_frames: Any) -> None:
    engine = _engine()
    opened = [engine.open(make_frames(count, 64, seed=count), 6.25) for count in (4, 6)]
    opened.append(engine.open(make_frames(4, 64, seed=40), 6.25))
    mels = [engine.processor.mel(tone(seconds, 300 + 200 * seconds)) for seconds in (0.3, 0.71, 1.1)]
    pairs = [(clip, Spoken("audio", mel)) for clip in opened for mel in mels]
    pairs += [
        (opened[0], Spoken("text", None, "Is a polyp visible?")),
        (opened[0], Spoken("text", None, "Why?")),
    ]
    together = engine.score_many(pairs, batch=4)
    for pair, scores in zip(pairs, together, strict=True):
        assert float((engine.score(*pair) - scores).abs().max()) <= 1e-4


def test_a_system_answers_a_batch_like_one_by_one(make_frames: Any) -> None:
    engine = _engine()
    clips = [Clip(tuple(make_frames(4, 64, seed=seed)), 6.25) for seed in (50, 51)]
    queries = [
        Query(key=str(index), clip=clips[index % 2], audio=tone(0.3 + 0.2 * index)) for index in range(5)
    ]
    together = EngineSystem("audio", engine, "audio").predict(queries)
    alone = [EngineSystem("audio", engine, "audio").predict([query])[0] for query in queries]
    for left, right in zip(together, alone, strict=True):
        assert left.answer == right.answer
        assert left.confidence == pytest.approx(right.confidence, abs=1e-4)
        assert set(left.timings_ms) == {"open_clip", "audio", "answer", "total"}
    assert EngineSystem("audio", engine, "audio").predict([]) == []
    blind = EngineSystem("noframes", engine, "audio", frames=False)
    assert blind.predict(queries[:1])[0].answer == blind.predict(queries[:2])[0].answer
    with pytest.raises(ConfigError, match="needs audio"):
        EngineSystem("audio", engine, "audio").predict([Query(key="q", clip=clips[0], text="x")])


@pytest.mark.parametrize("samples", [4800, 5120, 7999, 11360])
def test_bucketed_audio_equals_its_true_length(samples: int, make_frames: Any) -> None:
    exact, bucketed = _engine(), _engine(50)
    wave = tone(1.0)[:samples]
    question = Spoken("audio", exact.processor.mel(wave))
    frames = make_frames(2, 64)
    left = exact.score(exact.open(frames, 6.25), question)
    right = bucketed.score(bucketed.open(frames, 6.25), question)
    assert float((left - right).abs().max()) <= 1e-4


class _Adapted(torch.nn.Linear):
    """A projection with something beside its weights, as an adapter has."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 0.25 * input[..., : self.out_features]


def test_what_stands_beside_the_weights_is_run(make_frames: Any) -> None:
    processor = nano_processor()
    frames, question = make_frames(2, 64), Spoken("text", None, "Is a polyp visible?")
    scores = []
    for merged in (False, True):
        model = nano_graft(processor)
        attention = model.vlm.model.language_model.layers[0].self_attn
        plain = attention.k_proj
        if merged:
            with torch.no_grad():
                plain.weight += 0.25 * torch.eye(plain.out_features, plain.in_features)
        else:
            attention.k_proj = _Adapted(plain.in_features, plain.out_features)
            attention.k_proj.load_state_dict(plain.state_dict())
        engine = AnswerEngine(model, processor, load_taxonomy(), name="adapted")
        scores.append(engine.score(engine.open(frames, 6.25), question))
    base = _engine().score(_engine().open(frames, 6.25), question)
    assert float((scores[0] - scores[1]).abs().max()) <= 1e-4
    assert float((scores[0] - base).abs().max()) > 1e-3
    assert not scores[0].is_inference()


@torch.no_grad()
def _greedy_inside_the_tree(engine: AnswerEngine, video: Any, question: Spoken) -> tuple[int, float]:
    """One token after the other, without cache: the best among the tokens that some sentence allows."""
    processor = engine.processor
    sentences = [processor.answer_ids(sentence) for sentence, _ in engine.sentences]
    batch = collate([processor.encode(video, [question])], processor.special.pad, labels=False)
    ids, total = [], 0.0
    while tuple(ids) not in {tuple(sentence) for sentence in sentences}:
        allowed = sorted({row[len(ids)] for row in sentences if row[: len(ids)] == ids})
        extra = torch.tensor([ids], dtype=torch.int64)
        longer = dict(batch)
        for name, value in (
            ("input_ids", extra),
            ("mm_token_type_ids", 0 * extra),
            ("attention_mask", 0 * extra + 1),
        ):
            longer[name] = torch.cat([batch[name], value], dim=1)
        steps = engine.model(**longer).logits[0, -1][allowed].log_softmax(dim=0)
        ids.append(allowed[int(steps.argmax())])
        total += float(steps.max())
    return sentences.index(ids), total


@pytest.mark.parametrize("mode", ["audio", "text"])
def test_jump_forward_is_greedy_decoding_inside_the_tree(mode: Any, make_frames: Any) -> None:
    engine = _engine()
    frames = make_frames(2, 64, seed=60)
    question = Spoken(mode, engine.processor.mel(tone(0.3)), "How large is the lesion?")
    expected, log_prob = _greedy_inside_the_tree(engine, engine.processor.clip(frames, 6.25), question)
    clip = engine.open(frames, 6.25)
    found = engine.jump(clip, question)
    assert found.sentence == expected
    assert found.log_prob == pytest.approx(log_prob, abs=1e-4)
    answer = clip.ask(tone(0.3), "How large is the lesion?", mode, method="jump")
    assert answer.extra == {"method": "jump"}
    assert answer.confidence == pytest.approx(np.exp(found.log_prob), abs=1e-4)


def test_first_branch_is_the_first_step_of_the_tree(make_frames: Any) -> None:
    engine = _engine()
    clip = engine.open(make_frames(2, 64), 6.25)
    question = Spoken("audio", engine.processor.mel(tone(0.5)))
    first, whole = engine.first_branch(clip, question), engine.score(clip, question)
    assert bool((first >= whole - 1e-5).all())
    starts = {path[0]: float(value) for path, value in zip(engine.trie.paths, first, strict=True)}
    assert len(starts) == len(engine.trie.children[0])
    assert sum(np.exp(value) for value in starts.values()) <= 1.0
    for path, value in zip(engine.trie.paths, first, strict=True):
        assert float(value) == starts[path[0]]


def test_sentences_with_one_beginning_part_at_their_first_choice(make_frames: Any) -> None:
    processor = nano_processor()
    engine = AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")
    clip = engine.open(make_frames(2, 64), 6.25)
    question = Spoken("text", None, "Why?")
    engine.trie = build_trie([[30, 31, 32, 33], [30, 31, 34, 33]])
    first = engine.first_branch(clip, question)
    found = engine.jump(clip, question)
    assert found.sentence == int(first.argmax())
    assert found.log_prob == pytest.approx(float(first.max() - first.logsumexp(dim=0)), abs=1e-4)
    assert bool((first > engine.score(clip, question)).all())  # what follows the choice costs something
    engine.trie = build_trie([[30, 31, 32, 33]])
    assert float(engine.first_branch(clip, question)) == pytest.approx(
        float(engine.score(clip, question)), abs=1e-4
    )
    assert engine.jump(clip, question) == Jump(0, 0.0)


@torch.no_grad()
def test_free_text_is_greedy_generation(make_frames: Any) -> None:
    engine = _engine()
    frames = make_frames(2, 64, seed=70)
    question = Spoken("audio", engine.processor.mel(tone(0.4)))
    processor = engine.processor
    row = processor.encode(processor.clip(frames, 6.25), [question])
    batch = collate([row], processor.special.pad, labels=False)
    written: list[int] = []
    for _ in range(5):
        extra = torch.tensor([written], dtype=torch.int64)
        longer = dict(batch)
        for name, value in (
            ("input_ids", extra),
            ("mm_token_type_ids", 0 * extra),
            ("attention_mask", 0 * extra + 1),
        ):
            longer[name] = torch.cat([batch[name], value], dim=1)
        written.append(int(engine.model(**longer).logits[0, -1].argmax()))
    text = processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    assert engine.open(frames, 6.25).generate(tone(0.4), max_tokens=5) == text


def test_silent_recording_is_no_question_within_a_batch(make_frames: Any) -> None:
    processor = nano_processor()
    engine = AnswerEngine(nano_graft(processor), processor, load_taxonomy(), name="tiny")
    clip = Clip(tuple(make_frames(4, 64)), 6.25)
    silence = np.zeros(16_000, np.float32)
    queries = [Query("a", clip, silence), Query("b", clip, tone(0.5)), Query("c", clip, silence)]
    answers = EngineSystem("audio", engine, "audio").predict(queries)
    assert [answer.reason == "silence" for answer in answers] == [True, False, True]
    assert all(answer.abstained for answer in (answers[0], answers[2]))

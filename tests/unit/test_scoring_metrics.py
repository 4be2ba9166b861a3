"""Rules, intervals, floors and the scored file, against literal figures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from surgvivqa_audio.errors import BadAnnotation, UnknownQuestionType
from surgvivqa_audio.sample import Sample, read_samples
from surgvivqa_audio.scoring.floors import hits, majority, nearest
from surgvivqa_audio.scoring.intervals import wilson
from surgvivqa_audio.scoring.parse import AnswerParser
from surgvivqa_audio.scoring.rows import join, parse_prediction, read_predictions
from surgvivqa_audio.scoring.rules import bleu, k_acc, loose, rouge_l, substring
from surgvivqa_audio.scoring.score import balanced, judge, score_file, score_rows
from surgvivqa_audio.scoring.table import band, score_lines
from surgvivqa_audio.taxonomy import load_taxonomy

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real-colon-vqa"
TAXONOMY = load_taxonomy()


def row(kind: str, short: str, predicted: str | None, **more: Any) -> dict[str, Any]:
    sentence = TAXONOMY.type_of(kind).answer(short).sentence
    return {
        "question_id": "qa_1",
        "question_type": kind,
        "question": TAXONOMY.type_of(kind).in_template,
        "ground_truth": sentence,
        "short_answer": short,
        "predicted_answer": predicted,
    } | more


def predictions(*rows: dict[str, Any]) -> list[Any]:
    return [parse_prediction(one, "here", TAXONOMY) for one in rows]


def sample(kind: str, short: str, frame: int, video: str = "v1", name: str = "qa_1") -> Sample:
    return Sample(
        key=f"in/{video}/{frame}/{kind}",
        id=name,
        template="in",
        video_id=video,
        frames=("f",),
        frame_numbers=(frame,),
        question=TAXONOMY.type_of(kind).in_template,
        question_type=kind,
        answer=TAXONOMY.type_of(kind).answer(short).sentence,
        short_answer=short,
    )


@pytest.mark.parametrize(
    ("short", "predicted", "expected"),
    [
        ("no", "normal", (True, False)),
        ("no", "No.", (True, True)),
        ("up", "upward", (True, False)),
        ("complete", "completely", (True, False)),
        ("<5", "The lesion is <5 mm.", (True, False)),
        ("NBI", "nbi", (True, True)),
        ("yes", "", (False, False)),
    ],
)
def test_substring_and_word_rule(short: str, predicted: str, expected: tuple[bool, bool]) -> None:
    assert (substring(short, predicted), k_acc(short, predicted)) == expected


def test_loose_rule_takes_an_empty_answer() -> None:
    gold = "The lesion is located in the rectum."
    assert loose("rectum", gold, "")
    assert loose("rectum", gold, "lesion")
    assert loose("rectum", gold, "the rectum, I think")
    assert not loose("rectum", gold, "sigma")


def test_bleu_by_hand() -> None:
    # 5 words of 6; unigrams 5/5, bigrams 4/4, trigrams 3/3, 4-grams 2/2; brevity exp(1 - 6/5)
    score, precision = bleu([("the scope is advancing forward now", "the scope is advancing forward")])
    assert score == pytest.approx(0.818731, abs=1e-6)
    assert precision == 1.0
    # unigrams 4/5, bigrams 3/4, trigrams 2/3, 4-grams 1/2: (4/5 * 3/4 * 2/3 * 1/2) ** 0.25
    score, precision = bleu([("the scope is advancing now", "the scope is advancing fast")])
    assert score == pytest.approx(0.668740, abs=1e-6)
    assert precision == 0.5
    assert bleu([("a b c d", "")]) == (0.0, 0.0)


def test_rouge_l_by_hand() -> None:
    assert rouge_l("the scope is advancing", "the scope advancing") == pytest.approx(6 / 7)
    assert rouge_l("a b c", "c b a") == pytest.approx(1 / 3)
    assert rouge_l("a b", "") == 0.0


@pytest.mark.parametrize(("successes", "total"), [(0, 7), (7, 7), (634, 1000), (23, 50), (1, 3)])
def test_wilson_is_statsmodels(successes: int, total: int) -> None:
    assert wilson(successes, total) == pytest.approx(
        proportion_confint(successes, total, method="wilson"), abs=1e-12
    )


def test_wilson_literal_and_nothing() -> None:
    assert wilson(634, 1000) == pytest.approx((0.6037, 0.6633), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_majority_ties_go_to_the_first_answer() -> None:
    rows = [sample("scope_motion", short, at) for at, short in enumerate(["no", "yes", "yes", "no"])]
    assert majority(rows) == {"scope_motion": "no"}
    assert hits(rows, {"scope_motion": "no"}) == 2
    assert hits(rows, {"scope_outside": "no"}) == 0


def test_nearest_in_time_of_the_same_type_and_video() -> None:
    train = [
        sample("scope_motion", "yes", 100),
        sample("scope_motion", "no", 200),
        sample("scope_outside", "yes", 120),
        sample("scope_motion", "no", 121, video="v2"),
    ]
    asked = [sample("scope_motion", "yes", 120), sample("scope_motion", "yes", 150)]
    assert nearest(asked, train) == ["yes", "yes"]
    assert nearest([sample("scope_motion", "yes", 1, video="v3")], train) == [None]


def test_score_of_a_small_file_by_hand() -> None:
    rows = predictions(
        row("scope_motion", "yes", "yes"),
        row("scope_motion", "yes", "Yes, the scope is moving across the frames."),
        row("scope_motion", "no", "yes"),
        row("tool_identification", "forceps", "forceps and snare"),
        row("tool_identification", "forceps", None, error="MissingFrame: 12"),
        row("tool_identification", "snare", "snare", error="late failure"),
    )
    result = score_rows(rows, TAXONOMY)
    assert result["rows"] == 6
    assert result["errors"] == 2
    assert result["closed_set"] == pytest.approx(2 / 6)
    assert result["substring"] == pytest.approx(3 / 6)  # the two-option answer counts there
    assert result["balanced"] == pytest.approx((0.5 + 0.0) / 2)
    assert result["floor"] == pytest.approx(4 / 6)
    assert result["floor_source"] == "self"
    assert result["informative"] == {
        "scope_motion": ["yes", "no"],
        "tool_identification": ["forceps", "snare"],
    }
    assert result["by_type"]["scope_motion"] == {
        "rows": 3,
        "closed_set": pytest.approx(2 / 3),
        "balanced": 0.5,
        "floor": pytest.approx(2 / 3),
        "ci95": list(wilson(2, 3)),
        "answers": 2,
    }
    assert result["ci95"] == list(wilson(2, 6))


def test_floor_from_training_rows_and_types_they_lack() -> None:
    rows = predictions(row("scope_motion", "yes", "yes"), row("scope_outside", "no", "no"))
    result = score_rows(rows, TAXONOMY, [sample("scope_motion", "no", 1)])
    assert (result["floor"], result["floor_source"]) == (0.0, "train")
    assert result["floor_best_constant"] == 1.0
    assert result["floor_unknown_types"] == ["scope_outside"]


def test_nearest_clip_floor_needs_keys_and_shared_procedures() -> None:
    train = [sample("scope_motion", "yes", 100), sample("scope_motion", "no", 200)]

    def floor(key: str) -> Any:
        return score_rows(predictions(row("scope_motion", "no", "x", key=key)), TAXONOMY, train)[
            "floor_nearest"
        ]

    assert floor("in/v1/170/scope_motion") == 1.0
    assert floor("in/v1/120/scope_motion") == 0.0
    assert floor("in/v2/170/scope_motion") is None
    assert floor("") is None


def test_ceilings_of_the_gold_sentences() -> None:
    rows = predictions(
        row("lesion_size_range", "<5", "x"), row("fluid_occlusion_level", "complete", "x"),
        row("lesion_motion_direction", "up", "x"), row("scope_motion", "no", "x"),
    )  # fmt: skip
    ceilings = score_rows(rows, TAXONOMY)["ceilings"]
    assert ceilings["closed_set"] == ceilings["substring"] == ceilings["bleu4"] == 1.0
    assert ceilings["k_acc"] == 0.25


def test_refusal_counts_where_it_is_the_gold_answer() -> None:
    refused = row("scope_motion", "yes", "This question cannot be answered from this clip.")
    asked = refused | {"short_answer": "unanswerable", "ground_truth": TAXONOMY.refusal.sentence}
    rows = predictions(asked, refused)
    assert score_rows(rows, TAXONOMY)["closed_set"] == 0.5


def test_out_of_scope_questions_have_the_refusal_as_their_only_answer() -> None:
    asked = row("scope_motion", "yes", "") | {
        "question_type": "out_of_scope",
        "short_answer": "unanswerable",
        "ground_truth": TAXONOMY.refusal.sentence,
    }
    said = [TAXONOMY.refusal.sentence, "unanswerable", "Yes, the scope is advancing.", "yes", "", "Ms Smith"]
    result = score_rows(predictions(*[asked | {"predicted_answer": text} for text in said]), TAXONOMY)
    assert result["closed_set"] == pytest.approx(2 / 6)
    with pytest.raises(BadAnnotation, match="'yes' is not an answer of out_of_scope"):
        predictions(asked | {"short_answer": "yes"})


def test_an_answer_to_a_misheard_question_is_wrong() -> None:
    base = {
        "question_type": "scope_motion", "ground_truth": "x", "short_answer": "yes",
        "predicted_answer": "yes",
    }  # fmt: skip
    said = [
        {},
        {"predicted_type": "scope_motion"},
        {"predicted_type": ""},
        {"predicted_type": "scope_outside"},
        {"predicted_type": "scope_motion", "abstained": True},
        {"predicted_answer": "Yes, the endoscope is moving.", "predicted_type": "scope_outside"},
    ]
    rows = [parse_prediction(base | extra, "here", TAXONOMY) for extra in said]
    assert judge(rows, AnswerParser(TAXONOMY)) == [True, True, True, False, True, False]


def test_balanced_gives_types_equal_weight() -> None:
    rows = predictions(*[row("scope_motion", "yes", "yes")] * 9, row("scope_outside", "no", "yes"))
    assert balanced(rows, [True] * 9 + [False]) == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_answer": None}, "short_answer"),
        ({"short_answer": "maybe"}, "'maybe' is not an answer of scope_motion"),
        ({"predicted_answer": None}, "predicted_answer"),
        ({"confidence": "high"}, "confidence"),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "pred.jsonl"
    good = row("scope_motion", "yes", "yes")
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(BadAnnotation, match=r"pred\.jsonl:2") as caught:
        read_predictions(path, TAXONOMY)
    assert message in str(caught.value)


def test_unknown_type_repeated_key_and_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "pred.jsonl"
    path.write_text(json.dumps(row("scope_motion", "yes", "yes") | {"question_type": "colour"}))
    with pytest.raises(UnknownQuestionType, match="colour"):
        score_file(path, TAXONOMY)
    keyed = json.dumps(row("scope_motion", "yes", "yes", key="in/v/1/scope_motion"))
    path.write_text(keyed + "\n" + keyed + "\n")
    with pytest.raises(BadAnnotation, match="already stands on line 1"):
        score_file(path, TAXONOMY)
    path.write_text("\n")
    with pytest.raises(BadAnnotation, match="no rows"):
        score_file(path, TAXONOMY)


def test_join_only_where_id_and_type_name_one_clip() -> None:
    out = {"question": TAXONOMY.type_of("scope_motion").out_template}
    rows = predictions(
        row("scope_motion", "yes", "yes") | out,
        row("scope_motion", "yes", "yes", question_id="qa_2"),
        row("scope_motion", "yes", "yes", question_id="qa_3"),
        row("scope_motion", "no", "yes", question_id="qa_4"),
    )
    samples = [
        sample("scope_motion", "yes", 8),
        sample("scope_motion", "yes", 16, name="qa_2"),
        sample("scope_motion", "yes", 24, name="qa_2"),
        sample("scope_motion", "yes", 32, name="qa_4"),
    ]
    joined, left = join(rows, samples, TAXONOMY)
    assert [one.key for one in joined] == ["out/v1/8/scope_motion", "", "", ""]
    assert [one.question_id for one in left] == ["qa_2", "qa_3", "qa_4"]


def test_bands_and_lines() -> None:
    assert [band(share) for share in (1.0, 0.76, 0.75, 0.5, 0.49, 0.25, 0.1)] == [
        "100", "> 75", "50-75", "50-75", "25-50", "25-50", "< 25",
    ]  # fmt: skip
    lines = score_lines("x.jsonl", score_rows(predictions(row("scope_motion", "yes", "yes")), TAXONOMY))
    assert lines[0].startswith("x.jsonl: n = 1,")
    assert "floor 100.0 % (best constant of this file)" in lines[1]
    assert "one answer only" in lines[-1]


def seed_split(samples: list[Sample]) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """The split behind the published numbers, as the agreement defines it."""
    pool = [one for one in samples if one.video_id in ("002-001", "002-002", "002-003")]
    groups: dict[str, list[Sample]] = {}
    for one in pool:
        groups.setdefault(one.question_type, []).append(one)
    shuffle, train, held = random.Random(42), [], []
    for group in groups.values():
        shuffle.shuffle(group)
        count = max(1, int(0.15 * len(group)))
        train += group[:-count]
        held += group[-count:]
    return train, held, [one for one in samples if one.video_id == "002-004"]


@pytest.mark.data
def test_floors_of_the_seed_split() -> None:
    if not REAL.is_dir():
        pytest.skip(f"annotations not at {REAL}")
    train, held, test = seed_split(read_samples(REAL / "in_template.jsonl", TAXONOMY))
    assert (len(train), len(held), len(test)) == (2302, 398, 1000)
    gold = [
        parse_prediction(
            one.to_row() | {"ground_truth": one.answer, "predicted_answer": one.answer}, one.key, TAXONOMY
        )
        for one in test
    ]
    result = score_rows(gold, TAXONOMY, train)
    assert result["closed_set"] == result["balanced"] == result["substring"] == 1.0
    assert round(result["floor"], 3) == 0.573
    assert round(result["floor_best_constant"], 3) == 0.648
    assert len(result["informative"]) == 13
    assert len(result["by_type"]) == 20
    assert result["informative_only"]["rows"] == 650


@pytest.mark.data
def test_published_predictions() -> None:
    if not REAL.is_dir():
        pytest.skip(f"published predictions not at {REAL}")
    result = score_file(REAL / "predictions_sample.jsonl", TAXONOMY)
    published = [json.loads(line) for line in (REAL / "predictions_sample.jsonl").open()]
    assert result["rows"] == result["rows_without_key"] == 120
    assert result["substring"] == sum(one["correct"] for one in published) / 120 == 0.35
    assert result["closed_set"] == 45 / 120  # three "upper left" that the substring rule misses
    rows = read_predictions(REAL / "predictions_sample.jsonl", TAXONOMY)
    joined, left = join(rows, read_samples(REAL / "in_template.jsonl", TAXONOMY), TAXONOMY)
    assert len(left) == 1
    assert {one.video for one in joined if one.key} == {"002-004"}

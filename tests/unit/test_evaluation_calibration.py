"""Calibration figures by hand and on samples whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgvivqa_audio.errors import BadAnnotation
from surgvivqa_audio.evaluation.calibration import (
    area_under_risk_coverage,
    brier,
    calibrate,
    confidences,
    expected_calibration_error,
    fit_temperature,
    reliability,
    risk_coverage,
)
from surgvivqa_audio.evaluation.conformal import conformal_sets, conformal_threshold, procedure_halves
from surgvivqa_audio.evaluation.decide import fit_decision
from surgvivqa_audio.evaluation.outcomes import Outcome, outcomes
from surgvivqa_audio.scoring.rows import parse_prediction
from surgvivqa_audio.taxonomy import load_taxonomy

OPTIONS = tuple(("scope_motion_type", name) for name in "abcd")
OTHER = ("", "(other)")


def outcome(probabilities: list[float], gold: int = 0, video: str = "v") -> Outcome:
    labels = (*OPTIONS[: len(probabilities)], OTHER)
    rest = max(0.0, 1 - sum(probabilities))
    return Outcome(labels, np.array([*probabilities, rest]), labels[gold], video)


def drawn(count: int, sharpness: float, seed: int) -> list[Outcome]:
    """Rows whose gold is drawn from p, while p ** sharpness (renormalised) is what the model claims."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        truth = rng.dirichlet(np.full(4, 0.7))
        claimed = truth**sharpness / (truth**sharpness).sum()
        rows.append(outcome(claimed.tolist(), int(rng.choice(4, p=truth)), f"v{number % 10}"))
    return rows


def right(rows: list[Outcome]) -> Any:
    return np.array([row.correct for row in rows], dtype=float)


def test_temperature_undoes_a_known_sharpening() -> None:
    for sharpness in (0.5, 1.0, 2.5):
        assert fit_temperature(drawn(2500, sharpness, 1)) == pytest.approx(sharpness, rel=0.1)
    assert fit_temperature([]) == 1.0


def test_calibration_error_falls_after_the_temperature() -> None:
    test, held = drawn(3000, 3.0, 2), drawn(3000, 3.0, 3)
    found = calibrate(test, held)
    assert found["raw"]["ece"] > 0.1
    assert found["tempered"]["ece"] < 0.03
    assert found["tempered"]["brier"] < found["raw"]["brier"]
    assert found["raw"]["accuracy"] == found["tempered"]["accuracy"] == right(test).mean()
    assert calibrate(test, None)["temperature"] is None


def test_conformal_sets_cover_as_promised() -> None:
    test, held = drawn(3000, 2.0, 4), drawn(1500, 2.0, 5)
    for alpha in (0.05, 0.1, 0.2):
        found = calibrate(test, held, alpha)["conformal"]
        assert found["coverage"] == pytest.approx(1 - alpha, abs=0.03)
        assert found["mean_set_size"] < 4
        assert len(found["coverage_by_procedure"]) == 10


def test_conformal_threshold_by_hand() -> None:
    rows = [outcome([probability]) for probability in (0.9, 0.8, 0.7, 0.6)]
    assert conformal_threshold(rows, 1.0, alpha=0.4) == pytest.approx(0.3)  # third of four
    assert conformal_threshold(rows, 1.0, alpha=0.1) == 1.0  # the fifth of four: nothing can be ruled out
    assert conformal_sets([outcome([0.75, 0.2, 0.05])], 1.0, 0.3) == [(OPTIONS[0],)]
    assert conformal_sets([outcome([0.3, 0.3])], 1.0, 0.65) == [(OTHER,)]


def test_reliability_and_ece_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.6, 0.5])
    correct = np.array([1.0, 1.0, 0.0, 1.0])
    table = reliability(confidence, correct, bins=2)
    assert table == [
        {"rows": 2, "confidence": 0.55, "accuracy": 0.5},
        {"rows": 2, "confidence": pytest.approx(0.85), "accuracy": 1.0},
    ]
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)
    assert brier(confidence, correct) == pytest.approx((0.01 + 0.04 + 0.36 + 0.25) / 4)


def test_risk_coverage_by_hand() -> None:
    confidence = np.array([0.5, 0.9, 0.7, 0.6])
    correct = np.array([0.0, 1.0, 0.0, 1.0])
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0.0, 0.5, 1 / 3, 0.5])
    assert area_under_risk_coverage(confidence, correct) == pytest.approx((0 + 0.5 + 1 / 3 + 0.5) / 4)


def test_equal_confidence_cannot_order_errors() -> None:
    confidence = np.full(4, 0.5)
    for correct in ([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]):
        assert risk_coverage(confidence, np.array(correct))[1].tolist() == [0.5] * 4


def test_temperature_keeps_the_order_and_sums_to_one() -> None:
    row = outcome([0.6, 0.3])
    hot = row.tempered(3.0)
    assert hot.sum() == pytest.approx(1.0)
    assert hot[0] > hot[1] > hot[2] > 0.1
    assert confidences([row]).tolist() == [0.6]
    assert confidences([outcome([1.0])], 5.0).tolist() == [1.0]


def test_unwritten_options_share_the_rest() -> None:
    row = Outcome((OPTIONS[0], OTHER), np.array([0.6, 0.4]), OPTIONS[1], "v", unlisted=4)
    assert row.tempered(1.0).tolist() == pytest.approx([0.6, 0.4])
    full = np.sqrt([0.6, 0.1, 0.1, 0.1, 0.1])  # what all five options would give at temperature 2
    assert row.tempered(2.0)[0] == pytest.approx(full[0] / full.sum())
    assert conformal_threshold([row] * 9, 1.0) == pytest.approx(0.9)  # the gold option has a quarter of 0.4
    assert conformal_sets([row], 1.0, 0.95) == [(OPTIONS[0], OTHER)]
    assert conformal_sets([row], 1.0, 0.5) == [(OPTIONS[0],)]


def test_coverage_over_halves_of_the_procedures() -> None:
    found = procedure_halves(drawn(2000, 1.0, 7), 1.0, alpha=0.2)
    assert found is not None
    assert found["mean"] == pytest.approx(0.8, abs=0.02)
    assert found["low"] < found["mean"] < found["high"]
    assert procedure_halves(drawn(3, 1.0, 7), 1.0) is None


def refusable(refusal: float, gold: tuple[str, str], video: str = "v") -> Outcome:
    """Two answers of one type share what the refusal leaves; every sentence is listed."""
    labels = (("scope_motion", "yes"), ("scope_motion", "no"), ("", "unanswerable"), OTHER)
    rest = 1 - refusal
    return Outcome(labels, np.array([0.7 * rest, 0.3 * rest, refusal, 0.0]), gold, video, unlisted=0)


def test_decision_keeps_false_refusals_within_the_budget() -> None:
    answer, refuse = ("scope_motion", "yes"), ("", "unanswerable")
    inside = [refusable(number / 200, answer) for number in range(1, 101)]
    outside = [refusable(number / 20, refuse) for number in range(1, 20)]
    found = fit_decision([*inside, *outside], 0.05)
    # five of a hundred may be refused: the threshold lies between 0.475 and 0.48
    assert (found.answerable, found.false_refusals, found.unanswerable) == (100, 0.05, 19)
    assert found.refused == pytest.approx(10 / 19)  # 0.5 and above
    assert fit_decision(inside, 0.0).false_refusals == 0.0
    temperature = found.decision["temperature"]
    low, high = (temperature_log_odds(share, temperature) for share in (0.475, 0.48))
    assert low < found.decision["refuse_at"] < high


def test_refusals_beyond_what_is_asked_for_are_not_bought_with_answers() -> None:
    answer, refuse = ("scope_motion", "yes"), ("", "unanswerable")
    inside = [refusable(number / 200, answer) for number in range(1, 101)]  # at most one half
    outside = [refusable(share, refuse) for share in (0.1, 0.8, *[0.9] * 18)]
    found = fit_decision([*inside, *outside], 0.05)
    assert (found.false_refusals, found.refused) == (0.0, 0.95)  # 19 of 20 are enough: 0.8 and above
    assert fit_decision([*inside, *outside[:-6]], 0.05).false_refusals == 0.05  # 13 of 14 are not


def temperature_log_odds(refusal: float, temperature: float) -> float:
    parts = np.array([0.7 * (1 - refusal), 0.3 * (1 - refusal), refusal]) ** (1 / temperature)
    return float(np.log(parts[2] / (parts[0] + parts[1])))


def test_log_probabilities_are_read_exactly_and_fit_the_taxonomy() -> None:
    taxonomy = load_taxonomy()
    every = list(taxonomy.sentences().values())
    logs = [-30.0] * len(every)
    logs[every.index(("scope_motion", "yes"))] = -1.0
    logs[every.index(("scope_outside", "no"))] = -2.0
    base = {
        "key": "in/sim-1/0/scope_motion", "question_type": "scope_motion", "ground_truth": "x",
        "short_answer": "yes", "predicted_answer": "yes", "options": [["scope_motion", "yes", 0.7]],
    }  # fmt: skip
    row = parse_prediction(base | {"log_probs": logs}, "here", taxonomy)
    found = outcomes([row], taxonomy)[0]
    assert (found.best, found.gold, found.unlisted) == (("scope_motion", "yes"), ("scope_motion", "yes"), 0)
    assert confidences([found])[0] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-9)
    assert confidences([found], 2.0)[0] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-3)
    short = parse_prediction(base | {"log_probs": logs[:-1]}, "here", taxonomy)
    with pytest.raises(BadAnnotation, match="another taxonomy"):
        outcomes([short], taxonomy)


def test_outcomes_of_prediction_rows() -> None:
    taxonomy = load_taxonomy()
    base = {
        "key": "in/sim-1/0/scope_motion",
        "question_type": "scope_motion",
        "ground_truth": "x",
        "short_answer": "yes",
        "predicted_answer": "yes",
    }
    rows = [
        base | {"options": [["scope_motion", "yes", 0.7], ["scope_motion", "no", 0.2]]},
        base | {"short_answer": "unanswerable", "options": [["", "unanswerable", 0.9]]},
        base | {"error": "failed", "options": [["scope_motion", "yes", 1.0]]},
        base,
    ]
    found = outcomes([parse_prediction(row, "here", taxonomy) for row in rows], taxonomy)
    assert [row.correct for row in found] == [True, True]
    assert found[0].probabilities.tolist() == pytest.approx([0.7, 0.2, 0.1])
    assert found[0].video == "sim-1"
    assert found[0].unlisted == len(taxonomy.sentences()) - 2
    broken = parse_prediction(base | {"options": [["yes", 0.7]]}, "here", taxonomy)
    with pytest.raises(BadAnnotation, match="options"):
        outcomes([broken], taxonomy)

"""Statistics against SciPy, statsmodels and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from surgvivqa_audio.scoring.statistics import (
    cluster_bootstrap,
    confusion,
    flips,
    holm,
    macro_f1,
    mcnemar,
)


def test_confusion_and_macro_f1_by_hand() -> None:
    gold = ["a", "a", "a", "b", "c"]
    said = ["a", "a", "b", "b", None]
    assert confusion(gold, said) == {"a": {"a": 2, "b": 1}, "b": {"b": 1}, "c": {"(none)": 1}}
    # a: 2 * 2 / (2 + 3); b: 2 * 1 / (2 + 1); c: 0
    assert macro_f1(gold, said) == pytest.approx((0.8 + 2 / 3 + 0.0) / 3)
    assert macro_f1([], []) == 0.0


@pytest.mark.parametrize(
    ("both", "one", "other", "none"), [(40, 12, 3, 45), (5, 0, 6, 1), (7, 9, 9, 0), (3, 0, 0, 3)]
)
def test_mcnemar_is_statsmodels(both: int, one: int, other: int, none: int) -> None:
    first = [True] * both + [True] * one + [False] * other + [False] * none
    second = [True] * both + [False] * one + [True] * other + [False] * none
    found = mcnemar(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (both, one, other, none)
    expected = reference_mcnemar([[both, one], [other, none]], exact=True).pvalue
    assert found.p_value == pytest.approx(min(1.0, expected), abs=1e-12)


def test_holm_is_statsmodels() -> None:
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": 0.9}
    expected = multipletests(list(values.values()), method="holm")[1]
    assert list(holm(values)) == list(values)
    assert list(holm(values).values()) == pytest.approx(expected, abs=1e-12)
    assert holm({}) == {}


def test_bootstrap_of_single_rows_is_scipys_percentile_bootstrap() -> None:
    rng = np.random.default_rng(3)
    right = (rng.random(300) < 0.7).astype(float)
    low, high = cluster_bootstrap(range(300), lambda rows: float(right[rows].mean()), rounds=4000)
    reference = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=4000, rng=1)
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.01)


def test_clusters_widen_the_interval_and_the_seed_fixes_it() -> None:
    right = np.repeat([1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], 50)
    procedures = np.repeat(np.arange(8), 50).tolist()

    def figure(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        return float(right[rows].mean())

    alone = cluster_bootstrap(range(400), figure)
    together = cluster_bootstrap(procedures, figure)
    assert together[1] - together[0] > 4 * (alone[1] - alone[0])
    assert together == cluster_bootstrap(procedures, figure)
    assert alone != cluster_bootstrap(range(400), figure, seed=1)
    assert cluster_bootstrap(["v"] * 400, figure) == (0.625, 0.625)


def test_flips_between_two_wordings() -> None:
    first = {"a": ("yes", True), "b": ("no", True), "c": ("no", False), "d": ("up", False), "x": ("no", True)}
    second = {"a": ("yes", True), "b": ("yes", False), "c": ("yes", True), "d": ("left", False)}
    found = flips(first, second)
    assert (found.pairs, found.changed, found.lost, found.won) == (4, 3, 1, 1)
    assert found.p_value == 1.0

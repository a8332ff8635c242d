"""Means, ratios and differences: the bootstrap against theory and simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from headlab.stats import bootstrap_mean, bootstrap_paired_difference, bootstrap_ratio, clustered_rate
from headlab.stats.intervals import bootstrap_means


def test_bootstrap_mean_matches_the_normal_limit():
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, 1500)
    e = bootstrap_mean(x, unit="prompts", seed=5, draws=8000)
    half = norm.ppf(0.975) * x.std() / np.sqrt(len(x))
    assert e.value == pytest.approx(x.mean(), abs=1e-12) and e.n == 1500
    assert (e.low, e.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.04 * half)


def test_bootstrap_of_clusters_is_a_plain_loop_over_whole_clusters():
    """The same draws, done the slow way: pick clusters, concatenate their rows, average."""
    values = [np.array([1.0, 5.0, 3.0]), np.array([10.0]), np.array([-2.0, 0.0])]
    labels = ["a"] * 3 + ["b"] + ["c"] * 2
    rng = np.random.default_rng(11)
    picks = rng.integers(3, size=(500, 3))
    means = [np.concatenate([values[i] for i in pick]).mean() for pick in picks]
    e = bootstrap_mean(np.concatenate(values), labels, unit="rows", seed=11, draws=500)
    assert (e.low, e.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)
    assert e.value == pytest.approx(17 / 6) and e.n == 6 and "3 clusters" in e.note and e.seed == 11


def test_blocks_of_draws_change_nothing(monkeypatch):
    x = np.random.default_rng(0).normal(size=40)
    whole = bootstrap_mean(x, unit="rows", seed=2, draws=300)
    import headlab.stats.intervals as intervals

    monkeypatch.setattr(intervals, "BLOCK", 7 * 40)
    parts = bootstrap_mean(x, unit="rows", seed=2, draws=300)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-14)


def test_names_of_clusters_and_doing_columns_together_change_nothing():
    rng = np.random.default_rng(3)
    table, codes = rng.normal(size=(30, 4)), np.arange(30) // 3
    together = bootstrap_means(table, codes, unit="rows", seed=8, draws=400)
    names = [f"prompt {9 - c}" for c in codes]
    for j in range(4):
        alone = bootstrap_mean(table[:, j], names, unit="rows", seed=8, draws=400)
        assert (alone.value, alone.low, alone.high) == pytest.approx(
            (together[j].value, together[j].low, together[j].high), abs=1e-12
        )
    other = bootstrap_mean(table[:, 0], codes, unit="rows", seed=9, draws=400)
    assert other.low != together[0].low


def test_coverage_holds_with_clusters_and_fails_without():
    rng = np.random.default_rng(2024)
    hits = naive = 0
    sims = 300
    for seed in range(sims):
        codes = np.repeat(np.arange(50), rng.integers(2, 8, 50))
        x = rng.normal(size=50)[codes] + 0.3 * rng.normal(size=len(codes))
        e = bootstrap_mean(x, codes, unit="rows", seed=seed, draws=400)
        f = bootstrap_mean(x, unit="rows", seed=seed, draws=400)
        hits += e.low <= 0 <= e.high
        naive += f.low <= 0 <= f.high
    assert 0.90 <= hits / sims <= 0.98
    assert naive / sims < 0.80


def test_too_few_rows_are_undefined_and_never_zero():
    for e in (
        bootstrap_mean([3.0], unit="rows", seed=0),
        bootstrap_mean([], unit="rows", seed=0),
        bootstrap_mean([1.0, 2.0], ["p", "p"], unit="rows", seed=0),
        clustered_rate([True], unit="rows"),
        clustered_rate([True, False], ["p", "p"], unit="rows"),
        bootstrap_ratio([1.0], [2.0], unit="rows", seed=0),
        bootstrap_paired_difference([1.0], [2.0], unit="rows", seed=0),
    ):
        assert e.value is None and e.low is None and "2 clusters" in e.note


def test_equal_values_say_that_the_interval_shows_nothing():
    e = bootstrap_mean([0.1] * 12, unit="rows", seed=0)
    assert e.low == e.value == e.high and "no uncertainty" in e.note
    assert "no uncertainty" not in bootstrap_mean([0.1] * 11 + [0.2], unit="rows", seed=0).note
    assert "few clusters" in bootstrap_mean([1.0, 2.0, 3.0], unit="rows", seed=0).note


def test_a_ratio_is_a_ratio_of_means_and_pairs_its_rows():
    rng = np.random.default_rng(7)
    denominators = rng.gamma(4, 1, 200)
    e = bootstrap_ratio(0.4 * denominators, denominators, unit="pairs", seed=0)
    assert e.value == pytest.approx(0.4) and e.low == pytest.approx(0.4) == e.high  # rows stay paired
    top = 0.4 * denominators + rng.normal(0, 1, 200)
    e = bootstrap_ratio(top, denominators, unit="pairs", seed=0, draws=4000)
    assert e.value == pytest.approx(top.sum() / denominators.sum())
    error = np.std(top - e.value * denominators) / np.sqrt(200) / denominators.mean()  # delta method
    assert (e.high - e.low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_a_ratio_by_hand_over_two_clusters():
    # Draws are (a,a), (a,b), (b,b): ratios 1/2, 5/6 and 4/4; the 95 % bounds are the outer two.
    e = bootstrap_ratio([1.0, 4.0], [2.0, 4.0], ["a", "b"], unit="pairs", seed=0)
    assert (e.low, e.value, e.high) == pytest.approx((0.5, 5 / 6, 1.0))


@pytest.mark.parametrize("denominators", [[0.0] * 20, [1e-17, -1e-17] * 10, [1.0, -1.0] * 10, [-1.0, 1.2] * 10])
def test_a_ratio_over_nothing_is_undefined(denominators):
    e = bootstrap_ratio([1.0] * 20, denominators, unit="pairs", seed=0)
    assert not e.defined and "not clear of zero" in e.note


def test_a_ratio_over_negative_denominators_is_defined():
    e = bootstrap_ratio([1.0, 2.0, 3.0], [-2.0, -4.0, -6.5], unit="pairs", seed=0)
    assert e.value == pytest.approx(-6 / 12.5) and e.low < e.value < e.high


def test_pairing_removes_what_both_worlds_share():
    rng = np.random.default_rng(9)
    base = rng.normal(0, 10, 80)
    a, b = base + 1 + rng.normal(0, 0.5, 80), base
    e = bootstrap_paired_difference(a, b, unit="prompts", seed=0)
    assert e.value == pytest.approx((a - b).mean()) and e.above(0.5) == "yes" and e.high - e.low < 0.5
    swapped = bootstrap_paired_difference(b, a, unit="prompts", seed=0)
    assert (swapped.low, swapped.high) == pytest.approx((-e.high, -e.low))


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"1 NaN or infinite value\(s\) among 2"):
        bootstrap_mean([1.0, float("nan")], unit="rows", seed=0)
    with pytest.raises(ValueError, match="one cluster per row: got 1 for 2"):
        bootstrap_mean([1.0, 2.0], ["a"], unit="rows", seed=0)
    with pytest.raises(ValueError, match="missing label"):
        bootstrap_mean([1.0, 2.0], ["a", None], unit="rows", seed=0)
    with pytest.raises(ValueError, match="missing label"):
        bootstrap_mean([1.0, 2.0], np.array([1.0, np.nan]), unit="rows", seed=0)
    with pytest.raises(ValueError, match="paired, got lengths"):
        bootstrap_ratio([1.0, 2.0], [1.0], unit="rows", seed=0)
    with pytest.raises(ValueError, match="booleans"):
        clustered_rate([0.0, 0.5], unit="rows")
    with pytest.raises(ValueError, match="axis"):
        bootstrap_mean([[1.0, 2.0]], unit="rows", seed=0)
    for seed in (None, -1, 1.5):
        with pytest.raises((ValueError, TypeError), match="seed"):
            bootstrap_mean([1.0, 2.0], unit="rows", seed=seed)

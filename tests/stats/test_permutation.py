"""Ranks by counting, their outcomes by the written rule, sign flips against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from headlab.stats import rank, sign_flip
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws

HALVES = 1296  # matched halves of 16 heads in 4 groups: C(4, 2) ** 4


def test_the_best_of_all_matched_halves():
    null = np.linspace(0, 0.8, HALVES - 1)
    r = rank(0.9, [*null, 0.9], enumerated=True)
    assert r.p == r.low == r.high == r.smallest_attainable == 1 / HALVES
    assert (r.at_least_as_extreme, r.n_sets, r.most_extreme, r.outcome) == (1, HALVES, True, "upheld")


@pytest.mark.parametrize(("place", "outcome"), [(64, "upheld"), (65, "refuted"), (700, "refuted"), (HALVES, "refuted")])
def test_enumerated_outcomes_by_place(place, outcome):
    """64/1296 = .0494 is under .05, 65/1296 = .0502 is not."""
    null = np.arange(HALVES, 0, -1.0)
    r = rank(null[place - 1], null, enumerated=True)
    assert r.p == place / HALVES and r.outcome == outcome and r.most_extreme == (place == 1)


@pytest.mark.parametrize(
    ("n", "ties", "outcome"),
    [(16, 1, "untestable"), (20, 1, "untestable"), (21, 1, "upheld"), (39, 2, "untestable"), (41, 2, "upheld")],
)
def test_few_sets_cannot_decide_in_favour(n, ties, outcome):
    null = np.arange(n, dtype=float)
    null[-ties:] = n
    r = rank(n, null, enumerated=True, least_ties=ties)
    assert r.p == r.smallest_attainable == ties / n and r.outcome == outcome
    last = rank(0.0, null, enumerated=True, least_ties=ties).outcome  # where nothing can be upheld nothing is refuted
    assert last == ("untestable" if outcome == "untestable" else "refuted")


def test_ties_count_against_the_claim():
    null = [1.0] * 5 + [0.0] * 95
    assert rank(1.0, null, enumerated=True).p == 0.05
    assert rank(1.0, null, enumerated=True).outcome == "undecided"
    assert rank(1.0, null, enumerated=True).most_extreme
    assert rank(1.0, np.zeros(100), enumerated=False).at_least_as_extreme == 0


def test_rounding_does_not_break_a_tie():
    observed, again = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert observed != again
    assert rank(min(observed, again), [max(observed, again), 0.0, -1.0], enumerated=True).at_least_as_extreme == 1
    r = rank(max(observed, again), [min(observed, again), 0.0, -1.0], enumerated=True)
    assert r.at_least_as_extreme == 1 and r.most_extreme
    near = [1.0, 0.999, 0.5]
    assert rank(1.0, near, enumerated=True).at_least_as_extreme == 1
    assert rank(1.0, near, enumerated=True, tolerance=0.01).at_least_as_extreme == 2


@pytest.mark.parametrize(
    ("count", "n", "outcome"),
    [
        (0, 999, "upheld"),
        (34, 999, "upheld"),
        (45, 999, "undecided"),
        (80, 999, "refuted"),
        (0, 72, "upheld"),
        (0, 71, "undecided"),
        (0, 18, "untestable"),
    ],
)
def test_sampled_outcomes_follow_clopper_pearson(count, n, outcome):
    r = rank(1.0, [2.0] * count + [0.0] * (n - count), enumerated=False)
    exact = binomtest(count, n).proportion_ci(method="exact")
    assert r.p == (1 + count) / (1 + n) and (r.low, r.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert r.outcome == outcome and r.smallest_attainable == 1 / (1 + n)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=80), st.integers(-5, 5), st.booleans())
def test_rank_properties(null, observed, less):
    tail = "less" if less else "greater"
    sampled = rank(observed, null, enumerated=False, tail=tail)
    assert 0 <= sampled.low <= sampled.p <= sampled.high <= 1
    expected = sum(x <= observed if less else x >= observed for x in null)
    assert sampled.at_least_as_extreme == expected
    listed = rank(observed, [*null, observed], enumerated=True, tail=tail)
    assert listed.p == (expected + 1) / (len(null) + 1) >= listed.smallest_attainable
    flipped = rank(-observed, [-x for x in null], enumerated=False, tail="greater" if less else "less")
    assert flipped == sampled
    assert listed.estimate.value == listed.p and listed.estimate.unit == "matched sets"


def test_a_p_of_a_true_null_is_not_too_small():
    """Observed and null from one distribution: Pr[p <= .05] <= .05."""
    rng = np.random.default_rng(5)
    draws = rng.normal(size=(2000, 100))
    p = np.array([rank(x[0], x[1:], enumerated=False).p for x in draws])
    assert 0.035 <= (p <= 0.05).mean() <= 0.06


def test_bad_nulls_are_refused():
    with pytest.raises(ValueError, match="enumeration holds the observed"):
        rank(1.0, [0.0, 2.0], enumerated=True)
    with pytest.raises(ValueError, match="no sets"):
        rank(1.0, [], enumerated=False)
    with pytest.raises(ValueError, match="NaN"):
        rank(1.0, [float("nan")], enumerated=False)
    with pytest.raises(ValueError, match="observed"):
        rank(float("nan"), [1.0], enumerated=False)
    with pytest.raises((ValueError, TypeError), match="tail"):
        rank(1.0, [1.0], enumerated=False, tail="both")


@pytest.mark.parametrize("tail", ["both", "greater", "less"])
def test_sign_flips_by_brute_force(tail):
    d = np.array([1.5, -0.2, 0.7, 2.0, 0.1, 1.1, -0.4, 0.9])
    flips = [np.dot(s, d) for s in product([1, -1], repeat=8)]
    extreme = {
        "both": [abs(f) >= abs(d.sum()) - 1e-9 for f in flips],
        "greater": [f >= d.sum() - 1e-9 for f in flips],
        "less": [f <= d.sum() + 1e-9 for f in flips],
    }[tail]
    r = sign_flip(d, seed=0, tail=tail)
    assert r.enumerated and r.n_sets == 256 and r.p == np.mean(extreme)
    kind = {"both": "two-sided"}.get(tail, tail)
    scipy = permutation_test((d,), np.mean, permutation_type="samples", alternative=kind, n_resamples=np.inf)
    assert r.p == pytest.approx(scipy.pvalue)


def test_sign_flips_keep_clusters_whole():
    d = np.repeat([1.0, 2.0, 1.5, 0.5, 1.0], 4)
    clusters = np.repeat(list("abcde"), 4)
    r = sign_flip(d, clusters, seed=0)
    assert (r.n_sets, r.p, r.outcome) == (32, 2 / 32, "untestable")
    assert sign_flip(d, seed=0).outcome == "upheld"  # 20 rows pretending to be independent


def test_sampled_sign_flips_approach_the_enumeration():
    d = np.random.default_rng(2).normal(0.5, 1, 12)
    exact, sampled = sign_flip(d, seed=0), sign_flip(d, seed=0, draws=4000)
    assert exact.enumerated and not sampled.enumerated
    assert sampled.low <= exact.p <= sampled.high
    assert sign_flip(d, seed=0, draws=4000) == sampled != sign_flip(d, seed=1, draws=4000)


def test_sign_flips_find_nothing_where_nothing_is():
    assert sign_flip([0.0] * 8, seed=0).p == 1.0
    assert sign_flip([3.0], seed=0).outcome == "untestable"
    with pytest.raises(ValueError, match="no rows"):
        sign_flip([], seed=0)


# -- sets among sets, over prompts ---------------------------------------------------------------------------


def over_prompts(effect, sets, pairs, seed, clusters=None, noise=1.0):
    """A named set ``effect`` above the rest, every set measured on the same pairs with ``noise``; an enumeration."""
    rng = np.random.default_rng(seed)
    true = np.r_[effect, rng.normal(0, 1, sets - 1)]
    rows = true + noise * rng.normal(size=(pairs, sets))
    table = np.hstack([rows[:, :1], rows])  # the observed one first, and again among all
    found = bootstrap_of_means(table, lambda m: m, clusters, unit="pairs", seed=seed, draws=400)
    return rank_over_draws(found, enumerated=True, alpha=0.05), rank(found.value[0], found.value[1:], enumerated=True)


def test_an_enumerated_rank_is_undecided_where_prompts_do_not_agree():
    sure, alone = over_prompts(6.0, 60, 200, seed=0)
    assert (sure.p, sure.low, sure.n_sets) == (alone.p, alone.low, alone.n_sets) == (1 / 60, 1 / 60, 60)
    assert sure.outcome == alone.outcome == "upheld" and sure.under == 1
    noisy, alone = over_prompts(2.0, 60, 8, seed=3, noise=4)
    assert alone.outcome in ("upheld", "refuted") and noisy.outcome == "undecided"
    assert noisy.against(0.05) == noisy.outcome and max(noisy.under, noisy.over) < 0.95
    one, _ = over_prompts(6.0, 60, 200, seed=0, clusters=["same"] * 200)
    assert one.outcome == "undecided", "prompts of one cluster agree with nothing"


def test_sixteen_sets_refute_nothing():
    """40 % of effects of two standard deviations were refuted where nothing could have been upheld; now all are untestable."""
    outcomes = {over_prompts(2.0, 16, 50, seed)[0].outcome for seed in range(40)}
    assert outcomes == {"untestable"}
    many = [over_prompts(2.0, 200, 100, seed)[0].outcome for seed in range(20)]
    assert "upheld" in many and "untestable" not in many


def test_a_higher_level_asks_more_of_sets_and_prompts():
    sampled = rank(1.0, [2.0] * 75 + [0.0] * 924, enumerated=False)
    exact = binomtest(75, 999).proportion_ci(confidence_level=1 - 0.05 / 6, method="exact")
    assert sampled.against(0.05) == "refuted" and exact.low < 0.06
    assert sampled.against(0.05, 1 - 0.05 / 6) == ("refuted" if exact.low > 0.05 else "undecided")
    assert sampled.against(0.058) == "refuted" and sampled.against(0.058, 1 - 0.05 / 6) == "undecided"

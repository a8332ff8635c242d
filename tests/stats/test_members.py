"""Member models: planted effects, scikit-learn and statsmodels as oracles, and published outcomes again."""

import csv
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from headlab.stats import (
    additive,
    auroc,
    bootstrap_mean,
    clopper_pearson,
    leave_one_out,
    linear_separability,
    predict_left_out,
    wilson,
)


def all_subsets(n):
    return np.array(list(product([False, True], repeat=n)))


def halves(n):
    return np.array([[j in c for j in range(n)] for c in combinations(range(n), n // 2)])


def published():
    """(membership [93, 32], success [93])"""
    lines = (Path(__file__).parent / "even_head_subsets.csv").read_text().splitlines()
    table = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    x = np.zeros((len(table), 32), dtype=bool)
    for i, row in enumerate(table):
        x[i, [int(b) for b in row["blocks"].split()]] = True
    return x, np.array([row["success"] == "1" for row in table])


def even_eights():
    x, y = published()
    kept = (x.sum(axis=1) == 8) & ~x[:, 1::2].any(axis=1)
    return x[kept][:, ::2], y[kept]


# -- published outcomes ------------------------------------------------------------------------------------


def test_the_published_subsets_say_what_was_reported_of_them():
    x, y = published()
    assert x.shape == (93, 32) and y.sum() == 39
    even, works = even_eights()
    e = wilson(works.sum(), len(works), unit="subsets")
    assert (works.sum(), len(works)) == (34, 54)
    assert (e.low, e.high) == pytest.approx((0.50, 0.75), abs=0.005)
    exact = clopper_pearson(19, 30, unit="subsets")
    assert (exact.low, exact.high) == pytest.approx((0.44, 0.80), abs=0.005)
    assert even.sum(axis=1).tolist() == [8] * 54


def test_the_published_outcomes_are_one_additive_margin():
    x, y = published()
    found = linear_separability(x, y)
    assert found.separable and not found.always_possible and (found.n, found.successes) == (93, 39)
    assert (((x @ found.weights + found.bias) > 0) == y).all()
    even, works = even_eights()
    assert linear_separability(even, works).separable
    rng = np.random.default_rng(0)
    assert not any(linear_separability(even, rng.permutation(works)).separable for _ in range(50))


def test_an_additive_rule_predicts_published_subsets_it_has_not_seen():
    even, works = even_eights()
    left_out = predict_left_out(even, works, ridge=0.1)
    assert round(left_out.accuracy.value * 54) == 48 and left_out.majority.value == 34 / 54
    assert left_out.accuracy.low > left_out.majority.high and left_out.test.p < 0.01
    blocked = additive(even, works.astype(float)).effects[7]  # block 14
    assert blocked.below(0) == "yes" and blocked.value == min(
        e.value for e in additive(even, works.astype(float)).effects
    )


# -- additive ----------------------------------------------------------------------------------------------


def test_additive_is_ols_with_hc3():
    rng = np.random.default_rng(0)
    x = rng.random((80, 5)) < 0.5
    y = x @ np.array([0.0, 1.0, -1.0, 0.5, 0.0]) + rng.normal(size=80) * (1 + x[:, 0])
    fit = sm.OLS(y, sm.add_constant(x.astype(float))).fit(cov_type="HC3", use_t=True)
    result = additive(x, y)
    assert [e.value for e in result.effects] == pytest.approx(fit.params[1:])
    assert [(e.low, e.high) for e in result.effects] == [pytest.approx(tuple(r)) for r in fit.conf_int()[1:]]
    assert result.r_squared == pytest.approx(fit.rsquared) and not result.relative


def test_additive_recovers_planted_weights():
    weights = np.array([0.0, 2.0, -1.0, 0.5])
    result = additive(all_subsets(4), all_subsets(4) @ weights + 3)
    assert [e.value for e in result.effects] == pytest.approx(weights.tolist())
    assert result.r_squared == pytest.approx(1)


def test_subsets_of_one_size_give_effects_relative_to_the_average_member():
    x, weights = halves(6), np.array([0.0, 2.0, -1.0, 0.5, 3.0, 1.5])
    rng = np.random.default_rng(1)
    y = x @ weights + 7
    result = additive(x, y)
    assert result.relative and [e.value for e in result.effects] == pytest.approx(list(weights - weights.mean()))
    noisy = additive(x, y + rng.normal(0, 0.3, len(y)))
    assert all(
        "average" in e.note and abs(e.value - w) < 0.4
        for e, w in zip(noisy.effects, weights - weights.mean(), strict=True)
    )
    # The difference of two members does not depend on the reference: same as dropping one column.
    dropped = sm.OLS(y, sm.add_constant(x[:, 1:].astype(float))).fit()
    assert result.effects[4].value - result.effects[0].value == pytest.approx(dropped.params[4])


def test_members_that_cannot_be_known_are_undefined():
    base = all_subsets(4)
    twins = np.column_stack([base, base[:, 0], np.ones(16, dtype=bool), np.zeros(16, dtype=bool)])
    y = base @ np.array([1.0, 2.0, 3.0, 4.0])
    effects = additive(twins, y).effects
    assert [e.defined for e in effects] == [False, True, True, True, False, False, False]
    assert [e.value for e in effects[1:4]] == pytest.approx([2, 3, 4])
    assert "told from" in effects[0].note and "always or never" in effects[5].note
    assert not any(e.defined for e in additive(base[:3], y[:3]).effects)
    assert not any(e.defined for e in additive(np.ones((5, 2), dtype=bool), np.arange(5.0)).effects)


def test_a_member_that_rests_on_one_subset_is_undefined():
    x = np.column_stack([all_subsets(3), np.zeros(8, dtype=bool)])
    x[-1, 3] = True
    y = np.random.default_rng(0).normal(size=8)
    effects = additive(x, y).effects
    assert [e.defined for e in effects] == [True, True, True, False] and "single subset" in effects[3].note


def test_additive_intervals_cover():
    rng = np.random.default_rng(6)
    x, hits, sims = rng.random((40, 4)) < 0.5, 0, 200
    weights = np.array([1.0, 0.0, -1.0, 0.5])
    for _ in range(sims):
        y = x @ weights + rng.normal(size=40) * (0.5 + x[:, 0])
        hits += sum(e.low <= w <= e.high for e, w in zip(additive(x, y).effects, weights, strict=True))
    assert 0.92 <= hits / (4 * sims) <= 0.98


# -- leaving out -------------------------------------------------------------------------------------------


def test_leaving_out_is_the_mean_loss_per_member():
    rng = np.random.default_rng(2)
    full = rng.normal(2, 1, 60)
    without = np.column_stack([full - rng.normal(1, 0.2, 60), full])
    prompts = np.arange(60) // 2
    needed, spare = leave_one_out(full, without, prompts, unit="pairs", seed=4)
    alone = bootstrap_mean(full - without[:, 0], prompts, unit="pairs", seed=4)
    assert (needed.value, needed.low, needed.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert needed.above(0) == "yes" and spare.value == 0 and "no uncertainty" in spare.note
    with pytest.raises(ValueError, match="lengths"):
        leave_one_out(full[:5], without, unit="pairs", seed=0)


def test_left_out_prediction_finds_a_rule_and_finds_none_in_noise():
    x = halves(8)
    y = x @ np.array([3, 2, 1, 0, 0, -1, -2, -3]) > 0
    ruled = predict_left_out(x, y)
    assert ruled.accuracy.value > 0.9 > ruled.majority.high and len(ruled.predicted) == 70
    noise = np.random.default_rng(3).random(70) < 0.5
    lost = predict_left_out(x, noise)
    assert lost.accuracy.value < 0.65 and lost.test.p > 0.05


def test_left_out_prediction_needs_both_outcomes_twice():
    result = predict_left_out(halves(4), [True, False, False, False, False, False])
    assert not result.accuracy.defined and not result.majority.defined and result.test.p is None
    with pytest.raises(ValueError, match="ridge"):
        predict_left_out(halves(4), [True, False] * 3, ridge=0)


# -- auroc -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60))
def test_auroc_agrees_with_sklearn(rows):
    scores, truth = [s for s, _ in rows], [t for _, t in rows]
    e = auroc(scores, truth)
    assert e.defined == (0 < sum(truth) < len(truth))
    if e.defined:
        assert e.value == pytest.approx(roc_auc_score(truth, scores))
        assert 0 <= e.low <= e.value <= e.high <= 1 and e.low < e.high
        mirror = auroc([-s for s in scores], truth)
        assert (mirror.low, mirror.high) == pytest.approx((1 - e.high, 1 - e.low), abs=1e-9)


def test_auroc_interval_nears_hanley_and_mcneil_for_many_members():
    rng = np.random.default_rng(0)
    truth = np.arange(4000) < 2000
    e = auroc(rng.normal(size=4000) + truth, truth)
    a, p = e.value, 2000
    variance = a * (1 - a) + (p - 1) * (a / (2 - a) - a * a) + (p - 1) * (2 * a * a / (1 + a) - a * a)
    assert (e.high - e.low) / 2 == pytest.approx(1.96 * np.sqrt(variance) / p, rel=0.02)


def test_auroc_interval_covers():
    rng = np.random.default_rng(1)
    truth = np.arange(24) < 8
    exact = 0.7602499  # Phi(1 / sqrt 2), two normals one standard deviation apart
    hits = 0
    for _ in range(1000):
        e = auroc(rng.normal(size=24) + truth, truth)
        hits += e.low <= exact <= e.high
    assert 0.93 <= hits / 1000 <= 0.98


# -- separability ------------------------------------------------------------------------------------------


def test_separable_and_not():
    x = all_subsets(2)
    assert linear_separability(x, x.all(axis=1)).separable
    assert linear_separability(x, x[:, 0] ^ x[:, 1]).separable is False
    assert linear_separability([[1, 0], [1, 0]], [True, False]).separable is False
    assert linear_separability(x, [True] * 4).separable is None
    assert linear_separability(x[:3], [True, False, False]).always_possible


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_a_planted_threshold_is_found_and_its_rule_reproduces_it(seed):
    rng = np.random.default_rng(seed)
    x = rng.random((40, 6)) < 0.5
    y = x @ rng.integers(-5, 6, 6) > 0.5
    found = linear_separability(x, y)
    if found.separable is None:
        assert y.all() or not y.any()
        return
    assert found.separable
    margin = np.where(y, 1, -1) * (x @ np.array(found.weights) + found.bias)
    assert margin.min() == pytest.approx(1, abs=1e-6)


def test_a_threshold_on_few_members_uses_few_weights():
    x = all_subsets(6)
    found = linear_separability(x, x[:, 0] & x[:, 3])
    assert np.flatnonzero(found.weights).tolist() == [0, 3]

"""Gains along chains by hand, and the sign test of harm on members that harm and members that do not."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from headlab.stats import shapley_from_chains, shapley_plan
from headlab.stats.marginals import chain_gains, interference


def game(coalitions):
    """Member 0 helps, 1 always harms, 2 harms once 0 is in, 3 does nothing."""
    x = np.asarray(coalitions, dtype=float)
    return 2 * x[:, 0] - x[:, 1] + x[:, 2] - 1.5 * x[:, 0] * x[:, 2]


def test_gains_are_what_each_member_added():
    plan = shapley_plan(4, 10, seed=0)
    gains = chain_gains(plan, game(plan.coalitions))
    for order, row in zip(plan.orders, gains, strict=True):
        inside = np.zeros((1, 4), dtype=bool)
        for member in order:
            before = game(inside)[0]
            inside[0, member] = True
            assert row[member] == pytest.approx(game(inside)[0] - before)
    values = shapley_from_chains(plan, game(plan.coalitions))
    assert gains.mean(0) == pytest.approx([e.value for e in values])
    with pytest.raises(ValueError, match="one value per coalition"):
        chain_gains(plan, [1.0])


def test_harm_is_told_from_help():
    plan = shapley_plan(4, 60, seed=1)
    gains = chain_gains(plan, game(plan.coalitions))
    helps, harms, mixed, nothing = interference(gains, seed=0)
    assert helps.negative.value == 0.0 and harms.negative.value == 1.0 and harms.gain.value == -1.0
    assert harms.negative.above(0.5) == "yes" and harms.p == pytest.approx(2 * 0.5**60)
    assert mixed.negative.value == pytest.approx((gains[:, 2] < 0).mean()) == 0.5  # an order or its reverse
    assert mixed.p == binomtest(30, 60).pvalue == 1.0
    assert not nothing.negative.defined and nothing.p is None and nothing.adjusted is None
    assert nothing.gain.value == 0.0 and "changes anything" in nothing.negative.note
    raw = [m.p for m in (helps, harms, mixed)]
    assert [m.adjusted for m in (helps, harms, mixed)] == pytest.approx(multipletests(raw, method="holm")[1])


def test_signs_count_by_cluster_and_zeros_do_not():
    gains = np.array([[-1.0], [-1.0], [0.5], [3.0], [0.0], [0.0], [-2.0], [0.0]])
    clusters = ["a", "a", "b", "b", "c", "c", "d", "d"]
    (found,) = interference(gains, clusters, seed=0)
    assert found.negative.n == 5 and found.negative.value == 3 / 5  # zeros left out
    assert found.p == binomtest(2, 3).pvalue  # clusters a and d down, b up, c not at all
    assert found.gain.value == pytest.approx(gains.mean()) and "4 clusters" in found.gain.note
    (alone,) = interference(gains, ["a"] * 8, seed=0)
    assert not alone.gain.defined and not alone.negative.defined and alone.p is None
    with pytest.raises(ValueError, match="axis"):
        interference(gains[:, 0], seed=0)


def test_the_family_of_members_without_any_sign_keeps_its_level():
    """Antithetic pairs share noise: as clusters, the least adjusted p of 13 members is rarely under .05; as
    independent rows it is far too often."""
    rng, called, naive = np.random.default_rng(0), 0, 0
    pairs = np.repeat(np.arange(30), 2)
    for seed in range(150):
        gains = rng.normal(size=(30, 13))[pairs] + 0.3 * rng.normal(size=(60, 13))
        called += min(m.adjusted for m in interference(gains, pairs, seed=seed, draws=100)) < 0.05
        naive += min(m.adjusted for m in interference(gains, seed=seed, draws=100)) < 0.05
    assert called / 150 <= 0.08 and naive / 150 > 0.2

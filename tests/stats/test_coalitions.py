"""Shapley and Banzhaf values against their definitions over all coalitions, and the axioms."""

from itertools import combinations, product
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from statsmodels.stats.proportion import confint_proportions_2indep

from headlab.stats import banzhaf, shapley, shapley_from_chains, shapley_plan


def game(coalitions):
    """Four players: 0 works alone, 1 and 2 only together, 3 does nothing."""
    x = np.asarray(coalitions, dtype=float)
    return 0.5 + 2 * x[:, 0] + 3 * x[:, 1] * x[:, 2]


def voting(coalitions):
    """Weights 4, 3, 2, 1, quota 6."""
    return (np.asarray(coalitions) @ np.array([4, 3, 2, 1]) >= 6).astype(float)


def value(v, members, n):
    row = np.zeros((1, n), dtype=bool)
    row[0, list(members)] = True
    return float(v(row)[0])


def shapley_by_definition(v, n):
    result = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        total = 0.0
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for s in combinations(others, size):
                total += weight * (value(v, (*s, i), n) - value(v, s, n))
        result.append(total)
    return result


@pytest.mark.parametrize("v", [game, voting])
def test_shapley_meets_the_definition(v):
    exact = shapley_by_definition(v, 4)
    values = shapley(v, 4, permutations=4000, seed=0)
    assert [e.value for e in values] == pytest.approx(exact, abs=0.06)
    assert all(e.low - 1e-12 <= x <= e.high + 1e-12 for e, x in zip(values, exact, strict=True))
    assert all(e.n == 4000 and e.seed == 0 for e in values)


def test_known_values():
    assert shapley_by_definition(game, 4) == pytest.approx([2, 1.5, 1.5, 0])
    # 4-3-2-1 with quota 6: in 24 orders the players are pivotal 10, 6, 6 and 2 times.
    assert shapley_by_definition(voting, 4) == pytest.approx([10 / 24, 6 / 24, 6 / 24, 2 / 24])


def test_shapley_intervals_cover():
    exact = shapley_by_definition(voting, 4)
    hits = 0
    for seed in range(150):
        values = shapley(voting, 4, permutations=60, seed=seed)
        hits += sum(e.low <= x <= e.high for e, x in zip(values, exact, strict=True))
    assert 0.90 <= hits / 600 <= 0.99


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 7), pairs=st.integers(2, 6), seed=st.integers(0, 99))
def test_efficiency_null_player_and_symmetry(n, pairs, seed):
    weights = np.random.default_rng(seed).normal(size=2**n)

    def v(coalitions):
        """Any game at all, with a last player who changes nothing."""
        return weights[coalitions[:, :n] @ (1 << np.arange(n))]

    values = shapley(v, n + 1, permutations=2 * pairs, seed=seed)
    gain = value(v, range(n + 1), n + 1) - value(v, (), n + 1)
    assert sum(e.value for e in values) == pytest.approx(gain, abs=1e-9)
    assert values[-1].value == values[-1].low == values[-1].high == 0.0


def test_a_plan_is_nested_antithetic_and_computes_nothing_twice():
    plan = shapley_plan(7, 10, seed=3)
    sizes = plan.coalitions[plan.steps].sum(axis=2)
    assert (sizes == np.arange(8)).all()
    chains = plan.coalitions[plan.steps]
    assert (chains[:, 1:] >= chains[:, :-1]).all()
    added = (chains[:, 1:] & ~chains[:, :-1]).argmax(axis=2)
    assert (added == plan.orders).all() and (plan.orders[1::2] == plan.orders[::2, ::-1]).all()
    assert len(np.unique(plan.coalitions, axis=0)) == len(plan.coalitions) <= 10 * 6 + 2
    assert not plan.coalitions[0].any() and plan.coalitions[-1].all()
    assert len(shapley_plan(3, 200, seed=0).coalitions) == 8
    assert (shapley_plan(7, 10, seed=3).orders == plan.orders).all()
    assert (shapley_plan(7, 10, seed=4).orders != plan.orders).any()


def test_values_may_be_computed_elsewhere():
    plan = shapley_plan(4, 20, seed=1)
    values = [value(game, np.flatnonzero(c), 4) for c in plan.coalitions]
    assert shapley_from_chains(plan, values) == shapley(game, 4, permutations=20, seed=1)


def test_antithetic_pairs_help_where_position_matters():
    """v = size squared: a gain depends only on the place, and an order plus its reverse cancels that."""
    values = shapley(lambda x: x.sum(axis=1) ** 2.0, 5, permutations=4, seed=0)
    assert [e.value for e in values] == pytest.approx([5.0] * 5)


def test_bad_plans_are_refused():
    for bad in (2, 5):
        with pytest.raises(ValueError, match="permutations"):
            shapley_plan(4, bad, seed=0)
    with pytest.raises(ValueError, match="n_members"):
        shapley_plan(0, 4, seed=0)
    with pytest.raises(ValueError, match="one value per coalition"):
        shapley_from_chains(shapley_plan(3, 4, seed=0), [1.0])


def all_subsets(n):
    return np.array(list(product([False, True], repeat=n)))


@pytest.mark.parametrize("v", [game, voting])
def test_banzhaf_over_all_subsets_is_the_definition(v):
    subsets = all_subsets(4)
    for i, e in enumerate(banzhaf(subsets, v(subsets))):
        gains = []
        for row in subsets[~subsets[:, i]]:
            more = row.copy()
            more[i] = True
            gains.append(float(v(more[None])[0] - v(row[None])[0]))
        assert e.value == pytest.approx(np.mean(gains)) and e.low <= e.value <= e.high and e.n == 16


def test_banzhaf_intervals_agree_with_scipy_and_statsmodels():
    rng = np.random.default_rng(0)
    x = rng.random((60, 5)) < 0.5
    y = game(x) + rng.normal(size=60)
    welch = ttest_ind(y[x[:, 1]], y[~x[:, 1]], equal_var=False).confidence_interval(0.95)
    e = banzhaf(x, y)[1]
    assert (e.low, e.high) == pytest.approx((welch.low, welch.high)) and "Welch" in e.method
    wins = y > 2.5
    a, b = wins[x[:, 1]], wins[~x[:, 1]]
    newcombe = confint_proportions_2indep(a.sum(), len(a), b.sum(), len(b), compare="diff", method="newcomb")
    e = banzhaf(x, wins)[1]
    assert (e.low, e.high) == pytest.approx(newcombe, abs=1e-9) and "Newcombe" in e.method


def test_banzhaf_says_what_it_cannot_give():
    x = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=bool)
    always, *others = banzhaf(x, [0.0, 1.0, 1.0, 0.0])
    assert not always.defined and "out of 0 subsets" in always.note
    assert all(e.defined and "all subsets have size 2" in e.note and e.low < e.high for e in others)
    assert others[0].value == 1.0

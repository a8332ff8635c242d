"""Hartigan's dip against its definition as a linear programme, published values and its own null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from headlab.stats.dip import _dip, dip


def by_definition(x):
    """min over unimodal G of max |F - G|: for each place of the mode (where G may jump), one linear programme.

    Unknown: G at each distinct value, twice at the mode (before and after a jump), and the distance t.
    """
    spots, counts = np.unique(x, return_counts=True)
    above = counts.cumsum() / len(x)
    below, m, best = above - counts / len(x), len(spots), np.inf
    for mode in range(m):
        at = np.r_[spots[: mode + 1], spots[mode:]]
        rows, limits = [], []

        def add(places, limit, rows=rows, limits=limits):
            row = np.zeros(m + 2)
            for place, weight in places:
                row[place] += weight
            rows.append(row)
            limits.append(limit)

        for i in range(m):
            for side, level in ((0, below[i]), (1, above[i])):
                j = i if i < mode or (i == mode and side == 0) else i + 1
                add([(j, 1), (-1, -1)], level)
                add([(j, -1), (-1, -1)], -level)
        for j in range(m):
            add([(j, 1), (j + 1, -1)], 0.0)
        for j in [*range(1, mode), *range(mode + 2, m)]:
            a, b = 1 / (at[j] - at[j - 1]), 1 / (at[j + 1] - at[j])
            bend = 1 if j < mode else -1  # convex before the mode, concave after it
            add([(j, bend * (a + b)), (j - 1, -bend * a), (j + 1, -bend * b)], 0.0)
        cost = np.zeros(m + 2)
        cost[-1] = 1
        best = min(best, linprog(cost, A_ub=np.array(rows), b_ub=limits, bounds=[(0, 1)] * (m + 1) + [(0, None)]).fun)
    return best


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(4, 12), st.sampled_from(["uniform", "two modes", "ties"]))
def test_the_dip_is_its_definition(seed, n, kind):
    rng = np.random.default_rng(seed)
    if kind == "ties":
        x = np.sort(rng.integers(0, 6, n).astype(float))
    else:
        x = np.sort(rng.random(n) if kind == "uniform" else rng.normal(np.arange(n) % 2 * 6, 1))
    if x[0] < x[-1]:
        assert _dip(x)[0] == pytest.approx(by_definition(x), abs=1e-8)


def test_by_hand():
    """Evenly spaced values stay within 1/(2n) of a straight line; two far pairs of points are 1/4 from any."""
    assert _dip(np.arange(10.0))[0] == pytest.approx(1 / 20)
    far = np.sort(np.r_[np.linspace(0, 1e-6, 50), 1 + np.linspace(0, 1e-6, 50)])
    assert _dip(far)[0] == pytest.approx(0.25 - 1 / 200, abs=0.006) and _dip(far)[0] < 0.25
    value, modal = _dip(np.sort(np.r_[np.linspace(0, 10, 11), np.linspace(4.9, 5.1, 21)]))
    assert 4.5 <= modal[0] <= modal[1] <= 5.5 and value < 0.05


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.integers(4, 60), st.floats(0.01, 100), st.floats(-10, 10))
def test_scale_place_and_mirror_do_not_matter(seed, n, scale, shift):
    x = np.random.default_rng(seed).beta(0.5, 0.5, n)
    value = _dip(np.sort(x))[0]
    assert 1 / (2 * n) - 1e-12 <= value <= 0.25
    assert _dip(np.sort(scale * x + shift))[0] == pytest.approx(value, abs=1e-9)
    assert _dip(np.sort(-x))[0] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "points"),
    [(10, (0.09778, 0.13046, 0.13961)), (50, (0.04885, 0.06491, 0.07027)), (100, (0.03546, 0.04715, 0.05113))],
)
def test_the_null_has_the_published_quantiles(n, points):
    """50, 90 and 95 % points of the dip of uniform samples, from the table qDiptab of Maechler's R package diptest
    (1,000,001 samples for each n)."""
    rng = np.random.default_rng(0)
    found = [_dip(np.sort(rng.random(n)))[0] for _ in range(2000)]
    assert np.quantile(found, [0.5, 0.9, 0.95]) == pytest.approx(points, rel=0.035)


def test_one_mode_and_two():
    rng = np.random.default_rng(3)
    two = dip(np.r_[rng.normal(0.3, 0.05, 100), rng.normal(0.7, 0.05, 100)], seed=0, draws=500)
    assert two.test.outcome == "upheld" and two.test.p == 1 / 501 and two.n == 200
    one = dip(rng.normal(0.5, 0.1, 200), seed=0, draws=500)
    assert one.test.p > 0.5 and one.test.outcome == "refuted"


def test_p_is_uniform_under_uniform_samples():
    rng = np.random.default_rng(5)
    null = np.sort([_dip(np.sort(rng.random(30)))[0] for _ in range(1000)])
    fresh = np.array([_dip(np.sort(rng.random(30)))[0] for _ in range(1000)])
    p = (1 + 1000 - np.searchsorted(null, fresh - 1e-12)) / 1001
    assert 0.03 <= (p <= 0.05).mean() <= 0.075 and 0.45 <= (p <= 0.5).mean() <= 0.55


def test_what_has_no_dip():
    assert "at least 4" in dip([1.0, 2.0, 3.0], seed=0).note and dip([1.0, 2.0, 3.0], seed=0).dip is None
    assert "equal" in dip([2.0] * 20, seed=0).note
    assert "ties" in dip([1.0, 1.0, 2.0, 3.0, 4.0], seed=0, draws=100).note
    same = dip([1.0, 2.0, 4.0, 8.0, 9.0], seed=3, draws=100)
    assert same == dip([9.0, 8.0, 4.0, 2.0, 1.0], seed=3, draws=100) and same.seed == 3
    with pytest.raises(ValueError, match="NaN"):
        dip([1.0, 2.0, 3.0, float("nan")], seed=0)
    with pytest.raises(ValueError, match="draws"):
        dip([1.0, 2.0, 3.0, 4.0], seed=0, draws=10)

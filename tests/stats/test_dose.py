"""Crossing doses by hand, bisection against known functions, quantiles with censored pairs."""

import numpy as np
import pytest
from bisecting import bisect
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from headlab.stats.dose import Bisection, crossing, crossing_quantile


def test_crossings_by_hand():
    doses = [0.0, 0.5, 1.0]
    margins = [
        [-1.0, 1.0, 2.0],  # half way from 0 to .5
        [-3.0, -1.0, 3.0],  # a quarter of the way from .5 to 1
        [1.0, 2.0, 3.0],  # never below
        [-1.0, -0.5, 0.0],  # zero is not repaired
        [-1.0, 0.0, 4.0],  # at a dose of the grid
        [-1.0, 1.0, -1.0],  # falls back
        [1.0, -1.0, 1.0],  # repaired without any dose
    ]
    found = crossing(doses, margins)
    assert found.at == pytest.approx([0.25, 0.625, np.nan, np.nan, 0.5, 0.25, np.nan], nan_ok=True)
    assert found.below.tolist() == [False, False, True, False, False, False, True]
    assert found.above.tolist() == [False, False, False, True, False, False, False]
    assert found.again.tolist() == [False, False, False, False, False, True, True]
    assert found.slope[:2] == pytest.approx([4.0, 8.0]) and np.isnan(found.slope[2])
    assert found.seen.sum() == 4 and (found.low[1], found.high[1]) == (0.5, 1.0)


@given(st.integers(0, 999), st.integers(2, 9), st.integers(1, 11))
def test_a_straight_margin_crosses_where_it_should_on_any_grid(seed, points, pairs):
    rng = np.random.default_rng(seed)
    doses = np.cumsum(rng.random(points) + 0.01)
    zero, slope = rng.uniform(doses[0] - 0.5, doses[-1] + 0.5, pairs), rng.uniform(0.1, 5, pairs)
    found = crossing(doses, slope[:, None] * (doses - zero[:, None]))
    inside = (zero >= doses[0]) & (zero < doses[-1])
    assert (found.seen == inside).all() and found.at[inside] == pytest.approx(zero[inside], abs=1e-9)
    assert found.slope[inside] == pytest.approx(slope[inside]) and not found.again.any()
    assert (found.below == (zero < doses[0])).all() and (found.above == (zero >= doses[-1])).all()


def test_bad_grids_are_refused():
    for doses in ([0.5, 0.5], [1.0, 0.0], [0.0]):
        with pytest.raises(ValueError, match="rise"):
            crossing(doses, np.zeros((3, len(doses))))
    with pytest.raises(ValueError, match="paired"):
        crossing([0.0, 1.0], np.zeros((3, 3)))


ZERO = np.array([0.6123, 0.0317, 0.9987, -0.5, 1.5])


def cubic(pairs, doses):
    x = doses - ZERO[pairs]
    return x + 3 * x**3


@pytest.mark.parametrize(("points", "steps"), [(1, 8), (3, 5), (9, 3)])
def test_bisection_finds_what_brentq_finds(points, steps):
    """From width 1 to .01: 7 halvings, 4 quarterings, 2 tenths, and one step for the ends."""
    sizes = []

    def counted(pairs, doses):
        sizes.append(len(pairs))
        return cubic(pairs, doses)

    found = bisect(counted, np.zeros(5), np.ones(5), points=points)
    roots = [brentq(lambda d, i=i: float(cubic(np.array([i]), np.array([d]))[0]), 0, 1) for i in range(3)]
    assert found.at[:3] == pytest.approx(roots, abs=1e-3) and np.isnan(found.at[3:]).all()
    assert ((found.high - found.low)[:3] <= 0.01 + 1e-12).all()
    assert (found.low[:3] <= roots).all() and (found.high[:3] >= roots).all()
    assert found.below.tolist() == [False] * 3 + [True, False] and found.above.tolist() == [False] * 4 + [True]
    assert sizes == [10, *[3 * points] * (steps - 1)]  # censored pairs cost no further runs


def test_a_search_is_data_and_may_be_stepped_by_hand():
    search = Bisection.start([0.0, 0.0], [1.0, 1.0], tol=0.3)
    pairs, doses = search.ask()
    assert pairs.tolist() == [0, 1, 0, 1] and doses.tolist() == [0, 0, 1, 1]
    search = search.tell([-1.0, 1.0, 1.0, 2.0])
    assert (search.ask()[0].tolist(), search.ask()[1].tolist()) == ([0], [0.5])
    again = search.tell([-0.5])
    assert (again.low[0], again.high[0]) == (0.5, 1.0) and search.high[0] == 1.0  # the earlier search is unchanged
    last = again.tell([0.25])
    assert last.done and last.crossings().at[0] == pytest.approx(0.5 + 0.25 * 0.5 / 0.75)
    with pytest.raises(ValueError, match="one margin per run"):
        again.tell([1.0, 2.0])
    with pytest.raises(ValueError, match="were not run"):
        Bisection.start([0.0], [1.0]).crossings()
    with pytest.raises(ValueError, match="below high"):
        Bisection.start([1.0], [1.0])
    with pytest.raises(ValueError, match="tol"):
        Bisection.start([0.0], [1.0], tol=0.0)
    with pytest.raises(ValueError, match="NaN"):
        search.tell([float("nan")])


def test_a_margin_of_exactly_zero_is_not_crossed_yet():
    found = bisect(lambda pairs, doses: doses - 0.5, [0.0], [1.0])
    assert found.low[0] == 0.5 and found.at[0] == 0.5 and found.high[0] > 0.5


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 4))
def test_pairs_do_not_disturb_each_other(seed, points):
    zero = np.random.default_rng(seed).uniform(-0.2, 1.2, 7)
    together = bisect(lambda p, d: d - zero[p], np.zeros(7), np.ones(7), points=points)
    for i in range(7):
        alone = bisect(lambda p, d, i=i: d - zero[i], [0.0], [1.0], points=points)
        assert alone.at[0] == pytest.approx(together.at[i], nan_ok=True)
    inside = (zero >= 0) & (zero < 1)
    assert (together.seen == inside).all() and together.at[inside] == pytest.approx(zero[inside])


def test_quantiles_keep_the_place_of_pairs_that_cross_elsewhere():
    zero = np.r_[np.full(30, -1.0), np.linspace(0.01, 0.99, 40), np.full(31, 2.0)]
    found = crossing([0.0, 1.0], np.column_stack([-zero, 1 - zero]))
    median = crossing_quantile(found, 0.5, seed=0)
    assert median.value == pytest.approx(np.sort(zero)[50]) and median.low < median.value < median.high
    assert median.n == 101 and median.unit == "pairs"
    assert "30 pairs cross below and 31 above" in crossing_quantile(found, 0.1, seed=0).note
    assert not crossing_quantile(found, 0.3, seed=0).defined  # its interval reaches pairs below the doses
    assert not crossing_quantile(found, 0.5, ["one"] * 101, seed=0).defined
    with pytest.raises(ValueError, match="share"):
        crossing_quantile(found, 1.0, seed=0)


def test_the_median_is_numpys_and_its_interval_covers():
    rng, hits = np.random.default_rng(4), 0
    for seed in range(200):
        zero = rng.beta(2, 2, 61)
        found = crossing([0.0, 1.0], np.column_stack([-zero, 1 - zero]))
        e = crossing_quantile(found, 0.5, seed=seed, draws=200)
        assert e.value == pytest.approx(np.median(zero))
        hits += e.low <= 0.5 <= e.high
    assert 0.90 <= hits / 200 <= 0.99

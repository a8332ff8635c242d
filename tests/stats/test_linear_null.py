"""The curve of linear margins by hand, and the contrasts with it on planted crossings."""

import numpy as np
import pytest
from bisecting import bisect

from headlab.stats.dose import crossing
from headlab.stats.linear_null import against_linear, linear_margin_null

GRID = np.linspace(0, 1, 11)


def pairs(rng, n):
    return rng.uniform(0.5, 4, n), -rng.uniform(0.5, 4, n)  # clean, corrupted


def test_the_curve_by_hand():
    null = linear_margin_null([1.0, 3.0, 1.0, -1.0], [-1.0, -1.0, -3.0, -2.0], [0.0, 0.25, 0.3, 0.8, 1.0], seed=0)
    assert [e.value for e in null.curve] == [0.0, 0.0, 0.25, 0.75, 0.75]  # at .25 the second margin is 0: not yet
    assert null.crossings.at == pytest.approx([0.5, 0.25, 0.75, np.nan], nan_ok=True)
    assert all(e.low < e.high and e.n == 4 and e.unit == "pairs" for e in null.curve)


def test_nothing_linear_has_a_threshold_yet_its_curve_is_steep():
    """Margins that start nearly alike cross nearly together: width says so, steepness does not."""
    rng = np.random.default_rng(0)
    clean, corrupted = rng.normal(2, 0.1, 200), -rng.normal(2, 0.1, 200)
    null = linear_margin_null(clean, corrupted, GRID, seed=0)
    assert null.fit.width.high < 0.1 and null.fit.location.low < 0.51 and null.fit.location.high > 0.49
    observed = crossing(GRID, corrupted[:, None] + (clean - corrupted)[:, None] * GRID)
    found = against_linear(observed, clean, corrupted, seed=0)
    assert found.earlier.value == pytest.approx(0, abs=1e-12) and found.pairs == 200 and found.left_out == 0
    assert (found.spread.value, found.steepness.value) == pytest.approx((1, 1))
    assert found.earlier.above(1e-9) == "no" and found.steepness.above(1 + 1e-9) == "no"


def test_a_planted_threshold_is_found():
    """Every pair jumps at .6 by a logistic of scale .02, wherever its linear margin would cross."""
    rng = np.random.default_rng(1)
    clean, corrupted = pairs(rng, 120)

    def jump(i, d):
        return corrupted[i] + (clean - corrupted)[i] / (1 + np.exp(-(d - 0.6) / 0.02))

    observed = bisect(jump, np.zeros(120), np.ones(120))
    found = against_linear(observed, clean, corrupted, seed=0)
    linear = linear_margin_null(clean, corrupted, GRID, seed=0)
    assert found.spread.below(0.2) == "yes" and found.steepness.above(5) == "yes"
    assert found.earlier.value == pytest.approx(np.mean(observed.at - linear.crossings.at))
    early = bisect(lambda i, d: jump(i, d + 0.4), np.zeros(120), np.ones(120))
    assert against_linear(early, clean, corrupted, seed=0).earlier.below(0) == "yes"


def test_intervals_cover_a_planted_shift_and_ratio():
    rng, hits, sims = np.random.default_rng(2), np.zeros(3), 200
    for seed in range(sims):
        linear = rng.uniform(0.3, 0.7, 60)
        clean = rng.uniform(1, 2, 60)
        corrupted = -clean * linear / (1 - linear)
        at = 0.4 + 0.5 * (linear - 0.5) + rng.normal(0, 0.02, 60)
        slope = (clean - corrupted) * np.exp(rng.normal(np.log(2), 0.3, 60))
        found = against_linear(
            crossing([0.0, 1.0], np.column_stack([-at, 1 - at]) * slope[:, None]), clean, corrupted,
            np.arange(60), seed=seed, draws=300,
        )  # fmt: skip
        truth = (-0.1, np.sqrt(0.25 * 0.4**2 / 12 + 0.02**2) / np.sqrt(0.4**2 / 12), 2.0)
        made = (found.earlier, found.spread, found.steepness)
        hits += [e.low <= t <= e.high for e, t in zip(made, truth, strict=True)]
    assert (hits / sims >= 0.89).all() and (hits / sims <= 0.99).all()


def test_few_pairs_and_bad_doses():
    one = crossing([0.0, 1.0], [[-1.0, 1.0], [1.0, 2.0], [-2.0, -1.0]])
    found = against_linear(one, [1.0, 2.0, -1.0], [-1.0, 1.0, -2.0], seed=0)
    assert not found.earlier.defined and not found.spread.defined and not found.steepness.defined
    assert (found.pairs, found.left_out) == (1, 2)
    alike = crossing([0.0, 1.0], [[-1.0, 1.0]] * 5)
    assert "one dose" in against_linear(alike, [1.0] * 5, [-1.0] * 5, seed=0).spread.note
    for doses in ([0.0, 1.1], [1.0, 0.0], [0.5]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            linear_margin_null([1.0], [-1.0], doses, seed=0)
    assert not linear_margin_null([1.0], [-1.0], GRID, seed=0).fit.location.defined

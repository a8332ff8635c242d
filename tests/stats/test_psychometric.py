"""The dose curve against statsmodels' GLM, planted curves recovered, and separation by hand."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from headlab.stats.psychometric import WIDTH, psychometric

GRID = np.linspace(0, 1, 11)


def planted(rng, pairs, location, width, grid=GRID):
    """Rows of pairs whose thresholds follow a logistic distribution."""
    threshold = rng.logistic(location, width / WIDTH, pairs)
    hits = grid[None] > threshold[:, None]
    return np.tile(grid, pairs), hits.ravel(), np.repeat(np.arange(pairs), len(grid))


@pytest.mark.parametrize(
    ("location", "width", "scale"), [(0.6, 0.3, 1), (0.2, 0.8, 1), (0.95, 0.5, 1), (0.5, 0.2, 700)]
)
def test_the_fit_is_statsmodels(location, width, scale):
    d, y, pairs = planted(np.random.default_rng(3), 80, location, width)
    theirs = sm.GLM(y.astype(float), sm.add_constant(d), family=sm.families.Binomial()).fit(tol=1e-12)
    c, b = theirs.params
    r = psychometric(scale * d - 5, y, pairs, unit="pairs × doses", seed=0, draws=100)
    assert r.location.value == pytest.approx(-scale * c / b - 5, rel=1e-7, abs=1e-7)
    assert r.width.value == pytest.approx(scale * 2 * math.log(9) / b, rel=1e-7) and not r.separated
    assert r.share(scale * GRID - 5) == pytest.approx(theirs.predict(sm.add_constant(GRID)), abs=1e-7)
    seen = y.reshape(80, 11).mean(0)
    assert r.misfit == pytest.approx(np.abs(seen - theirs.predict(sm.add_constant(GRID))).max(), abs=1e-7)
    assert r.location.n == 880 and "80 clusters" in r.location.note


def test_the_bootstrap_is_a_plain_loop_over_whole_pairs():
    d, y, pairs = planted(np.random.default_rng(5), 40, 0.5, 0.5)
    r = psychometric(d, y, pairs, unit="rows", seed=11, draws=100)
    rng, hits = np.random.default_rng(11), y.reshape(40, 11)
    found = []
    for pick in rng.integers(40, size=(100, 40)):
        rows = hits[pick].ravel().astype(float)
        c, b = sm.GLM(rows, sm.add_constant(np.tile(GRID, 40)), family=sm.families.Binomial()).fit(tol=1e-12).params
        found.append((-c / b, WIDTH / b))
    at, wide = np.array(found).T
    assert (r.location.low, r.location.high) == pytest.approx(tuple(np.quantile(at, [0.025, 0.975])), abs=1e-6)
    assert math.log(r.width.high / r.width.value) == pytest.approx(2.0226909 * np.log(wide).std(), abs=1e-5)  # t, 39


@pytest.mark.parametrize(("pairs", "least"), [(60, 0.87), (200, 0.90)])
def test_intervals_cover_planted_curves(pairs, least):
    rng, sims, hits = np.random.default_rng(7), 200, np.zeros(2)
    for seed in range(sims):
        r = psychometric(*planted(rng, pairs, 0.55, 0.3), unit="rows", seed=seed, draws=200)
        hits += [r.location.low <= 0.55 <= r.location.high, r.width.low <= 0.3 <= r.width.high]
    assert (hits / sims >= [0.90, least]).all() and (hits / sims <= 0.99).all()


def test_rows_of_a_pair_are_not_independent():
    """Each pair's ten doses counted as ten trials give an interval that is far too narrow for the location."""
    d, y, pairs = planted(np.random.default_rng(1), 100, 0.5, 0.6)
    whole = psychometric(d, y, pairs, unit="rows", seed=0).location
    rows = psychometric(d, y, unit="rows", seed=0).location
    assert whole.high - whole.low > 1.4 * (rows.high - rows.low)


def test_complete_separation_bounds_the_width_by_hand():
    """All 20 pairs flip between .5 and .6: a curve of width w holds all with chance tanh(ln 9 * .1 / (2 w)) ** 20."""
    d, y, pairs = np.tile(GRID, 20), np.tile(GRID > 0.55, 20), np.repeat(np.arange(20), 11)
    r = psychometric(d, y, pairs, unit="rows", seed=0)
    assert r.separated and r.width.value == r.width.low == 0.0 and "bound" in r.width.note
    assert (r.location.value, r.location.low, r.location.high) == pytest.approx((0.55, 0.5, 0.6))
    held = math.tanh(math.log(9) * 0.1 / (2 * r.width.high)) ** 20
    assert -2 * math.log(held) == pytest.approx(3.841459, abs=1e-5)
    assert list(r.share([0.5, 0.6])) == [0.0, 1.0] and r.misfit == 0.0
    more = psychometric(np.tile(d, 10), np.tile(y, 10), np.arange(200).repeat(11), unit="rows", seed=0)
    assert more.width.high < r.width.high
    split = y.copy()
    split[6::22] = False  # at .6 half of the pairs have flipped: the slope is still unbounded
    half = psychometric(d, split, pairs, unit="rows", seed=0)
    assert half.separated and half.location.value == pytest.approx(0.6) and half.width.value == 0.0
    assert (half.location.low, half.location.high) == pytest.approx((0.5, 0.7))


def test_narrow_curves_keep_their_truth_inside_the_bound():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        d, y, pairs = planted(rng, 7, 0.55, 0.05)
        r = psychometric(d, y, pairs, unit="rows", seed=0, draws=100)
        inside += r.width.low <= 0.05 <= r.width.high if r.separated else r.width.defined
    assert inside / 300 >= 0.95


@pytest.mark.parametrize(
    ("hits", "reason"),
    [
        (GRID > 2, "every row fails"),
        (GRID > -1, "every row succeeds"),
        (GRID < 0.5, "does not rise"),
        (np.arange(11) % 2 == 0, "does not rise"),
    ],
)
def test_what_is_no_curve_is_undefined(hits, reason):
    r = psychometric(np.tile(GRID, 9), np.tile(hits, 9), np.repeat(np.arange(9), 11), unit="rows", seed=0)
    assert not r.location.defined and not r.width.defined and reason in r.width.note
    assert np.isnan(r.share([0.5])).all() and r.misfit is None


def test_few_and_bad_rows():
    assert "at least 2 clusters" in psychometric([0.0, 1.0], [0, 1], ["a", "a"], unit="rows", seed=0).width.note
    assert not psychometric([], [], unit="rows", seed=0).location.defined
    noise = np.random.default_rng(0).random(110) < 0.5
    flat = psychometric(np.tile(GRID, 10), noise, np.repeat(np.arange(10), 11), unit="rows", seed=0)
    assert not flat.location.defined
    with pytest.raises(ValueError, match="paired"):
        psychometric([0.0], [0, 1], unit="rows", seed=0)
    with pytest.raises(ValueError, match="booleans"):
        psychometric([0.0, 1.0], [0.2, 1], unit="rows", seed=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.floats(0.1, 50), st.floats(-5, 5))
def test_doses_in_another_unit_give_the_same_curve(seed, scale, shift):
    d, y, pairs = planted(np.random.default_rng(seed), 25, 0.5, 0.5)
    r = psychometric(d, y, pairs, unit="rows", seed=1, draws=100)
    s = psychometric(scale * d + shift, y, pairs, unit="rows", seed=1, draws=100)
    assert r.location.defined == s.location.defined
    for a, b, move in ((r.location, s.location, shift), (r.width, s.width, 0.0)):
        if a.defined:
            assert (b.value, b.low, b.high) == pytest.approx(
                tuple(scale * x + move for x in (a.value, a.low, a.high)), rel=1e-6, abs=1e-6
            )

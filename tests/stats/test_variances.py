"""Ratios of variances by hand, with coverage of planted ratios."""

import numpy as np
import pytest

from headlab.stats.variances import variance_ratio


def test_by_hand():
    a = [[0.0, 2.0], [1.0, 1.0], [0.0, 4.0]]  # variances 2, 0, 8
    b = [[0.0, 1.0, 2.0], [0.0, 2.0, 4.0], [5.0, 5.0, 5.0]]  # variances 1, 4, 0
    e = variance_ratio(a, b, unit="pairs", seed=0)
    assert not e.defined and "zero in some resamples" in e.note
    wide = variance_ratio(a * 7, b * 7, unit="pairs", seed=0)
    assert wide.value == pytest.approx(2.0) and wide.low < 2 < wide.high and wide.n == 21
    other = variance_ratio(b * 7, a * 7, unit="pairs", seed=0)
    assert (other.value, other.low, other.high) == pytest.approx((1 / wide.value, 1 / wide.high, 1 / wide.low))
    scaled = variance_ratio(3 * np.array(a * 7) + 9, b * 7, unit="pairs", seed=0)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx(
        tuple(9 * x for x in (wide.value, wide.low, wide.high))
    )


@pytest.mark.parametrize("pairs", [12, 50])
def test_intervals_cover(pairs):
    """Six variants; the variance differs between pairs, and every pair has three rows that share it."""
    rng, hits, naive, sims = np.random.default_rng(1), 0, 0, 300
    clusters = np.repeat(np.arange(pairs), 3)
    for seed in range(sims):
        size = rng.uniform(0.3, 2.5, pairs)[clusters]
        a = size[:, None] * rng.normal(0, 1.0, (3 * pairs, 6))
        b = rng.normal(0, 2.0, (3 * pairs, 6))
        truth = (0.3**2 + 0.3 * 2.5 + 2.5**2) / 3 / 4
        e = variance_ratio(a, b, clusters, unit="rows", seed=seed, draws=300)
        f = variance_ratio(a, b, unit="rows", seed=seed, draws=300)
        hits, naive = hits + (e.low <= truth <= e.high), naive + (f.low <= truth <= f.high)
    assert 0.90 <= hits / sims <= 0.99 and naive < hits


def test_rows_that_cannot_vary():
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert "clusters" in variance_ratio(x, x, ["p"] * 5, unit="rows", seed=0).note
    assert "variant" in variance_ratio(x, x[:, :1], unit="rows", seed=0).note
    assert not variance_ratio(x, np.full((5, 3), 0.1), unit="rows", seed=0).defined
    same = variance_ratio(x, x, unit="rows", seed=0)
    assert same.value == same.low == same.high == 1.0 and "no uncertainty" in same.note
    with pytest.raises(ValueError, match="paired"):
        variance_ratio(x, x[:4], unit="rows", seed=0)

"""Effects of factors against a sandwich written out by hand, scipy's optimum and planted effects."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t as student

from headlab.stats.factorial import factorial_regression


def table(rng, pairs, per=8):
    pair = np.repeat(np.arange(pairs), per)
    return pair, rng.integers(1, 6, pairs * per).astype(float), rng.choice([0.0, 0.2, 0.4, 0.8], pairs * per)


def sandwich(x, y, groups, weight=None, fitted=None):
    """beta, and its covariance summed over clusters with the factor K/(K-1) * (n-1)/(n-p)."""
    weight = np.ones(len(y)) if weight is None else weight
    bread = np.linalg.inv(x.T @ (weight[:, None] * x))
    scores = x * (y - fitted)[:, None]
    sums = np.array([scores[groups == g].sum(0) for g in np.unique(groups)])
    k, (n, p) = len(sums), x.shape
    return k / (k - 1) * (n - 1) / (n - p) * bread @ (sums.T @ sums) @ bread


def design(length, share):
    a, b = length - length.mean(), share - share.mean()
    return np.column_stack([np.ones(len(a)), a, b, a * b])


def test_ols_is_least_squares_with_a_cluster_sandwich():
    rng = np.random.default_rng(0)
    pair, length, share = table(rng, 23)
    y = 0.5 - 0.1 * length - 0.7 * share + 0.3 * length * share + rng.normal(0, 0.5, 23)[pair] + rng.normal(0, 0.2, 184)
    x = design(length, share)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    half = student.ppf(0.975, 22) * np.sqrt(np.diag(sandwich(x, y, pair, fitted=x @ beta)))
    found = factorial_regression(y, {"length": length, "share": share}, pair, unit="rows")
    assert list(found) == ["length", "share", "length × share"]
    for j, e in enumerate(found.values(), start=1):
        assert (e.value, e.low, e.high) == pytest.approx((beta[j], beta[j] - half[j], beta[j] + half[j]))
        assert e.n == 184 and e.note == "23 clusters" and e.unit == "rows"
    alone = factorial_regression(y, {"length": length, "share": share}, pair, unit="rows", interactions=False)
    assert list(alone) == ["length", "share"]


def test_logit_is_the_likeliest_with_a_cluster_sandwich():
    rng = np.random.default_rng(1)
    pair, length, share = table(rng, 23)
    x = design(length, share)
    y = rng.random(184) < 1 / (1 + np.exp(-(x @ [0.3, -0.4, -2.0, 0.5] + rng.normal(0, 0.5, 23)[pair])))

    def loss(b):
        return np.logaddexp(0, np.where(y, -1, 1) * (x @ b)).sum()

    beta = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    p = 1 / (1 + np.exp(-x @ beta))
    half = student.ppf(0.975, 22) * np.sqrt(np.diag(sandwich(x, y, pair, p * (1 - p), p)))
    found = factorial_regression(y, {"length": length, "share": share}, pair, kind="logit", unit="rows")
    for j, e in enumerate(found.values(), start=1):
        assert e.value == pytest.approx(beta[j], abs=1e-4)
        assert (e.high - e.low) / 2 == pytest.approx(half[j], rel=1e-3)


def test_levels_are_compared_with_their_mean():
    """Cell means 1, 2, 6 and a two-level factor that adds 4: effects -2 and -1 (the last is +3), and 4."""
    rows = [(kind, word) for kind in "abc" for word in ("bigger", "smaller")] * 6
    kinds, words = [r[0] for r in rows], [r[1] for r in rows]
    noise = np.random.default_rng(0).normal(0, 1e-3, 36)
    y = np.array([{"a": 1, "b": 2, "c": 6}[k] + (4 if w == "smaller" else 0) for k, w in rows]) + noise
    found = factorial_regression(y, {"format": kinds, "word": words}, unit="rows")
    assert [e.value for e in found.values()] == pytest.approx([-2, -1, 4, 0, 0], abs=2e-3)
    assert list(found) == ["format[a]", "format[b]", "word", "format[a] × word", "format[b] × word"]


@pytest.mark.parametrize("kind", ["ols", "logit"])
def test_intervals_cover(kind):
    """The share varies within a pair, the length between pairs: without clusters its error is far too small."""
    rng, sims, hits, naive = np.random.default_rng(5), 150, np.zeros(2), 0
    for _ in range(sims):
        pair = np.repeat(np.arange(40), 6)
        length, share = rng.uniform(-1, 1, 40)[pair], rng.uniform(-1, 1, 240)
        if kind == "ols":
            y = 0.2 * length - 0.5 * share + rng.normal(0, 0.5, 40)[pair] + rng.normal(0, 0.5, 240)
            truth = (0.2, -0.5)
        else:
            threshold = rng.logistic(size=40)[pair]  # one draw a pair: the marginal model holds, rows depend
            y, truth = 0.2 * length - 0.5 * share > threshold, (0.2, -0.5)
        factors = {"length": length, "share": share}
        found = factorial_regression(y, factors, pair, kind=kind, interactions=False, unit="rows")
        hits += [e.low <= t <= e.high for e, t in zip(found.values(), truth, strict=True)]
        e = factorial_regression(y, factors, kind=kind, interactions=False, unit="rows")["length"]
        naive += e.low <= truth[0] <= e.high
    assert (hits / sims >= 0.88).all() and (hits / sims <= 0.99).all() and naive / sims < 0.85


def test_what_cannot_be_told():
    rng = np.random.default_rng(0)
    pair, length, share = table(rng, 9)
    y = rng.normal(size=72)
    tied = factorial_regression(y, {"length": length, "share": 2 * length + 1}, pair, unit="rows", interactions=False)
    assert all("told apart" in e.note for e in tied.values())
    assert "told apart" in factorial_regression(y, {"length": np.ones(72)}, pair, unit="rows")["length"].note
    few = factorial_regression(y[:32], {"length": length[:32], "share": share[:32]}, pair[:32], unit="rows")
    assert all("4 clusters for 4 terms" in e.note for e in few.values())
    assert "never changes" in factorial_regression(np.ones(72), {"length": length}, pair, unit="rows")["length"].note
    for y01 in (length > 2, np.ones(72, bool), (length > 2) | ((length == 2) & (share > 0.3))):
        found = factorial_regression(y01, {"length": length}, pair, kind="logit", unit="rows")["length"]
        assert not found.defined and "separated" in found.note
    with pytest.raises(ValueError, match="names nothing"):
        factorial_regression(y, {}, pair, unit="rows")
    with pytest.raises(ValueError, match="paired"):
        factorial_regression(y, {"length": length[:5]}, pair, unit="rows")
    with pytest.raises(ValueError, match="booleans"):
        factorial_regression(y, {"length": length}, pair, kind="logit", unit="rows")
    with pytest.raises(ValueError, match="NaN"):
        factorial_regression(y, {"length": np.where(length == 1, np.nan, length)}, pair, unit="rows")

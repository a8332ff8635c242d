"""Effects of factors against a sandwich written out by hand, scipy's optimum and planted effects."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from scipy.optimize import minimize
from scipy.stats import t as student

from headlab.stats.factorial import factorial_regression


def table(rng, pairs, per=8):
    pair = np.repeat(np.arange(pairs), per)
    return pair, rng.integers(1, 6, pairs * per).astype(float), rng.choice([0.0, 0.2, 0.4, 0.8], pairs * per)


def half_widths(x, residuals, groups):
    """Half the 95 % interval of each term, by whole matrices: residuals of a cluster times (I - H_gg)^(-1/2), Student's t on
    (trace M)^2 / trace(M^2), with M[g, h] the covariance of the clusters' parts where rows are independent."""
    bread, n = np.linalg.inv(x.T @ x), len(x)
    hat, meat, parts = x @ bread @ x.T, 0.0, []
    for g in np.unique(groups):
        own = groups == g
        root = np.real(fractional_matrix_power(np.eye(own.sum()) - hat[np.ix_(own, own)], -0.5))
        score = x[own].T @ root @ residuals[own]
        meat = meat + np.outer(score, score)
        wide = np.zeros((n, x.shape[1]))
        wide[own] = root @ x[own] @ bread
        parts.append((np.eye(n) - hat) @ wide)
    cross = np.einsum("gnj,hnj->jgh", np.array(parts), np.array(parts))
    freedom = np.trace(cross, axis1=1, axis2=2) ** 2 / (cross**2).sum((1, 2))
    return student.ppf(0.975, freedom) * np.sqrt(np.diag(bread @ meat @ bread))


def design(length, share):
    a, b = length - length.mean(), share - share.mean()
    return np.column_stack([np.ones(len(a)), a, b, a * b])


def test_ols_is_least_squares_with_a_cluster_sandwich():
    rng = np.random.default_rng(0)
    pair, length, share = table(rng, 23)
    y = 0.5 - 0.1 * length - 0.7 * share + 0.3 * length * share + rng.normal(0, 0.5, 23)[pair] + rng.normal(0, 0.2, 184)
    x = design(length, share)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    half = half_widths(x, y - x @ beta, pair)
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
    weight = np.sqrt(p * (1 - p))
    half = half_widths(weight[:, None] * x, (y - p) / weight, pair)
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


def test_few_clusters_of_which_few_carry_a_factor():
    """20 clusters, three in ten on one side of a factor that varies between them only, errors that differ by side: intervals
    on K - 1 degrees of freedom covered .76 to .80."""
    rng, hits = np.random.default_rng(7), []
    while len(hits) < 150:
        sizes = rng.integers(2, 9, 20)
        pair, side, slope = np.repeat(np.arange(20), sizes), rng.random(20) < 0.3, rng.normal(size=20)
        if side.sum() < 4:
            continue
        f, x = np.where(side, 0.5, -0.5)[pair], slope[pair] - slope[pair].mean()
        y = 0.5 * f + 0.3 * x + rng.normal(size=20)[pair] * (1 + 0.5 * f) + rng.normal(size=len(pair))
        found = factorial_regression(y, {"f": np.where(f > 0, "b", "a"), "x": slope[pair]}, pair, unit="rows")
        hits.append([e.low <= t <= e.high for e, t in zip(found.values(), (0.5, 0.3, 0.0), strict=True)])
    assert (np.mean(hits, 0) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 150)).all(), np.mean(hits, 0)


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

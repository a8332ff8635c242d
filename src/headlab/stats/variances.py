"""Which of two quantities is the steadier one over variants of the same prompt?"""

from __future__ import annotations

import math

import numpy as np

from ._check import Clusters, Values, cluster_codes, floats, open_unit, same_length, whole
from .estimate import Estimate
from .intervals import DRAWS, _bootstrap_name, _cluster_note, _cluster_sums, _too_few, _weights


def variance_ratio(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Estimate:
    """How much more does one quantity vary over variants of a prompt than another?

    Definition: sum over rows of var(a over variants) / sum over rows of var(b over variants), ddof 1. Interval:
    exp(log ratio -+ t on K - 1 * standard deviation of the log ratio over resamples of the K clusters).
    Shapes, units: a, b [row, variant], the same rows; clusters [row] labels or None; the ratio has no unit.
    Range: (0, inf); below 1 when a is the steadier one.
    Mean over: rows. Undefined: fewer than 2 clusters, fewer than 2 variants, a variance that is zero everywhere or in
    any resample.
    Raises: ValueError on NaN, unequal lengths, missing labels.
    Source: Efron & Tibshirani (1993), ch. 13; the log scale as for any ratio of variances (Bartlett & Kendall 1946).
    When it misleads: variances follow the mean: a head that looks at numbers more varies more for that reason alone.
    One prompt with a wild variant can carry the ratio.
    """
    x, y = floats(a, "a", ndim=2), floats(b, "b", ndim=2)
    n = same_length(a=x, b=y)
    seed, draws, level = whole(seed, "seed"), whole(draws, "draws", 100), open_unit(level, "level")
    codes, k = cluster_codes(clusters, n)
    method = _bootstrap_name(clusters) + " on the log scale"
    if k < 2 or min(x.shape[1], y.shape[1]) < 2:
        reason = _too_few(n, k) if k < 2 else "one variant: at least 2 are needed"
        return Estimate.undefined(unit, n, reason, method=method, level=level)
    from scipy.special import stdtrit

    parts = np.column_stack([x.var(axis=1, ddof=1), y.var(axis=1, ddof=1)])
    sums = _cluster_sums(parts, codes, k)
    drawn = np.concatenate([w @ sums for w in _weights(k, draws, seed)])
    floor = 1e-24 * max(float((x * x).sum()), float((y * y).sum()))  # squares of rounding errors
    if (drawn <= floor).any() or (sums.sum(0) <= floor).any():
        return Estimate.undefined(unit, n, "a variance is zero in some resamples", method=method, level=level)
    centre = float(np.log(sums[:, 0].sum() / sums[:, 1].sum()))
    half = float(stdtrit(k - 1, (1 + level) / 2)) * float(np.log(drawn[:, 0] / drawn[:, 1]).std(ddof=1))
    value, low, high = (math.exp(centre + step) for step in (0.0, -half, half))
    return Estimate(value, low, high, n, unit, method, level, seed, _cluster_note(k, half == 0))

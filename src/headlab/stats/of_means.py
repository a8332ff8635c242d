"""Intervals for functions of means: a statistic of a mean table, resampled by whole clusters.

1. A draw takes K of the K clusters with replacement and averages every column over the rows of the draw.
2. The statistic is computed on each draw's means, as it is on the means of all rows.
3. Percentile intervals, one for each number that the statistic gives; the draws themselves are handed back too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ._check import Clusters, Floats, Ints, Values, cluster_codes, floats, open_unit, whole
from .estimate import Estimate
from .intervals import _bootstrap_name, _cluster_note, _cluster_sums, _percentile, _too_few, _weights
from .permutation import Rank, rank

DRAWS = 1000
"""Efron and Tibshirani (1993, section 13.3) ask for at least 1000 draws for a percentile interval."""


@dataclass(frozen=True)
class OfMeans:
    """A statistic of means: ``value`` [out], its ``draws`` [draw, out], and what an Estimate says of them."""

    value: Floats
    draws: Floats
    n: int
    clusters: int
    unit: str
    method: str
    level: float
    seed: int

    def estimate(self, place: int) -> Estimate:
        """The statistic's number at ``place``, with its percentile interval; undefined where draws are."""
        return self.of(lambda x: x[..., place])

    def of(self, further: Callable[[Any], Any]) -> Estimate:
        """One number computed from the statistic's, ``further([…, out]) → […]``, in the data and in each draw."""
        value, draws = further(self.value), np.asarray(further(self.draws), float)
        told: dict[str, Any] = {"method": self.method, "level": self.level}
        if self.clusters < 2:
            return Estimate.undefined(self.unit, self.n, _too_few(self.n, self.clusters), **told)
        if not np.isfinite(value) or not np.isfinite(draws).all():
            lost = int((~np.isfinite(draws)).sum())
            return Estimate.undefined(self.unit, self.n, f"undefined in {lost} of {len(draws)} resamples", **told)
        low, high = _percentile(draws, self.level, value, abs(value))
        note = _cluster_note(self.clusters, bool(low == high))
        return Estimate(
            float(value), float(low), float(high), self.n, self.unit, self.method, self.level, self.seed, note
        )


def bootstrap_of_means(
    values: Values,
    statistic: Callable[[Floats], Floats],
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
    block: int = 50,
) -> OfMeans:
    """A statistic of the mean over rows, with what it comes to in resamples of whole clusters.

    Definition: value = statistic(mean over rows of values); a draw takes K of the K clusters with replacement and
        applies the statistic to the mean over the rows of the draw.
    Shapes, units: values [row, column]; statistic maps means [draw, column] to numbers [draw, out] (it is also given
        one draw, the data's).  ``block`` draws are held at a time, which changes no number.
    Range: that of the statistic.
    Mean over: rows, so a cluster with more rows weighs more.  Fewer than 2 clusters give undefined estimates.
    Raises: ValueError on NaN, on a missing label, on unequal lengths.
    Source: Efron & Tibshirani (1993), ch. 13; Field & Welsh, JRSS B 69:369 (2007), for clusters.
    When it misleads: a statistic that is convex in the means (a variance, a maximum) is larger in resamples than in the
        data, as the data's own is larger than the truth's: the interval lies too high when the means are noisy.
    """
    table = floats(values, "values", ndim=2)
    seed, draws, level = whole(seed, "seed"), whole(draws, "draws", 100), open_unit(level, "level")
    codes, k = cluster_codes(clusters, len(table))
    value = np.asarray(statistic(table.mean(0, keepdims=True)), float)[0]
    told = (len(table), k, unit, f"{_bootstrap_name(clusters)} of a function of means", level, seed)
    if k < 2:
        return OfMeans(value, np.full((1, len(value)), np.nan), *told)
    sums, sizes = _cluster_sums(table, codes, k), np.bincount(codes, minlength=k).astype(np.float64)
    made = []
    for weights in _weights(k, draws, seed):
        for start in range(0, len(weights), whole(block, "block", 1)):
            w = weights[start : start + block]
            made.append(np.asarray(statistic((w @ sums) / (w @ sizes)[:, None]), float))
    return OfMeans(value, np.concatenate(made), *told)


def rank_over_draws(
    found: OfMeans,
    *,
    enumerated: bool,
    alpha: float,
    unit: str = "matched sets",
    tail: Literal["greater", "less"] = "greater",
    least_ties: int = 1,
    tolerance: float = 1e-9,
    share: float = 1.0,
    total: int | None = None,
) -> Rank:
    """`rank` of the first number of a statistic among the others, and how often resampled prompts agree.

    Definition: p as in `rank`, in the data and in each resample of the prompts; ``under`` and ``over`` are the shares of
    resamples whose p lies under and over alpha. A rank upholds when its interval lies under alpha and 95 % of resamples
    do, refutes by the mirror image, and is else undecided: also where every matched set was run.
    Shapes, units: found.value [1 + set], the observed first; an enumeration holds the observed set among the others too.
    Range: p in 1 / (1 + sets) … 1, or 1 / sets … 1 enumerated; ``under`` and ``over`` in 0 … 1.
    Raises: as `rank`; ValueError too where a resample leaves the statistic undefined.
    Mean over: nothing. Prompts of one cluster agree with nothing: never upheld or refuted.
    Source: the two-way rule is ours; Efron & Tibshirani (1993), ch. 13, for the resamples.
    When it misleads: near-equal sets change places in resamples although none matters: undecided, not refuted.
    """
    if found.clusters > 1 and not np.isfinite(found.draws).all():
        raise ValueError("the statistic is undefined in some resamples of the prompts; give more pairs or clusters.")
    place = rank(
        float(found.value[0]),
        found.value[1:],
        enumerated=enumerated,
        alpha=alpha,
        unit=unit,
        tail=tail,
        least_ties=least_ties,
        tolerance=tolerance,
        share=share,
        total=total,
    )
    count, n = _as_extreme(found, tail, tolerance), place.n_sets
    p = count / n if enumerated else (1 + count) / (1 + n)
    sampled = found.clusters > 1
    under, over = (float((p < alpha).mean()), float((p > alpha).mean())) if sampled else (0.0, 0.0)
    place = replace(place, under=under, over=over, resampled_at=alpha)
    return replace(place, outcome=place.against(alpha))


def _as_extreme(found: OfMeans, tail: str, tolerance: float = 1e-9) -> Ints:
    """[draw]: how many of the other numbers are at least as extreme as the first, ties included."""
    side = found.draws if tail == "greater" else -found.draws
    slack = tolerance * np.abs(side).max(1, keepdims=True)
    return np.asarray((side[:, 1:] >= side[:, :1] - slack).sum(1))

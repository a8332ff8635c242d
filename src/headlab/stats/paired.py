"""The same prompts in two worlds: did the outcome change, by how much, or surely not by much?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._check import Bools, Clusters, Number, Values, booleans, cluster_codes, floats, open_unit, same_length, whole
from .estimate import Estimate
from .intervals import _too_few, bootstrap_paired_difference
from .rates import _wilson_bounds


@dataclass(frozen=True, slots=True)
class McNemar:
    """The four counts of a paired yes/no comparison and the exact p; p is None when there are no rows."""

    p: float | None
    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """All paired rows."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def discordant(self) -> int:
        """Rows that differ between the worlds; only these carry information on the difference."""
        return self.only_a + self.only_b


@dataclass(frozen=True, slots=True)
class Equivalence:
    """What `tost_paired` found.

    "equivalent": the whole interval inside (-margin, margin). "different": the whole interval beyond
    the margin on one side. "undecided": it straddles a margin. "undefined": no interval that can show
    uncertainty.
    """

    outcome: Literal["equivalent", "different", "undecided", "undefined"]
    difference: Estimate
    margin: float
    alpha: float


def mcnemar(a: Values, b: Values, clusters: Clusters = None) -> McNemar:
    """Exact McNemar test of equal rates in two worlds over the same prompts.

    Definition: d_c = rows of cluster c right only in a, minus those right only in b; p = Pr[|sum of +-d_c| >= |sum of
    d_c|] over all 2^K signs. With one row a cluster this is min(1, 2 * Pr[Bin(d, 1/2) <= min(only_a, only_b)]).
    Shapes, units: a, b [row] booleans, a row being one prompt in both worlds; clusters [row] labels or None.
    Range: p in (0, 1], less is more evidence of a difference; 1 when no cluster differs; None without rows.
    Mean over: nothing; only clusters whose two counts differ carry information.
    Raises: ValueError on values other than 0 and 1, on unequal lengths and on missing labels.
    Source: McNemar, Psychometrika 12:153 (1947), exact form; whole clusters change sides as in `sign_flip`.
    When it misleads: rows that share a problem and are given no cluster count as many. A large p is not "no effect":
    use `tost_paired`. With fewer than 6 differing clusters p cannot fall under .05.
    """
    left, right = _pair(a, b)
    codes, k = cluster_codes(clusters, len(left))
    counts = _cells(left, right)
    if not len(left):
        return McNemar(None, 0, 0, 0, 0)
    sides = np.bincount(codes, left.astype(np.float64) - right, minlength=k)
    steps, observed = np.abs(sides).astype(int), abs(int(sides.sum()))
    chance = np.ones(1)  # of each sum from -reach to reach
    for step in steps[steps > 0]:
        wider = np.zeros(len(chance) + 2 * step)
        wider[: len(chance)] += chance / 2
        wider[2 * step :] += chance / 2
        chance = wider
    sums = np.abs(np.arange(len(chance)) - len(chance) // 2)
    return McNemar(min(1.0, float(chance[sums >= observed].sum())), *counts)


def paired_difference(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int | None = None,
    level: float = 0.95,
    expanded: bool = False,
) -> Estimate:
    """Difference of two rates over the same prompts, with an interval that keeps its width.

    Definition: mean(a) - mean(b). One row per cluster: Newcombe's method 10 (Wilson intervals of both
    rates, joined by squaring and adding, with the continuity-corrected phi for their correlation).
    Several rows per cluster: cluster bootstrap (``expanded``: as `bootstrap_mean`); if that has zero width, method
    10 on the table scaled to the number of clusters.
    Shapes, units: a, b [row] booleans; clusters [row] labels or None; seed needed for repeated clusters.
    Range: [-1, 1], above zero when a succeeds more often.
    Mean over: rows. n counts rows. No rows, or fewer than 2 clusters of several rows, give undefined.
    Raises: ValueError on values other than 0 and 1, unequal lengths, or a needed seed not given.
    Source: Newcombe, Stat. Med. 17:2635 (1998), method 10.
    When it misleads: the rates behind the difference matter too (1.0 - .9 is not .2 - .1); a model
    near 0 or 1 in both worlds shows a small difference whatever the edit does.
    """
    left, right = _pair(a, b)
    n, level = len(left), open_unit(level, "level")
    _, k = cluster_codes(clusters, n)
    method = "Newcombe"
    if n == 0 or 1 == k < n:
        return Estimate.undefined(unit, n, _too_few(n, k) if n else "no rows", method=method, level=level)
    value = float(left.mean() - right.mean())
    if k == n:
        low, high = _newcombe_bounds(*_cells(left, right), level)
        return Estimate(value, low, high, n, unit, method, level)
    if seed is None:
        raise ValueError(f"{n} rows share {k} clusters, so whole clusters are resampled: give a seed (got None).")
    x, y = left.astype(np.float64), right.astype(np.float64)
    boot = bootstrap_paired_difference(x, y, clusters, unit=unit, seed=seed, level=level, expanded=expanded)
    if boot.low != boot.high:
        return boot
    both, only_a, only_b, neither = (cell * k / n for cell in _cells(left, right))
    low, high = _newcombe_bounds(both, only_a, only_b, neither, level)
    note = f"{k} clusters, all with the same difference: effective n = {k} clusters"
    return Estimate(value, low, high, n, unit, "Newcombe on clusters", level, note=note)


def tost_paired(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    margin: Number,
    unit: str,
    alpha: float = 0.05,
    seed: int | None = None,
) -> Equivalence:
    """Is the difference between two worlds surely smaller than `margin`?

    Definition: two one-sided tests at level alpha, done as one interval of level 1 - 2 alpha:
    equivalent when it lies inside (-margin, margin). Yes/no rows use `paired_difference`, numbers use
    `bootstrap_paired_difference` (seed needed), both expanded for few clusters.
    Shapes, units: a, b [row], booleans or numbers; margin in their unit; clusters [row] labels or None.
    Range: "equivalent", "different", "undecided" or "undefined".
    Mean over: rows.
    Raises: ValueError on a margin that is not above 0, alpha outside (0, .5), or a needed seed not given.
    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15:657 (1987).
    When it misleads: at the margin itself 46 skewed numbers are called equivalent in up to 8 % (docs/coverage.md). The
    margin is a judgement and must be fixed before the run. Numbers that never
    differ give a bootstrap without width, hence "undefined": compare those item by item instead.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be a finite number above 0, got {margin!r}; fix it before the run.")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie strictly between 0 and 0.5, got {alpha!r}.")
    margin, level = float(margin), 1 - 2 * alpha
    if _is_boolean(a) and _is_boolean(b):
        difference = paired_difference(a, b, clusters, unit=unit, seed=seed, level=level, expanded=True)
    else:
        if seed is None:
            raise ValueError("numbers are compared by a bootstrap: give a seed (got None).")
        told = {"seed": whole(seed, "seed"), "level": level}
        difference = bootstrap_paired_difference(a, b, clusters, unit=unit, expanded=True, **told)  # type: ignore[arg-type]
    low, high = difference.low, difference.high
    if low is None or high is None or low == high:
        return Equivalence("undefined", difference, margin, alpha)
    if -margin < low and high < margin:
        return Equivalence("equivalent", difference, margin, alpha)
    outcome: Literal["different", "undecided"] = "different" if low > margin or high < -margin else "undecided"
    return Equivalence(outcome, difference, margin, alpha)


def _is_boolean(x: Values) -> bool:
    array = np.asarray(x)
    return array.dtype == np.bool_ or bool(np.isin(floats(x, "a and b"), (0.0, 1.0)).all())


def _pair(a: Values, b: Values) -> tuple[Bools, Bools]:
    left, right = booleans(a, "a"), booleans(b, "b")
    same_length(a=left, b=right)
    return left, right


def _cells(left: Bools, right: Bools) -> tuple[int, int, int, int]:
    """(both, only a, only b, neither)."""
    return (
        int((left & right).sum()),
        int((left & ~right).sum()),
        int((~left & right).sum()),
        int((~left & ~right).sum()),
    )


def _newcombe_bounds(
    both: Number, only_a: Number, only_b: Number, neither: Number, level: float
) -> tuple[float, float]:
    """Newcombe's method 10; cells may be fractional (effective counts)."""
    both, only_a, only_b, neither = map(float, (both, only_a, only_b, neither))
    n = both + only_a + only_b + neither
    rate_a, rate_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = _wilson_bounds(min(n, both + only_a), n, level)
    low_b, high_b = _wilson_bounds(min(n, both + only_b), n, level)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = both * neither - only_a * only_b
    if cross > 0:  # the continuity correction that makes method 8 into method 10
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(margins) if margins > 0 else 0.0
    difference = (only_a - only_b) / n
    low = difference - _joined(rate_a - low_a, high_b - rate_b, phi)
    high = difference + _joined(high_a - rate_a, rate_b - low_b, phi)
    return max(-1.0, low), min(1.0, high)


def _joined(u: float, v: float, phi: float) -> float:
    """Square and add two half-widths whose errors correlate by phi."""
    return math.sqrt(max(0.0, u * u - 2 * phi * u * v + v * v))

"""How a set of positions is spread out, and whether that goes with an outcome.

`spacing` describes one set; `rank_correlation` asks whether a description goes with success over many
sets, with or without the members' own effects taken out first. Positions are indices in an order that
means something; the indices of attention heads are arbitrary, which is why the test is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ._check import Count, Floats, Values, booleans, floats, open_unit, same_length, whole
from .estimate import Estimate
from .permutation import Rank, rank


@dataclass(frozen=True, slots=True)
class Spacing:
    """What `spacing` says of one set; None where the set is too small for it."""

    mean_gap: float | None
    gap_sd: float | None
    largest_gap: float | None
    regularity: float | None
    span: float | None
    coverage: float | None
    centre: float | None
    spread: float | None
    balance: float | None


@dataclass(frozen=True, slots=True)
class Association:
    """What `rank_correlation` found: the correlation with its interval, and the rank of its size among
    shuffles (None when the correlation is undefined); null [shuffle] holds the shuffled sizes."""

    correlation: Estimate
    rank: Rank | None
    null: tuple[float, ...] = ()


def spacing(positions: Sequence[Any], places: Count) -> Spacing:
    """Nine descriptions of how a set lies among its possible places.

    Definition: with positions p_1 < ... < p_k among 0 ... places - 1 and gaps g_i = p_{i+1} - p_i:
    mean_gap = mean g; gap_sd = sqrt(mean (g - mean_gap)^2); largest_gap = max g;
    regularity = 1 / (1 + gap_sd / mean_gap); span = p_k - p_1 + 1; coverage = k / span;
    centre = mean p; spread = sqrt(mean (p - centre)^2);
    balance = 1 - |2 s - 1|, s = share of positions in the lower half (the middle place counts half).
    Shapes, units: positions [member], whole, distinct; all but regularity, coverage, balance in places.
    Range: regularity and coverage in (0, 1], 1 = equal gaps, no gaps; balance in [0, 1], 1 = as many
    below the middle as above; the others from 0 up.
    Mean over: gaps, or members. Gap measures are None for fewer than 2 members, all for none.
    Raises: ValueError on repeated, negative or fractional positions, or one that is not under places.
    Source: the population standard deviation of gaps is the published "gap regularity" the other way
    round; the exact published formulas are not reproduced.
    When it misleads: for sets of one size mean_gap, span and coverage are one quantity; many such
    descriptions tried on one table need a correction (`holm`).
    """
    places = whole(places, "places", 1)
    p = np.array(sorted(whole(x, "positions") for x in positions), dtype=np.float64)
    if len(p) and (len(set(p)) != len(p) or p[-1] >= places):
        raise ValueError(f"positions must be distinct and under {places}, got {list(map(int, p))}.")
    if not len(p):
        return Spacing(*[None] * 9)
    middle = (places - 1) / 2
    lower = (np.count_nonzero(p < middle) + np.count_nonzero(p == middle) / 2) / len(p)
    span, centre = float(p[-1] - p[0] + 1), float(p.mean())
    whole_set = (span, len(p) / span, centre, float(p.std()), float(1 - abs(2 * lower - 1)))
    if len(p) < 2:
        return Spacing(None, None, None, None, *whole_set)
    gaps = np.diff(p)
    mean, deviation = float(gaps.mean()), float(gaps.std())
    return Spacing(mean, deviation, float(gaps.max()), 1 / (1 + deviation / mean), *whole_set)


def rank_correlation(
    values: Values,
    success: Values,
    others: Values | None = None,
    *,
    unit: str,
    seed: int,
    shuffles: int = 9999,
    alpha: float = 0.05,
    level: float = 0.95,
) -> Association:
    """Does a description of the sets go with success, beyond what the others already explain?

    Definition: Spearman's correlation of values with success (0 or 1), ties at their mean rank; with
    `others`, the correlation of what is left of both after least squares on a constant and the others.
    p: share of shuffles whose correlation is at least as large in size, as in `rank`. Without others
    the outcomes are shuffled, which is the exact two-sided rank-sum test; with others the outcomes'
    residuals are (Freedman and Lane). Interval: Fisher's z with standard error 1/sqrt(n - 3 - q), q the
    number of independent others.
    Shapes, units: values [row], success [row] booleans, others [row, member].
    Range: [-1, 1]; above 0 when success has the larger values.
    Mean over: rows. Undefined when values or success leave nothing to correlate, or n < 5 + q.
    Raises: ValueError on NaN, non-boolean success, unequal lengths, fewer than 100 shuffles.
    Source: Spearman (1904); Fisher (1924) for partial correlations; Freedman & Lane, J. Bus. Econ.
    Stat. 1:292 (1983).
    When it misleads: success is yes or no, so the interval is approximate and the correlation cannot
    reach 1; p decides. Others that nearly determine the values leave little to find.
    """
    x, y = floats(values, "values"), booleans(success, "success").astype(np.float64)
    n = same_length(values=x, success=y)
    level, shuffles = open_unit(level, "level"), whole(shuffles, "shuffles", 100)
    rng = np.random.default_rng(whole(seed, "seed"))
    basis = _basis(np.zeros((n, 0)) if others is None else floats(others, "others", 2), n)
    q = basis.shape[1] - 1
    method = "Spearman, Fisher's z" if others is None else "partial Spearman, Fisher's z"
    ranks = _mid_ranks(x)
    left, right = (v - basis @ (basis.T @ v) for v in (ranks, y))
    sizes = [float(np.linalg.norm(v)) for v in (left, right)]
    if n < 5 + q or sizes[0] <= 1e-9 * max(1.0, n**1.5) or sizes[1] <= 1e-9 * max(1.0, n**0.5):
        why = f"{n} rows leave nothing to correlate" if n >= 5 + q else f"{n} rows for {q} other columns"
        return Association(Estimate.undefined(unit, n, why, method=method, level=level), None)
    value = float(np.clip(left @ right / (sizes[0] * sizes[1]), -1, 1))
    shuffled = right[rng.permuted(np.tile(np.arange(n), (shuffles, 1)), axis=1)]
    lengths = np.sqrt(np.maximum((shuffled**2).sum(1) - ((shuffled @ basis) ** 2).sum(1), 1e-300))
    null = np.abs(shuffled @ left) / (lengths * sizes[0])
    found = rank(abs(value), null, enumerated=False, alpha=alpha, unit="shuffles", level=level)
    half = NormalDist().inv_cdf((1 + level) / 2) / np.sqrt(n - 3 - q)
    z = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    low, high = min(value, float(np.tanh(z - half))), max(value, float(np.tanh(z + half)))
    return Association(Estimate(value, low, high, n, unit, method, level), found, tuple(map(float, null)))


def _basis(others: Floats, n: int) -> Floats:
    """Orthonormal columns [row, axis] that span a constant and the others."""
    if len(others) != n:
        raise ValueError(f"rows must be paired, got {n} values and {len(others)} rows of others.")
    design = np.column_stack([np.ones(n), others - others.mean(axis=0) if n else others])
    columns, singular, _ = np.linalg.svd(design, full_matrices=False)
    return columns[:, singular > 1e-10 * singular.max(initial=1.0)]


def _mid_ranks(x: Floats) -> Floats:
    _, place, repeats = np.unique(np.round(x, 9), return_inverse=True, return_counts=True)
    return (np.cumsum(repeats) - (repeats - 1) / 2)[place]

"""Intervals for means, ratios and paired differences (rates: :mod:`headlab.stats.rates`).

1. Rows (prompt x world) carry a *cluster* label: the prompt, fraction pair or problem they share.
2. A bootstrap draw resamples whole clusters with replacement; the statistic is recomputed over the
   rows of the draw. Only cluster sums and row counts are needed, so all draws are one matrix product.
3. The interval is the percentile interval of the draws. Every draw comes from an explicit seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._check import Clusters, Floats, Values, cluster_codes, floats, open_unit, same_length, whole
from .estimate import Estimate

DRAWS = 2000
"""Efron and Tibshirani (1993, section 13.3) ask for at least 1000 draws for a percentile interval."""

BLOCK = 2_000_000
"""Weights held at a time: 16 MB. Any block size gives the same draws."""

FEW_CLUSTERS = 10
"""Below this a percentile bootstrap covers visibly less than its level; the note then says so."""


def bootstrap_mean(
    values: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
    expanded: bool = False,
) -> Estimate:
    """Mean over rows, with a percentile interval from resampling whole clusters.

    Definition: value = sum of rows / number of rows; a draw takes K of the K clusters with
    replacement and averages over all rows of the draw.
    Shapes, units: values [row]; clusters [row] labels, or None when each row is its own cluster.
    Range: that of the values.
    Mean over: rows, so a cluster with more rows weighs more. n counts rows, the note counts clusters.
    Fewer than 2 clusters give undefined.
    Raises: ValueError on NaN, on a missing label, on unequal lengths.
    Source: Efron & Tibshirani (1993), ch. 13; Field & Welsh, JRSS B 69:369 (2007), for clusters; ``expanded``: between the
    quantiles at which a normal mean of K clusters would have Student's interval, Hesterberg, Am. Stat. 69:371 (2015).
    When it misleads: unless expanded, a little narrow below 50 clusters and too narrow below about 10 (the note says so:
    docs/coverage.md has the figures); when all clusters agree
    the width is zero and the interval shows no uncertainty (the note says so).
    """
    column = floats(values, "values")[:, None]
    told = {"seed": seed, "draws": draws}
    return bootstrap_means(column, clusters, unit=unit, level=level, expanded=expanded, **told)[0]


def bootstrap_means(
    values: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
    expanded: bool = False,
) -> tuple[Estimate, ...]:
    """`bootstrap_mean` of each column of values [row, column], all columns on the same resamples.

    One Estimate per column (a head, a dose, a layer), each equal to what `bootstrap_mean` gives for
    that column alone with the same seed; doing them together costs one set of draws.
    Everything else, including when it misleads, is as for `bootstrap_mean`. Intervals are per column:
    a scan over many columns needs a correction (`holm`).
    """
    table = floats(values, "values", ndim=2)
    seed, draws, level = whole(seed, "seed"), whole(draws, "draws", 100), open_unit(level, "level")
    codes, k = cluster_codes(clusters, len(table))
    method = _bootstrap_name(clusters) + (", expanded" if expanded else "")
    if k < 2:
        reason = _too_few(len(table), k)
        return tuple(Estimate.undefined(unit, len(table), reason, method=method, level=level) for _ in table.T)
    sums, sizes = _cluster_sums(table, codes, k), np.bincount(codes, minlength=k).astype(np.float64)
    means = np.concatenate([(w @ sums) / (w @ sizes)[:, None] for w in _weights(k, draws, seed)])
    centre = table.mean(axis=0)
    low, high = _percentile(means, level, centre, np.abs(table).max(axis=0), k if expanded else None)
    notes = [_cluster_note(k, flat) for flat in (low == high).tolist()]
    return tuple(
        Estimate(centre[j], low[j], high[j], len(table), unit, method, level, seed, notes[j])
        for j in range(table.shape[1])
    )


def bootstrap_ratio(
    numerators: Values,
    denominators: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
    expanded: bool = False,
) -> Estimate:
    """Ratio of two means over the same rows, resampled together.

    Definition: sum(numerators) / sum(denominators). Recovery of the logit difference is the case
    numerators = edited - corrupted, denominators = clean - corrupted.
    Shapes, units: numerators, denominators [row], paired; clusters [row] labels or None.
    Range: unbounded; for recovery 0 is corrupted, 1 is clean, and values outside are possible.
    Mean over: rows in both parts (a ratio of means, not the mean of row ratios, which a single row
    with a small denominator can dominate).
    Undefined: fewer than 2 clusters; or the denominators' own interval (or mean) reaches zero, as the
    ratio's interval would then be unbounded (Fieller 1954).
    Raises: ValueError on NaN, missing labels, unequal lengths.
    Source: Efron & Tibshirani (1993), section 10.3; Fieller, JRSS B 16:175 (1954).
    When it misleads: rows with a large denominator weigh most; few clusters as in `bootstrap_mean`.
    """
    top, bottom = floats(numerators, "numerators"), floats(denominators, "denominators")
    n = same_length(numerators=top, denominators=bottom)
    seed, draws, level = whole(seed, "seed"), whole(draws, "draws", 100), open_unit(level, "level")
    codes, k = cluster_codes(clusters, n)
    method = _bootstrap_name(clusters) + " of a ratio of means" + (", expanded" if expanded else "")
    if k < 2:
        return Estimate.undefined(unit, n, _too_few(n, k), method=method, level=level)
    sums = _cluster_sums(np.column_stack([top, bottom]), codes, k)
    drawn = np.concatenate([w @ sums for w in _weights(k, draws, seed)])
    floor = 1e-12 * float(np.abs(bottom).sum())  # sums of rounding errors, not an effect
    edge_low, edge_high = _percentile(drawn[:, 1], level, bottom.sum(), floor)
    if abs(bottom.sum()) <= floor or (edge_low <= floor and edge_high >= -floor):
        reason = f"the denominators' mean {bottom.mean():.3g} is not clear of zero, so the ratio is unbounded"
        return Estimate.undefined(unit, n, reason, method=method, level=level)
    kept = drawn[drawn[:, 1] != 0.0]
    value = float(top.sum() / bottom.sum())
    low, high = map(float, _percentile(kept[:, 0] / kept[:, 1], level, value, abs(value), k if expanded else None))
    return Estimate(value, low, high, n, unit, method, level, seed, _cluster_note(k, low == high))


def bootstrap_paired_difference(
    a: Values,
    b: Values,
    clusters: Clusters = None,
    *,
    unit: str,
    seed: int,
    draws: int = DRAWS,
    level: float = 0.95,
    expanded: bool = False,
) -> Estimate:
    """Mean of a - b over paired rows, resampling whole clusters.

    Definition: mean(a - b), each row of a and b being the same prompt in two worlds.
    Shapes, units: a, b [row]; clusters [row] labels or None; in the unit of a and b.
    Range: unbounded; above zero when a is larger.
    Mean over: rows. n counts rows, the note counts clusters. Fewer than 2 clusters give undefined.
    Raises: ValueError on NaN, missing labels, unequal lengths.
    Source: Efron & Tibshirani (1993), ch. 13.
    When it misleads: as `bootstrap_mean`. For two rates use `paired_difference`, whose interval
    keeps its width when no row changes.
    """
    left, right = floats(a, "a"), floats(b, "b")
    same_length(a=left, b=right)
    return bootstrap_mean(left - right, clusters, unit=unit, seed=seed, draws=draws, level=level, expanded=expanded)


def _weights(k: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each of k clusters is drawn: [draw, cluster] in blocks that bound the memory.  A trial asks for the same
    draws with every number, so the last few are kept where one block holds them all."""
    yield from _kept_weights(k, draws, seed) if draws * k <= BLOCK else _drawn_weights(k, draws, seed)


@lru_cache(maxsize=4)
def _kept_weights(k: int, draws: int, seed: int) -> tuple[Floats, ...]:
    kept = tuple(_drawn_weights(k, draws, seed))
    for block in kept:
        block.flags.writeable = False
    return kept


def _drawn_weights(k: int, draws: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // k)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        picks = rng.integers(k, size=(rows, k)) + k * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * k).reshape(rows, k).astype(np.float64)


def _cluster_sums(table: Floats, codes: NDArray[np.int64], k: int) -> Floats:
    sums = np.zeros((k, table.shape[1]))
    np.add.at(sums, codes, table)
    return sums


def _percentile(drawn: Floats, level: float, centre: Any, scale: Any, clusters: int | None = None) -> tuple[Any, Any]:
    """Percentile bounds over axis 0; a width that is only rounding becomes exactly zero, at `centre`.

    ``clusters``: further out, where a normal mean of so few would have Student's interval."""
    tail = (1 - level) / 2
    if clusters is not None:
        from scipy.special import ndtr, stdtrit

        tail = float(ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    flat = high - low <= 1e-12 * scale
    return np.where(flat, centre, low), np.where(flat, centre, high)


def _bootstrap_name(clusters: Clusters) -> str:
    return "bootstrap" if clusters is None else "cluster bootstrap"


def _too_few(n: int, k: int) -> str:
    return f"{n} rows in {k} cluster(s): at least 2 clusters are needed"


def _cluster_note(k: int, zero_width: bool) -> str:
    few = "; few clusters, the interval is too narrow" if k < FEW_CLUSTERS else ""
    flat = "; every resample gives the same value, the interval shows no uncertainty" if zero_width else ""
    return f"{k} clusters{few}{flat}"

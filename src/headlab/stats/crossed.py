"""Intervals of what was run for several drawn sets on the same pairs: both were sampled, sets and pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .estimate import Estimate
from .intervals import bootstrap_mean
from .rates import clopper_pearson, clustered_rate, crossed_rate


def rate_over_sets(hits: Any, clusters: Any, *, all_subsets: bool) -> Estimate:
    """Share of ``hits`` [subset, pair].  Pairs were sampled, and so were subsets, unless every one of them was run."""
    n_subsets, n_pairs = hits.shape
    unit = f"pairs × subsets ({n_pairs} × {n_subsets})"
    pairs = np.tile(clusters, n_subsets)
    if all_subsets or n_subsets < 2:
        return clustered_rate(hits.ravel(), pairs, unit=unit)
    return crossed_rate(hits.ravel(), pairs, np.repeat(np.arange(n_subsets), n_pairs), unit=unit)


def wider_over_sets(over_pairs: Estimate, members: Any, *, seed: int, rate: bool = False) -> Estimate:
    """``over_pairs``, the estimate of a mean over drawn sets, with the interval over sets where that one is wider.

    ``members`` [set]: each set's own number (``rate``: whether it is one of those counted; Clopper and Pearson's interval, since
    all or none of a few sets, resampled, have none).  Raises ValueError on NaN.
    """
    count = len(members)
    over_sets = (
        clopper_pearson(int(np.sum(members)), count, unit="sets")
        if rate
        else bootstrap_mean(members, unit="sets", seed=seed)
    )
    if not (over_pairs.defined and over_sets.defined):
        return over_pairs
    assert over_sets.low is not None and over_sets.high is not None
    assert over_pairs.low is not None and over_pairs.high is not None and over_pairs.value is not None
    if over_sets.high - over_sets.low <= over_pairs.high - over_pairs.low:
        return over_pairs
    low, high = min(over_sets.low, over_pairs.value), max(over_sets.high, over_pairs.value)
    return replace(over_pairs, low=low, high=high, method=f"{over_sets.method} over {count} sets")

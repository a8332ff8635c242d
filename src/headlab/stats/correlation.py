"""Rank correlation of one row of numbers with many."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's ρ of ``a`` [n] with each row of ``b`` [..., n].

    Definition: Pearson's correlation of ranks, ties at their mean rank.  Range: −1 to 1; NaN where all values of a row are
        equal.  Mean: none is taken.
    """
    x, y = (r - r.mean(-1, keepdims=True) for r in (rankdata(a), rankdata(b, axis=-1)))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))

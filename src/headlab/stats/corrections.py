"""Many tests at once: Holm for the confirmatory family, Benjamini-Hochberg for scans over heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._check import Floats, Values


def holm(p: Values) -> Floats:
    """Holm's step-down adjusted p: rejecting those under alpha keeps Pr[any false rejection] <= alpha.

    Definition: with p_(1) <= ... <= p_(m), adjusted_(i) = min(1, max over j <= i of (m - j + 1) p_(j)).
    Shapes, units: p [test] -> adjusted [test], in the order given.
    Range: [0, 1], never under the raw p. Undefined p (None or NaN) stay NaN and do not count in m.
    Mean over: nothing.
    Raises: ValueError on a p outside [0, 1].
    Source: Holm, Scand. J. Stat. 6:65 (1979).
    When it misleads: the family must be fixed before looking. An undefined test shrinks the family,
    so count undefined tests beside the result.
    """
    ascending, adjusted, places = _sorted_p(p)
    left = np.arange(len(ascending), 0, -1)
    adjusted[places] = np.minimum(1.0, np.maximum.accumulate(left * ascending))
    return adjusted


def benjamini_hochberg(p: Values) -> Floats:
    """Benjamini and Hochberg's adjusted p: bounds the expected share of false discoveries.

    Definition: with p_(1) <= ... <= p_(m), adjusted_(i) = min(1, min over j >= i of m p_(j) / j).
    Shapes, units: p [test] -> adjusted [test], in the order given.
    Range: [0, 1], never under the raw p. Undefined p (None or NaN) stay NaN and do not count in m.
    Mean over: nothing.
    Raises: ValueError on a p outside [0, 1].
    Source: Benjamini & Hochberg, JRSS B 57:289 (1995).
    When it misleads: a list of discoveries, not a verdict on any one of them; needs independent or
    positively dependent tests.
    """
    ascending, adjusted, places = _sorted_p(p)
    m = len(ascending)
    scaled = ascending * m / np.arange(1, m + 1)
    adjusted[places] = np.minimum.accumulate(scaled[::-1])[::-1]  # the last is p itself, so never over 1
    return adjusted


def _sorted_p(p: Values) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """The defined p in ascending order, an all-undefined result, and where in it each of them belongs."""
    raw = np.array(np.asarray(p, dtype=object), dtype=np.float64)  # None becomes NaN
    if raw.ndim != 1:
        raise ValueError(f"p must be one list of p-values, got shape {raw.shape}.")
    given = np.flatnonzero(~np.isnan(raw))
    outside = raw[given][(raw[given] < 0) | (raw[given] > 1)]
    if len(outside):
        raise ValueError(f"p-values must lie in [0, 1], got {outside[:5].tolist()}.")
    places = given[np.argsort(raw[given])]
    return raw[places], np.full(len(raw), np.nan), places

"""What a count of extreme sets says of p: its exact bounds, where the sets were drawn at random and where
they are a part of all that match.

Of n sets c are at least as extreme as the named one.  Drawn at random, c is binomial with p.  In a walk without replacement
through a `total` that holds the named set, p is (1 + extreme ones)/total and c is hypergeometric.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np

from ._check import Floats, Ints
from .rates import _clopper_pearson_bounds


def tail_of(counts: Ints, n: int, alpha: float, total: int | None = None, *, above: bool) -> Floats:
    """The chance of at least (`above`) or at most as many extreme sets among n as were seen, where p is just alpha.

    Of a `total` of sets, the observed one among them, walked without replacement: the greatest such chance of any number of
    extreme sets that gives a p of alpha or less (`above`), or of alpha or more; 0 where no number does.
    """
    from scipy.special import bdtr, bdtrc

    counts = np.asarray(counts)
    if total is None:
        return np.where(counts == 0, 1.0, bdtrc(counts - 1.0, n, alpha)) if above else bdtr(counts * 1.0, n, alpha)
    exact = alpha * total - 1
    extreme = math.floor(exact + 1e-9) if above else math.ceil(exact - 1e-9)
    if not 0 <= extreme < total:
        return np.zeros(counts.shape)
    return _drawn(counts, n, extreme, total - 1, above)


def _drawn(counts: Ints, n: int, extreme: int, others: int, above: bool) -> Floats:
    """The chance of at least, or at most, `counts` of the `extreme` ones among n of `others`, drawn without replacement."""
    from scipy.special import gammaln

    def ways(a: Ints | int, b: Ints | int) -> Floats:
        return gammaln(np.asarray(a) + 1.0) - gammaln(np.asarray(b) + 1.0) - gammaln(np.asarray(a) - b + 1.0)

    least, most = max(0, n - (others - extreme)), min(n, extreme)
    k = np.arange(least, most + 1)
    mass = np.exp(ways(extreme, k) + ways(others - extreme, n - k) - ways(others, n))
    upto = np.append(0.0, np.cumsum(mass))
    place = np.clip(counts - least + (0 if above else 1), 0, len(k))
    return np.clip(upto[-1] - upto[place] if above else upto[place], 0.0, 1.0)


def tail_bounds(count: int, n: int, chance: float, total: int | None = None) -> tuple[float, float]:
    """The bounds of p at a chance of `chance` on each side: Clopper and Pearson's, or, of `total` sets walked without
    replacement, the least and the greatest p under which so many extreme ones among n are no rarer than that."""
    if total is None:
        return _clopper_pearson_bounds(count, n, 1 - 2 * chance)
    others, seen = total - 1, np.array(count)
    high = others - (n - count)
    low = count + bisect_left(range(count, high), True, key=lambda k: float(_drawn(seen, n, k, others, True)) >= chance)
    over = bisect_left(range(low, high + 1), True, key=lambda k: float(_drawn(seen, n, k, others, False)) < chance)
    return (1 + low) / total, (1 + max(low, low + over - 1)) / total

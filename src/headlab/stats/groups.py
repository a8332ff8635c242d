"""Do groups of items differ in what was measured of them? Each property with its own rank, and all of them together.

1. Values become ranks, so that one outlying item cannot make or hide a difference.
2. The statistic is the share of the ranks' variance that lies between groups; its null deals the labels out again, within
   classes of items that share something.
3. The largest share over properties, among the largest of each dealing, is one test for all properties together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from ._check import Clusters, Count, Floats, Values, cluster_codes, floats, open_unit, same_length, whole
from .corrections import holm
from .distances import _arrangements, _renamings, _some_orders
from .permutation import Rank, rank


@dataclass(frozen=True, slots=True)
class Difference:
    """One property: share of its variance between groups, the mean share of dealt labels, its rank, Holm's p; None
    where it has no spread."""

    share: float | None
    chance: float | None
    test: Rank | None
    p_holm: float | None


@dataclass(frozen=True, slots=True)
class GroupTest:
    """Every property, the largest share with its null and rank; None where `note` says why."""

    properties: tuple[Difference, ...]
    largest: float | None
    null: tuple[float, ...]
    test: Rank | None
    note: str = ""


def groups_differ(
    values: Values,
    labels: Sequence[Hashable],
    classes: Clusters = None,
    *,
    permutations: Count = 9999,
    seed: Count = 0,
    alpha: float = 0.05,
    unit: str = "labellings",
) -> GroupTest:
    """Do items with different labels differ in any of several properties?

    Definition: with r the ranks of a property, share = sum over labels of n_label (mean r of label - mean r)^2 / sum
    (r - mean r)^2. p of a property = share of dealings of the labels (within classes, where given) with a share at
    least as large, as in `rank`; all are enumerated when at most `permutations`. Together: the largest share over
    properties, among the largest of every dealing; Holm's p over properties beside it.
    Shapes, units: values [item, property], any units; labels, classes [item].
    Range: [0, 1], 0 = groups have equal mean ranks, 1 = ranks are equal within groups; p in (0, 1].
    Mean over: items. Undefined: a property whose values are all equal (it is left out and counted in no correction);
    everything, for fewer than 4 items, one label, a label for each item, or labels that cannot be dealt otherwise.
    Raises: ValueError on NaN, unequal lengths.
    Source: Kruskal & Wallis, JASA 47:583 (1952), share = H / (n - 1); Westfall & Young (1993) for the largest.
    When it misleads: labels that were made from a property differ in it by construction. Dealing within classes cannot
    see what whole classes share. A difference in rank says nothing of its size.
    """
    x, n = floats(values, "values", ndim=2), len(labels)
    same_length(values=x[:, 0] if x.shape[1] else np.zeros(len(x)), labels=np.zeros(n))
    kinds, k = cluster_codes(labels, n)
    codes = np.zeros(n, dtype=np.int64) if classes is None else cluster_codes(classes, n)[0]
    count, seed, alpha = whole(permutations, "permutations", 100), whole(seed, "seed"), open_unit(alpha, "alpha")
    spread = np.ptp(x, axis=0) > 1e-12 * np.abs(x).max(axis=0, initial=0.0) if n else np.zeros(x.shape[1], bool)
    nothing = tuple(Difference(None, None, None, None) for _ in range(x.shape[1]))
    why = "fewer than 4 items" if n < 4 else "" if 2 <= k < n else "one label only, or one for each item"
    if why or not spread.any():
        return GroupTest(nothing, None, (), None, why or "no property has any spread")
    every = _arrangements(kinds, codes, count)
    if every is not None and len(every) < 2:
        return GroupTest(nothing, None, (), None, "the labels cannot be dealt in another way")
    exact = every is not None
    dealt = every if every is not None else kinds[np.array(list(_some_orders(codes, count, seed)))]
    ties = _renamings(kinds, codes) if exact else 1
    ranks = rankdata(x[:, spread], axis=0)
    null, own = _shares(ranks, dealt, k), _shares(ranks, kinds[None], k)[0]

    def placed(value: float, drawn: Floats) -> Rank:
        return rank(value, drawn, enumerated=exact, alpha=alpha, unit=unit, least_ties=ties)

    tests = [placed(float(s), column) for s, column in zip(own, null.T, strict=True)]
    adjusted = iter(zip(own, null.mean(0), tests, holm([t.p for t in tests]), strict=True))
    found = []
    for has in spread:
        if has:
            share, chance, test, p = next(adjusted)
            found.append(Difference(float(share), float(chance), test, float(p)))
        else:
            found.append(nothing[0])
    largest = null.max(1)
    return GroupTest(tuple(found), float(own.max()), tuple(largest.tolist()), placed(float(own.max()), largest))


def _shares(ranks: Floats, labels: np.ndarray, k: int) -> Floats:
    """[labelling, property]: variance of ranks between groups over all of it."""
    centred = ranks - ranks.mean(0)
    total, between = (centred**2).sum(0), np.zeros((len(labels), ranks.shape[1]))
    for kind in range(k):
        inside = (labels == kind).astype(np.float64)
        between += (inside @ centred) ** 2 / inside.sum(1, keepdims=True)
    return between / total

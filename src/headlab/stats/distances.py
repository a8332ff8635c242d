"""Tables of similarities between items (heads): do two tables agree, and does a label explain one?

Entries that share an item are not independent, so no entry is ever tested as if it were a row. The null moves
items: their labels are exchanged, all of them or only within groups that share something (a KV head).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations as orders_of
from itertools import product

import numpy as np

from ._check import Clusters, Floats, Ints, Values, cluster_codes, floats, open_unit, same_length, whole
from .estimate import Estimate
from .intervals import DRAWS, bootstrap_means
from .permutation import Rank, rank


@dataclass(frozen=True, slots=True)
class Mantel:
    """The correlation of two tables, the middle 95 % of what exchanged items give, and its rank among them; None
    where `note` says why."""

    r: float | None
    null: tuple[float, float] | None
    test: Rank | None
    items: int
    seed: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class LabelContrast:
    """Mean similarity within each label, between labels, their contrast, and its rank among exchanged labels."""

    within: Mapping[Hashable, Estimate]
    between: Estimate
    contrast: Estimate
    test: Rank | None
    note: str = ""


def mantel(
    a: Values,
    b: Values,
    permutations: int = 9999,
    *,
    seed: int,
    groups: Clusters = None,
    ranks: bool = False,
    alpha: float = 0.05,
    unit: str = "relabellings",
) -> Mantel:
    """Mantel test: do two tables of distances (or similarities) between the same items agree?

    Definition: r = correlation of the entries above the diagonal (of their ranks with ranks=True); p = share of
    relabellings of the items of b, rows and columns together, with r at least as large, as in `rank`. All are
    enumerated when there are at most `permutations`, else sampled. With groups, only items of one group are exchanged.
    Shapes, units: a, b [item, item], symmetric; the diagonal is never read; groups [item] labels or None.
    Range: r in [-1, 1], more is more agreement; p in (0, 1].
    Mean over: pairs of items. Undefined: fewer than 4 items, a table whose entries are all equal, or groups that leave
    nothing to exchange.
    Raises: ValueError on NaN, on a table that is not symmetric, on unequal sizes.
    Source: Mantel, Cancer Res. 27:209 (1967); Legendre & Legendre (2012), section 10.5.
    When it misleads: two tables that both follow the layout (distance between head numbers, a shared KV head) agree for
    that reason: exchange within groups. Pass two distances or two similarities; one of each turns the sign.
    """
    x, y = _table(a, "a"), _table(b, "b")
    n = same_length(a=x, b=y)
    seed, count = whole(seed, "seed"), whole(permutations, "permutations", 100)
    codes, _ = (np.zeros(n, dtype=np.int64), 1) if groups is None else cluster_codes(groups, n)
    upper = np.triu_indices(n, 1)
    u, v = _standard(x[upper], ranks), _standard(y[upper], ranks)
    if n < 4 or u is None or v is None:
        reason = f"{n} items: at least 4 are needed" if n < 4 else "all entries of a table are equal"
        return Mantel(None, None, None, n, seed, reason)
    total = math.prod(math.factorial(int(c)) for c in np.bincount(codes))
    if total == 1:
        return Mantel(None, None, None, n, seed, "no group has two items to exchange")
    full = np.zeros((n, n))
    full[upper] = v
    full += full.T
    exact = total <= count
    moves = _all_orders(codes) if exact else _some_orders(codes, count, seed)
    null = np.array([float(u @ full[np.ix_(move, move)][upper]) for move in moves])
    r = float(np.clip(u @ v, -1.0, 1.0))
    test = rank(float(u @ v), null, enumerated=exact, alpha=alpha, unit=unit)
    low, high = np.quantile(null, [0.025, 0.975])
    return Mantel(r, (float(low), float(high)), test, n, seed)


def label_contrast(
    similarity: Values,
    labels: Sequence[Hashable],
    groups: Clusters = None,
    clusters: Clusters = None,
    *,
    seed: int,
    permutations: int = 9999,
    draws: int = DRAWS,
    alpha: float = 0.05,
    unit: str = "prompts",
    level: float = 0.95,
) -> LabelContrast:
    """Are items with the same label more alike than items with different labels?

    Definition: contrast = mean similarity over pairs of one label - mean over pairs of two labels, diagonal left out.
    Interval over rows (`bootstrap_means`); p = share of exchanges of labels, within groups where given, with a contrast
    of the mean table at least as large, as in `rank`. Arrangements are enumerated when at most `permutations`.
    Shapes, units: similarity [row, item, item], one symmetric table per prompt; labels, groups [item]; clusters [row].
    Range: that of the similarity; contrast above zero means more alike within a label.
    Mean over: rows and pairs of items, a label with more items weighs more. Undefined: a label with one item (its
    within), one label only, fewer than 2 clusters; without an exchange that changes anything the test is None.
    Raises: ValueError on NaN, tables that are not symmetric, unequal lengths.
    Source: Clarke, Aust. J. Ecol. 18:117 (1993), the permutation of labels over a table; the contrast of means is ours.
    When it misleads: the intervals are over prompts, for these items; the test is over labellings. Without groups,
    items that share a KV head are alike for that reason, and a label that follows the layout takes the credit.
    """
    table = floats(similarity, "similarity", ndim=3)
    n = len(labels)
    if table.shape[1:] != (n, n) or not np.allclose(table, table.swapaxes(1, 2), atol=1e-6):
        raise ValueError(f"similarity must be symmetric [row, {n}, {n}] for {n} labels, got shape {table.shape}.")
    kinds, k = cluster_codes(labels, n)
    codes, _ = (np.zeros(n, dtype=np.int64), 1) if groups is None else cluster_codes(groups, n)
    level, seed, count = open_unit(level, "level"), whole(seed, "seed"), whole(permutations, "permutations", 100)
    left, right = np.triu_indices(n, 1)
    entries = table[:, left, right]
    same = kinds[left] == kinds[right]
    masks = [same & (kinds[left] == kind) for kind in range(k)]
    names = list(dict.fromkeys(labels))

    def over(columns: Floats) -> Estimate:
        return bootstrap_means(columns[:, None], clusters, unit=unit, seed=seed, draws=draws, level=level)[0]

    def none(reason: str) -> Estimate:
        return Estimate.undefined(unit, len(table), reason, level=level)

    within = {
        name: over(entries[:, m].mean(1)) if m.any() else none("a label with a single item")
        for name, m in zip(names, masks, strict=True)
    }
    if same.all() or not same.any():
        reason = "one label only" if same.all() else "no two items share a label"
        between = none(reason) if same.all() else over(entries.mean(1))
        return LabelContrast(within, between, none(reason), None, reason)
    between = over(entries[:, ~same].mean(1))
    contrast = over(entries[:, same].mean(1) - entries[:, ~same].mean(1))
    test = _exchanged(entries, kinds, codes, count, seed, alpha, level)
    return LabelContrast(within, between, contrast, test, "" if test else "no exchange of labels changes anything")


def _exchanged(
    entries: Floats, kinds: Ints, codes: Ints, count: int, seed: int, alpha: float, level: float
) -> Rank | None:
    """The contrast among those of other labellings; None where no exchange changes anything."""
    left, right = np.triu_indices(len(kinds), 1)
    arrangements = _arrangements(kinds, codes, count)
    exact = arrangements is not None
    if len(entries) == 0 or (arrangements is not None and len(arrangements) < 2):
        return None
    drawn = kinds[np.array(list(_some_orders(codes, count, seed)))] if arrangements is None else arrangements
    mean = entries.mean(0)
    null = _contrasts(mean, drawn, left, right)
    observed = float(_contrasts(mean, kinds[None], left, right)[0])
    ties = _renamings(kinds, codes)
    return rank(observed, null, enumerated=exact, alpha=alpha, unit="labellings", least_ties=ties, level=level)


def side_weights(sides: Floats) -> Floats:
    """What weighs each entry above the diagonal, so that the sum is how much more alike items of one side are than items of
    two, for many ways of taking sides at once.

    Definition: 1 / (pairs on one side) for a pair on one side, -1 / (pairs across) for one across.
    Shapes, units: sides [half, item], 1 on one side, 0 on the other; the result [half, entry].
    Range: [-1, 1]; each row sums to 0. A sum above zero means more alike within a side.
    Mean over: nothing. Undefined: NaN where all items, or all but one, stand on one side.
    Raises: nothing; shapes are the caller's.
    Source: Clarke, Aust. J. Ecol. 18:117 (1993); the contrast of means is ours.
    When it misleads: items that share a KV head are alike for that reason: take sides within groups.
    """
    left, right = np.triu_indices(sides.shape[1], 1)
    same = (sides[:, left] == sides[:, right]).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return same / same.sum(1, keepdims=True) - (1 - same) / (1 - same).sum(1, keepdims=True)


def _table(x: Values, name: str) -> Floats:
    table = floats(x, name, ndim=2)
    if table.shape[0] != table.shape[1] or not np.allclose(table, table.T, atol=1e-6):
        raise ValueError(f"{name} must be a symmetric table [item, item], got shape {table.shape}. Average x and x.T.")
    return table


def _standard(entries: Floats, ranks: bool) -> Floats | None:
    """Centred and of length 1, so that a product is a correlation; None for equal entries."""
    if ranks:
        _, place, repeats = np.unique(entries, return_inverse=True, return_counts=True)
        entries = (np.cumsum(repeats) - (repeats - 1) / 2)[place]
    if len(entries) == 0 or np.ptp(entries) <= 1e-12 * np.abs(entries).max(initial=0.0):
        return None
    centred = entries - entries.mean()
    return centred / np.linalg.norm(centred)


def _contrasts(mean: Floats, kinds: Ints, left: Ints, right: Ints) -> Floats:
    """Contrast per labelling [labelling, item]; exchanging labels keeps how many pairs are of one label."""
    same = (kinds[:, left] == kinds[:, right]).astype(np.float64)
    inside, pairs = same @ mean, same.sum(1)
    return inside / pairs - (mean.sum() - inside) / (len(mean) - pairs)


def _all_orders(codes: Ints) -> Iterator[Ints]:
    """Every permutation of the items that keeps each in its group."""
    members = [np.flatnonzero(codes == g) for g in range(int(codes.max()) + 1)]
    for parts in product(*(orders_of(m.tolist()) for m in members)):
        move = np.empty(len(codes), dtype=np.int64)
        for m, part in zip(members, parts, strict=True):
            move[m] = part
        yield move


def _some_orders(codes: Ints, count: int, seed: int) -> Iterator[Ints]:
    rng = np.random.default_rng(seed)
    inside = np.argsort(codes, kind="stable")
    for _ in range(count):
        move = np.empty(len(codes), dtype=np.int64)
        move[inside] = np.lexsort((rng.random(len(codes)), codes))
        yield move


def _arrangements(kinds: Ints, codes: Ints, most: int) -> Ints | None:
    """Every distinct labelling with the same labels in each group, or None when there are more than `most`."""
    members = [np.flatnonzero(codes == g) for g in range(int(codes.max()) + 1)]
    ways = [math.factorial(len(m)) // math.prod(math.factorial(int(c)) for c in np.bincount(kinds[m])) for m in members]
    if math.prod(ways) > most:
        return None
    made = np.empty((math.prod(ways), len(kinds)), dtype=np.int64)
    for row, parts in enumerate(product(*(list(_words(kinds[m].tolist())) for m in members))):
        for m, part in zip(members, parts, strict=True):
            made[row, m] = part
    return made


def _words(letters: list[int]) -> Iterator[tuple[int, ...]]:
    """Each distinct order of a list that may hold repeats."""
    if not letters:
        yield ()
    for first in sorted(set(letters)):
        rest = letters.copy()
        rest.remove(first)
        for word in _words(rest):
            yield (first, *word)


def _renamings(kinds: Ints, codes: Ints) -> int:
    """How many renamings of the labels the exchanges can reach: each leaves the contrast as it is."""
    k = int(kinds.max()) + 1
    counts = np.zeros((int(codes.max()) + 1, k), dtype=np.int64)
    np.add.at(counts, (codes, kinds), 1)
    if k > 6:  # 5040 renamings and more: only the identity is claimed
        return 1
    return sum(bool((counts[:, list(names)] == counts).all()) for names in orders_of(range(k)))

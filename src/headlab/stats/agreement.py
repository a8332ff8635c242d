"""Do clusters mean anything? Agreement of partitions, a test with its null, a set predicted from likeness.

1. Two partitions agree by the adjusted Rand index, by purity, or over many clusterings by how often items go together.
2. Any set of points can be cut in two, and some cut is always the best: `cluster_test` gives its null the same freedom.
   The null is tables of items that have no clusters, or the given labels dealt out again (exactly, where few).
3. A set is predicted from likeness to its members, each member left out of its own score.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._check import Clusters, Count, Floats, Ints, Values, cluster_codes, floats, same_length, whole
from .clustering import (
    LEAST,
    NOISE,
    Clustering,
    Linkage,
    _codes,
    _distances,
    _nothing,
    _within,
    hierarchical,
    silhouettes,
)
from .distances import _arrangements, _renamings, _some_orders, _table
from .permutation import Rank, rank


@dataclass(frozen=True, slots=True)
class ClusterTest:
    """The observed statistic, the same of every draw of the null, its rank among them, and the clustering read; value
    and test are None where `note` says why."""

    statistic: str
    value: float | None
    null: tuple[float, ...]
    test: Rank | None
    clustering: Clustering | None
    items: int
    note: str = ""

    @property
    def chance(self) -> float | None:
        """The mean of the null: what the statistic is where there is nothing to find."""
        return float(np.mean(self.null)) if self.null else None


def adjusted_rand(a: Sequence[Hashable] | Values, b: Sequence[Hashable] | Values) -> float | None:
    """Do two labellings part the items alike? The adjusted Rand index.

    Definition: with t, f, g, u the ordered pairs of items together in both, in b only, in a only, in neither,
    ARI = 2 (t u - g f) / ((t + g)(g + u) + (t + f)(f + u)).
    Shapes, units: a, b [item] labels; names do not matter, `NOISE` counts as one more label.
    Range: up to 1, the same partition; 0 expected by chance; the least depends on sizes (8 blocks of 4 against halves
    that each split evenly: -0.0598).
    Mean over: pairs of items. None: fewer than 4 items, or a labelling with a single label.
    Raises: ValueError on unequal lengths or missing labels.
    Source: Hubert & Arabie, J. Classif. 2:193 (1985); equal to scikit-learn's.
    When it misleads: a value below zero is no evidence against a label beyond chance, only the most even mixture of two
    partitions; it has a null of its own (`cluster_test`).
    """
    x, y = _codes(a), _codes(b)
    if same_length(a=x, b=y) < LEAST or min(len(np.unique(x)), len(np.unique(y))) < 2:
        return None
    return float(_rand_indices(x, y[None])[0])


def purity(clusters: Sequence[Hashable] | Values, labels: Sequence[Hashable] | Values) -> float | None:
    """How far each cluster holds one label only.

    Definition: (1 / n) sum over clusters of the count of its most common label.
    Shapes, units: clusters, labels [item]; a share of items.
    Range: from the share of the commonest label up to 1.
    Mean over: items. None: fewer than 4 items.
    Raises: ValueError on unequal lengths or missing labels.
    Source: Manning, Raghavan & Schuetze (2008), section 16.3.
    When it misleads: more clusters are purer by chance alone (n clusters: 1). Two balanced labels in clusters of 4
    are .69 pure when dealt out at random, 32 items. Read it beside its chance level, `cluster_test(...).chance`.
    """
    x, y = _codes(clusters), _codes(labels)
    return None if same_length(clusters=x, labels=y) < LEAST else float(_purities(x, y[None])[0])


def co_occurrence(clusterings: Sequence[Clustering]) -> Floats:
    """How often two items share a cluster, over several clusterings of the same items.

    Definition: entry (i, j) = share of clusterings that give i and j one label other than `NOISE`; diagonal 1.
    Shapes, units: [item, item], a share of clusterings.
    Range: [0, 1].
    Mean over: clusterings that have labels.
    Raises: ValueError when there is none, or they do not label the same number of items.
    Source: Fred & Jain, IEEE TPAMI 27:835 (2005), evidence accumulation.
    When it misleads: clusterings of one table by several methods are not independent; agreement among them says that
    the cut is easy, not that it means something.
    """
    rows = [c.labels for c in clusterings if c.labels]
    if not rows or len({len(r) for r in rows}) != 1:
        raise ValueError(f"clusterings must label the same items, got {[len(r) for r in rows]} labels.")
    made = np.array(rows)
    together = (made[:, :, None] == made[:, None, :]) & (made != NOISE)[:, :, None]
    share = together.mean(0)
    np.fill_diagonal(share, 1.0)
    return share


def cluster_test(
    distances: Values,
    nulls: Iterable[Values] | None = None,
    *,
    values: Values | None = None,
    labels: Sequence[Hashable] | None = None,
    statistic: Literal["silhouette", "ari", "purity"] = "silhouette",
    k: Count | None = None,
    linkage: Linkage = "average",
    groups: Clusters = None,
    permutations: int = 9999,
    seed: int = 0,
    alpha: float = 0.05,
    unit: str = "",
) -> ClusterTest:
    """Are there clusters, or do they follow given labels, beyond what a null gives?

    Definition: without labels, the largest mean silhouette over cuts of the tree (or at k); with labels, the silhouette
    of the labels themselves, or ARI or purity of the clusters (k, or the best) against them. The null is the same
    statistic, with the same choice of k, of each table of `nulls` (or `values`, where it is known already); or, with
    labels and neither, of the labels dealt out again (within `groups`), all of them where there are at most
    `permutations`. p as in `rank`: (1+b)/(1+m) with a Clopper-Pearson interval, exact where enumerated.
    Shapes, units: distances and each null [item, item]; labels, groups [item].
    Range: that of the statistic, more is more; p in (0, 1].
    Mean over: items or pairs of items. Undefined: fewer than 4 items, all distances zero, a single label, labels that
    leave nothing to deal out; undefined nulls are left out and counted in `note`.
    Raises: ValueError on NaN, tables that are not symmetric or of another size, neither nulls nor labels.
    Source: Rousseeuw (1987), Hubert & Arabie (1985); the permutation as in `label_contrast`.
    When it misleads: against untrained weights any structure counts, a single stretched cloud too: use several nulls. A
    label test within KV groups cannot see what whole groups share.
    """
    table = _distances(distances)
    n, seed = len(table), whole(seed, "seed")
    if labels is None and nulls is None and values is None:
        raise ValueError("cluster_test needs a null: tables of items without clusters, or labels to deal out again.")
    if statistic not in ("silhouette", "ari", "purity") or (labels is None and statistic != "silhouette"):
        raise ValueError(f'statistic must be "silhouette", or with labels "ari" or "purity", got {statistic!r}.')
    codes = None if labels is None else cluster_codes(labels, n)[0]
    why = _nothing(table) or ("" if codes is None or 2 <= codes.max() + 1 < n else "labels that name one set, or all")
    if why:
        return ClusterTest(statistic, None, (), None, None, n, why)
    made = hierarchical(table, k, linkage=linkage)
    value = _value(table, made, codes, statistic)
    if values is not None:
        null, exact, ties, note = floats(values, "values").tolist(), False, 1, ""
    elif nulls is not None:
        drawn = [_of_null(x, n, codes, statistic, k, linkage) for x in nulls]
        null, exact, ties = [x for x in drawn if x is not None], False, 1
        note = f"{len(drawn) - len(null)} tables of the null are undefined" if len(drawn) > len(null) else ""
    else:
        assert codes is not None
        dealt, exact, ties = _dealt(codes, groups, permutations, seed)
        null = [] if dealt is None else _over_labels(table, made, dealt, statistic).tolist()
        note = "" if null else "no dealing out of the labels changes anything"
    if value is None or not null:
        return ClusterTest(statistic, value, (), None, made, n, note or made.note or "undefined")
    unit = unit or ("labellings" if nulls is None and values is None else "tables")
    test = rank(value, null, enumerated=exact, alpha=alpha, unit=unit, least_ties=ties)
    return ClusterTest(statistic, value, tuple(null), test, made, n, note)


def most_similar(similarity: Values, members: Sequence[int], size: int, *, itself: bool = False) -> tuple[int, ...]:
    """The items that are most like the members of a set: a prediction of the set from its members.

    Definition: score of item i = mean of similarity (i, j) over members j other than i (`itself` True: i counted too);
    the `size` items of largest score, equal scores in order of index.
    Shapes, units: similarity [item, item]; members [member] indices; returns sorted indices.
    Range: indices 0 ... n - 1.
    Mean over: members.
    Raises: ValueError on NaN, on unknown or repeated members, fewer than 2 of them, size outside 1 ... n.
    Source: the published "function-based prediction" is itself=True with members = the even heads.
    When it misleads: with itself=True every member gets a similarity of 1 that no other item can have: where similarities
    are small the members are predicted from themselves, whatever the data.
    """
    table = _table(similarity, "similarity")
    n, inside = len(table), sorted({whole(m, "members") for m in members})
    if len(inside) != len(members) or len(inside) < 2 or inside[-1] >= n:
        raise ValueError(f"members must be at least 2 different indices under {n}, got {list(members)}.")
    among = np.zeros(n, dtype=bool)
    among[inside] = True
    own = np.where(among & (not itself), np.diag(table), 0.0)
    score = (table[:, inside].sum(1) - own) / (len(inside) - (among & (not itself)))
    order = np.argsort(-np.round(score, 12), kind="stable")
    return tuple(sorted(order[: _within(size, n)].tolist()))


# -- parts --------------------------------------------------------------------------------------------------


def _counts(clusters: Ints, labels: Ints) -> Ints:
    """Contingency tables, [labelling, cluster, label]."""
    a, b = clusters - clusters.min(), labels - labels.min()
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    flat = (np.arange(len(b)) * rows * columns)[:, None] + a[None] * columns + b
    return np.bincount(flat.ravel(), minlength=len(b) * rows * columns).reshape(len(b), rows, columns)


def _rand_indices(clusters: Ints, labels: Ints) -> Floats:
    """`adjusted_rand` of one clustering against each row of labels [labelling, item], from whole numbers."""
    table, n = _counts(clusters, labels), len(clusters)
    both = (table**2).sum((1, 2))
    f, g = (table.sum(1) ** 2).sum(1) - both, (table.sum(2) ** 2).sum(1) - both
    t, u = both - n, n * n - f - g - both
    below = (t + g) * (g + u) + (t + f) * (f + u)
    return np.where(below == 0, 1.0, 2 * (t * u - g * f) / np.where(below == 0, 1, below))


def _purities(clusters: Ints, labels: Ints) -> Floats:
    return _counts(clusters, labels).max(2).sum(1) / len(clusters)


def _over_labels(table: Floats, made: Clustering, labels: Ints, statistic: str) -> Floats:
    """The statistic of each row of labels."""
    if statistic == "silhouette":
        return silhouettes(table, labels)
    return (_rand_indices if statistic == "ari" else _purities)(np.array(made.labels), labels)


def _value(table: Floats, made: Clustering | None, codes: Ints | None, statistic: str) -> float | None:
    if codes is None:
        return None if made is None else made.silhouette
    if statistic == "silhouette":
        return float(silhouettes(table, codes[None])[0])
    if made is None or not made.labels:
        return None
    return float((_rand_indices if statistic == "ari" else _purities)(np.array(made.labels), codes[None])[0])


def _of_null(x: Values, n: int, codes: Ints | None, statistic: str, k: Count | None, linkage: Linkage) -> float | None:
    table = _distances(x)
    if len(table) != n:
        raise ValueError(f"a table of the null must hold {n} items like the observed one, got {len(table)}.")
    if _nothing(table):
        return None
    cut = codes is None or statistic != "silhouette"
    return _value(table, hierarchical(table, k, linkage=linkage) if cut else None, codes, statistic)


def _dealt(codes: Ints, groups: Clusters, permutations: int, seed: int) -> tuple[Ints | None, bool, int]:
    """Labels dealt out again [labelling, item]; whether these are all; how many renamings tie with each."""
    count = whole(permutations, "permutations", 100)
    within = np.zeros(len(codes), dtype=np.int64) if groups is None else cluster_codes(groups, len(codes))[0]
    every = _arrangements(codes, within, count)
    if every is not None:
        return (every if len(every) > 1 else None), True, _renamings(codes, within)
    return codes[np.array(list(_some_orders(within, count, seed)))], False, 1

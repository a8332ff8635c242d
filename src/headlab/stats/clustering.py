"""Clusters of items (heads) in a table of distances: how many, how apart, and like which labels.

1. Cluster by a tree of merges, by k-means, or by density; every number of clusters that makes sense is tried.
2. The number is chosen by the mean silhouette or by the gap statistic, which may also say "one".
3. Whether the clusters are more than any cloud gives, or follow given labels, is asked in `agreement`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ._check import Count, Floats, Ints, Values, cluster_codes, floats, same_length, whole

LEAST = 4
"""Fewer items have no clusters to speak of: three points are always one pair and one left over."""
NOISE = -1
"""The label of an item that a density method leaves out."""
Linkage = Literal["average", "complete", "single", "ward"]


@dataclass(frozen=True, slots=True)
class Clustering:
    """labels [item] counted from 0 in order of first appearance (`NOISE` for items left out), how many clusters, the
    mean silhouette (None where undefined), the method, and `note`, which says why where labels are empty."""

    labels: tuple[int, ...]
    k: int
    silhouette: float | None
    method: str
    note: str = ""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Items in each cluster, noise not counted."""
        return tuple(int(c) for c in np.bincount([x for x in self.labels if x != NOISE], minlength=self.k))


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap statistic: k, the number of clusters it names (1 = none), with gaps and their standard errors for each
    of ks; k is None where `note` says why."""

    k: int | None
    ks: tuple[int, ...]
    gaps: tuple[float, ...]
    errors: tuple[float, ...]
    n: int
    seed: int
    note: str = ""


def hierarchical(distances: Values, k: Count | None = None, *, linkage: Linkage = "average") -> Clustering:
    """A tree of merges, cut into k clusters (None: the k with the largest mean silhouette).

    Definition: the two nearest clusters are merged until k are left; nearness is the mean distance over pairs
    ("average"), the least ("single"), the largest ("complete") or the growth of the sum of squares ("ward").
    Shapes, units: distances [item, item], symmetric, not negative; labels [item]. Tried ks: 2 ... max(2, n // 2).
    Range: labels 0 ... k - 1 in order of first appearance.
    Mean over: pairs of items. Undefined (no labels): fewer than 4 items, or all distances zero.
    Raises: ValueError on NaN, a table that is not symmetric, k outside 1 ... n.
    Source: scipy.cluster.hierarchy; Sokal & Michener (1958) for average linkage, Ward, JASA 58:236 (1963).
    When it misleads: it always returns clusters; ward supposes Euclidean distances. Single links chain. Equal distances
    are merged in the order of the items.
    """
    table = _distances(distances)
    if why := _nothing(table):
        return Clustering((), 0, None, linkage, why)
    ks = default_ks(len(table)) if k is None else (_within(k, len(table)),)
    cuts = _cuts(table, ks, linkage)
    return _best(cuts, silhouettes(table, cuts), linkage)


def k_means(
    coordinates: Values, k: Count | None = None, *, seed: int, restarts: int = 10, distances: Values | None = None
) -> Clustering:
    """k-means with restarts (k None: the k with the largest mean silhouette).

    Definition: labels that make the sum over items of the squared distance to the mean of their cluster least.
    Shapes, units: coordinates [item, axis]; distances [item, item] for the silhouette (None: Euclidean).
    Range: labels 0 ... k - 1 in order of first appearance. Tried ks: 2 ... max(2, n // 2).
    Mean over: items. Undefined (no labels): fewer than 4 items, or fewer different items than k.
    Raises: ValueError on NaN, on k outside 1 ... n.
    Source: scikit-learn's KMeans (k-means++); MacQueen (1967), Arthur & Vassilvitskii (2007).
    When it misleads: it draws convex clusters of like size and returns k of them whatever the data; long axes rule. An
    item far from all others is a cluster before anything else is.
    """
    x, seed = floats(coordinates, "coordinates", 2), whole(seed, "seed")
    table = euclidean(x) if distances is None else _distances(distances)
    same_length(coordinates=x, distances=table)
    if why := _nothing(table):
        return Clustering((), 0, None, "k-means", why)
    different = len(np.unique(x, axis=0))
    wanted = default_ks(len(x)) if k is None else (_within(k, len(x)),)
    ks = [n for n in wanted if n <= different]
    if not ks:
        return Clustering((), 0, None, "k-means", f"{different} different items for {wanted[0]} clusters")
    cuts = np.array([_means(x, n, seed, restarts).labels_ for n in ks], dtype=np.int64)
    return _best(cuts, silhouettes(table, cuts), "k-means")


def by_density(
    distances: Values, *, method: Literal["dbscan", "hdbscan"] = "hdbscan", least: int = 2, radius: float | None = None
) -> Clustering:
    """Clusters as crowded places; items in none are `NOISE`.

    Definition: DBSCAN joins items within `radius` of an item with `least` others (itself counted) that near; HDBSCAN
    keeps the clusters that outlast a growing radius, of at least `least` items.
    Shapes, units: distances [item, item]; radius in their unit (None: the median over items of the distance to the
    least-th nearest other item); labels [item].
    Range: 0 clusters up.
    Mean over: nothing; the silhouette is over items in clusters. Undefined (no labels): fewer than 4 items, all
    distances zero.
    Raises: ValueError on NaN, an unknown method, a radius that is not positive, least < 2.
    Source: scikit-learn; Ester et al. (1996), Campello et al. (2013).
    When it misleads: among items that are all equally far apart (high dimension) the radius decides everything.
    """
    from sklearn import cluster

    table, least = _distances(distances), whole(least, "least", 2)
    if method not in ("dbscan", "hdbscan"):
        raise ValueError(f'method must be "dbscan" or "hdbscan", got {method!r}.')
    if radius is not None and not radius > 0:
        raise ValueError(f"radius must be above 0, got {radius!r}.")
    if why := _nothing(table):
        return Clustering((), 0, None, method, why)
    if method == "hdbscan":
        kind: Any = cluster.HDBSCAN  # its annotations take copy for a string
        made = kind(metric="precomputed", min_cluster_size=least, copy=True).fit_predict(table)
    else:
        near = np.sort(table, axis=1)[:, min(least, len(table) - 1)]
        reach = float(np.median(near)) if radius is None else float(radius)
        made = cluster.DBSCAN(
            eps=max(reach, np.finfo(np.float64).tiny), min_samples=least, metric="precomputed"
        ).fit_predict(table)
    labels = _first_seen(np.asarray(made, dtype=np.int64))
    return Clustering(tuple(labels.tolist()), int(labels.max(initial=-1)) + 1, silhouette(table, labels), method)


def silhouette(distances: Values, labels: Sequence[Hashable] | Values) -> float | None:
    """How much nearer items are to their own cluster than to the next one: the mean silhouette.

    Definition: mean over items of (b - a) / max(a, b): a = mean distance to the other items of the same label, b = the
    least over other labels of the mean distance to their items; 0 for an item alone in its cluster.
    Shapes, units: distances [item, item]; labels [item], `NOISE` left out; no unit.
    Range: [-1, 1], more is further apart; 0 where cuts are arbitrary.
    Mean over: items. None: fewer than 4 items, one cluster only, or every item its own cluster.
    Raises: ValueError on NaN, a table that is not symmetric, unequal lengths.
    Source: Rousseeuw, J. Comput. Appl. Math. 20:53 (1987); equal to scikit-learn's.
    When it misleads: one far item makes a high silhouette of a cut that says nothing of the others; items strung along
    one axis have a high one without clusters. The best over many cuts is high by choice: see `agreement.cluster_test`.
    """
    table, codes = _distances(distances), _codes(labels)
    same_length(distances=table, labels=codes)
    kept = codes != NOISE
    table, codes = table[np.ix_(kept, kept)], codes[kept]
    found = len(np.unique(codes))
    if len(codes) < LEAST or not 2 <= found <= len(codes) - 1:
        return None
    return float(silhouettes(table, codes[None])[0])


def gap_statistic(
    coordinates: Values,
    *,
    seed: int,
    most: int | None = None,
    references: int = 100,
    method: Literal["ward", "average", "k-means"] = "ward",
) -> Gap:
    """How many clusters? The gap statistic, which may say one.

    Definition: W_k = sum over items of the squared distance to the mean of their cluster. Gap(k) = mean over references
    of log W*_k - log W_k; references are uniform in the box of the data's principal axes. k = the least with
    Gap(k) >= Gap(k + 1) - s_{k+1}, s = sd over references * sqrt(1 + 1 / references).
    Shapes, units: coordinates [item, axis]; gaps in log units, for k = 1 ... most (None: n // 2).
    Range: k from 1 (no clusters) to most.
    Mean over: references. Undefined: fewer than 4 items, all items equal, or W_k = 0.
    Raises: ValueError on NaN, fewer than 10 references, an unknown method.
    Source: Tibshirani, Walther & Hastie, JRSS B 63:411 (2001), reference (b).
    When it misleads: with fewer items than axes every cloud fills its box thinly, and W_k says little; one far item is a
    cluster to it. The rule stops at 1 where a cut in two gains little, though a cut in three (equally far apart) would
    gain much: look at all gaps.
    """
    x, seed = floats(coordinates, "coordinates", 2), whole(seed, "seed")
    references, n = whole(references, "references", 10), len(x)
    if method not in ("ward", "average", "k-means"):
        raise ValueError(f'method must be "ward", "average" or "k-means", got {method!r}.')
    if n < LEAST or bool((x == x[:1]).all()):
        return Gap(None, (), (), (), n, seed, _nothing(euclidean(x)))
    left, sizes, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    scores = (left * sizes)[:, sizes > 1e-10 * sizes[0]]
    ks = tuple(range(1, (n // 2 if most is None else min(whole(most, "most", 2), n - 1)) + 1))
    rng = np.random.default_rng(seed)
    low, high = scores.min(0), scores.max(0)
    own = _within_sums(scores, ks, method, seed)
    if not (own > 0).all():
        return Gap(None, ks, (), (), n, seed, "some clusters hold equal items only")
    drawn = [_within_sums(rng.uniform(low, high, scores.shape), ks, method, seed) for _ in range(references)]
    logs = np.log(np.array(drawn))
    gaps, errors = logs.mean(0) - np.log(own), logs.std(0) * np.sqrt(1 + 1 / references)
    enough = gaps[:-1] >= gaps[1:] - errors[1:]
    k = ks[int(enough.argmax())] if enough.any() else ks[-1]
    return Gap(k, ks, tuple(gaps.tolist()), tuple(errors.tolist()), n, seed)


def euclidean(coordinates: Values) -> Floats:
    """Euclidean distances between rows.

    Definition: d_ij = sqrt(sum over axes of (x_i - x_j)^2).
    Shapes, units: coordinates [item, axis] -> [item, item], in the unit of the coordinates.
    Range: from 0 up; symmetric, zero diagonal.
    Mean over: nothing.
    Raises: ValueError on NaN.
    Source: scipy.spatial.distance.pdist.
    When it misleads: the longest axes rule.
    """
    from scipy.spatial.distance import pdist, squareform

    x = floats(coordinates, "coordinates", 2)
    return np.zeros((len(x), len(x))) if len(x) < 2 else squareform(pdist(x))


def silhouettes(distances: Floats, labels: Ints) -> Floats:
    """The mean silhouette of many labellings at once: `silhouette`, fast enough for its nulls.

    Definition: as `silhouette`; no checks are made.
    Shapes, units: distances [item, item]; labels [labelling, item], whole numbers from 0 -> [labelling].
    Range: [-1, 1]; 0 for a labelling with one cluster only.
    Mean over: items.
    Raises: nothing of its own.
    Source: Rousseeuw (1987).
    When it misleads: as `silhouette`.
    """
    n, k = len(distances), int(labels.max()) + 1
    out = np.empty(len(labels))
    block = max(1, 2_000_000 // (n * k))
    for start in range(0, len(labels), block):
        part = labels[start : start + block]
        inside = part[:, :, None] == np.arange(k)
        counts = inside.sum(1)
        sums = distances @ inside.astype(np.float64)
        own = np.take_along_axis(sums, part[:, :, None], 2)[:, :, 0]
        others = np.take_along_axis(counts, part, 1) - 1
        means = np.where((counts > 0)[:, None, :] & ~inside, sums / np.maximum(counts, 1)[:, None, :], np.inf)
        a, b = own / np.maximum(others, 1), means.min(2)
        top = np.maximum(a, b)
        fine = (others > 0) & np.isfinite(b) & (top > 0)
        score = np.where(fine, b, 0.0) - np.where(fine, a, 0.0)
        out[start : start + block] = (score / np.where(fine, top, 1.0)).mean(1)
    return out


def default_ks(n: int) -> tuple[int, ...]:
    """The numbers of clusters that are tried when none is given.

    Definition: 2 ... max(2, n // 2).
    Shapes, units: n items.
    Range: at least one number.
    Mean over: nothing.
    Raises: nothing.
    Source: half the items keeps clusters of two on average.
    When it misleads: a true number above n // 2 is never found.
    """
    return tuple(range(2, max(2, n // 2) + 1))


# -- parts --------------------------------------------------------------------------------------------------


def _distances(x: Values) -> Floats:
    table = floats(x, "distances", ndim=2)
    if table.shape[0] != table.shape[1] or (table.size and np.abs(table - table.T).max() > 1e-6 * np.abs(table).max()):
        raise ValueError(
            f"distances must be a symmetric table [item, item], got shape {table.shape}. Average x and x.T."
        )
    if table.size and table.min() < 0:
        raise ValueError(
            f"distances must not be negative, got {table.min():.3g}. Turn similarities into distances first."
        )
    table = (table + table.T) / 2
    np.fill_diagonal(table, 0.0)
    return table


def _nothing(table: Floats) -> str:
    if len(table) < LEAST:
        return f"{len(table)} items: at least {LEAST} are needed"
    return "" if table.max() > 0 else "all items are equal"


def _within(k: object, n: int) -> int:
    number = whole(k, "k", 1)
    if number > n:
        raise ValueError(f"{n} items cannot be cut into {number} clusters; expected 1 to {n}.")
    return number


def _codes(labels: Sequence[Hashable] | Values) -> Ints:
    """Whole numbers from 0 in order of first appearance; `NOISE` stays."""
    array = np.asarray(labels)
    if array.ndim == 1 and array.dtype.kind in "iu":
        return _first_seen(array.astype(np.int64))
    given: list[Any] = list(labels) if isinstance(labels, Sequence) else array.tolist()
    return cluster_codes(given, len(given))[0]


def _first_seen(labels: Ints) -> Ints:
    names = dict.fromkeys(x for x in labels.tolist() if x != NOISE)
    place = {name: i for i, name in enumerate(names)} | {NOISE: NOISE}
    return np.array([place[x] for x in labels.tolist()], dtype=np.int64)


def _cuts(table: Floats, ks: Sequence[int], linkage: Linkage) -> Ints:
    """Labels of the tree's cuts, [k, item]."""
    from scipy.cluster.hierarchy import linkage as merges
    from scipy.spatial.distance import squareform

    if linkage not in ("average", "complete", "single", "ward"):
        raise ValueError(f'linkage must be "average", "complete", "single" or "ward", got {linkage!r}.')
    tree = merges(squareform(table, checks=False), linkage)
    n = len(table)
    labels, found = np.arange(n), {n: np.arange(n)}
    for step, (a, b) in enumerate(tree[:, :2]):  # as scipy's cut_tree, which takes a hundred times as long
        labels = np.where((labels == a) | (labels == b), n + step, labels)
        found[n - 1 - step] = labels
    return np.array([np.unique(found[k], return_inverse=True)[1] for k in ks], dtype=np.int64)


def _best(cuts: Ints, scores: Floats, method: str) -> Clustering:
    """The cut with the largest silhouette; of equals the one with fewest clusters."""
    at = int(np.argmax(np.round(scores, 12)))
    labels = _first_seen(cuts[at])
    k = int(labels.max()) + 1
    return Clustering(tuple(labels.tolist()), k, float(scores[at]) if 2 <= k < len(labels) else None, method)


def _means(x: Floats, k: int, seed: int, restarts: int) -> Any:
    from sklearn.cluster import KMeans

    made: Any = KMeans  # its annotations know n_init="auto" only
    return made(k, n_init=restarts, random_state=seed).fit(x)


def _within_sums(x: Floats, ks: Sequence[int], method: str, seed: int) -> Floats:
    """W_k for each k: squared distances to the means of the clusters, summed."""
    if method == "k-means":
        return np.array([_means(x, k, seed, 4).inertia_ for k in ks])
    cuts = _cuts(euclidean(x), ks, "ward" if method == "ward" else "average")
    sums = []
    for cut in cuts:
        inside = (cut[:, None] == np.arange(cut.max() + 1)).astype(np.float64)
        sums.append(float((x**2).sum() - ((inside.T @ x) ** 2 / inside.sum(0)[:, None]).sum()))
    return np.array(sums)

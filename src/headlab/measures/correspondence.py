"""Does one table of distances between heads tell another?  Agreement of tables, of groups, and prediction, with nulls.

1. Mantel: rank correlation of the two distances over pairs of heads; heads are exchanged within KV groups, since heads of a
   group share weights and are alike for that reason.
2. Prediction: the effects of a head from those of its nearest heads by weights, itself and the heads that share its keys
   left out; skill against the mean of the others, among the same exchanges.
3. Groups: the clusters of the one table against those of the other, adjusted Rand index, among the same exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from headlab.engine.model import ModelError
from headlab.heads import Grid
from headlab.measures import distances, norms
from headlab.measures.weight_nulls import apart, circuits
from headlab.measures.weights import HeadWeights
from headlab.stats import Rank, rank
from headlab.stats.agreement import ClusterTest, cluster_test
from headlab.stats.clustering import Clustering, euclidean, hierarchical
from headlab.stats.distances import Mantel, mantel
from headlab.stats.views import principal_coordinates

Array = np.ndarray
FEATURES = {
    "both": "directions of W_QK and W_OV",
    "qk": "directions of W_QK",
    "ov": "directions of W_OV",
    "qk_subspace": "subspaces of W_QK",
    "ov_subspace": "subspaces of W_OV",
    "q_subspace": "subspaces of W_Q",
    "o_subspace": "subspaces of W_O",
    "qk_spectrum": "spectra of W_QK",
    "ov_spectrum": "spectra of W_OV",
    "norm": "norms",
}
FIRST = "both"
"""The distance that a claim is decided by; the others stand beside it."""


def weight_tables(weights: HeadWeights, layer: int) -> dict[str, Array]:
    """Distances between the heads of a layer by every feature that this family has, [head, head] each.

    Raises ModelError when it has neither W_QK nor W_OV, or a head without weights.
    """
    found = {FIRST: apart(weights, layer, FIRST, "cosine")}
    for circuit in circuits(weights):
        found[circuit] = apart(weights, layer, circuit, "cosine")
    for kind in list(FEATURES)[3:-1]:
        try:
            found[kind] = distances(weights, layer, kind)  # type: ignore[arg-type]
        except ModelError:
            continue  # a family without that block has no such distance
    return found | {"norm": euclidean(np.log(norm_table(weights, layer)))}


def parting_table(weights: HeadWeights, layer: int) -> Array:
    """Distances that clusters are cut from: directions of W_QK and W_OV beyond what KV groups explain, as distances of points
    (principal coordinates), [head, head]."""
    return euclidean(principal_coordinates(beyond_groups(apart(weights, layer, FIRST, "cosine"), weights.grid))[0])


def norm_table(weights: HeadWeights, layer: int) -> Array:
    """Frobenius norms of what is each query head's own, [head, block]: W_Q, W_O, W_QK, W_OV as far as there are such."""
    table = norms(weights)
    own = table[(table["layer"] == layer) & (table["axis"] == "head")]
    return own.pivot(index="head", columns="block", values="norm").to_numpy()


def groups_of(grid: Grid) -> list[int] | None:
    """KV groups, where heads share keys and there is more than one; None: every head may be exchanged with every other."""
    shared = 1 < grid.n_kv_heads < grid.n_heads
    return [grid.kv_group_of(h) for h in range(grid.n_heads)] if shared else None


def beyond_groups(table: Array, grid: Grid) -> Array:
    """How far two heads are apart beyond what their KV groups make them: the mean distance of the two groups' heads (of two
    different heads, inside one) taken out, and one constant added to all so that none is negative.  Where heads share no
    keys, or all share one, the table as it is."""
    groups = groups_of(grid)
    if groups is None:
        return table
    n, codes = len(table), np.array(groups)
    other = ~np.eye(n, dtype=bool)
    inside = (codes[:, None] == np.unique(codes)).astype(float)
    counts = inside.T @ other @ inside
    means = np.divide(inside.T @ (table * other) @ inside, counts, out=np.zeros_like(counts), where=counts > 0)
    out = np.where(other, table - means[np.ix_(codes, codes)], 0.0)
    return np.where(other, out - out[other].min() + 1e-9, 0.0)


def agreement(weights: Array, effects: Array, grid: Grid, permutations: int, seed: int, alpha: float) -> Mantel:
    """Mantel's test with rank correlation, heads exchanged within KV groups."""
    return mantel(weights, effects, permutations, seed=seed, groups=groups_of(grid), ranks=True, alpha=alpha)


def rank_correlations(weights: Array, profiles: Array) -> Array:
    """Rank correlation of weight distance with the effect distance of each draw of profiles [draw, head, effect]; NaN where
    either has no spread."""
    left, right = np.triu_indices(len(weights), 1)
    x = rankdata(weights[left, right])
    y = rankdata(np.linalg.norm(profiles[:, left] - profiles[:, right], axis=-1), axis=1)
    x, y = x - x.mean(), y - y.mean(1, keepdims=True)
    size = np.linalg.norm(x) * np.linalg.norm(y, axis=1)
    return np.divide(y @ x, size, out=np.full(len(y), np.nan), where=size > 1e-9)


# -- prediction ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """Effects foretold from the nearest heads: skill, its null and rank; None where ``note`` says why."""

    skill: float | None
    null: tuple[float, ...]
    test: Rank | None
    predicted: Array | None
    note: str = ""


def nearest(weights: Array, grid: Grid, k: int) -> Array:
    """[head, head]: 1 / k at the k nearest heads by weights, never the head itself or one of its KV group (where there
    is another group)."""
    n, groups = len(weights), groups_of(grid)
    codes = np.arange(n) if groups is None else np.array(groups)
    allowed = codes[:, None] != codes
    far = np.where(allowed, np.round(weights, 12), np.inf)
    k = min(k, int(allowed.sum(1).min()))
    out = np.zeros((n, n))
    np.put_along_axis(out, np.argsort(far, axis=1, kind="stable")[:, :k], 1 / k, axis=1)
    return out


def skills(near: Array, profiles: Array) -> Array:
    """1 − Σ|e_h − ê_h|² / Σ|e_h − mean of the other heads|² for each draw of profiles [draw, head, effect]; NaN where
    every head does the same.  1: foretold exactly, 0: no better than the mean, below 0: worse."""
    n = profiles.shape[1]
    error = ((profiles - near @ profiles) ** 2).sum((1, 2))
    others = (profiles.sum(1, keepdims=True) - profiles) / (n - 1)
    base = ((profiles - others) ** 2).sum((1, 2))
    return 1 - np.divide(error, base, out=np.full(len(base), np.nan), where=base > 1e-18)


def forecast(
    weights: Array, profile: Array, grid: Grid, k: int, permutations: int, seed: int, alpha: float
) -> Forecast:
    """Skill of the nearest heads, among exchanges of heads within KV groups."""
    near = nearest(weights, grid, k)
    skill = float(skills(near, profile[None])[0])
    moves = exchanges(grid, permutations, seed)
    if np.isnan(skill) or moves is None:
        why = "every head has the same effects" if np.isnan(skill) else "no group has two heads to exchange"
        return Forecast(None, (), None, None, why)
    null = skills(near, profile[moves])
    test = rank(skill, null, enumerated=False, alpha=alpha, unit="relabellings")
    return Forecast(skill, tuple(null.tolist()), test, near @ profile)


def smoothest(near: Array, grid: Grid, count: int = 2) -> Array:
    """Made-up effects [head, effect] that nearest heads share as far as any can, and that do not differ on average
    between KV groups: leading eigenvectors of the graph of nearest heads, group means taken out."""
    n, groups = len(near), groups_of(grid)
    codes = np.zeros(n, dtype=int) if groups is None else np.array(groups)
    same = (codes[:, None] == codes).astype(float)
    within = np.eye(n) - same / same.sum(1, keepdims=True)
    return np.linalg.eigh(within @ (near + near.T) @ within)[1][:, -count:]


def exchanges(grid: Grid, n: int, seed: int) -> Array | None:
    """``n`` random exchanges of heads within KV groups [exchange, head]; None where none is possible."""
    groups = groups_of(grid)
    codes = np.zeros(grid.n_heads, dtype=int) if groups is None else np.array(groups)
    if np.bincount(codes).max() < 2:
        return None
    order = np.argsort(codes, kind="stable")
    drawn = np.random.default_rng(seed).random((n, grid.n_heads))
    moves = np.empty((n, grid.n_heads), dtype=int)
    moves[:, order] = np.lexsort((drawn, np.broadcast_to(codes, drawn.shape)), axis=1)
    return moves


# -- groups -------------------------------------------------------------------------------------------------


def behaving(effects: Array) -> Clustering:
    """Groups of heads by their effects: the cut of the average-linkage tree with the largest mean silhouette."""
    return hierarchical(effects)


def matching(
    weights: Array, effects: Array, grid: Grid, permutations: int, seed: int, alpha: float, k: int = 0
) -> ClusterTest:
    """ARI of the clusters by weights (``k`` by Ward's tree; 0: the largest mean silhouette) with the groups by effects, the
    latter dealt out again within KV groups."""
    made = behaving(effects)
    if not made.labels:
        return ClusterTest("ari", None, (), None, None, len(weights), made.note or "no groups by effects")
    return cluster_test(
        weights,
        labels=made.labels,
        statistic="ari",
        k=k or None,
        linkage="ward" if k else "average",
        groups=groups_of(grid),
        permutations=permutations,
        seed=seed,
        alpha=alpha,
        unit="labellings",
    )


def injected(table: Array, grid: Grid, k: int) -> tuple[Array, Array]:
    """Effects that are a function of the weights: the heads' coordinates in the space that the distances span, and what
    nearest heads share as far as anything can."""
    return principal_coordinates(table)[0], smoothest(nearest(table, grid, k), grid)

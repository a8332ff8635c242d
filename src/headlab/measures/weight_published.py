"""The published clustering of heads, run as it was, with the detectors beside it.

1. W_Q, W_K, W_V and W_O flattened, W_K and W_V repeated for every head of a KV group, standardised over heads.
2. Trees and k-means, the number of clusters by silhouette; ARI with parity; correlation of parity and cluster number.
3. "Function-based prediction": the heads most like the set, the set itself counted.
4. Each block alone (Q, K, V, O, not scaled) cut in two, as for Pythia: is it one block against all others?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.heads import Grid
from headlab.measures.artefacts import Artefact, forced_mean, repetition, self_counted, singleton
from headlab.measures.published_weights import published_features
from headlab.measures.weights import HeadWeights
from headlab.stats import Estimate
from headlab.stats.agreement import adjusted_rand, most_similar, purity
from headlab.stats.clustering import Clustering, euclidean, hierarchical, k_means
from headlab.stats.views import principal_coordinates

Array = np.ndarray


@dataclass(frozen=True)
class Published:
    """The published numbers with their labels, the clusters, the distances, and what the detectors say."""

    estimates: dict[str, tuple[str, Estimate]]
    clusters: Clustering
    distances: Any
    artefacts: tuple[Artefact, ...]
    table: Any
    where: tuple[str, ...]

    @property
    def artefact_table(self) -> Any:
        rows = zip(self.artefacts, self.where, strict=True)
        return pd.DataFrame(
            [{"artefact": a.name, "of": w, "found": a.found, "value": a.value, "words": a.words} for a, w in rows]
        )


def published(weights: HeadWeights, grid: Grid, at: int, members: Sequence[int], *, seed: int) -> Published | None:
    """None where the family has no W_Q, W_K, W_V and W_O of its own to flatten."""
    if any(getattr(weights.at(at), b) is None for b in "qkvo"):
        return None
    features = published_features(weights, at)
    table = euclidean(features)
    points, _ = principal_coordinates(table)
    groups, parity = [grid.kv_group_of(h) for h in range(grid.n_heads)], [h % 2 for h in range(grid.n_heads)]
    made = {
        "average linkage": hierarchical(table),
        "Ward": hierarchical(table, linkage="ward"),
        "k-means": k_means(points, seed=seed, distances=table),
    }
    alike = cosines(features)
    guess = most_similar(alike, members, len(members), itself=True)
    first = made["average linkage"]
    share = len(set(guess) & set(members)) / len(members)
    marks, places = _artefacts(weights, at, features, groups)
    counted = self_counted(alike, members, guess)
    numbers = {
        "silhouette:published": ("silhouette of the tree's best cut", first.silhouette),
        "ari:parity": ("ARI of the clusters with parity", adjusted_rand(first.labels, parity)),
        "ari:kv": ("ARI of the clusters with KV groups", adjusted_rand(first.labels, groups)),
        "mean:cosine": ("mean cosine of two heads", float(alike[np.triu_indices(len(alike), 1)].mean())),
        "prediction:set": ("share of the set among the heads most like it, themselves counted", share),
    }
    rows = [
        {
            "layer": at,
            "method": name,
            "k": c.k,
            "sizes": str(c.sizes),
            "silhouette": c.silhouette,
            "n": grid.n_heads,
            "ari_parity": adjusted_rand(c.labels, parity),
            "ari_kv": adjusted_rand(c.labels, groups),
            "purity_parity": purity(c.labels, parity),
        }
        for name, c in made.items()
    ]
    return Published(
        {name: (label, _counted(value, grid.n_heads)) for name, (label, value) in numbers.items()},
        first,
        table,
        (*marks, counted),
        pd.DataFrame(rows),
        (*places, "the prediction"),
    )


def _artefacts(
    weights: HeadWeights, at: int, features: Array, groups: Sequence[int]
) -> tuple[list[Artefact], list[str]]:
    found, where = [repetition(features, groups), forced_mean(features)], ["the features", "the features"]
    for block in "qkvo":
        one = weights.of(block, at).double().flatten(1).cpu().numpy()  # type: ignore[arg-type]
        found.append(singleton(one))
        where.append(f"W_{block.upper()} alone")
    return found, where


def cosines(features: Array) -> Array:
    """Cosines of the rows, [head, head]; a row of zeros is at right angles to all."""
    sizes = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.where(sizes > 0, sizes, 1.0)
    out = np.clip(rows @ rows.T, -1, 1)
    np.fill_diagonal(out, 1.0)
    return out


def _counted(value: float | None, n: int) -> Estimate:
    if value is None:
        return Estimate.undefined("heads", n, "one cluster, or as many as heads")
    return Estimate(value, value, value, n, "heads", "counted", note="read without a null")

"""Labels of heads before their weights: parity, KV group, layer, or any given; and the clusters of every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from headlab.claims import Claim, ClaimError
from headlab.engine.model import ModelError
from headlab.heads import Grid
from headlab.measures.weight_nulls import WIDEST, Untrained, apart, stacked
from headlab.measures.weights import HeadWeights
from headlab.stats import Estimate, Rank, holm
from headlab.stats.agreement import ClusterTest, cluster_test, co_occurrence
from headlab.stats.clustering import Clustering, by_density, gap_statistic, hierarchical, k_means
from headlab.stats.figures import rounded
from headlab.stats.views import principal_coordinates

Array = np.ndarray
STATISTICS: tuple[Literal["silhouette", "ari", "purity"], ...] = ("silhouette", "ari", "purity")
WORDS = {"parity": "parity", "kv": "KV group", "layer": "layer", "label": "the given labels"}


@dataclass(frozen=True)
class Labelled:
    """One label by one circuit: silhouette of the label, ARI and purity of the clusters, each with its null.

    ``layer`` is None for the label "layer", which takes several; ``note`` says what was left out.
    """

    label: str
    circuit: str
    layer: int | None
    tests: Mapping[str, ClusterTest]
    null: str
    n: int
    p_holm: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.label}:{self.circuit}"

    @property
    def test(self) -> Rank | None:
        """Does the label explain the distances? The rank of its silhouette."""
        return self.tests["silhouette"].test if self.tests else None

    def row(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "layer": self.layer,
            "circuit": self.circuit,
            "label": WORDS[self.label],
            "null": self.null,
            "n": self.n,
        }
        for kind in ("silhouette", "ari", "purity"):
            found = self.tests.get(kind)
            ranked = None if found is None or found.test is None else found.test.p
            out |= {kind: found and found.value, f"{kind}_chance": found and found.chance, f"p_{kind}": ranked}
        return out | {"p_holm": self.p_holm, "note": self.note}

    def numbers(self, circuits: Mapping[str, str]) -> Iterator[tuple[str, str, Estimate | Rank]]:
        """Name, label and what was found."""
        words = {"ari": "ARI of the clusters with", "silhouette": "silhouette of"}
        for kind, found in self.tests.items():
            if found.value is None or kind == "purity":
                continue
            chance = f"{rounded(found.chance)} on average among {self.null}" if found.null else found.note
            value = Estimate(found.value, found.value, found.value, self.n, "heads", "counted", note=chance)
            yield f"{kind}:{self.name}", f"{circuits[self.circuit]}: {words[kind]} {WORDS[self.label]}", value
        if self.test is not None:
            label = f"{circuits[self.circuit]}: {self.null} that part the heads at least as well as {WORDS[self.label]}"
            yield f"rank:{self.name}", label, self.test


def given_labels(grid: Grid, given: Sequence[Any]) -> list[Any]:
    """The claim's own labels of heads, one each.  Raises ClaimError."""
    if given and len(given) != grid.n_heads:
        raise ClaimError(
            f"option 'labels' names {len(given)} heads; give one label for each of a layer's {grid.n_heads}, or none"
        )
    return list(given)


def by_label(
    grid: Grid, claim: Claim, found: Mapping[tuple[int, str], Any], draws: Untrained, given: Sequence[Any], feature: str
) -> list[Labelled]:
    """Parity and KV groups in every layer, given labels at the claim's; p Holm-adjusted over layers and circuits."""
    groups = [grid.kv_group_of(h) for h in range(grid.n_heads)]
    common: dict[str, Any] = {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}
    out: list[Labelled] = []
    for (layer, circuit), one in found.items():
        shared = grid.group_size > 1
        sets: list[tuple[str, Sequence[Any]]] = [("parity", [h % 2 for h in range(grid.n_heads)])]
        sets += [("label", given)] if given and one.here else []
        null, within = ("labellings within KV groups", groups) if shared else ("labellings", None)
        for label, codes in sets:
            tests = {
                kind: cluster_test(one.table, labels=codes, statistic=kind, groups=within, unit=null, **common)
                for kind in STATISTICS
            }
            out.append(Labelled(label, circuit, layer, tests, null, grid.n_heads))
        if 1 < grid.n_kv_heads < grid.n_heads:
            null, frame = "untrained models", (one.layer_weights, circuit, feature)
            tests = {
                kind: draws.test(one.table, *frame, labels=groups, statistic=kind, unit=null, **common)
                for kind in STATISTICS
            }
            out.append(Labelled("kv", circuit, layer, tests, null, grid.n_heads))
    return _adjusted(out)


def _adjusted(labelled: Sequence[Labelled]) -> list[Labelled]:
    out = []
    for label in dict.fromkeys(x.label for x in labelled):
        rows = [x for x in labelled if x.label == label]
        p = holm([np.nan if x.test is None else x.test.p for x in rows]).tolist()
        out += [replace(x, p_holm=None if x.test is None else q) for x, q in zip(rows, p, strict=True)]
    return out


def by_layer_label(
    grid: Grid, claim: Claim, weights: HeadWeights, circuits: Sequence[str], feature: str
) -> list[Labelled]:
    """Are heads of one layer more alike than heads of different layers?  KV groups are the items (the mean distance of
    their heads), and their layers are dealt out again."""
    layers = sorted(weights.layers)
    most = max(1, WIDEST // (grid.n_heads * weights.head_dim))
    if len(layers) > most:
        layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, most).round().astype(int))]
    if len(layers) < 2 or grid.n_kv_heads < 2:
        return [Labelled("layer", circuits[0], None, {}, "", 0, note=_no_layers(weights.name, len(layers)))]
    try:
        whole = stacked(weights, layers)
    except ModelError as error:
        return [Labelled("layer", circuits[0], None, {}, "", 0, note=f"layers were not compared: {error}")]
    labels = [n for n in layers for _ in range(grid.n_kv_heads)]
    note = "" if len(layers) == len(weights.layers) else f"layers compared: {', '.join(map(str, layers))}"
    out = []
    for circuit in circuits:
        table = grouped(apart(whole, 0, circuit, feature), grid.group_size)
        tests = {
            kind: cluster_test(
                table,
                labels=labels,
                statistic=kind,
                permutations=999,
                seed=claim.seed,
                alpha=claim.alpha,  # type: ignore[arg-type]
            )
            for kind in ("silhouette", "ari", "purity")
        }
        out.append(Labelled("layer", circuit, None, tests, "labellings", len(labels), note=note))
    return _adjusted(out)


def _no_layers(name: str, layers: int) -> str:
    why = f"{layers} layer(s) at a time fit" if layers < 2 else f"{name} has one KV head in each layer"
    return f"heads of different layers were not compared: {why}"


def grouped(table: Array, size: int) -> Array:
    """Mean distances between KV groups of ``size`` heads, zero on the diagonal."""
    n = len(table) // size
    out = table.reshape(n, size, n, size).mean((1, 3))
    np.fill_diagonal(out, 0.0)
    return out


# -- methods ------------------------------------------------------------------------------------------------


def methods(here: Mapping[str, Any], seed: int) -> Any:
    """The clusters that each method makes of one layer: number, sizes, silhouette, share of pairs that all join."""
    rows = []
    for circuit, one in here.items():
        made = clusterings(one.table, seed)
        together = co_occurrence(list(made.values()))
        gap = gap_statistic(principal_coordinates(one.table)[0], seed=seed)
        for name, c in made.items():
            labels = np.array(c.labels)
            same = (labels[:, None] == labels) & (labels >= 0)[:, None] & ~np.eye(len(labels), dtype=bool)
            rows.append(
                {
                    "layer": one.layer,
                    "circuit": circuit,
                    "method": name,
                    "k": c.k,
                    "sizes": str(c.sizes),
                    "silhouette": c.silhouette,
                    "left_out": int((labels < 0).sum()),
                    "n": len(labels),
                    "seed": seed,
                    "agreement": float(together[same].mean()) if same.any() else None,
                }
            )
        rows.append(
            {"layer": one.layer, "circuit": circuit, "method": "gap statistic", "k": gap.k, "n": gap.n, "seed": seed}
        )
    return pd.DataFrame(rows)


def clusterings(table: Array, seed: int) -> dict[str, Clustering]:
    """The same distances by every method."""
    points, _ = principal_coordinates(table)
    return {
        "average linkage": hierarchical(table),
        "Ward": hierarchical(table, linkage="ward"),
        "k-means": k_means(points, seed=seed, distances=table),
        "DBSCAN": by_density(table, method="dbscan"),
        "HDBSCAN": by_density(table),
    }

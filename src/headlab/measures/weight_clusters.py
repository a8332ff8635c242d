"""The clusters of one layer by one circuit of its weights, among tables of heads that have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.engine.model import ModelError
from headlab.measures.weight_nulls import Untrained, cloud_tables, random_tables
from headlab.measures.weights import HeadWeights, LayerWeights
from headlab.stats import Rank
from headlab.stats.agreement import ClusterTest, cluster_test

NULLS = {"untrained": "untrained models", "cloud": "single clouds", "norms": "random weights of equal norms"}


@dataclass(frozen=True)
class Found:
    """The clusters of one layer by one circuit: distances [head, head] and a test for each null; ``here``: it is the
    claim's layer.

    The null that counts is the least favourable, in which these clusters stand out least.
    """

    layer: int
    circuit: str
    table: Any
    tests: Mapping[str, ClusterTest]
    layer_weights: LayerWeights
    here: bool

    @property
    def worst(self) -> tuple[str, ClusterTest]:
        """The null in which these clusters stand out least."""
        tested = {n: t for n, t in self.tests.items() if t.test is not None}
        return max(tested.items(), key=lambda item: (item[1].test.p, item[1].test.high))  # type: ignore[union-attr]

    @property
    def test(self) -> Rank:
        where = self.worst[1].test
        assert where is not None
        return where

    @property
    def labels(self) -> tuple[int, ...]:
        made = self.worst[1].clustering
        return () if made is None else made.labels

    @property
    def said(self) -> str:
        """What the test says of a picture of these clusters."""
        return f"Colours are the clusters, which {'do' if self.test.outcome == 'upheld' else 'do not'} stand out: {self.test}."

    def bands(self) -> list[tuple[str, float, float, float]]:
        """Name, 2.5 %, mean and 97.5 % of the nulls that every layer has."""
        out = []
        for name in ("untrained", "cloud"):
            null = np.array(self.tests[name].null)
            low, high = np.quantile(null, [0.025, 0.975])
            out.append((NULLS[name], float(low), float(null.mean()), float(high)))
        return out

    def row(self, p_holm: float) -> dict[str, Any]:
        null, test = self.worst
        made = test.clustering
        ranks = {f"p_{name}": None if t.test is None else t.test.p for name, t in self.tests.items()}
        return {
            "layer": self.layer,
            "circuit": self.circuit,
            "k": made.k if made else None,
            "sizes": str(made.sizes) if made else "",
            "silhouette": test.value,
            "null": null,
            "null_mean": test.chance,
            "n": len(self.table),
            "tables": len(test.null),
            "p_norms": None,
            **ranks,
            "p": self.test.p,
            "p_holm": p_holm,
        }


def among_nulls(
    weights: HeadWeights,
    layer: int,
    circuit: str,
    table: Any,
    draws: Untrained,
    feature: str,
    *,
    here: bool,
    alpha: float,
    seed: int,
) -> Found:
    """The best silhouette of one layer among each null; random weights of equal norms at the claim's layer (``here``) only.

    Raises ModelError where the heads have no clusters to test.
    """
    n, common = draws.draws, {"alpha": alpha, "seed": seed}
    nulls = {"cloud": cloud_tables(table, n, seed)}
    if here:
        nulls["norms"] = random_tables(weights, layer, circuit, feature, n, seed)
    tests = {"untrained": draws.test(table, weights.at(layer), circuit, feature, unit=NULLS["untrained"], **common)}
    tests |= {name: cluster_test(table, null, unit=NULLS[name], **common) for name, null in nulls.items()}
    if any(t.test is None for t in tests.values()):
        raise ModelError(f"the heads of layer {layer} have no clusters to test: {next(iter(tests.values())).note}")
    return Found(layer, circuit, table, tests, weights.at(layer), here)

"""Is a cluster of heads a unit of the model?  Each is patched, and so are as many heads of the same KV groups.

1. A cluster's recovery of the logit difference among that of matched sets that nobody named.
2. One answer for all clusters: the one with the smallest p, at α divided by the number of clusters that could be ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headlab.designs import Matched, matched_sets
from headlab.effects import mean_recovery, pivot, recovery
from headlab.heads import Heads
from headlab.measures.head_traits import Partition
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, Rank, holm
from headlab.stats.of_means import rank_over_draws
from headlab.trials.halves import patched_set
from headlab.trials.ranks import drawn_by_pair
from headlab.trials.sweeps import Seen

MOST = 8
"""Clusters patched at most, the largest first."""


@dataclass(frozen=True)
class Patched:
    """One cluster: its heads, what it recovers, the recovery of matched sets, and its rank (None: no other set)."""

    label: Any
    heads: Heads
    recovery: Estimate
    null: tuple[float, ...]
    test: Rank | None
    p_holm: float | None = None

    def row(self) -> dict[str, Any]:
        e = self.recovery
        return {
            "cluster": str(self.label),
            "heads": str(self.heads),
            "size": len(self.heads),
            "recovery": e.value,
            "low": e.low,
            "high": e.high,
            "pairs": e.n,
            "matched_mean": float(np.mean(self.null)) if self.null else None,
            "matched_sets": len(self.null),
            "p": self.test.p if self.test else None,
            "p_holm": self.p_holm,
        }


def patched(seen: Seen, parted: Partition, pairs: Sequence[EncodedPair], wanted: int) -> list[Patched]:
    """Every cluster (the largest eight) of the layer among matched sets."""
    scope, claim = seen.scope, seen.scope.claim
    members = sorted(parted.clusters.items(), key=lambda item: -len(item[1]))[:MOST]
    named = {c: Heads.of(scope.layer, heads) for c, heads in members}
    matched: dict[Any, Matched] = {c: matched_sets(scope.grid, h, n=wanted, seed=claim.seed) for c, h in named.items()}
    sets = dict.fromkeys(s for c, h in named.items() for s in (h, *matched[c].sets))
    swept = seen.case.sweep(pairs, [patched_set(s) for s in sets], f"clusters of layer {scope.layer}")
    one = swept.drop_duplicates("pair").sort_values("pair")
    edited, clusters = pivot(swept, [patched_set(s).name for s in sets]), one["cluster"].to_numpy()
    means = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy()).tolist()
    gained, by_pair = dict(zip(sets, means, strict=True)), dict(zip(sets, edited, strict=True))
    alpha = claim.alpha / max(1, sum(m.total > 1 for m in matched.values()))
    found = []
    for c, heads in named.items():
        own, null, test = (
            recovery(swept, patched_set(heads).name, seed=claim.seed),
            tuple(gained[s] for s in matched[c].sets),
            None,
        )
        if matched[c].total > 1:
            every: Any = {"enumerated": matched[c].enumerated, "alpha": alpha, "tolerance": 1e-6}
            ranked = np.stack([by_pair[s] for s in (heads, *matched[c].sets)])  # what all sets share changes no place
            test = rank_over_draws(drawn_by_pair(ranked, clusters, claim), **every)
        found.append(Patched(c, heads, own, null, test))
    adjusted = holm([np.nan if f.test is None else f.test.p for f in found]).tolist()
    return [replace(f, p_holm=None if f.test is None else p) for f, p in zip(found, adjusted, strict=True)]


def foremost(found: Sequence[Patched]) -> Patched | None:
    """The cluster that stands out most among its matched sets."""
    ranked = [f for f in found if f.test is not None]
    return min(ranked, key=lambda f: (f.test.p, -(f.recovery.value or 0.0)), default=None)  # type: ignore[union-attr]

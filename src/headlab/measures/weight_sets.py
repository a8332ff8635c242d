"""Do weights know a set of heads?  The set predicted from its members, each judged by the others; traits of subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headlab.designs import Matched, matched_sets
from headlab.heads import Grid, Heads
from headlab.stats import Estimate, Rank, rank
from headlab.stats.agreement import most_similar
from headlab.stats.figures import rounded

Array = np.ndarray
TRAITS = {
    "count": "clusters that the half touches",
    "purity": "share of its largest cluster",
    "similarity": "mean likeness of its members",
}


@dataclass(frozen=True)
class Prediction:
    """What the members of a set say of the set: the heads that come back, their share, its rank, the null's mean."""

    members: tuple[int, ...]
    predicted: tuple[int, ...]
    share: Estimate
    rank: Rank
    chance: float


def predicted(alike: Array, heads: Heads, grid: Grid, *, n: int, seed: int, alpha: float) -> Prediction:
    """The set predicted from likeness to its members, themselves left out, and the same of matched sets."""
    at = heads.layers[0]
    matched: Matched = matched_sets(grid, heads, n=n, seed=seed)
    null = [shared(alike, s.at(at)) for s in matched.sets]
    members = heads.at(at)
    value = shared(alike, members)
    where = rank(value, null, enumerated=matched.enumerated, alpha=alpha, unit="matched sets")
    chance = float(np.mean(null))
    note = f"{rounded(chance)} on average among {len(null)} matched sets"
    share = Estimate(value, value, value, len(members), "heads", "counted", note=note)
    return Prediction(members, most_similar(alike, members, len(members)), share, where, chance)


def shared(alike: Array, members: Sequence[int], *, itself: bool = False) -> float:
    """Share of a set among the heads that its members predict."""
    return len(set(members) & set(most_similar(alike, members, len(members), itself=itself))) / len(members)


def traits(labels: Sequence[int], table: Array, members: Sequence[int]) -> dict[str, float]:
    """Clusters touched, share of the largest, minus the mean distance between members."""
    counts = np.unique([labels[m] for m in members], return_counts=True)[1]
    left, right = np.triu_indices(len(members), 1)
    inside = table[np.ix_(members, members)]
    return {
        "count": float(len(counts)),
        "purity": float(counts.max() / len(members)),
        "similarity": -float(inside[left, right].mean()),
    }

"""The place of a named set among alternatives that nobody named, pairs resampled too."""

from __future__ import annotations

from typing import Any, Literal

from headlab.claims import Claim
from headlab.stats import Rank
from headlab.stats.of_means import OfMeans, bootstrap_of_means, rank_over_draws


def drawn_by_pair(gained: Any, clusters: Any, claim: Claim) -> OfMeans:
    """The mean over pairs of each row of ``gained`` [set, pair], and what pairs drawn anew make of it."""
    return bootstrap_of_means(gained.T, lambda means: means, clusters, unit="pairs", seed=claim.seed)


def rank_by_pair(
    gained: Any,
    clusters: Any,
    claim: Claim,
    *,
    enumerated: bool,
    unit: str = "matched halves",
    tail: Literal["greater", "less"] = "greater",
) -> Rank:
    """The place of the first of ``gained`` [1 + set, pair] among the others by its mean over pairs, pairs resampled too.

    What all sets share (the margin that a patch could give back) changes no place.
    """
    found = drawn_by_pair(gained, clusters, claim)
    return rank_over_draws(found, enumerated=enumerated, alpha=claim.alpha, unit=unit, tail=tail)

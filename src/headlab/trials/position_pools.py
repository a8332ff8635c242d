"""Pools of one head from every KV group: by position, and as random divisions of a layer give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from headlab.designs import divisions, matched_sets
from headlab.effects import mean_recovery
from headlab.heads import Heads, group_position
from headlab.stats import Rank
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.trials.halves import patched_set
from headlab.trials.ranks import rank_by_pair
from headlab.trials.sweeps import Scope, Seen


def own(scope: Scope) -> list[Heads]:
    """The pool of each position: one head of every KV group."""
    return [group_position(scope.grid, scope.layer, p) for p in range(scope.grid.group_size)]


def pools(scope: Scope) -> tuple[Any, list[tuple[Heads, ...]], list[Heads]]:
    """Pools like a position's, divisions of the layer, and every set that has to run."""
    n, seed = scope.claim.matched_sets, scope.seed
    matched = matched_sets(scope.grid, own(scope)[0], n=n, seed=seed)
    divided = divisions(scope.grid, scope.layer, n, seed)
    return matched, divided, list(dict.fromkeys([*own(scope), *matched.sets, *(s for d in divided for s in d)]))


def recovered(seen: Seen) -> dict[Heads, float]:
    """By each pool, over all pairs."""
    every, one = pools(seen.scope)[2], seen.pairs("pools")
    edited = seen.values("pools", [patched_set(s) for s in every])
    return dict(zip(every, mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy()), strict=True))


def spreads(seen: Seen) -> list[float]:
    """The most that a pool recovers minus the least: of the positions, then of each division."""
    found, scope = seen.once(recovered), seen.scope
    return [float(np.ptp([found[s] for s in d])) for d in (own(scope), *pools(scope)[1])]


def ranks(seen: Seen) -> dict[str, Rank]:
    """Each position's place among pools with one head of every group, and the label's place among divisions."""
    scope, clusters = seen.scope, seen.clusters("pools")
    matched, divided, every = pools(scope)
    gained = seen.values("pools", [patched_set(s) for s in every]) - seen.pairs("pools")["corrupted"].to_numpy()
    place = {s: i for i, s in enumerate(every)}
    out = {
        f"rank:position:{p}": rank_by_pair(
            gained[[place[x] for x in (s, *matched.sets)]],
            clusters,
            scope.claim,
            enumerated=matched.enumerated,
            unit="matched pools",
        )
        for p, s in enumerate(own(scope))
    }
    parts = [[place[s] for s in d] for d in (own(scope), *divided)]

    def apart(means: Any) -> Any:
        return np.stack([np.ptp(means[..., p], axis=-1) for p in parts], -1)

    by_division = bootstrap_of_means(gained.T, apart, clusters, unit="pairs", seed=scope.seed)
    out["rank:label"] = rank_over_draws(by_division, enumerated=False, alpha=scope.claim.alpha, unit="divisions")
    return out

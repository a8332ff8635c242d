"""Random sets of heads of the same layers, nearest in norm, beside sets that were named; and what their ablation costs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd

from headlab.heads import Grid, Head, Heads
from headlab.stats import Rank
from headlab.thoughts.worlds import ablation
from headlab.trials.ranks import rank_by_pair
from headlab.trials.sweeps import Seen
from headlab.trials.thought_effects import Costs, Edits
from headlab.trials.thought_heads import output_norms

Array = np.ndarray


@dataclass(frozen=True)
class MatchedSets:
    """Sets of heads with as many members in each layer as an observed one.  ``enumerated``: all of them, the observed one
    too; else those of a sample that come nearest in norm, within a factor of ``within``."""

    sets: tuple[Heads, ...]
    enumerated: bool
    within: float | None


def matched_by_layer(grid: Grid, observed: Heads, norms: Mapping[Head, float], n: int, seed: int) -> MatchedSets:
    """All sets of the observed layer composition where there are at most ``n``; else ``n`` of them, drawn at random and
    then chosen nearest in the summed norm of what their heads write."""
    counts = Counter(h.layer for h in grid.check(observed))
    total = math.prod(math.comb(grid.n_heads, k) for k in counts.values())
    if total <= n:
        parts = [combinations([Head(at, i) for i in range(grid.n_heads)], k) for at, k in sorted(counts.items())]
        return MatchedSets(tuple(Heads(h for p in chosen for h in p) for chosen in product(*parts)), True, None)
    rng, seen = random.Random(f"matched by layer {seed}"), {}
    for _ in range(40 * n):
        one = Heads(Head(at, i) for at, k in sorted(counts.items()) for i in rng.sample(range(grid.n_heads), k))
        if one != observed:
            seen[one] = None
    own = sum(norms[h] for h in observed)

    def far(one: Heads) -> float:
        other = sum(norms[h] for h in one)
        return abs(math.log(other / own)) if own > 0 and other > 0 else (0.0 if own == other else math.inf)

    nearest = sorted(seen, key=far)[:n]
    worst = far(nearest[-1])
    return MatchedSets(tuple(nearest), False, math.exp(worst) if worst < 700 else None)


@dataclass(frozen=True)
class Beside:
    """Matched sets for each of some sets, ablated in the same way.

    ``named``: the sets by name; ``write``: what stands in place of z; ``alone``: edits in which every head alone ran already.
    """

    named: Callable[[Seen], Mapping[str, Heads]]
    write: Callable[[Seen], str] = lambda seen: "mean"
    alone: Edits | None = None

    def sets(self, seen: Seen) -> dict[str, MatchedSets]:
        norms, claim = seen.of_case(output_norms), seen.case.claim
        return {
            k: matched_by_layer(seen.scope.grid, heads, norms, claim.matched_sets, claim.seed)
            for k, heads in self.named(seen).items()
        }

    def lost(self, seen: Seen, base: pd.DataFrame) -> dict[str, Array]:
        """Accuracy lost by each matched set against the unedited answers, [problem, set]."""
        sets = seen.once(self.sets)
        ran = {s for m in sets.values() for s in m.sets if self.alone and len(s) == 1}
        new = [s for s in dict.fromkeys(s for m in sets.values() for s in m.sets) if s not in ran]
        parts = [seen.once(self.alone).table] if self.alone else []
        if new:
            parts.append(seen.case.think([ablation(f"matched {s}", s, self.write(seen)) for s in new], "matched sets"))
        every = Costs({}, pd.concat(parts), base)
        return {k: every.lost(*(f"{s}" if s in ran else f"matched {s}" for s in m.sets)) for k, m in sets.items()}

    def rank(self, seen: Seen, name: str, own: Array, others: Array, clusters: Array) -> Rank:
        """The place of ``own`` [problem, 1] among ``others`` [problem, set], problems resampled too."""
        whole, lost = seen.once(self.sets)[name].enumerated, np.hstack([own, others]).T
        return rank_by_pair(lost, clusters, seen.case.claim, enumerated=whole, unit="matched sets")

    def settings(self, seen: Seen) -> dict[str, dict[str, object]]:
        return {
            k: {"n": len(m.sets), "enumerated": m.enumerated, "norms_within_factor": m.within}
            for k, m in seen.once(self.sets).items()
        }

"""The published test of weight clusters: patch each cluster, ask whether it behaves as a block.

1. W_Q, W_K and W_V, each flattened as it is (K and V repeated inside a KV group), cut in two by k-means.
2. Both clusters are patched as the publication did; the prediction is right when exactly one of the two repairs most pairs.
3. Beside it: how often two sets of the same sizes, with as many heads of each KV group, do so that nobody named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Claim, Prediction
from headlab.designs import complement, matched_sets
from headlab.effects import Table
from headlab.heads import Heads
from headlab.measures.weights import head_weights
from headlab.stats import clopper_pearson
from headlab.stats.clustering import euclidean, k_means
from headlab.trials.flow import Method, Undefined, unsliced
from headlab.trials.halves import patched_set
from headlab.trials.pairs import Eligibility, eligibility
from headlab.trials.sweeps import Found, Scope, Seen, Told

BLOCKS = {"q": "W_Q", "k": "W_K", "v": "W_V"}
PAIRS, UNNAMED = 20, 12
WORDS = "each of W_Q, W_K and W_V cut in two, both clusters patched as slices at left-aligned positions; no null"


def as_blocks(claim: Claim, found: Mapping[str, Found]) -> Claim:
    """What the publication predicted."""
    rule = Prediction(statistic="sets:right", op=">", threshold=0.5, words="most clusters of weights behave as a block")
    return claim.model_copy(update={"predictions": (rule,)})


def able(seen: Seen) -> Eligibility:
    return eligibility(seen.case, seen.scope.protocol)


def sets(seen: Seen) -> Table:
    """A row for each cluster beside its complement, and for each pair of sets that nobody named."""
    scope, rows = seen.scope, []
    cuts = {b: c for b in BLOCKS if (c := cut(scope, b)) is not None}
    if not cuts:
        raise Undefined(f"no block of layer {scope.layer} of {scope.lab.name} can be cut in two")
    pairs = seen.once(able).usable(seen.case)[:PAIRS]
    two = {b: [("cluster", (one, complement(scope.grid, one)))] for b, one in cuts.items()}
    for b, one in cuts.items():
        two[b] += [("unnamed", others) for others in unnamed(scope, one)]
    every = dict.fromkeys(h for tried in two.values() for _, sides in tried for h in sides)
    worlds = [scope.edit(patched_set(h).name, h) for h in every]
    what = f"clusters of layer {scope.layer} (published)"
    share: Any = seen.case.texts(pairs, worlds, scope.protocol, what).groupby("world")["right"].mean()
    for b, tried in two.items():
        for kind, (first, second) in tried:
            rates = [float(share[patched_set(h).name]) for h in (first, second)]
            rows.append({"block": BLOCKS[b], "kind": kind, "first": str(first), "second": str(second)})
            rows[-1] |= {"repaired_first": rates[0], "repaired_second": rates[1], "pairs": len(pairs)}
            rows[-1] |= {"right": (rates[0] > 0.5) != (rates[1] > 0.5)}
    return pd.DataFrame(rows)


def numbers(seen: Seen) -> Iterator[Told]:
    table: Any = seen.once(sets)
    for name, kind, unit, label in (
        ("sets:right", "cluster", "clusterings", "clusterings of which one side repairs and the other does not"),
        ("sets:unnamed", "unnamed", "pairs of sets", "pairs of sets of the same sizes that nobody named, likewise"),
    ):
        right = table[table["kind"] == kind]["right"]
        yield Told(name, label, clopper_pearson(int(right.sum()), len(right), unit=unit), "out_block")


def words(seen: Seen) -> str:
    table = seen.once(sets)
    return f"{WORDS}; {table['block'].nunique()} answers, on {table['pairs'].iloc[0]} pairs"


def published(controls: Any) -> Method:
    """The reading; ``controls`` are those of the other reading, which bind it too."""
    return Method(
        words,
        numbers=(numbers,),
        controls=(controls,),
        tables={"sets": lambda seen: seen.once(sets)},
        impossible=unsliced,
        ineligible=lambda seen: seen.once(able).reason,
        asks=as_blocks,
    )


def cut(scope: Scope, block: str) -> Heads | None:
    """The smaller of two k-means clusters of a block's flattened entries; None where there are not two."""
    x = getattr(head_weights(scope.lab, [scope.layer]).at(scope.layer), block)
    if x is None:
        return None
    rows = x.double().flatten(1).cpu().numpy()
    if len(rows) < scope.grid.n_heads:
        rows = np.repeat(rows, scope.grid.group_size, 0)
    if not np.ptp(euclidean(rows)) > 0:
        return None
    labels = np.array(k_means(rows, 2, seed=scope.seed).labels)
    if len(labels) == 0 or len(set(labels.tolist())) < 2:
        return None
    small = min(sorted(set(labels.tolist())), key=lambda c: int((labels == c).sum()))
    return Heads.of(scope.layer, np.flatnonzero(labels == small).tolist())


def unnamed(scope: Scope, one: Heads) -> list[tuple[Heads, Heads]]:
    """Random sets of the cluster's size; whole KV groups cannot be matched by group, so only the size is."""
    grid, rng = scope.grid, np.random.default_rng(scope.seed)
    matched = [s for s in matched_sets(grid, one, n=UNNAMED, seed=scope.seed).sets if s != one]
    if not matched:
        at = one.layers[0]
        matched = [Heads.of(at, rng.choice(grid.n_heads, len(one), replace=False).tolist()) for _ in range(UNNAMED)]
    return [(s, complement(grid, s)) for s in matched[:UNNAMED]]

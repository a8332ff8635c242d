"""The published test of weight clusters: patch each cluster, ask whether it behaves as a block.

1. W_Q, W_K and W_V, each flattened as it is (K and V repeated inside a KV group), cut in two by k-means.
2. Both clusters are patched as the publication did; the prediction is right when exactly one of the two repairs most pairs.
3. Beside it: how often two sets of the same sizes, with as many heads of each KV group, do so that nobody named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Control, Prediction, decide
from headlab.designs import complement, matched_sets
from headlab.experiments.base import Bench, eligibility, named, protocol_patch
from headlab.experiments.heads.patched_sets import set_name, unsliced
from headlab.heads import Heads
from headlab.measures.weights import HeadWeights
from headlab.stats import Estimate, clopper_pearson
from headlab.stats.clustering import euclidean, k_means
from headlab.store import Reading

BLOCKS = {"q": "W_Q", "k": "W_K", "v": "W_V"}
PAIRS, UNNAMED = 20, 12
_WORDS = "each of W_Q, W_K and W_V cut in two, both clusters patched as slices at left-aligned positions; no null"


@dataclass(frozen=True)
class SetTest:
    """The published reading and a row for each set."""

    reading: Reading
    rows: list[dict[str, Any]]


def set_test(bench: Bench, weights: HeadWeights, at: int, checks: Sequence[Control]) -> SetTest:
    """Cut, patch, count."""
    protocol, claim = PROTOCOLS["published"], bench.claim
    rule = Prediction(statistic="sets:right", op=">", threshold=0.5, words="most clusters of weights behave as a block")
    own = claim.model_copy(update={"predictions": (rule,)})
    if (refused := unsliced(bench, own, protocol, _WORDS)) is not None:
        return SetTest(refused["reading"], [])
    cuts = {b: c for b in BLOCKS if (c := cut(bench, weights, at, b)) is not None}
    if not cuts:
        why = f"no block of layer {at} of {bench.lab.name} can be cut in two"
        return SetTest(Reading(protocol="published", words=_WORDS, verdict=decide(own, {}, [], impossible=why)), [])
    able = eligibility(bench, protocol)
    pairs = able.usable(bench)[:PAIRS]
    sides = {b: (one, complement(bench.lab.grid, one)) for b, one in cuts.items()}
    drawn = {b: _unnamed(bench, one) for b, one in cuts.items()}
    every = dict.fromkeys(h for b in cuts for pair in (sides[b], *drawn[b]) for h in pair)
    worlds = [protocol_patch(protocol, set_name(h), h) for h in every]
    texts = bench.texts(pairs, worlds, protocol, f"clusters of layer {at} (published)")
    share: Any = texts.groupby("world")["right"].mean()
    rows: list[dict[str, Any]] = []
    for b in cuts:
        for kind, two in [("cluster", sides[b]), *(("unnamed", two) for two in drawn[b])]:
            rates = [float(share[set_name(h)]) for h in two]
            rows.append(
                {"block": BLOCKS[b], "kind": kind, "first": str(two[0]), "second": str(two[1]), "repaired_first": rates[0],
                 "repaired_second": rates[1], "pairs": len(pairs), "right": (rates[0] > 0.5) != (rates[1] > 0.5)}
            )  # fmt: skip
    estimates = {"sets:right": _share(rows, "cluster"), "sets:unnamed": _share(rows, "unnamed")}
    labels = {"sets:right": "clusterings of which one side repairs and the other does not",
              "sets:unnamed": "pairs of sets of the same sizes that nobody named, likewise"}  # fmt: skip
    reading = Reading(
        protocol="published",
        words=f"{_WORDS}; {len(cuts)} answers, on {len(pairs)} pairs",
        verdict=decide(own, estimates, checks, ineligible=able.reason),
        estimates=tuple(named(k, labels[k], e, "out_block") for k, e in estimates.items()),
    )
    return SetTest(reading, rows)


def cut(bench: Bench, weights: HeadWeights, at: int, block: str) -> Heads | None:
    """The smaller of two k-means clusters of a block's flattened entries; None where there are not two."""
    x = getattr(weights.at(at), block)
    if x is None:
        return None
    rows = x.double().flatten(1).cpu().numpy()
    if len(rows) < bench.lab.grid.n_heads:
        rows = np.repeat(rows, bench.lab.grid.group_size, 0)
    if not np.ptp(euclidean(rows)) > 0:
        return None
    labels = np.array(k_means(rows, 2, seed=bench.seed).labels)
    if len(labels) == 0 or len(set(labels.tolist())) < 2:
        return None
    small = min(sorted(set(labels.tolist())), key=lambda c: int((labels == c).sum()))
    return Heads.of(at, np.flatnonzero(labels == small).tolist())


def _unnamed(bench: Bench, one: Heads) -> list[tuple[Heads, Heads]]:
    """Random sets of the cluster's size; whole KV groups cannot be matched by group, so only the size is."""
    grid, rng = bench.lab.grid, np.random.default_rng(bench.seed)
    matched = [s for s in matched_sets(grid, one, n=UNNAMED, seed=bench.seed).sets if s != one]
    if not matched:
        at = one.layers[0]
        matched = [Heads.of(at, rng.choice(grid.n_heads, len(one), replace=False).tolist()) for _ in range(UNNAMED)]
    return [(s, complement(grid, s)) for s in matched[:UNNAMED]]


def _share(rows: Sequence[dict[str, Any]], kind: str) -> Estimate:
    right = [r["right"] for r in rows if r["kind"] == kind]
    unit = "clusterings" if kind == "cluster" else "pairs of sets"
    return clopper_pearson(sum(right), len(right), unit=unit)

"""Do weights know a set of heads?  The set predicted from its members; subsets that work beside subsets that do not.

1. Prediction: the heads most like a set's members, each member judged by the *other* members; the share of the set that
   comes back, among size- and KV-matched sets that nobody named.
2. Subsets: random halves of the layer, patched; how many clusters they touch, how pure they are, how alike their
   members; rank correlation of each with whether the half repairs, Holm-adjusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import PROTOCOLS
from headlab.designs import matched_sets
from headlab.effects import mean_recovery, pivot
from headlab.heads import Grid, Heads, even, pool
from headlab.interventions import Intervention, World
from headlab.measures.weight_sets import TRAITS, traits
from headlab.organisms import card, names
from headlab.stats import holm
from headlab.stats.spacing import Association, rank_correlation
from headlab.trials.case import Bench
from headlab.trials.pairs import eligibility

Array = np.ndarray
LEAST = 5
"""Fewer subsets that work, or that fail, are parted at the median instead."""


def members_of(bench: Bench, at: int, text: str) -> Heads:
    """ "causal": the heads a shipped organism was planted with at this layer (the even ones where there are none); else a
    pool such as "even" or "0,2,5"."""
    if text == "causal" and bench.lab.name in names("decimals"):
        truth = card(bench.lab.name).truth
        if truth is not None and getattr(truth, "layer", None) == at:
            return Heads.parse(" ".join(truth.heads))
    return even(bench.lab.grid, at) if text == "causal" else pool(bench.lab.grid, at, text)


@dataclass(frozen=True)
class Subsets:
    """Traits of halves beside what they repair; ``why`` says why there is nothing, and then the rest is empty."""

    found: dict[str, Association]
    p_holm: dict[str, float]
    table: Any
    words: str
    why: str = ""


def subsets(bench: Bench, at: int, labels: Sequence[int], table: Array, wanted: int) -> Subsets:
    """Do halves of the layer that repair differ, in clusters or likeness, from halves that do not?"""
    if wanted == 0:
        return Subsets({}, {}, pd.DataFrame(), "", "halves that repair were not asked for (option subsets: 0)")
    able = eligibility(bench, PROTOCOLS["standard"])
    if not able.ok:
        return Subsets({}, {}, pd.DataFrame(), "", f"no subset works or fails here: {able.reason}")
    sets = _halves(bench.lab.grid, at, wanted, bench.seed)
    worlds = [World(f"half {s}", (Intervention(s),)) for s in sets]
    swept = bench.sweep(list(able.pairs[:60]), worlds, f"halves of layer {at}")
    edited = pivot(swept, [w.name for w in worlds])
    one = swept.drop_duplicates("pair").sort_values("pair")
    recovered = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
    works = (edited > 0).mean(1) >= 0.5
    words = f"{int(works.sum())} of {len(sets)} halves repair at least half of {len(one)} pairs"
    if min(works.sum(), (~works).sum()) < LEAST:
        works = recovered > np.median(recovered)
        words += "; parted at the median recovery instead"
    rows = pd.DataFrame([{"heads": str(s), **traits(labels, table, s.at(at))} for s in sets])
    rows = rows.assign(recovery=recovered, repaired=(edited > 0).mean(1), works=works)
    found = {
        t: rank_correlation(rows[t].to_numpy(), works, unit="halves", seed=bench.seed, shuffles=1999) for t in TRAITS
    }
    tested = {t: a.rank.p for t, a in found.items() if a.rank is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True)) if tested else {}
    return Subsets(found, adjusted, rows, words)


def _halves(grid: Grid, at: int, wanted: int, seed: int) -> list[Heads]:
    """Distinct halves with as many heads of each KV group as the even heads have."""
    sets = matched_sets(grid, even(grid, at), n=wanted, seed=seed).sets
    if len(sets) <= wanted:
        return list(sets)
    order = np.random.default_rng(seed).permutation(len(sets))[:wanted]
    return [sets[i] for i in sorted(order)]

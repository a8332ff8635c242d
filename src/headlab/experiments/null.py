"""The null of a set of heads: sets of the same size and the same KV groups, that nobody named.

The statistic is a contrast: recovery of the logit difference by a set, minus that by the layer's other heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headlab.claims import Claim
from headlab.designs import Matched, complement, matched_sets
from headlab.effects import Figure, mean_recovery, pivot
from headlab.experiments.base import Bench
from headlab.heads import Grid, Heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, Rank, bootstrap_ratio, clopper_pearson
from headlab.stats.of_means import OfMeans, bootstrap_of_means, rank_over_draws


@dataclass(frozen=True)
class Null:
    """An observed set among its matched sets.

    ``contrast``: the observed set's, with its interval over pairs; ``rank``: its place among ``gaps`` [matched set];
    ``naive``: the share of matched sets whose repair contrast reaches the naive threshold; ``table`` has a row for
    each matched set, ``effects`` one for each pair × set.
    """

    contrast: Estimate
    rank: Rank
    naive: Estimate
    gaps: Any
    matched: Matched
    sets: tuple[Heads, ...]
    table: Any
    effects: Any


def null_worlds(grid: Grid, observed: Heads, n: int, seed: int) -> list[World]:
    """The observed set, every matched set, and the complement of each."""
    matched = matched_sets(grid, observed, n=n, seed=seed)
    sets = list(dict.fromkeys([observed, *matched.sets]))
    every = dict.fromkeys([*sets, *(complement(grid, s) for s in sets)])
    return [World(f"set {s}", (Intervention(s),)) if len(s) else World("set") for s in every]


def matched_null(bench: Bench, pairs: Sequence[EncodedPair], observed: Heads, naive_at: float) -> Null:
    """Sweep the matched sets and their complements (z patched), and rank the observed one among them."""
    import pandas as pd

    grid, claim = bench.lab.grid, bench.claim
    matched = matched_sets(grid, observed, n=claim.matched_sets, seed=claim.seed)
    worlds, layer = null_worlds(grid, observed, claim.matched_sets, claim.seed), observed.layers[0]
    every = tuple(Heads.of(layer, w.interventions[0].indices) if w.interventions else Heads() for w in worlds)
    effects = bench.sweep(pairs, worlds, f"matched halves L{observed.layers[0]}")
    edited = pivot(effects, [w.name for w in worlds])
    one = effects.drop_duplicates("pair").sort_values("pair")
    clean, corrupted = one["clean"].to_numpy(), one["corrupted"].to_numpy()
    recovered = dict(zip(every, mean_recovery(edited, clean, corrupted), strict=True))
    repaired = dict(zip(every, (edited > 0).mean(1), strict=True))

    def gap(of: dict[Any, Any], heads: Heads) -> float:
        return float(of[heads] - of[complement(grid, heads)])

    gaps = np.array([gap(recovered, s) for s in matched.sets])
    rows = dict(zip(every, edited, strict=True))
    return Null(
        contrast=bootstrap_ratio(
            rows[observed] - rows[complement(grid, observed)],
            clean - corrupted,
            clusters=one["cluster"].to_numpy(),
            unit="pairs",
            seed=claim.seed,
        ),
        rank=rank_by_pair(
            np.stack([rows[s] - rows[complement(grid, s)] for s in (observed, *matched.sets)]),
            one["cluster"].to_numpy(),
            claim,
            enumerated=matched.enumerated,
        ),
        naive=_share([abs(gap(repaired, s)) >= naive_at for s in matched.sets], matched.enumerated),
        gaps=gaps,
        matched=matched,
        sets=every,
        table=pd.DataFrame(
            {
                "heads": [str(s) for s in matched.sets],
                "contrast": gaps,
                "recovery": [recovered[s] for s in matched.sets],
                "repaired": [repaired[s] for s in matched.sets],
            }
        ),
        effects=effects,
    )


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


def _share(hits: Sequence[bool], enumerated: bool) -> Estimate:
    """Share of sets: exact when they are all there, else with a Clopper-Pearson interval."""
    if not enumerated:
        return clopper_pearson(sum(hits), len(hits), unit="matched halves")
    value = sum(hits) / len(hits)
    return Estimate(value, value, value, len(hits), "matched halves", "enumeration")


def null_figure(null: Null, at: int, title: str, observed: str, label: str) -> Figure:
    """The matched sets as a histogram, the observed set as a line with its interval."""
    found, band = null.rank, null.contrast
    how = "all" if null.matched.enumerated else "a random sample of"
    return Figure(
        kind="null",
        name="null",
        title=f"{title}, among {found.n_sets:,} halves of layer {at} that nobody named",
        caption=(
            f"Each bar counts matched halves ({how} {null.matched.total:,} with as many heads in each KV group) by how much "
            f"more of the logit difference they recover than their complement. The line is {observed}, its band the 95 % "
            f"interval over {band.n} pairs. {found.at_least_as_extreme} of {found.n_sets:,} halves are at least as extreme: "
            f"p = {found.p:.3g}."
        ),
        data=tuple({"value": float(g)} for g in null.gaps),
        options={
            "observed": band.value,
            "low": band.low,
            "high": band.high,
            "label": label,
            "x_title": "recovery by the half minus recovery by its complement",
            "p": found.p,
        },
    )

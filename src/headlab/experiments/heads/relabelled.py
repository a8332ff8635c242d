"""Parity on one layer whose heads are numbered anew, many times, from one sweep.

1. Numberings that leave the function as it is: whole KV groups change places, and query heads inside their group.
2. Asking for the even heads of the renumbered model is asking for the heads that got even numbers, in the model as it is.
   Every matched half and its complement are therefore run once, and each numbering only picks its rows.
3. Each numbering is decided as ``parity`` decides: repair by the heads with even numbers, repair by the others, and the
   rank of the contrast among matched halves.  Where halves are too many to run all, one random sample serves all numberings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Claim, Control, Verdict, decide
from headlab.designs import Matched, complement, matched_sets
from headlab.designs.numberings import evens_of, free_numberings
from headlab.effects import mean_recovery, pivot
from headlab.experiments.heads.parity import NAIVE
from headlab.heads import Grid, Heads, even
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.stats import Estimate, Rank, clustered_rate, paired_difference
from headlab.stats.of_means import OfMeans, rank_over_draws
from headlab.trials.case import Bench
from headlab.trials.pairs import Eligibility, no_op_control, no_op_world, patch_all_control, protocol_patch, with_texts
from headlab.trials.ranks import drawn_by_pair

DECIDED = ("upheld", "refuted")


@dataclass(frozen=True)
class Halves:
    """What was measured of one layer: matched halves with recovery, and graded text of those that numberings ask for."""

    grid: Grid
    at: int
    parity: Claim
    able: Eligibility
    matched: Matched
    recovered: dict[Heads, float]
    edited: dict[Heads, Any]
    right: dict[Heads, Any]
    clusters: Any
    controls: tuple[Control, ...]
    effects: Any

    def gap(self, half: Heads) -> float:
        """Recovery by a half minus that by the other heads."""
        return self.recovered[half] - self.recovered[complement(self.grid, half)]

    @cached_property
    def gaps(self) -> Any:
        """The null: the gap of every matched half, [half]."""
        return np.array([self.gap(s) for s in self.matched.sets])

    @cached_property
    def _drawn(self) -> tuple[dict[Heads, int], OfMeans]:
        """The gap of every half over resampled pairs, and where each stands: all halves are ranked in the same draws."""
        gained = np.stack([self.edited[s] - self.edited[complement(self.grid, s)] for s in self.edited])
        return {s: i for i, s in enumerate(self.edited)}, drawn_by_pair(gained, self.clusters, self.parity)

    def rank(self, half: Heads) -> Rank:
        at, found = self._drawn
        which = [at[s] for s in (half, *self.matched.sets)]
        found = replace(found, value=found.value[which], draws=found.draws[:, which])
        return rank_over_draws(
            found, enumerated=self.matched.enumerated, alpha=self.parity.alpha, unit="matched halves"
        )

    def repaired(self, half: Heads) -> Estimate:
        return clustered_rate(self.right[half], clusters=self.clusters, unit="pairs")

    def contrast(self, half: Heads) -> Estimate:
        """Pairs repaired by a half minus those by the other heads."""
        others = self.right[complement(self.grid, half)]
        return paired_difference(self.right[half], others, clusters=self.clusters, unit="pairs", seed=self.parity.seed)

    def decided(self, half: Heads) -> Verdict:
        """The verdict of ``parity`` in a model whose even heads are these."""
        findings: dict[str, Estimate | Rank] = {
            "repair:even": self.repaired(half),
            "repair:odd": self.repaired(complement(self.grid, half)),
            "rank:even": self.rank(half),
        }
        return decide(self.parity, findings, self.controls, ineligible=self.able.reason)

    def row(self, half: Heads) -> dict[str, Any]:
        """A trial in numbers."""
        verdict, others = self.decided(half), complement(self.grid, half)
        repairs = float(np.mean(self.right[half])), float(np.mean(self.right[others]))
        return {
            "layer": self.at,
            "even": str(half),
            "repair_even": repairs[0],
            "repair_odd": repairs[1],
            "contrast": repairs[0] - repairs[1],
            "recovery_gap": self.gap(half),
            "p": self.rank(half).p,
            "outcome": verdict.outcome,
            "decided": verdict.outcome in DECIDED,
            "upheld": verdict.outcome == "upheld",
            "naive": abs(repairs[0] - repairs[1]) >= NAIVE,
        }


def measured(bench: Bench, parity: Claim, able: Eligibility, at: int, asked: Sequence[Heads]) -> Halves:
    """Run every matched half of the layer and the halves asked for, each with its complement."""
    grid, protocol, whole = bench.lab.grid, PROTOCOLS["standard"], all_heads(bench.lab.grid, at)
    pairs = able.usable(bench)
    matched = matched_sets(grid, even(grid, at), n=parity.matched_sets, seed=parity.seed)
    graded = _with_complements(grid, asked)
    worlds = {s: World(f"set {s}", (Intervention(s),)) for s in _with_complements(grid, [*matched.sets, *asked])}
    effects = bench.sweep(pairs, list(worlds.values()), f"halves L{at}")
    edited = pivot(effects, [w.name for w in worlds.values()])
    one = effects.drop_duplicates("pair").sort_values("pair")
    recovered = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
    texts = bench.texts(pairs, [worlds[s] for s in graded], protocol, f"numbered anew L{at}")
    right = pivot(texts, [worlds[s].name for s in graded], "right").astype(bool)
    named = [
        protocol_patch(protocol, "all", whole),
        protocol_patch(protocol, "baseline", whole, amount=0.0),
        no_op_world(protocol, whole),
    ]
    what = f"controls L{at}"
    shown = with_texts(bench.sweep(pairs, named, what), bench.texts(pairs, named, protocol, what))
    return Halves(
        grid,
        at,
        parity,
        able,
        matched,
        dict(zip(worlds, map(float, recovered), strict=True)),
        dict(zip(worlds, edited, strict=True)),
        dict(zip(graded, right, strict=True)),
        one["cluster"].to_numpy(),
        (no_op_control(shown, bench.lab), patch_all_control(shown, bench.seed)),
        shown.assign(protocol="standard", arm="z"),
    )


def _with_complements(grid: Grid, sets: Sequence[Heads]) -> list[Heads]:
    return list(dict.fromkeys([*sets, *(complement(grid, s) for s in sets)]))


def trials(bench: Bench, parity: Claim, able: Eligibility, at: int, n: int) -> tuple[Halves, Any]:
    """The layer's halves, and a row for its own numbering (``relabelling`` 0) and for each of ``n`` random ones."""
    import pandas as pd

    grid = bench.lab.grid
    own = tuple(range(grid.n_heads))
    numberings = [own, *free_numberings(grid, n, f"{bench.seed} {at} {bench.lab.fingerprint}")]
    halves = [evens_of(at, order) for order in numberings]
    found = measured(bench, parity, able, at, halves)
    row = cache(found.row)  # numberings that give the same heads even numbers are one question
    rows = [
        {"relabelling": i, "order": " ".join(map(str, order)), **row(half)}
        for i, (order, half) in enumerate(zip(numberings, halves, strict=True))
    ]
    return found, pd.DataFrame(rows)

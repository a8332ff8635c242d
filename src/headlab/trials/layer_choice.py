"""How steady the choice of a layer on selection pairs is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from headlab.effects import pivot
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import encode
from headlab.stats import clopper_pearson
from headlab.trials.sweeps import Scope, Seen, Told

RESAMPLES = 1000


def layers(scope: Scope) -> list[int]:
    return [s.layer for s in scope.lab.slots]


def steady(seen: Seen) -> Iterator[Told]:
    """How often resampled selection pairs choose the same layer."""
    scope = seen.scope
    if scope.claim.layer != "auto":
        return
    pairs = [encode(p, scope.lab.tokenizer) for p in scope.case.selection]
    worlds = [World(f"L{n}", (Intervention(all_heads(scope.grid, n)),)) for n in layers(scope)]
    table = scope.case.sweep(pairs, worlds, "choosing a layer")  # the rows are stored already
    names = table.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    chosen = wins(pivot(table, [w.name for w in worlds]) > 0, names, scope.seed)[layers(scope).index(scope.layer)]
    share = clopper_pearson(int(chosen), RESAMPLES, unit="resamples of selection pairs")
    yield Told("selection:steady", f"resampled selection pairs that choose layer {scope.layer} too", share)


def wins(hits: Any, clusters: Any, seed: int) -> Any:
    """How often each layer repairs most when clusters are resampled; the lowest of equals.  [layer]"""
    kinds = np.unique(clusters)
    sums = np.stack([hits[:, clusters == c].sum(1) for c in kinds], axis=1)
    picks = np.random.default_rng(seed).integers(len(kinds), size=(RESAMPLES, len(kinds)))
    return np.bincount(sums[:, picks].sum(2).argmax(0), minlength=len(hits))

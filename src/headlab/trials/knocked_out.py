"""Edges chosen on some pairs and knocked out on others, beside random edges of equal weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from headlab.designs.edges import Edges, alike, knock_out, parted, roles_of, strongest
from headlab.effects import Table
from headlab.interventions import Intervention, World
from headlab.measures.edges import role_edges
from headlab.prompts import EncodedPair
from headlab.trials.sweeps import Scope, Seen


@dataclass(frozen=True)
class Chosen:
    """Roles, pairs, the edges of the test pairs and which of them were chosen (``top``, indices) on other pairs."""

    roles: list[str]
    choosing: list[EncodedPair]
    test: list[EncodedPair]
    found: Edges
    top: list[int]

    @property
    def best(self) -> list[Any]:
        return [self.found.edges[i] for i in self.top]


def halves(case: Any, share: float) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Clean prompts to choose edges on, this share of them, and to test them on."""
    return parted([replace(p, corrupted=p.clean) for p in case.encoded], share, case.seed)


def chosen(scope: Scope) -> Chosen:
    choosing, test = halves(scope.case, scope.options["choosing"])
    roles = roles_of([p.clean for p in scope.pairs])
    own, there = (role_edges(scope.lab, [p.clean for p in x], scope.layer, roles) for x in (choosing, test))
    place = {edge: i for i, edge in enumerate(there.edges)}
    names = [own.edges[i] for i in strongest(own, scope.options["top"])]
    return Chosen(roles, choosing, test, there, [place[e] for e in names if e in place])


def drawn(seen: Seen) -> dict[str, list[int]]:
    """Random sets of edges from the same rows as the top edges."""
    edges, rng = seen.of_trial(chosen), np.random.default_rng(seen.scope.seed)
    return {f"random {n}": alike(edges.found, edges.top, rng) for n in range(seen.scope.claim.matched_sets)}


def scaled(seen: Seen) -> Table:
    """By how much a random set and the top edges are scaled down, so that both lose the weight of the lighter one."""
    edges, rows = seen.of_trial(chosen), []
    best = edges.found.total(edges.top)
    for name, others in seen.once(drawn).items():
        own = edges.found.total(others)
        taken = min(own, best)
        rows.append({"world": name, "edges": len(others), "weight": own, "top_weight": best})
        rows[-1] |= {"scaled_by": taken / own if own else 0.0, "top_scaled_by": taken / best if best else 0.0}
    return pd.DataFrame(rows)


def knocked_out(seen: Seen) -> Table:
    """Effects of the top edges, cut and scaled down, and of every random set, on the test pairs."""
    edges, at, table = seen.of_trial(chosen), seen.scope.layer, seen.once(scaled)
    keys = tuple(sorted({key for _, _, key in edges.found.edges}))
    worlds = [
        World("baseline"),
        knock_out("noop", at, edges.best, 0.0),
        knock_out("top whole", at, edges.best, 1.0),
        World("all", (Intervention(seen.scope.whole, "pattern", "mask", keys=keys),)),
    ]
    for name, own, top in zip(table["world"], table["scaled_by"], table["top_scaled_by"], strict=True):
        worlds.append(knock_out(name, at, [edges.found.edges[i] for i in seen.once(drawn)[name]], float(own)))
        worlds.append(knock_out(f"top, as {name}", at, edges.best, float(top)))
    return seen.case.sweep(edges.test, worlds, f"knock-outs L{at}")

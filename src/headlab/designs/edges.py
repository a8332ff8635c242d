"""Attention edges, query role × key role of one head: the strongest, others as heavy, and worlds without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.heads import Heads
from headlab.interventions import Intervention, World, role_positions
from headlab.prompts import Encoded, EncodedPair, PromptError

Edge = tuple[int, str, str]
"""Head, query role, key role."""


@dataclass(frozen=True)
class Edges:
    """Every edge of a layer, with its mean weight and attribution over some prompts, [edge]."""

    edges: tuple[Edge, ...]
    weight: Any
    attribution: Any

    def total(self, chosen: Sequence[int]) -> float:
        return float(self.weight[list(chosen)].sum())


def roles_of(encoded: Sequence[Encoded]) -> list[str]:
    """Roles that every prompt has, in the order of the first prompt: without those inside a larger one, and without a
    role that is the first token alone (its edges are the sink's)."""
    first = encoded[0]
    known = [r for r in (*first.roles, "answer") if all(r == "answer" or r in e.roles for e in encoded)]
    places = {r: set(role_positions(first, r)) for r in known}
    inside = {r for r in known if any(places[r] < places[o] for o in known)}
    return [r for r in known if r not in inside and places[r] not in (set(), {0})]


def strongest(found: Edges, top: int) -> list[int]:
    """Indices of each head's ``top`` edges that work most for the answer (only edges that do)."""
    out: list[int] = []
    for head in sorted({head for head, _, _ in found.edges}):
        own = [i for i, edge in enumerate(found.edges) if edge[0] == head and found.attribution[i] > 0]
        out += sorted(own, key=lambda i: -found.attribution[i])[:top]
    return out


def alike(found: Edges, chosen: Sequence[int], rng: np.random.Generator) -> list[int]:
    """As many other edges from the same queries of the same heads, drawn in proportion to their weight (fewer where a
    query has no other keys)."""
    taken, rows, out = set(chosen), _rows(found), []
    for own in rows.values():
        others = [i for i in own if i not in taken]
        wanted = min(len(own) - len(others), len(others))
        if wanted:
            share = found.weight[others] / found.weight[others].sum()
            out += [int(i) for i in rng.choice(others, wanted, replace=False, p=share)]
    return out


def _rows(found: Edges) -> dict[tuple[int, str], list[int]]:
    out: dict[tuple[int, str], list[int]] = {}
    for i, (head, query, _) in enumerate(found.edges):
        out.setdefault((head, query), []).append(i)
    return out


def knock_out(name: str, at: int, edges: Sequence[Edge], amount: float) -> World:
    """The weight of these edges scaled down by ``amount``; heads that share an edge's roles go together."""
    by_roles: dict[tuple[str, str], list[int]] = {}
    for head, query, key in edges:
        by_roles.setdefault((query, key), []).append(head)
    masks = (
        Intervention(Heads.of(at, heads), "pattern", "mask", roles=(q,), keys=(k,), amount=amount)
        for (q, k), heads in sorted(by_roles.items())
    )
    return World(name, tuple(masks))


def parted(pairs: Sequence[EncodedPair], share: float, seed: int) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Pairs to choose edges on, and pairs to test them on, without a cluster in common."""
    names = sorted({p.pair.cluster or p.pair.id for p in pairs})
    np.random.default_rng(seed).shuffle(names)
    first = set(names[: max(1, round(share * len(names)))])
    sides = ([p for p in pairs if ((p.pair.cluster or p.pair.id) in first) is here] for here in (True, False))
    choosing, test = sides
    if not choosing or not test:
        raise PromptError(f"{len(pairs)} pair(s) are too few to choose edges on some and test them on others")
    return choosing, test

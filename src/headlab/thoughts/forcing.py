"""Patterns that attention among thoughts is forced into, and how far a pattern that was forced is read back.

Rows read back are [problem, head, thought, key].
"""

from __future__ import annotations

import random

import numpy as np

from headlab.heads import Grid, Heads, every_head
from headlab.heads import layer as whole_layer
from headlab.interventions import Intervention
from headlab.thoughts.worlds import Force, ThoughtWorld

Array = np.ndarray
SHARE = 0.8
"""Share of a row's mass on thoughts that goes where a pattern says."""
EXACT = 1e-4
"""How near to it what is read must come: rounding of 32-bit weights."""


def identity(grid: Grid) -> ThoughtWorld:
    """Every pattern overwritten by itself."""
    return ThoughtWorld("identity", forces=(Force(every_head(grid), "identity", rows="all"),))


def cut(grid: Grid, n_thoughts: int, one: Force) -> list[Intervention]:
    """Attention to the thoughts removed in every head of the layers of a forced pattern, in the rows that it forces."""
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    if one.rows in {"thoughts", "all"}:
        rows += [((f"thought[{i}]",), tuple(f"thought[{j}]" for j in range(i))) for i in range(1, n_thoughts)]
    if one.rows in {"answer", "all"}:
        rows.append((("eot", "answer"), ("thoughts",)))
    return [
        Intervention(whole_layer(grid, at), "pattern", "mask", roles=query, keys=keys)
        for at in one.heads.layers
        for query, keys in rows
    ]


def blocked(grid: Grid, n_thoughts: int, readers: str) -> ThoughtWorld:
    """Attention of ``thoughts`` to earlier thoughts, or of the ``answer`` to all thoughts, removed in every head."""
    ones = cut(grid, n_thoughts, Force(every_head(grid), "identity", rows=readers))  # type: ignore[arg-type]
    words = "earlier thoughts blocked for thoughts" if readers == "thoughts" else "thoughts blocked for the answer"
    return ThoughtWorld(f"blocked-{readers}", tuple(ones), labels={"label": words, "group": "extent"})


def dealt_hubs(grid: Grid, n_thoughts: int, seed: int, share: float = SHARE) -> tuple[Force, ...]:
    """A hub for each head, each thought the hub of as many heads (up to one), dealt out at random."""
    heads = list(every_head(grid))
    places = [i % n_thoughts for i in range(len(heads))]
    random.Random(f"hubs {seed}").shuffle(places)
    return tuple(
        Force(Heads(h for h, p in zip(heads, places, strict=True) if p == k), "hub", hub=k, share=share)
        for k in sorted(set(places))
    )


def on_hub(rows: Array, hub: int) -> float:
    """Share of the mass on thoughts that a hub has, in the rows that see it beside others."""
    seen = rows[..., max(1, hub) :, :]
    return float((seen[..., hub] / seen.sum(-1)).mean())


def on_last(rows: Array) -> float:
    """Share of the mass on thoughts that the thought before has."""
    return float((np.diagonal(rows, -1, -2, -1) / rows[..., 1:, :].sum(-1)).mean())

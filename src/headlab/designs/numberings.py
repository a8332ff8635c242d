"""Other names for the same heads: numberings of a layer that leave its function as it is."""

from __future__ import annotations

import random
from collections.abc import Sequence

from headlab.claims import ClaimError
from headlab.heads import Grid, Heads


def free_numberings(grid: Grid, n: int, seed: str) -> list[tuple[int, ...]]:
    """``n`` random numberings of a layer's heads that change no function; the head at place i was ``numbering[i]``.

    Each is uniform over: KV groups in any order, and the query heads of each group in any order.  Raises ClaimError for a
    layer of one head.
    """
    if grid.n_heads < 2:
        raise ClaimError("a layer of one head has no odd heads: there is nothing to number anew")
    rng, size = random.Random(f"numberings {seed}"), grid.group_size
    out = []
    for _ in range(n):
        groups = rng.sample(range(grid.n_kv_heads), grid.n_kv_heads)
        out.append(tuple(g * size + i for g in groups for i in rng.sample(range(size), size)))
    return out


def evens_of(at: int, numbering: Sequence[int]) -> Heads:
    """The heads, by the names that they have now, that get even numbers."""
    return Heads.of(at, numbering[::2])

"""Heads of one layer that change places: who receives from whom.

Heads are indices, a *mapping* says which slot receives which head.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from headlab.heads import Grid, Heads
from headlab.interventions import Intervention, InterventionError, Site

Mapped = Mapping[int, int]


def exchange(at: int, mapping: Mapped, site: Site) -> Intervention:
    """Slot i receives head ``mapping[i]`` of the same run."""
    return Intervention(Heads.of(at, mapping), site, "exchange", donors=tuple(mapping[i] for i in sorted(mapping)))


def matching_classes(grid: Grid) -> list[list[int]]:
    """Heads that may stand for each other: KV groups, or the whole layer where a group cannot be halved."""
    size = grid.group_size if grid.group_size % 2 == 0 else grid.n_heads
    return [list(range(start, start + size)) for start in range(0, grid.n_heads, size)]


def derangement(members: Sequence[int], rng: random.Random) -> dict[int, int]:
    """A uniformly drawn mapping of the members onto themselves in which nobody keeps its place (two or more)."""
    if len(members) < 2:
        raise InterventionError(f"{len(members)} head(s) cannot change places: the layer has too few heads to shuffle")
    while True:
        drawn = rng.sample(list(members), len(members))
        if all(a != b for a, b in zip(members, drawn, strict=True)):
            return dict(zip(members, drawn, strict=True))

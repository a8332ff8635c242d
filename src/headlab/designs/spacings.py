"""Sets by how their heads lie in a pool: consecutive, in equal steps, mirrored about the middle, or none of these."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any

import numpy as np

from headlab.heads import Heads
from headlab.stats.spacing import Spacing, spacing

from .sets import subsets

FAMILIES = ("consecutive", "uniform", "balanced", "irregular")
METRICS = (*(f.name for f in fields(Spacing)), "regular_family")


def families(members: Heads, size: int, *, n: int, seed: int) -> list[tuple[str, Heads]]:
    """``(family, set)``: at most ``n`` of each family, each set once, in the first family that it belongs to."""
    order, last = list(members), len(members) - 1
    found: dict[Heads, str] = {}

    def add(family: str, places: Sequence[Sequence[int]]) -> None:
        new = [h for h in (Heads(order[i] for i in p) for p in places) if h not in found]
        for h in random.Random(f"{family} {seed}").sample(new, min(n, len(new))):
            found[h] = family

    if not 0 < size < len(order):
        return [("irregular", members)]
    for step in range(1, last // max(1, size - 1) + 1):
        starts = range(last - (size - 1) * step + 1)
        add("consecutive" if step == 1 else "uniform", [range(s, s + (size - 1) * step + 1, step) for s in starts])
    lower, middle = range(len(order) // 2), [len(order) // 2] if len(order) % 2 else []
    centre = middle if size % 2 else []
    if size % 2 == 0 or middle:
        picks = list(combinations(lower, (size - len(centre)) // 2))
        add("balanced", [[*p, *centre, *(last - i for i in p)] for p in picks])
    many = subsets(members, size, n=n + len(found), seed=seed)
    for h in [h for h in many if h not in found][:n]:
        found[h] = "irregular"
    return [(family, h) for family in FAMILIES for h, f in found.items() if f == family]


def metric_table(drawn: Sequence[tuple[str, Heads]], places: int) -> dict[str, Any]:
    """[set] of each metric; NaN where a set is too small for it."""
    described = [spacing([h.index for h in heads], places) for _, heads in drawn]
    out = {f.name: np.array([number(getattr(d, f.name)) for d in described]) for f in fields(Spacing)}
    return out | {"regular_family": np.array([float(family != "irregular") for family, _ in drawn])}


def number(x: float | None) -> float:
    return math.nan if x is None else x

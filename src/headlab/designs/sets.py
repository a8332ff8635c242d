"""Which sets of heads to try: the set a claim names, and the alternatives it does not name.  Pure; every draw is seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

from headlab.heads import Grid, Head, Heads


@dataclass(frozen=True)
class Matched:
    """Sets that match an observed set in size and in the number of members of each KV group.

    ``enumerated``: ``sets`` holds every such set, the observed one included; otherwise a sample without it.
    ``total`` counts all there are.
    """

    sets: tuple[Heads, ...]
    enumerated: bool
    total: int


def _groups(grid: Grid, observed: Heads) -> list[tuple[list[Head], int]]:
    """(members, how many are chosen) of each matching class: KV groups, or the whole layer where groups are single."""
    layer = _one_layer(observed)
    if grid.group_size == 1:
        return [([Head(layer, i) for i in range(grid.n_heads)], len(observed))]
    out = []
    for g in range(grid.n_kv_heads):
        members = [Head(layer, i) for i in range(g * grid.group_size, (g + 1) * grid.group_size)]
        out.append((members, sum(m in observed for m in members)))
    return out


def _one_layer(heads: Heads) -> int:
    if len(heads.layers) != 1:
        raise ValueError(f"matched sets are defined for heads of one layer, given {heads or 'none'}")
    return heads.layers[0]


@lru_cache(maxsize=4)  # the looks, numbers, tables and figures of one trial ask for the same ones
def matched_sets(grid: Grid, observed: Heads, *, n: int, seed: int) -> Matched:
    """Size- and KV-matched sets: all of them when there are at most ``2 n``, else ``n`` distinct random ones.

    With one head to a KV group (MHA) only the size is matched.  16 heads in 4 groups have 6⁴ = 1,296 matched halves.
    """
    groups = _groups(grid, grid.check(observed))
    total = math.prod(math.comb(len(members), k) for members, k in groups)
    if total <= 2 * n:
        chosen = (
            Heads(h for part in parts for h in part) for parts in product(*(combinations(m, k) for m, k in groups))
        )
        return Matched(tuple(chosen), True, total)
    rng, seen = random.Random(f"matched {seed}"), {observed}
    sets = []
    while len(sets) < n:
        one = Heads(h for members, k in groups for h in rng.sample(members, k))
        if one not in seen:
            seen.add(one)
            sets.append(one)
    return Matched(tuple(sets), False, total)


@lru_cache(maxsize=2**12)
def complement(grid: Grid, heads: Heads) -> Heads:
    """The other heads of the same layer."""
    layer = _one_layer(heads)
    return Heads(Head(layer, i) for i in range(grid.n_heads)) - heads


def singles(pool: Heads) -> tuple[Heads, ...]:
    """Each head alone."""
    return tuple(Heads([h]) for h in pool)


def leave_one_out(pool: Heads) -> tuple[Heads, ...]:
    """The pool without each of its heads."""
    return tuple(pool - Heads([h]) for h in pool)


def subsets(pool: Heads, size: int, *, n: int, seed: int) -> tuple[Heads, ...]:
    """``n`` distinct random subsets of a size, or all of them when there are no more than ``n``."""
    members = list(pool)
    if not 0 <= size <= len(members):
        raise ValueError(f"size {size} is out of range: the pool has {len(members)} heads")
    if math.comb(len(members), size) <= n:
        return tuple(Heads(c) for c in combinations(members, size))
    rng, seen = random.Random(f"subsets {seed} {size} {pool}"), {}
    while len(seen) < n:
        seen[Heads(rng.sample(members, size))] = None
    return tuple(seen)


def random_masks(pool: Heads, *, n: int, seed: int) -> tuple[Heads, ...]:
    """``n`` distinct subsets of every size, each head in with probability one half."""
    rng, seen = random.Random(f"masks {seed} {pool}"), {}
    while len(seen) < min(n, 2 ** len(pool)):
        seen[Heads(h for h in pool if rng.random() < 0.5)] = None
    return tuple(seen)


def chains(pool: Heads, *, n: int, seed: int) -> tuple[tuple[Heads, ...], ...]:
    """``n`` nested chains ∅ ⊂ … ⊂ pool, each a random order of the pool."""
    rng, out = random.Random(f"chains {seed} {pool}"), []
    for _ in range(n):
        order = rng.sample(list(pool), len(pool))
        out.append(tuple(Heads(order[:k]) for k in range(len(order) + 1)))
    return tuple(out)


def membership(sets: Sequence[Heads], pool: Heads) -> Iterator[list[bool]]:
    """Rows of a membership matrix: which head of the pool is in each set."""
    for one in sets:
        yield [h in one for h in pool]


def divisions(grid: Grid, at: int, n: int, seed: int) -> list[tuple[Heads, ...]]:
    """``n`` random divisions of a layer into pools with one head of every KV group each."""
    rng, size, out = random.Random(f"divisions {seed} {at}"), grid.group_size, []
    for _ in range(n):
        orders = [rng.sample(range(g * size, (g + 1) * size), size) for g in range(grid.n_kv_heads)]
        out.append(tuple(Heads.of(at, column) for column in zip(*orders, strict=True)))
    return out

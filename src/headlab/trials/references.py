"""Sets that nobody named, matched to one that a claim names: what its effect is ranked among.

Matching is by size in each layer, and further by KV groups and norm; every set that matches is equally likely.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from headlab.designs import Matched, matched_sets
from headlab.heads import Grid, Head, Heads

MATCHES = ("layer", "kv", "sharing", "norm")
TRIES = 40
"""Draws allowed for each set asked for, before a rule that so few sets meet is called too narrow."""


@dataclass(frozen=True)
class Matching:
    """What drawn sets have in common with the observed one.

    ``layer``: as many members in each layer; ``kv``: as many in each KV group; ``sharing``: as many members that share
    a group, in any group (so that a single head has alternatives); ``norm_within``: a mean output norm within this
    factor (needs ``norms``).  ``among``: heads they may hold; ``exclude``: heads they may not.
    """

    match: frozenset[str]
    norm_within: float = 1.25
    norms: Mapping[Head, float] | None = None
    among: Heads | None = None
    exclude: Heads = field(default_factory=Heads)

    def admits(self, drawn: Heads, observed: Heads) -> bool:
        """Whether a set of the right shape is in the pool, and near in norm."""
        if self.among is not None and any(h not in self.among for h in drawn):
            return False
        if any(h in self.exclude for h in drawn):
            return False
        if "norm" not in self.match or self.norms is None:
            return True
        own, other = (sum(self.norms[h] for h in s) / len(s) for s in (observed, drawn))
        return own / self.norm_within <= other <= own * self.norm_within


def redrawn(grid: Grid, observed: Heads, matching: Matching, *, n: int, seed: int) -> Matched:
    """Sets that match ``observed``: all of them, the observed one included, when there are at most ``2 n``; else ``n``
    distinct random ones without it.

    Raises ValueError when so few sets match that ``n`` cannot be drawn and all cannot be listed.
    """
    free = matching.among is None and not len(matching.exclude) and "norm" not in matching.match
    if free and {"layer", "kv"} <= matching.match and len(observed.layers) == 1:
        return matched_sets(grid, observed, n=n, seed=seed)
    classes = list(_classes(grid, observed, matching.match))
    total = math.prod(c.count for c in classes)
    if total <= max(2 * n, 20_000):
        chosen = dict.fromkeys([observed, *_listed(classes, lambda s: matching.admits(s, observed))])
        if len(chosen) <= 2 * n:
            return Matched(tuple(chosen), True, len(chosen))
    rng, seen = random.Random(f"redrawn {seed} {sorted(matching.match)}"), {observed: None}
    for _ in range(TRIES * n):
        if len(seen) == n + 1:
            break
        one = Heads(h for c in classes for h in c.draw(rng))
        if matching.admits(one, observed):
            seen[one] = None
    if len(seen) <= n:
        raise ValueError(
            f"only {len(seen) - 1} of {n} alternatives to {observed} were found that match {_said(matching.match)}; "
            "ask for fewer (n), or match less"
        )
    return Matched(tuple(seen)[1:], False, total)


def _said(match: Iterable[str]) -> str:
    return ", ".join(sorted(match)) or "size"


@dataclass(frozen=True)
class _Class:
    """Heads from which some are chosen: all subsets of one ``signature``, equally likely."""

    groups: tuple[tuple[Head, ...], ...]
    signature: tuple[int, ...]
    fixed: bool
    """Whether each group keeps its own number (KV groups), or the numbers may change places (sharing)."""

    @property
    def count(self) -> int:
        inside = math.prod(math.comb(len(g), k) for g, k in zip(self.groups, self.signature, strict=True))
        if self.fixed:
            return inside
        places = math.factorial(len(self.signature))
        for same in Counter(self.signature).values():
            places //= math.factorial(same)
        return inside * places

    def draw(self, rng: random.Random) -> list[Head]:
        numbers = list(self.signature)
        if not self.fixed:
            rng.shuffle(numbers)
        return [h for g, k in zip(self.groups, numbers, strict=True) for h in rng.sample(g, k)]

    def every(self) -> Iterator[tuple[Head, ...]]:
        for numbers in [self.signature] if self.fixed else _orders(Counter(self.signature), len(self.signature)):
            for parts in product(*(combinations(g, k) for g, k in zip(self.groups, numbers, strict=True))):
                yield tuple(h for part in parts for h in part)


def _orders(left: Counter[int], n: int) -> Iterator[tuple[int, ...]]:
    """Every distinct order of a multiset of numbers."""
    if n == 0:
        yield ()
        return
    for value in sorted(v for v, k in left.items() if k):
        left[value] -= 1
        for rest in _orders(left, n - 1):
            yield (value, *rest)
        left[value] += 1


def _classes(grid: Grid, observed: Heads, match: frozenset[str]) -> Iterator[_Class]:
    layers = observed.layers
    if not match & {"layer", "kv", "sharing"}:  # size alone, anywhere in the model
        everywhere = tuple(Head(at, i) for at in range(grid.n_layers) for i in range(grid.n_heads))
        yield _Class((everywhere,), (len(observed),), True)
        return
    if "layer" not in match and "kv" not in match:  # sharing, in any layers
        groups = tuple(g for at in range(grid.n_layers) for g in _kv_groups(grid, at))
        yield _shared(groups, observed)
        return
    for at in layers:
        groups = tuple(_kv_groups(grid, at))
        if "kv" in match:
            yield _Class(groups, tuple(sum(h in observed for h in g) for g in groups), True)
        elif "sharing" in match and grid.group_size > 1:
            yield _shared(groups, observed)
        else:
            yield _Class((tuple(h for g in groups for h in g),), (len(observed.at(at)),), True)


def _shared(groups: Sequence[tuple[Head, ...]], observed: Heads) -> _Class:
    return _Class(tuple(groups), tuple(sum(h in observed for h in g) for g in groups), False)


def _kv_groups(grid: Grid, at: int) -> Iterator[tuple[Head, ...]]:
    for g in range(grid.n_kv_heads):
        yield tuple(Head(at, i) for i in range(g * grid.group_size, (g + 1) * grid.group_size))


def _listed(classes: Sequence[_Class], admits: Callable[[Heads], bool]) -> Iterator[Heads]:
    for parts in product(*(c.every() for c in classes)):
        one = Heads(h for part in parts for h in part)
        if admits(one):
            yield one

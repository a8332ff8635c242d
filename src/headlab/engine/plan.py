"""From prompts × worlds to passes.  Pure: no torch, no model, no clock.

1. Rows that may share a pass have corrupted prompts of one length (so nothing is ever padded) and worlds of one shape
   (the same sites, layers and writes; only heads, amounts and donors differ).
2. Worlds that are equal but for their names are one world: their rows run once.
3. Pairs of one length are cut into *blocks*, sorted by the first position that an edit can change: the shards of a
   block share what is captured from its prompts.
4. A *shard* is a fixed set of rows of one block and one shape in fixed batches: what is stored, and what is run again
   when it is lost.  Its name is made from all of that, so that shards of two plans are never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from headlab.interventions import World, first_change, shared_prefix
from headlab.material import every
from headlab.prompts import EncodedPair

SHARD_ROWS, DECODED_ROWS = 8192, 256
BATCH_ROWS = 512
BLOCK_BYTES = 256 * 2**20
"""What is kept of a block's prompts takes about this much, or a third of a memory bound."""

FIXED_BYTES = 8 * 2**20
"""What a sweep takes besides rows and blocks: tables, names, the allocator's slack."""

MANY = 4
"""Worlds of one shape from which preparing their linear deltas costs less than running their layer for each."""


@dataclass(frozen=True)
class Cost:
    """Bytes that a model needs.

    ``per_token`` in flight; ``per_score``: one copy of each query × key entry of a pattern; ``per_cached``: keys and
    values of one token in one layer; ``residual`` and ``heads``: one token of the residual stream, and of z;
    ``layers``: how many; ``n_heads``; ``logits``: the logits of one row; ``leaving``: streams that are kept besides those
    that enter layers; ``held``: what a block of logits of every position takes.
    """

    per_token: int
    per_score: int
    per_cached: int = 0
    residual: int = 0
    heads: int = 0
    layers: int = 1
    n_heads: int = 0
    logits: int = 0
    leaving: int = 0
    held: int = 0

    def row(self, length: int, start: int = 0, *, square: bool = False, paths: int = 0) -> int:
        """Bytes of one row of ``length`` tokens that runs from position ``start`` on; ``square``: its patterns are
        edited, which takes more copies of them."""
        run = length - start
        scores = (12 if square else 3) * self.per_score * run * length
        return (
            self.per_token * run + scores + 2 * self.per_cached * length + self.logits + 3 * paths * self.heads * length
        )

    def kept(self, length: int, sites: int, squares: int, entries: int) -> int:
        """Bytes kept of one pair: ``sites`` activations and ``squares`` patterns that edits write or read, what enters
        ``entries`` layers, and the keys and values of all layers.
        """
        each = sites * self.heads + (2 * entries + self.leaving) * self.residual + self.per_cached * self.layers
        return length * (each + 3 * squares * self.per_score * length)

    def deltas(self, length: int, start: int = 0, *, square: bool = False) -> int:
        """Bytes of one pair's per-head deltas, and of what they are made from."""
        scores = 3 * self.per_score * length if square else 0
        return (length - start) * (self.n_heads * self.residual + 3 * self.heads + scores)


@dataclass(frozen=True)
class Shape:
    """Worlds that differ in heads, amounts and donors only: indices into the sweep's worlds.

    ``linear``: their rows start from prepared deltas instead of running the edited layer; ``square``: patterns or
    scores are edited; ``paths``: how many writes are computed in another run.
    """

    worlds: tuple[int, ...]
    layer: int | None
    linear: bool
    square: bool
    paths: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows ``first`` to ``end`` of a shard, in one pass that begins at position ``start``."""

    first: int
    end: int
    start: int


@dataclass(frozen=True)
class Product(Sequence[tuple[int, int]]):
    """Rows ``first`` to ``end`` of each of ``pairs`` under each of ``worlds``, pair after pair; made when they are asked for."""

    pairs: tuple[int, ...]
    worlds: tuple[int, ...]
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[tuple[int, int], ...]: ...
    def __getitem__(self, at: int | slice) -> tuple[int, int] | tuple[tuple[int, int], ...]:
        if isinstance(at, slice):
            return tuple(self[n] for n in range(*at.indices(len(self))))
        pair, world = divmod(self.first + range(len(self))[at], len(self.worlds))
        return self.pairs[pair], self.worlds[world]

    def runs(self, first: int, end: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The pairs of rows ``first`` to ``end``, each with its worlds there."""
        n, at, stop = len(self.worlds), self.first + first, min(self.first + end, self.end)
        while at < stop:
            pair, begin = divmod(at, n)
            upto = min(n, begin + stop - at)
            yield self.pairs[pair], self.worlds[begin:upto]
            at += upto - begin


@dataclass(frozen=True)
class Shard:
    """Rows ``(pair index, world index)`` of one block and one shape, and how they are cut into batches."""

    name: str
    length: int
    block: tuple[int, ...]
    shape: int
    rows: Sequence[tuple[int, int]]
    cuts: tuple[Batch, ...]

    def batches(self) -> Iterator[tuple[tuple[int, int], ...]]:
        """The rows of each batch."""
        for cut in self.cuts:
            yield tuple(self.rows[cut.first : cut.end])

    @property
    def tokens(self) -> int:
        """Tokens that run."""
        return sum((cut.end - cut.first) * (self.length - cut.start) for cut in self.cuts)


@dataclass(frozen=True)
class Plan:
    """``same`` maps worlds that another world equals to that one; their rows are not in ``shards``."""

    shards: tuple[Shard, ...]
    shapes: tuple[Shape, ...]
    same: Mapping[int, int]
    block_bytes: int

    @property
    def rows(self) -> int:
        return sum(len(s.rows) for s in self.shards)

    @property
    def passes(self) -> int:
        return sum(len(s.cuts) for s in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts that are read; fewer run."""
        return sum(s.length * len(s.rows) for s in self.shards)

    @property
    def flight(self) -> int:
        """Tokens in flight in the widest batch: what captures under a memory bound keep to as well."""
        return max(((c.end - c.first) * (s.length - c.start) for s in self.shards for c in s.cuts), default=1)

    def peak_bytes(self, cost: Cost) -> int:
        """Estimated memory beside the model: the widest batch, what is kept of a block, and what is fixed."""
        widest = (
            (c.end - c.first) * cost.row(s.length, c.start, **_extra(self.shapes[s.shape]))
            for s in self.shards
            for c in s.cuts
        )
        return max(widest, default=0) + self.block_bytes


@dataclass(frozen=True)
class Abilities:
    """What the model's load-time check allowed: rows that start at the edited layer (``resume``), after the first
    changed position (``reuse``), or from prepared deltas (``linear``).
    """

    resume: bool = False
    reuse: bool = False
    linear: bool = False


def _extra(shape: Shape) -> dict[str, Any]:
    """What rows of this shape take beside a plain pass: patterns edited as they run, values of a path."""
    return {"square": shape.square and not shape.linear, "paths": shape.paths}


def batch_size(
    length: int, cost: Cost, *, tokens: int, memory: int | None, start: int = 0, kept: int = 0, **extra: Any
) -> int:
    """Rows a batch: about ``tokens`` tokens, and no more than ``memory`` bytes beside the ``kept`` ones.

    ``extra``: as in :meth:`Cost.row`.

    Raises ValueError when not even one row fits.
    """
    rows = min(max(1, tokens // (length - start)), BATCH_ROWS)
    if memory is not None:
        need = cost.row(length, start, **extra)
        fit = (memory - kept) // need
        if fit < 1:
            raise ValueError(
                f"a memory bound of {memory / 2**20:.1f} MiB does not hold one row of {length} tokens, which needs "
                f"about {(need + kept) / 2**20:.1f} MiB; raise --memory"
            )
        rows = min(rows, fit)
    return rows


def make_plan(
    pairs: Sequence[EncodedPair],
    worlds: Sequence[World],
    cost: Cost,
    *,
    tokens: int,
    memory: int | None = None,
    can: Abilities | None = None,
    linear: Sequence[bool] = (),
    tokens_read: bool = False,
    in_shard: int | None = None,
    tag: str = "",
    marks: Sequence[str] = (),
) -> Plan:
    """Every pair × every world, once, in shards.

    ``linear[j]``: world j is linear in z (:func:`headlab.engine.resume.linear`).  ``tokens_read``: every position is
    read, not the last alone.  ``in_shard``: rows of a shard.  ``tag``: what else these shards differ in (readouts …).
    ``marks[j]``: the content of what a world takes from elsewhere (:meth:`headlab.material.Material.mark`).
    """
    can = can or Abilities()
    hashes = [w.content_hash() + mark for w, mark in zip(worlds, marks or [""] * len(worlds), strict=True)]
    asked = [pair_hash(pair) for pair in pairs]
    among = hashlib.sha256("".join(asked).encode()).hexdigest()
    groups, same = _by_shape(worlds, hashes)
    lengths: dict[int, list[int]] = {}
    for i, pair in enumerate(pairs):
        lengths.setdefault(len(pair.corrupted.ids), []).append(i)
    budget = BLOCK_BYTES if memory is None else max(0, memory - FIXED_BYTES) // 3
    shapes, starts = list[Shape](), list[dict[int, int]]()
    for members in groups.values():
        world = worlds[members[0]]
        made = (_starts(pairs, which, world, n, cost, can, tokens_read) for n, which in lengths.items())
        at = {i: start for some in made for i, start in some.items()}
        square = any(one.site in {"pattern", "scores", "v"} for one in world.interventions)
        deltas = max(cost.deltas(n, min(at[i] for i in which), square=square) for n, which in lengths.items())
        # few worlds, or prompts so long that one pair's deltas take too much: the edited layer runs for each row
        flat = can.linear and bool(linear) and linear[members[0]] and len(members) >= MANY and deltas <= budget
        square = any(one.site in {"pattern", "scores"} for one in world.interventions)
        paths = sum(one.computed_in is not None for one in world.interventions)
        shapes.append(Shape(tuple(members), world.first_layer, flat, square, paths))
        starts.append(at)
    each = {n: _kept(n, which, shapes, starts, worlds, cost) for n, which in lengths.items()}
    shards, most = [], 0
    for length, which in sorted(lengths.items()):
        which = sorted(which, key=lambda i: (starts[0][i], i))
        size = max(1, budget // each[length]) if each[length] else len(which)
        for at in range(0, len(which), size):
            block = tuple(which[at : at + size])
            kept = len(block) * each[length] + FIXED_BYTES + cost.held
            most = max(most, kept)
            for number, shape in enumerate(shapes):
                whole, step = len(block) * len(shape.worlds), in_shard or SHARD_ROWS
                for first in range(0, whole, step):
                    some = Product(block, shape.worlds, first, min(first + step, whole))
                    limits = {"tokens": tokens, "memory": memory, "kept": kept, **_extra(shape)}
                    cuts = _cuts(some, starts[number], length, cost, limits)
                    name = _name(length, some, cuts, asked, hashes, among, tag)
                    shards.append(Shard(name, length, block, number, some, cuts))
    return Plan(tuple(shards), tuple(shapes), same, most)


def _by_shape(worlds: Sequence[World], hashes: Sequence[str]) -> tuple[dict[object, list[int]], dict[int, int]]:
    """Worlds by the shape of what they write, and which world another one repeats."""
    first: dict[str, int] = {}
    groups: dict[object, list[int]] = {}
    same: dict[int, int] = {}
    for j, (world, content) in enumerate(zip(worlds, hashes, strict=True)):
        if first.setdefault(content, j) == j:
            groups.setdefault(world.shape, []).append(j)
        else:
            same[j] = first[content]
    return groups, same


def pair_hash(pair: EncodedPair) -> str:
    """SHA-256 of a pair as the model sees it: tokens, roles, what is teacher-forced, the tokens that are compared."""
    sides = [
        [
            e.ids,
            e.n_prompt,
            sorted((r, list(p)) for r, p in e.roles.items()),
            sorted(e.optional),
            e.answer_id,
            e.wrong_id,
            e.more_answer_ids,
            e.more_wrong_ids,
            e.scored,
        ]
        for e in (pair.clean, pair.corrupted)
    ]
    told = [pair.pair.id, pair.pair.cluster, pair.pair.answer, pair.pair.wrong, sides]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _kept(
    length: int,
    which: Sequence[int],
    shapes: Sequence[Shape],
    starts: Sequence[Mapping[int, int]],
    worlds: Sequence[World],
    cost: Cost,
) -> int:
    """Bytes kept of one pair of this length: what all shapes share, and the deltas of one of them at a time."""
    ones = list(every(one for s in shapes for one in worlds[s.worlds[0]].interventions))
    held = sum(max(0, one.layer - min(i.layer for i in one.computed_in)) for one in ones if one.computed_in)
    squares = sum(one.site in {"pattern", "scores"} for one in ones)
    entries = {s.layer for s in shapes} | {one.layer for one in ones if held}
    shared = cost.kept(length, 2 * (len(ones) - squares) + min(held, cost.layers), squares, len(entries))
    flat = [(min(at[i] for i in which), s.square) for s, at in zip(shapes, starts, strict=True) if s.linear]
    return shared + max((cost.deltas(length, at, square=square) for at, square in flat), default=0)


def _starts(
    pairs: Sequence[EncodedPair],
    which: Sequence[int],
    world: World,
    length: int,
    cost: Cost,
    can: Abilities,
    tokens_read: bool,
) -> dict[int, int]:
    """The position at which the pass of each pair begins under worlds of this shape."""
    if not (can.resume and can.reuse and world.interventions):
        return dict.fromkeys(which, 0)
    ones = list(every(world.interventions))  # a path's own run begins where its senders do
    if world.first_layer == cost.layers - 1 and len(ones) == len(world.interventions) and not tokens_read:
        return dict.fromkeys(which, length - 1)
    shared = shared_prefix([pairs[i].corrupted.ids for i in which])
    first = {i: min(first_change(one, pairs[i], shared) for one in ones) for i in which}
    return {i: min(at, length - 1) for i, at in first.items()}


def _cuts(
    rows: Product, starts: Mapping[int, int], length: int, cost: Cost, limits: Mapping[str, Any]
) -> tuple[Batch, ...]:
    """Batches of rows in their order; a batch begins where its earliest row does."""
    out, first = [], 0
    while first < len(rows):
        start = starts[rows[first][0]]
        while True:
            end = first + batch_size(length, cost, start=start, **limits)
            earliest = min(starts[i] for i, _ in rows.runs(first, end))
            if earliest >= start:
                break
            start = earliest
        out.append(Batch(first, min(end, len(rows)), earliest))
        first = end
    return tuple(out)


def _name(
    length: int, rows: Product, cuts: Sequence[Batch], asked: Sequence[str], hashes: Sequence[str], among: str, tag: str
) -> str:
    """A name that no other rows, not these rows in other batches, and not these rows among other pairs have: means and
    donors are taken over all pairs of the sweep (``among``: the hash of them all).

    It is the hash of JSON, ``[[[pair's hash, pair, world's hash], …], [[first, end, start], …], among]`` and the tag if
    there is one; the rows, of which there may be millions, are written as they come.
    """
    digest, between = hashlib.sha256(b"[["), ""
    for i, worlds in rows.runs(0, len(rows)):
        head = f'["{asked[i]}", {i}, "'
        digest.update((between + head + f'"], {head}'.join([hashes[j] for j in worlds]) + '"]').encode())
        between = ", "
    rest = json.dumps([[(c.first, c.end, c.start) for c in cuts], among, *([tag] if tag else [])])
    digest.update(f"], {rest[1:]}".encode())
    return f"len{length}-{digest.hexdigest()[:16]}"

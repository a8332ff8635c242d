"""From prompts × worlds to passes.  Pure: no torch, no model, no clock.

Rows that may share a pass have corrupted prompts of one length (so nothing is ever padded) and worlds of one shape
(the same sites, layers and writes; only heads, amounts and donors differ).  A *shard* is a fixed set of rows with a
fixed batch shape: what is stored, and what is run again when it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headlab.interventions import World
from headlab.prompts import EncodedPair

SHARD_ROWS = 8192


@dataclass(frozen=True)
class Cost:
    """What one row of a model costs: bytes for each token in flight, and for each query × key entry of a pattern."""

    per_token: int
    per_score: int

    def row(self, length: int) -> int:
        """Bytes of one row of ``length`` tokens."""
        return self.per_token * length + self.per_score * length * length


@dataclass(frozen=True)
class Shard:
    """Rows ``(pair index, world index)`` that share length and shape, run ``batch`` at a time."""

    name: str
    length: int
    rows: tuple[tuple[int, int], ...]
    batch: int

    def batches(self) -> Iterator[tuple[tuple[int, int], ...]]:
        for start in range(0, len(self.rows), self.batch):
            yield self.rows[start : start + self.batch]

    @property
    def passes(self) -> int:
        return -(-len(self.rows) // self.batch)


@dataclass(frozen=True)
class Plan:
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(len(s.rows) for s in self.shards)

    @property
    def passes(self) -> int:
        return sum(s.passes for s in self.shards)

    @property
    def tokens(self) -> int:
        return sum(s.length * len(s.rows) for s in self.shards)

    def peak_bytes(self, cost: Cost) -> int:
        """Estimated activation memory of the widest batch."""
        return max((min(s.batch, len(s.rows)) * cost.row(s.length) for s in self.shards), default=0)


def batch_size(length: int, cost: Cost, *, tokens: int, memory: int | None) -> int:
    """Rows a batch: about ``tokens`` tokens, and no more than ``memory`` bytes.

    Raises ValueError when not even one row fits.
    """
    rows = max(1, tokens // length)
    if memory is not None:
        fit = memory // cost.row(length)
        if fit < 1:
            raise ValueError(
                f"a memory bound of {memory / 2**20:.1f} MiB does not hold one row of {length} tokens, which needs "
                f"about {cost.row(length) / 2**20:.1f} MiB; raise --memory"
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
) -> Plan:
    """Every pair × every world, once, in shards."""
    lengths: dict[int, list[int]] = {}
    for i, pair in enumerate(pairs):
        lengths.setdefault(len(pair.corrupted.ids), []).append(i)
    shapes: dict[object, list[int]] = {}
    for j, world in enumerate(worlds):
        shapes.setdefault(world.shape, []).append(j)
    shards = []
    for length, which in sorted(lengths.items()):
        batch = batch_size(length, cost, tokens=tokens, memory=memory)
        for s, members in enumerate(shapes.values()):
            rows = [(i, j) for i in which for j in members]
            for part, start in enumerate(range(0, len(rows), SHARD_ROWS)):
                shards.append(
                    Shard(f"len{length}-shape{s}-{part}", length, tuple(rows[start : start + SHARD_ROWS]), batch)
                )
    return Plan(tuple(shards))

"""The plan: every pair × every world exactly once, rows of one length and one shape, within the memory bound."""

from __future__ import annotations

import random

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from headlab.engine import plan as planning
from headlab.engine.plan import Cost, batch_size, make_plan
from headlab.heads import Heads
from headlab.interventions import Intervention, World

COST = Cost(per_token=100, per_score=7)


def worlds(n: int) -> list[World]:
    rng = random.Random(n)
    out = []
    for i in range(n):
        site = rng.choice(["z", "q", "out_block"])
        layer = rng.randrange(3)
        out.append(World(f"w{i}", (Intervention(Heads.of(layer, [i % 5]), site, "zero"),)))  # type: ignore[arg-type]
    return out


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), tokens=st.integers(1, 500), memory=st.one_of(st.none(), st.integers(3_000, 100_000)))
def test_every_row_stands_once_in_a_batch_it_may_share(n: int, tokens: int, memory: int | None) -> None:
    pairs, some = tiny.mixed_pairs(), worlds(n)
    plan = make_plan(pairs, some, COST, tokens=tokens, memory=memory)
    rows = [row for shard in plan.shards for batch in shard.batches() for row in batch]
    assert sorted(rows) == [(i, j) for i in range(len(pairs)) for j in range(n)]
    assert plan.rows == len(rows) and plan.passes == sum(1 for s in plan.shards for _ in s.batches())
    assert len({s.name for s in plan.shards}) == len(plan.shards)
    for shard in plan.shards:
        assert {len(pairs[i].corrupted.ids) for i, _ in shard.rows} == {shard.length}
        assert len({some[j].shape for _, j in shard.rows}) == 1
        for batch in shard.batches():
            assert len(batch) == 1 or len(batch) * shard.length <= max(tokens, shard.length)
            if memory is not None:
                assert len(batch) * (100 * shard.length + 7 * shard.length**2) <= memory
    if memory is not None:
        assert plan.peak_bytes(COST) <= memory
    assert plan.tokens == sum(len(pairs[i].corrupted.ids) for i, _ in rows)


def test_the_memory_of_a_row_by_hand() -> None:
    """10 tokens: 10·100 + 100·7 = 1,700 bytes; 5,100 bytes hold three rows; 1,699 hold none."""
    assert COST.row(10) == 1700
    assert batch_size(10, COST, tokens=10**6, memory=5100) == 3
    assert batch_size(10, COST, tokens=20, memory=5100) == 2
    assert batch_size(10, COST, tokens=1, memory=None) == 1
    with pytest.raises(ValueError, match=r"does not hold one row of 10 tokens.*raise --memory"):
        batch_size(10, COST, tokens=20, memory=1699)


def test_long_shards_are_cut_so_that_little_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is what is stored and run again: no more than SHARD_ROWS rows, whatever the batch."""
    monkeypatch.setattr(planning, "SHARD_ROWS", 5)
    plan = make_plan(tiny.equal_pairs(4), [World("a"), World("b"), World("c")], COST, tokens=1000)
    assert [len(s.rows) for s in plan.shards] == [5, 5, 2]
    assert [s.name for s in plan.shards] == ["len11-shape0-0", "len11-shape0-1", "len11-shape0-2"]


def test_the_plan_does_not_depend_on_the_batch() -> None:
    """Shards (what is stored) are the same for every batch size, so a run may resume with another --memory."""
    pairs, some = tiny.mixed_pairs(), worlds(7)
    shards = [[(s.name, s.rows) for s in make_plan(pairs, some, COST, tokens=t).shards] for t in (1, 50, 10_000)]
    assert shards[0] == shards[1] == shards[2]

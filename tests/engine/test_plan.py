"""The plan: every pair × every world exactly once, rows of one length and one shape, within the memory bound."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import worlds_for

from headlab.engine import plan as planning
from headlab.engine.plan import FIXED_BYTES, Abilities, Cost, Shard, batch_size, make_plan, pair_hash
from headlab.heads import Heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair

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
@given(
    n=st.integers(1, 9),
    tokens=st.integers(1, 500),
    memory=st.one_of(st.none(), st.integers(FIXED_BYTES + 12_000, FIXED_BYTES + 100_000)),
)
def test_every_row_stands_once_in_a_batch_it_may_share(n: int, tokens: int, memory: int | None) -> None:
    pairs, some = tiny.mixed_pairs(), worlds(n)
    plan = make_plan(pairs, some, COST, tokens=tokens, memory=memory)
    rows = [row for shard in plan.shards for batch in shard.batches() for row in batch]
    apart = [j for j in range(n) if j not in plan.same]
    assert sorted(rows) == [(i, j) for i in range(len(pairs)) for j in apart]
    assert all(some[j].interventions == some[original].interventions for j, original in plan.same.items())
    assert plan.rows == len(rows) and plan.passes == sum(1 for s in plan.shards for _ in s.batches())
    assert len({s.name for s in plan.shards}) == len(plan.shards)
    for shard in plan.shards:
        assert {len(pairs[i].corrupted.ids) for i, _ in shard.rows} == {shard.length}
        assert len({some[j].shape for _, j in shard.rows}) == 1 and {i for i, _ in shard.rows} <= set(shard.block)
        for batch in shard.batches():
            assert len(batch) == 1 or len(batch) * shard.length <= max(tokens, shard.length)
            if memory is not None:
                assert len(batch) * COST.row(shard.length) + plan.block_bytes <= memory
    if memory is not None:
        assert plan.peak_bytes(COST) <= memory
    assert plan.tokens == sum(len(pairs[i].corrupted.ids) for i, _ in rows)


@settings(max_examples=50, deadline=None)
@given(starts=st.lists(st.integers(0, 9), min_size=1, max_size=12), n=st.integers(1, 5), tokens=st.integers(1, 60))
def test_a_batch_begins_no_later_than_any_of_its_rows(starts: list[int], n: int, tokens: int) -> None:
    rows = planning.Product(tuple(range(len(starts))), tuple(range(n)), 0, len(starts) * n)
    cuts = planning._cuts(rows, dict(enumerate(starts)), 10, COST, {"tokens": tokens, "memory": None})
    every = [(i, j) for i in range(len(starts)) for j in range(n)]
    assert [r for c in cuts for r in rows[c.first : c.end]] == list(rows) == every
    for c in cuts:
        assert c.start == min(starts[i] for i, _ in rows[c.first : c.end])
        assert c.end - c.first == 1 or (c.end - c.first) * (10 - c.start) <= tokens


def test_the_memory_of_a_row_by_hand() -> None:
    """10 tokens: 10·100 + 3·100·7 = 3,100 bytes; 9,300 bytes hold three rows, 3,099 none.  From position 6 on:
    4·100 + 3·40·7 = 1,240; and 2·5 bytes of keys and values for each of the 10 tokens; 12 copies of edited patterns.
    """
    assert COST.row(10) == 3100 and COST.row(10, 6) == 1240 and replace(COST, per_cached=5).row(10, 6) == 1340
    assert COST.row(10, square=True) == 1000 + 12 * 700
    assert batch_size(10, COST, tokens=10**6, memory=9300) == 3
    assert batch_size(10, COST, tokens=10**6, memory=9300, kept=3100) == 2
    assert batch_size(10, COST, tokens=20, memory=9300) == 2
    assert batch_size(10, COST, tokens=20, memory=None, start=8) == 10
    assert batch_size(10, COST, tokens=1, memory=None) == 1
    with pytest.raises(ValueError, match=r"does not hold one row of 10 tokens.*raise --memory"):
        batch_size(10, COST, tokens=20, memory=3099)


def test_long_shards_are_cut_so_that_little_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is what is stored and run again: no more than SHARD_ROWS rows, whatever the batch."""
    monkeypatch.setattr(planning, "SHARD_ROWS", 5)
    some = [World(f"w{i}", (Intervention(Heads.of(0, [i]), "z", "zero"),)) for i in range(3)]
    plan = make_plan(tiny.equal_pairs(4), some, COST, tokens=1000)
    assert [len(s.rows) for s in plan.shards] == [5, 5, 2]


def test_a_shards_name_tells_its_rows_and_its_batches() -> None:
    """The same inputs give the same names; another batch, world, pair or order of rows gives others: what was stored
    under one plan is never read under another."""
    pairs, some = tiny.equal_pairs(4), worlds(7)

    def names(p: Any = pairs, w: Any = some, tokens: int = 50) -> list[str]:
        return [s.name for s in make_plan(p, w, COST, tokens=tokens).shards]

    assert names() == names(w=[World(f"other {w.name}", w.interventions) for w in some])
    for others in (
        names(tokens=22),
        names(p=pairs[::-1]),
        names(p=pairs[:3]),
        names(w=[replace(w, interventions=()) for w in some]),
    ):
        assert not set(names()) & set(others)


def named(shard: Shard, pairs: list[EncodedPair], some: list[World], tag: str) -> str:
    """A shard's name by its definition: the hash of JSON, written at once."""
    asked, hashes = [pair_hash(p) for p in pairs], [w.content_hash() for w in some]
    every = hashlib.sha256("".join(asked).encode()).hexdigest()
    whole: list = [
        [(asked[i], i, hashes[j]) for i, j in shard.rows],
        [(c.first, c.end, c.start) for c in shard.cuts],
        every,
    ]
    whole += [tag] if tag else []
    return f"len{shard.length}-{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]}"


@pytest.mark.parametrize("tag", ["", '[{"kind": "loss"}]'])
def test_names_and_rows_are_those_of_a_plan_that_keeps_every_row(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what older versions stored is found again."""
    monkeypatch.setattr(planning, "SHARD_ROWS", 7)
    pairs, some = tiny.mixed_pairs(), worlds_for(tiny.lab("llama"))
    made = make_plan(pairs, some, Cost(1, 1), tokens=30, can=Abilities(True, True), tag=tag)
    assert len(made.shards) > 10 and [s.name for s in made.shards] == [named(s, pairs, some, tag) for s in made.shards]
    at = 0
    for shard in made.shards:
        rows = [(i, j) for i in shard.block for j in made.shapes[shard.shape].worlds]
        at = 0 if at >= len(rows) or shard.rows[0] == rows[0] else at
        assert list(shard.rows) == rows[at : at + 7] and shard.rows[-1] == list(shard.rows)[-1]
        assert [row for rows_of in shard.batches() for row in rows_of] == list(shard.rows)
        at += 7


LONG = """
import json, random, resource, sys, time
from headlab import Heads, Intervention, World, load
from headlab.engine.run import plan_of
from headlab.prompts import encode
from headlab.tasks.decimals import decimals
lab, rng = load("decimals-natural"), random.Random(0)
pairs = [encode(p, lab.tokenizer) for p in decimals(200, tokenizer=lab.tokenizer)]
some = [World(str(n), (Intervention(Heads.of(n % 3, [h for h in range(16) if n // 3 >> h & 1 or h == 15])),))
        for n in range(3, 3 + int(sys.argv[1]))]
began = time.process_time()
plan = plan_of(lab, pairs, some, tokens=None, memory=None)
print(json.dumps([plan.rows, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def planned_alone(worlds: int) -> tuple[int, float, float]:
    """Rows, seconds of processor and peak bytes of a plan of 200 pairs in a process of its own, torch included."""
    env = {**os.environ, "PYTHONPATH": str(Path(planning.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LONG, str(worlds)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


@pytest.mark.accept
def test_a_hundred_thousand_worlds_are_planned_in_a_gigabyte_and_a_minute() -> None:
    rows, seconds, peak = planned_alone(10**5)
    assert rows > 10**7 and seconds <= 60 and peak <= 2**30, (rows, seconds, peak / 2**20)

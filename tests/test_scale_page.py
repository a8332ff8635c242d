"""The simulation of docs/scale.md: the real plan and queue, by hand where nothing is left to luck, and from a seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import scale

STILL = scale.Luck(spread=0.0, start=10.0)


def test_without_luck_the_time_is_that_by_hand() -> None:
    """30 pairs x 1,000 worlds are 30,000 rows: shards of 8,192 three times and 5,424, at 1 ms.  One worker runs them one after
    another; two have 8.192 + 8.192 each but for 5.424; with ten, six of them idle, the longest shard is waited for."""
    shards = scale.plan_of(30, 1000).shards
    assert [len(s.rows) for s in shards] == [8192, 8192, 8192, 5424]
    took = [scale.simulate(shards, n, 0.001, STILL, 0).makespan - 10 for n in (1, 2, 10)]
    assert took == pytest.approx([30.0, 16.384, 8.192])
    assert scale.simulate(shards, 2, 0.001, STILL, 0).efficiency == pytest.approx(30 / (2 * 26.384))


def test_a_seed_gives_the_same_again_and_luck_costs_time() -> None:
    shards = scale.plan_of(100, 1000).shards
    bad = scale.Luck(slow=0.2, life=0.02, start=10.0)
    one, again, other = (scale.simulate(shards, 3, 0.001, bad, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert one.lost == one.again and one.lost + other.lost > 0
    assert one.makespan > scale.simulate(shards, 3, 0.001, STILL, 0).makespan


def test_a_shard_that_always_loses_its_worker_ends_the_sweep() -> None:
    with pytest.raises(RuntimeError, match="lost its worker 3 times"):
        scale.simulate(scale.plan_of(30, 1000).shards, 2, 1.0, scale.Luck(life=0.01), 0)


def test_the_page_says_what_is_not_measured() -> None:
    text = "\n".join(scale.hours({"x": 36.0}, None))
    assert "| x, one core | 36 ms of processor | 100,000 | 800,000 | 160,000,000 (1,600 cores) |" in text
    assert "**not measured**" in text
    entry = {"model": "m", "job": "Z", "methods": {"headlab": {"status": "ok", "wall": [3.6]}}}
    card = {"machine": {"gpu": "A card"}, "entries": [entry]}
    text = "\n".join(scale.hours({}, card))
    assert (
        "| m Z, A card | 3.6 ms | 1,000,000 | 8,000,000 | 800,000,000 (800 cards) |" in text
        and "not measured" not in text
    )


@pytest.mark.accept
def test_the_page_is_what_its_seeds_give() -> None:
    assert "\n".join(scale.table(**scale.SIMULATED)) in scale.PAGE.read_text(encoding="utf-8")

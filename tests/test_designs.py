"""Alternatives to a named set of heads: counts by combinatorics, matching by counting, seeds."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlab import designs, heads
from headlab.heads import Grid, Head, Heads

SIXTEEN = Grid(n_layers=4, n_heads=16, n_kv_heads=4)
MHA = Grid(n_layers=2, n_heads=7, n_kv_heads=7)


def profile(grid: Grid, some: Heads) -> list[int]:
    return [sum(grid.kv_group_of(h.index) == g for h in some) for g in range(grid.n_kv_heads)]


def test_sixteen_heads_in_four_groups_have_1296_matched_halves() -> None:
    even = heads.even(SIXTEEN, 2)
    matched = designs.matched_sets(SIXTEEN, even, n=999, seed=0)
    assert matched.enumerated and matched.total == len(matched.sets) == math.comb(4, 2) ** 4 == 1296
    assert len(set(matched.sets)) == 1296 and even in matched.sets
    assert all(profile(SIXTEEN, s) == [2, 2, 2, 2] and s.layers == (2,) for s in matched.sets)


def test_a_sample_of_matched_sets_is_distinct_and_leaves_the_observed_one_out() -> None:
    even = heads.even(SIXTEEN, 1)
    matched = designs.matched_sets(SIXTEEN, even, n=400, seed=5)
    assert not matched.enumerated and matched.total == 1296
    assert len(matched.sets) == len(set(matched.sets)) == 400 and even not in matched.sets
    assert all(profile(SIXTEEN, s) == [2, 2, 2, 2] for s in matched.sets)
    assert matched == designs.matched_sets(SIXTEEN, even, n=400, seed=5)
    assert matched.sets != designs.matched_sets(SIXTEEN, even, n=400, seed=6).sets


def test_an_uneven_set_keeps_its_own_counts() -> None:
    """3 of group 0, none of group 1, 1 of group 2, 4 of group 3: C(4,3)·1·C(4,1)·1 = 16 sets."""
    observed = Heads.of(0, [0, 1, 3, 10, 12, 13, 14, 15])
    matched = designs.matched_sets(SIXTEEN, observed, n=999, seed=0)
    assert matched.total == 16 and matched.enumerated
    assert all(profile(SIXTEEN, s) == [3, 0, 1, 4] for s in matched.sets)


def test_one_head_to_a_group_matches_the_size_only() -> None:
    matched = designs.matched_sets(MHA, Heads.of(1, [0, 2, 4]), n=100, seed=0)
    assert matched.total == math.comb(7, 3) == 35
    assert set(matched.sets) == {Heads.of(1, c) for c in combinations(range(7), 3)}


def test_matching_is_for_one_layer_and_heads_that_exist() -> None:
    with pytest.raises(ValueError, match="one layer"):
        designs.matched_sets(SIXTEEN, Heads.parse("L0H0 L1H0"), n=5, seed=0)
    with pytest.raises(ValueError, match="one layer, given none"):
        designs.matched_sets(SIXTEEN, Heads(), n=5, seed=0)
    with pytest.raises(ValueError, match="head L0H16 is out of range"):
        designs.matched_sets(SIXTEEN, Heads.of(0, [16]), n=5, seed=0)


def test_complement_singles_and_leave_one_out() -> None:
    pool = Heads.of(1, [0, 3, 5])
    assert designs.complement(MHA, pool) == Heads.of(1, [1, 2, 4, 6])
    assert designs.singles(pool) == (Heads.of(1, [0]), Heads.of(1, [3]), Heads.of(1, [5]))
    assert designs.leave_one_out(pool) == (Heads.of(1, [3, 5]), Heads.of(1, [0, 5]), Heads.of(1, [0, 3]))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(0, 7), n=st.integers(1, 40), seed=st.integers(0, 5))
def test_subsets_are_distinct_of_their_size_and_all_when_few(size: int, n: int, seed: int) -> None:
    pool = heads.layer(MHA, 0)
    some = designs.subsets(pool, size, n=n, seed=seed)
    assert len(some) == len(set(some)) == min(n, math.comb(7, size))
    assert all(len(s) == size and not s - pool for s in some)
    assert some == designs.subsets(pool, size, n=n, seed=seed)


def test_subsets_of_an_impossible_size() -> None:
    with pytest.raises(ValueError, match="size 8 is out of range: the pool has 7 heads"):
        designs.subsets(heads.layer(MHA, 0), 8, n=3, seed=0)


def test_subsets_reach_every_member() -> None:
    """200 subsets of half a layer: each of the 16 heads is in about half (binomial, 5 sigma)."""
    some = designs.subsets(heads.layer(SIXTEEN, 0), 8, n=200, seed=1)
    counts = [sum(Head(0, h) in s for s in some) for h in range(16)]
    assert all(abs(c - 100) < 5 * math.sqrt(50) for c in counts) and sum(counts) == 1600


def test_random_masks_are_distinct_and_end_when_there_are_no_more() -> None:
    pool = heads.layer(MHA, 0)
    assert len(set(designs.random_masks(pool, n=60, seed=0))) == 60
    assert len(set(designs.random_masks(pool, n=1000, seed=0))) == 2**7
    assert designs.random_masks(pool, n=60, seed=0) != designs.random_masks(pool, n=60, seed=1)


def test_chains_grow_by_one_head_from_nothing_to_the_pool() -> None:
    pool = heads.layer(MHA, 1)
    chains = designs.chains(pool, n=9, seed=3)
    assert len(chains) == 9 and len(set(chains)) > 1
    for chain in chains:
        assert chain[0] == Heads() and chain[-1] == pool and [len(s) for s in chain] == list(range(8))
        assert all(not a - b for a, b in pairwise(chain))


def test_membership_is_a_matrix() -> None:
    pool = Heads.of(0, [1, 4, 6])
    rows = list(designs.membership([Heads.of(0, [4]), Heads(), pool], pool))
    assert rows == [[False, True, False], [False, False, False], [True, True, True]]

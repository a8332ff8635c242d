"""Names of heads, pools by hand, and what is out of range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headlab import heads
from headlab.heads import Grid, Head, Heads, KVHeads

GQA = Grid(n_layers=3, n_heads=10, n_kv_heads=2)
MHA = Grid(n_layers=2, n_heads=5, n_kv_heads=5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_name_says_layer_and_index(layer: int, index: int) -> None:
    assert Head.parse(f"L{layer}H{index}") == Head(layer, index)
    assert str(Head(layer, index)) == f"L{layer}H{index}"


@pytest.mark.parametrize("name", ["", "105", "L10", "L-1H0", "L1H2x", "H4L10", "1.2.3", "L1H"])
def test_what_is_not_a_head(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name like 'L10H4'"):
        Head.parse(name)


@pytest.mark.parametrize("name", ["10H4", "l10h4", "L10 H4", "10.4", "L10.4", "a10.h4", "(10, 4)", "10,4"])
def test_a_head_as_others_write_it_is_told_as_it_is_written_here(name: str) -> None:
    """Not read, since 10.10 is 10.1 where a file holds numbers."""
    with pytest.raises(ValueError, match="write 'L10H4'"):
        Head.parse(name)


def test_heads_of_negative_numbers_and_none() -> None:
    with pytest.raises(ValueError, match="layer >= 0 and index >= 0"):
        Head(-1, 0)


def test_heads_are_a_sorted_set() -> None:
    some = Heads([Head(10, 4), Head(2, 11), Head(10, 4), Head(2, 3)])
    assert str(some) == "L2H3 L2H11 L10H4" and len(some) == 3
    assert some == Heads.parse("L10H4, L2H3  L2H11") and hash(some) == hash(Heads.parse("L2H11 L2H3 L10H4"))
    assert some.layers == (2, 10) and some.at(2) == (3, 11) and some.at(5) == ()
    assert some | Heads.of(0, [1]) == Heads.parse("L0H1 L2H3 L2H11 L10H4")
    assert some - Heads.parse("L2H3") == Heads.parse("L2H11 L10H4")
    assert Head(2, 3) in some and Head(2, 4) not in some
    assert some != "L2H3 L2H11 L10H4" and repr(Heads()) == "Heads()"


def test_groups_share_a_kv_head_in_repeat_interleave_order() -> None:
    assert GQA.group_size == 5 and [GQA.kv_group_of(h) for h in range(10)] == [0] * 5 + [1] * 5
    assert heads.kv_group(GQA, 1, 1) == Heads.parse("L1H5 L1H6 L1H7 L1H8 L1H9")
    assert heads.group_position(GQA, 1, 2) == Heads.parse("L1H2 L1H7")
    assert MHA.group_size == 1 and heads.kv_group(MHA, 0, 3) == Heads.parse("L0H3")


def test_pools_by_name() -> None:
    expected = {
        "even": (0, 2, 4, 6, 8),
        "odd": (1, 3, 5, 7, 9),
        "all": tuple(range(10)),
        "any": tuple(range(10)),
        "kv_group:0": (0, 1, 2, 3, 4),
        "group_position:4": (4, 9),
        "7,2": (2, 7),
    }
    for name, indices in expected.items():
        assert heads.pool(GQA, 2, name) == Heads.of(2, indices), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("evens", "unknown pool 'evens'; expected all, even, odd"),
        ("kv_group:x", "unknown pool"),
        ("kv_group:2", "KV group 2 is out of range: this model has groups 0 to 1"),
        ("group_position:5", "position 5 is out of range: KV groups here have 5 heads"),
        ("3,10", "head L1H10 is out of range: this model has layers 0 to 2 and heads 0 to 9"),
    ],
)
def test_a_pool_that_does_not_exist(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        heads.pool(GQA, 1, name)


def test_an_empty_pool_is_an_error() -> None:
    """A model with one head a layer has no odd heads."""
    with pytest.raises(ValueError, match=r"pool 'odd' is empty at layer 0: this model has 1 head\(s\) a layer"):
        heads.pool(Grid(2, 1, 1), 0, "odd")


def test_layers_out_of_range() -> None:
    for at in (-1, 3):
        with pytest.raises(ValueError, match=f"layer {at} is out of range: this model has layers 0 to 2"):
            heads.pool(GQA, at, "even")
    with pytest.raises(ValueError, match="head L3H0 is out of range"):
        GQA.check(Heads.parse("L0H0 L3H0"))


def test_a_grid_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="10 query heads cannot be shared evenly by 3 KV heads"):
        Grid(1, 10, 3)
    with pytest.raises(ValueError, match="at least one layer, head and KV head"):
        Grid(0, 1, 1)


def test_kv_heads_are_another_axis() -> None:
    some = KVHeads(2, (1, 0, 1))
    assert str(some) == "L2KV0 L2KV1" and some.at(2) == (0, 1) and some.at(1) == () and len(some) == 2
    for layer, indices in ((-1, (0,)), (0, ()), (0, (-1,))):
        with pytest.raises(ValueError, match="KV heads need a layer >= 0 and at least one index >= 0"):
            KVHeads(layer, indices)

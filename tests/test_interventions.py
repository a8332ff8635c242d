"""Interventions as data: what means nothing is refused, and the same data has the same hash."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from headlab.heads import Grid, Heads, KVHeads
from headlab.interventions import Intervention, InterventionError, World, patch

GRID = Grid(3, 10, 2)
SOME = Heads.of(1, [0, 3])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"site": "v"}, "site 'v' takes KVHeads"),
        ({"site": "pattern", "write": "zero"}, "'zero' is not defined at 'pattern': rows would leave the simplex"),
        ({"site": "scores", "write": "noise"}, "'noise' is not defined at 'scores'"),
        ({"site": "pattern", "write": "rescale"}, "'rescale' at 'pattern' would leave the simplex"),
        ({"write": "exchange", "donors": (1,)}, "'exchange' needs one donor for each of the 2 heads"),
        (
            {"site": "resid", "write": "exchange", "donors": (1, 2)},
            "'exchange' is defined between heads, not at 'resid'",
        ),
        ({"when": "every_step"}, "must say what is written beyond the prompt"),
        ({"when": "every_step", "write": "mean"}, "'mean' has no source beyond the prompt"),
        ({"heads": Heads.parse("L0H1 L1H1")}, "one intervention edits one layer"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InterventionError, match=words):
        Intervention(**{"heads": SOME, **fields})


def test_unknown_words_are_listed_with_the_known_ones() -> None:
    """The check itself, called on unchecked fields: under test the types in the signature would speak first."""
    for name, words in (
        ("site", "unknown site 'other'; expected one of q, k, v, scores, pattern, z, out_block, subspace, resid"),
        ("write", "unknown write 'other'; expected one of patch, noop, zero, mean, resample"),
    ):
        one = object.__new__(Intervention)
        one.__dict__.update({**Intervention(SOME).__dict__, name: "other"})
        with pytest.raises(InterventionError, match=words):
            one.__post_init__()


def test_an_intervention_is_frozen_data() -> None:
    one = Intervention(SOME, "z", "patch", amount=0.5, roles=("a", "b"))
    with pytest.raises(FrozenInstanceError):
        one.amount = 1.0  # type: ignore[misc]
    assert json.loads(json.dumps(one.plain())) == {
        "heads": "L1H0 L1H3", "site": "z", "write": "patch", "align": "role", "when": "prefill", "amount": 0.5,
        "roles": ["a", "b"], "beyond": None, "donors": [], "keys": None, "from_keys": None, "decoy": False,
        "seed": 0,
    }  # fmt: skip
    assert Intervention(KVHeads(2, (1,)), "k", "zero").plain()["kv_heads"] == "L2KV1"


def test_a_world_is_hashed_by_what_it_does_and_not_by_its_name() -> None:
    one = Intervention(SOME, "z", "patch")
    base = World("a", (one,), {"arm": "even"})
    assert base.content_hash() == World("b", (one,), {"arm": "odd"}).content_hash()
    changes: list[dict[str, Any]] = [
        {"heads": Heads.of(1, [0, 4])}, {"heads": Heads.of(2, [0, 3])}, {"site": "q"}, {"write": "zero"}, {"align": "end"},
        {"amount": 0.5}, {"roles": ("a",)}, {"seed": 1}, {"beyond": "last"}, {"beyond": "last", "when": "every_step"},
        {"write": "exchange", "donors": (1, 2)},
    ]  # fmt: skip
    hashes = {World("a", (replace(one, **c),)).content_hash() for c in changes}
    assert len(hashes | {base.content_hash()}) == len(changes) + 1
    assert (
        World("a", (one, replace(one, seed=1))).content_hash() != World("a", (replace(one, seed=1), one)).content_hash()
    )


def test_worlds_share_a_pass_when_only_heads_amounts_and_donors_differ() -> None:
    one = Intervention(SOME, "z", "patch")
    assert World("a", (one,)).shape == World("b", (replace(one, heads=Heads.of(1, [7]), amount=0.1),)).shape
    for change in ({"heads": Heads.of(2, [0])}, {"site": "q"}, {"roles": ("a",)}, {"seed": 4}, {"align": "end"}):
        assert World("a", (one,)).shape != World("b", (replace(one, **change),)).shape
    assert World("x").first_layer is None
    assert World("x", (replace(one, heads=Heads.of(2, [1])), one)).first_layer == 1


def test_heads_are_checked_against_the_model() -> None:
    Intervention(SOME).check(GRID)
    Intervention(KVHeads(2, (0, 1)), "v", "zero").check(GRID)
    for one, words in (
        (Intervention(Heads.of(1, [10])), "head L1H10 is out of range"),
        (Intervention(KVHeads(1, (2,)), "v", "zero"), "L1KV2 is out of range: this model has KV heads 0 to 1"),
        (
            Intervention(SOME, "z", "exchange", donors=(1, 10)),
            "a donor is out of range: 'z' of this model has heads 0 to 9",
        ),
        (Intervention(KVHeads(1, (0,)), "k", "exchange", donors=(2,)), "'k' of this model has heads 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            one.check(GRID)


def test_patch_parts_fields_from_labels() -> None:
    world = patch("even", SOME, amount=0.5, align="end", arm="z", size=2)
    assert world.interventions == (Intervention(SOME, "z", "patch", align="end", amount=0.5),)
    assert world.labels == {"arm": "z", "size": 2} and world.name == "even"

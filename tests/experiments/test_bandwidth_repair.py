"""bandwidth-repair: nothing moved is nothing changed, the neutral keys are neutral, and heads that read the format show."""

from __future__ import annotations

import pytest

from headlab.experiments import builtin_claims, load, trial
from headlab.experiments.doses import bandwidth_repair
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.heads import Heads
from headlab.interventions import key_positions
from headlab.prompts import encode
from headlab.tasks.decimals import decimals
from headlab.trials.dose_repair import compared

EXPERIMENTS.setdefault("bandwidth-repair", bandwidth_repair.EXPERIMENT)
SMALL = {
    "pairs": 24,
    "matched_sets": 8,
    "decide": "fixed",
    "layer": 0,
    "options": {"doses": [0.0, 0.5, 1.0], "random_halves": 2},
}


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    claim = adjusted(builtin_claims()["bandwidth-repair"], **SMALL)
    return trial(claim, natural, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_verdict_tables_and_figures(result) -> None:
    assert [r.protocol for r in result.record.readings] == ["standard", "published"]
    assert result.verdict.outcome == "untestable"  # fewer than 100 pairs
    assert {f.name for f in result.figures} == {"dose", "null"}
    assert {e.name for e in result.record.readings[0].estimates} >= {
        "repair:odd",
        "gain:odd",
        "rank:odd",
        "minimum:odd",
    }
    assert set(result.tables["doses"]["set"]) == {"even", "odd", "random halves"}


def test_moving_nothing_changes_nothing(result) -> None:
    rows = result.effects[result.effects["world"].str.endswith("× 0")]
    assert len(rows) >= 24 * 4 and (rows["edited"] - rows["corrupted"]).abs().max() < 1e-3
    assert {c.name: c.passed for c in result.verdict.controls} == {"no-op": True, "patch-all": True}


def test_heads_that_read_the_format_are_moved(result) -> None:
    """In this organism the even heads of layer 0 read the format: moving all of it repairs, in the odd ones it does not."""
    doses = result.tables["doses"].set_index(["arm", "set", "dose"])["right"]
    assert doses["numbers", "even", 1.0] > 0.5 > 0.3 > doses["numbers", "odd", 1.0]


def test_neutral_keys_are_as_many_and_neither_numbers_nor_source(natural) -> None:
    pairs = [encode(p, natural.tokenizer) for p in decimals(5, tokenizer=natural.tokenizer)]
    arms = compared(pairs, bandwidth_repair.moved)
    assert arms.same.name == "numbers-frame" and arms.other is not None  # too few tokens outside the whole format
    for pair in pairs:
        keys, source = key_positions(arms.same.edit(Heads(), 0.5), pair.corrupted)
        drawn, same = key_positions(arms.other.edit(Heads(), 0.5), pair.corrupted)
        assert len(keys) == len(drawn) == 6 and source == same and not set(drawn) & {0, *keys, *source}


@pytest.mark.accept
def test_the_claim_falls_at_full_size(store) -> None:
    for name in ("decimals-natural", "decimals-planted-even"):
        assert trial("bandwidth-repair", name, store=store).verdict.outcome == "refuted"

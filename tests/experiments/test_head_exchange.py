"""head-exchange: z really changes places, the identity is exact, and nobody keeps its place in a shuffle."""

from __future__ import annotations

import random

import pytest
import torch

from headlab.designs.exchanges import derangement, exchange
from headlab.engine.run import sweep
from headlab.experiments import load, trial
from headlab.experiments.exchanges import head_exchange
from headlab.experiments.trial import EXPERIMENTS, adjusted, find_claim
from headlab.heads import Grid
from headlab.interventions import InterventionError, World
from headlab.prompts import encode
from headlab.trials.case import draw
from headlab.trials.exchanges import identity_control

EXPERIMENTS.setdefault("head-exchange", head_exchange.EXPERIMENT)


@pytest.fixture(scope="module")
def planted():
    return load("decimals-planted-even")


@pytest.fixture(scope="module")
def result(planted, tmp_path_factory):
    claim = adjusted(
        find_claim("head-exchange"), pairs=24, matched_sets=12, decide="fixed", layer=1, options={"shuffles": 4}
    )
    return trial(claim, planted, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_tables_figures_and_a_verdict(result) -> None:
    assert result.verdict.outcome == "untestable" and "at least 100 pairs" in result.verdict.sentence
    assert {f.name for f in result.figures} == {"null-across", "null-within-even", "arms"}
    assert {"effects", "shuffles"} <= set(result.tables)
    moved = result.tables["shuffles"]
    assert (moved["slot"] != moved["receives"]).all()
    assert set(moved.groupby("family")["slot"].nunique()) == {8, 16}


def test_the_identity_is_exact_and_shuffles_take_hold(result) -> None:
    controls = {c.name: c for c in result.verdict.controls}
    assert set(controls) == set(head_exchange.EXPERIMENT.controls) and all(c.passed for c in controls.values())
    assert controls["identity"].value == 0.0 and controls["takes-hold"].value > 1.0


def test_planted_slots_need_their_own_heads(result) -> None:
    """The plant was trained on each even head's own output: given to other slots it repairs far less, within parity
    as across, while shuffling the odd heads, in which nothing was planted, leaves every repair."""
    found = {e.name: e.estimate["value"] for e in result.record.readings[0].estimates}
    assert found["repair:within-odd"] > 0.9 > 0.5 > found["repair:across"]


def test_an_unshuffled_run_does_not_pass_for_a_shuffle(result, planted) -> None:
    """Mutant: a shuffled world under the name of the identity turns the control red."""
    effects = result.tables["effects"]
    effects = effects[(effects["protocol"] == "standard") & (effects["world"] != "identity")].copy()
    effects.loc[effects["world"] == "baseline", "world"] = "identity"
    assert not identity_control(effects, planted, "all", "a shuffle").passed


def test_exchanged_heads_are_read_by_the_weights_of_their_new_slot(planted) -> None:
    """Slot i receives head j's z: the same logits as a model whose output projection was permuted the other way."""
    claim = adjusted(find_claim("parity"), pairs=6, layer=1)
    pairs = [encode(p, planted.tokenizer) for p in draw(claim, planted.tokenizer, None)[0]]
    mapping = derangement(range(planted.grid.n_heads), random.Random(3))
    found = sweep(planted, pairs, [World("shuffle", (exchange(1, mapping, "z"),))])["edited"].to_numpy()
    other = load("decimals-planted-even")
    columns = other.model.model.layers[1].self_attn.o_proj.weight.detach().unflatten(1, (other.grid.n_heads, -1))
    with torch.no_grad():
        columns[:, [mapping[i] for i in range(other.grid.n_heads)]] = columns.clone()
    expected = sweep(other, pairs, [World("unedited")])["edited"].to_numpy()
    assert abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("n_heads", [4, 9, 16])
def test_across_gives_every_slot_a_head_of_the_other_parity(n_heads: int) -> None:
    found = head_exchange.across(Grid(1, n_heads, n_heads), random.Random(0))
    assert len(found) == n_heads // 2 * 2 and sorted(found) == sorted(found.values())
    assert all((i - j) % 2 for i, j in found.items())


def test_too_few_heads_are_refused_in_words() -> None:
    with pytest.raises(InterventionError, match="too few heads"):
        derangement([3], random.Random(0))


@pytest.mark.accept
@pytest.mark.parametrize("model", ["decimals-natural", "decimals-planted-even"])
def test_slots_are_not_told_apart_by_parity_at_full_size(model: str, store) -> None:
    assert trial("head-exchange", model, store=store).verdict.outcome == "refuted"

"""The planted truth is found, by the measures that can find it."""

from __future__ import annotations

import numpy as np
import pytest

from headlab import designs, organisms, stats
from headlab.effects import mean_recovery, pivot
from headlab.engine.run import sweep
from headlab.experiments import load, trial
from headlab.heads import Head, Heads
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import encode
from headlab.tasks.decimals import decimals

PLANTED = ("decimals-planted-even", "decimals-planted-random")
PAIRS = 40


@pytest.fixture(scope="module", params=PLANTED)
def swept(request):
    """Recovery and repair share of many subsets of the planted layer, and which heads are planted."""
    truth = organisms.card(request.param).truth
    lab = load(request.param)
    pairs = [encode(p, lab.tokenizer) for p in decimals(PAIRS, seed=5)]
    whole = all_heads(lab.grid, truth.layer)
    planted = Heads(Head.parse(h) for h in truth.heads)
    plan = stats.shapley_plan(lab.grid.n_heads, 24, seed=0)
    coalitions = [Heads(h for h, inside in zip(whole, row, strict=True) if inside) for row in plan.coalitions]
    masks = designs.random_masks(whole, n=300, seed=1)
    sets = list(dict.fromkeys([*designs.singles(whole), *designs.leave_one_out(whole), *coalitions, *masks, whole]))
    worlds = [World(f"set {s}", (Intervention(s),) if len(s) else ()) for s in sets]
    table = sweep(lab, pairs, worlds)
    edited = pivot(table, [w.name for w in worlds])
    one = table.drop_duplicates("pair").sort_values("pair")
    recovered = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
    return {
        "whole": whole, "planted": np.array([h in planted for h in whole]), "k": truth.k, "plan": plan, "masks": masks,
        "coalitions": coalitions, "recovery": dict(zip(sets, recovered, strict=True)),
        "repair": dict(zip(sets, (edited > 0).mean(1), strict=True)),
    }  # fmt: skip


def test_shapley_values_of_the_logit_difference_find_the_planted_heads(swept) -> None:
    values = np.array([swept["recovery"][s] for s in swept["coalitions"]])
    shares = stats.shapley_from_chains(swept["plan"], values)
    assert stats.auroc([e.value for e in shares], swept["planted"]).value == 1.0


def test_regression_on_random_subsets_finds_the_planted_heads(swept) -> None:
    inside = np.array(list(designs.membership(swept["masks"], swept["whole"])))
    fitted = stats.additive(inside, np.array([swept["recovery"][s] for s in swept["masks"]]))
    assert stats.auroc([e.value for e in fitted.effects], swept["planted"]).value == 1.0


def test_leaving_one_out_finds_the_planted_heads(swept) -> None:
    whole = swept["recovery"][swept["whole"]]
    loss = [whole - swept["recovery"][s] for s in designs.leave_one_out(swept["whole"])]
    assert stats.auroc(loss, swept["planted"]).value == 1.0


def test_the_single_head_repair_rate_does_not(swept) -> None:
    """Below the planted threshold no head alone repairs anything, so the rate tells nobody apart."""
    rates = [swept["repair"][s] for s in designs.singles(swept["whole"])]
    assert swept["k"] >= 3
    assert stats.auroc(rates, swept["planted"]).value < 0.75


@pytest.mark.accept
@pytest.mark.parametrize("name", PLANTED)
def test_head_count_finds_the_planted_threshold(name: str, store) -> None:
    """The smallest size drawn from the planted set whose repair lower bound exceeds .5 is the planted k."""
    truth = organisms.card(name).truth
    pool = ",".join(str(Head.parse(h).index) for h in truth.heads)
    result = trial("head-count", name, layer=truth.layer, pool=pool, pairs=100, protocol="standard", store=store)
    found = {e.name: e.estimate["value"] for e in result.record.readings[0].estimates}
    assert found[f"threshold:{pool}"] == truth.k


@pytest.mark.accept
@pytest.mark.parametrize("slug", ["parity", "layer-scan"])
def test_planted_even_upholds_parity_at_the_planted_layer(slug: str, store) -> None:
    """The layer is chosen by the experiment, on pairs that the test never sees."""
    truth = organisms.card("decimals-planted-even").truth
    result = trial(slug, "decimals-planted-even", protocol="standard", store=store)
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    assert result.record.settings["layer"] == truth.layer


@pytest.mark.accept
@pytest.mark.parametrize("name", PLANTED)
def test_attention_bandwidth_does_not_identify_the_planted_heads(name: str, store) -> None:
    """At the planted layer, where recovery ranks every planted head above every other one (above)."""
    result = trial("bandwidth", name, protocol="standard", store=store)
    auroc = next(e.estimate for e in result.record.readings[0].estimates if e.name == "auroc:truth")
    assert result.record.settings["layer"] == organisms.card(name).truth.layer
    assert auroc["n"] == 16 and auroc["low"] < 0.5 and auroc["high"] < 0.8
    assert result.verdict.outcome == "refuted", result.verdict.sentence

"""routing: roles add up to what bandwidth reads, uniform attention shows nothing, controls bite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from headlab.experiments import load, trial
from headlab.experiments.attention import routing as room
from headlab.experiments.trial import EXPERIMENTS
from headlab.measures import bandwidth, edited
from headlab.prompts import encode
from headlab.tasks.decimals import decimals
from headlab.trials.attention_scores import grids

EXPERIMENTS.setdefault("routing", room.EXPERIMENT)
SMALL: dict[str, Any] = {"pairs": 40, "layer": 1, "matched_sets": 700}


@pytest.fixture(scope="module")
def lab():
    return load("decimals-planted-even")


def test_a_trial_ends_with_roles_layers_and_a_verdict(lab, store) -> None:
    result = trial("routing", lab, store=store, **SMALL)
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls)
    roles = result.tables["roles"]
    assert len(roles) == 2 * 7 and (roles["low"] <= roles["gap"]).all() and (roles["gap"] <= roles["high"]).all()
    assert set(result.tables["layers"]["layer"]) == {0, 1, 2}
    assert [f.kind for f in result.figures] == ["estimates", "null", "curve"]
    assert [r.protocol for r in result.record.readings] == ["standard", "naive", "published"]


def test_roles_add_up_to_the_share_of_the_numbers(lab) -> None:
    encoded = [encode(p, lab.tokenizer).corrupted for p in decimals(6)]
    table = room.routes(lab, encoded)
    summed = room.to_numbers(table, "last")[1]
    share = bandwidth(lab, encoded, sink="in", relative=False)
    wanted = grids(share[share["token_class"] == "numeric"], "share")[1]
    assert np.allclose(summed, wanted, atol=1e-6)


def test_heads_that_ask_for_nothing_route_alike(store) -> None:
    lab = load("decimals-natural")
    for layer in range(3):
        attention: Any = lab.attentions[layer]
        attention.q_proj.weight.data.zero_()
    result = trial("routing", lab, store=store, **SMALL)
    found = {e.name: e.estimate for e in result.record.readings[0].estimates if not e.arm}
    assert found["contrast:numbers"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["rank:numbers"]["value"] == 1 and result.verdict.outcome == "refuted"


def test_the_positive_control_must_fire(lab, store, monkeypatch) -> None:
    monkeypatch.setattr(edited, "pointing", lambda encoded, heads: torch.clone)
    result = trial("routing", lab, store=store, protocol="standard", **SMALL)
    assert result.verdict.outcome == "void" and "pointed" in result.verdict.sentence


def test_two_pairs_are_enough_to_end(lab, store) -> None:
    result = trial("routing", lab, store=store, pairs=2, layer=0)
    assert result.verdict.outcome in {"refuted", "undecided", "untestable"}

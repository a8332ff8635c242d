"""architecture: facts as they are, a position that carries the repair is found, and one that does not is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headlab.designs import divisions
from headlab.experiments import load, trial
from headlab.experiments.attention import architecture as room
from headlab.experiments.trial import EXPERIMENTS
from headlab.heads import Grid
from headlab.trials import sweeps

EXPERIMENTS.setdefault("architecture", room.EXPERIMENT)
SMALL: dict[str, Any] = {"pairs": 100, "layer": 0, "matched_sets": 128}


def facts(result) -> dict[str, str]:
    return dict(zip(result.tables["facts"]["fact"], result.tables["facts"]["value"], strict=True))


def strongest_first(strongest: dict[int, int]):
    """The natural organism with a head of each KV group moved to position 0 (query rows and output columns): the same
    function, other names."""
    lab = load("decimals-natural")
    module: Any = lab.attentions[0]
    size = lab.head_dim

    def swap(weight: torch.Tensor, a: int, b: int) -> None:
        first, second = (slice(h * size, (h + 1) * size) for h in (a, b))
        weight[first], weight[second] = weight[second].clone(), weight[first].clone()

    for group, head in strongest.items():
        swap(module.q_proj.weight.data, 4 * group, head)
        swap(module.o_proj.weight.data.T, 4 * group, head)
    return lab


@pytest.mark.parametrize(("sets", "others"), [(48, 48), pytest.param(128, 255, marks=pytest.mark.accept)])
def test_positions_and_facts(store, sets: int, others: int) -> None:
    """The natural organism: one position repairs nearly everything, and by luck, as divisions nobody named do too.
    Daily among 48 other pools that are drawn (``make accept``: among all 255 others of 4 heads in each of 4 groups)."""
    fields = {**SMALL, "matched_sets": sets}
    result = trial("architecture", "decimals-natural", store=store, **fields)
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls)
    known = facts(result)
    assert (known["heads"], known["kv_heads"], known["group_size"], known["head_dim"]) == ("16", "4", "4", "8")
    assert known["positions"] == "rotary" and known["disagreements with the config"] == "none"
    found = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert found["recovery:position:2"]["low"] > 0.5 and found["rank:label"]["value"] > 0.05
    assert result.record.readings[1].verdict.outcome == "untestable"
    assert [f.kind for f in result.figures] == ["estimates", "null", "null"]

    pools = result.tables["pools"].set_index("heads")["recovery"]
    best = pools.idxmax()
    indices = [int(name.split("H")[1]) for name in best.split()]
    moved = strongest_first({i // 4: i for i in indices})
    again = trial("architecture", moved, store=store, protocol="standard", **fields)
    ranked = {e.name: e.estimate for e in again.record.readings[0].estimates}
    assert ranked["rank:position:0"]["value"] == pytest.approx(1 / (1 + others))
    assert ranked["recovery:position:0"]["value"] == pytest.approx(pools[best], abs=1e-3)


def test_heads_with_keys_of_their_own_have_no_positions(store) -> None:
    result = trial("architecture", "decimals-natural-neox", store=store, **SMALL)
    assert result.verdict.outcome == "untestable" and "no KV group has positions" in result.verdict.sentence
    assert facts(result)["group_size"] == "1"


def test_a_patch_that_patches_nothing_voids_the_trial(store, monkeypatch) -> None:
    real = sweeps.protocol_patch

    def idle(protocol, name, heads, **fields):
        return real(protocol, name, heads, **{**fields, "amount": 0.0})

    monkeypatch.setattr(sweeps, "protocol_patch", idle)
    fields: dict[str, Any] = {**SMALL, "matched_sets": 8, "protocol": "standard"}
    result = trial("architecture", "decimals-planted-even", store=store, **fields)
    assert result.verdict.outcome == "void" and "patch-all" in result.verdict.sentence


def test_divisions_hold_every_head_once() -> None:
    grid = Grid(2, 16, 4)
    for division in divisions(grid, 1, 5, seed=0):
        assert sorted(h.index for pool in division for h in pool) == list(range(16))
        assert all([grid.kv_group_of(h.index) for h in pool] == [0, 1, 2, 3] for pool in division)

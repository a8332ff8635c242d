"""pattern-swap: the swap is what it says, the identity is exact, the null relabels parity within KV groups."""

from __future__ import annotations

import random

import pytest
import torch

from headlab.designs.exchanges import exchange
from headlab.engine.run import sweep
from headlab.experiments import load, trial
from headlab.experiments.exchanges import pattern_swap
from headlab.experiments.trial import EXPERIMENTS, adjusted, find_claim
from headlab.heads import Grid
from headlab.interventions import World
from headlab.prompts import encode
from headlab.trials.case import draw
from headlab.trials.exchanges import identity_control

EXPERIMENTS.setdefault("pattern-swap", pattern_swap.EXPERIMENT)
GRIDS = (Grid(2, 16, 4), Grid(2, 12, 12), Grid(2, 9, 3), Grid(2, 8, 1))


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    claim = adjusted(find_claim("pattern-swap"), pairs=24, matched_sets=12, decide="fixed")
    return trial(claim, natural, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_tables_figures_and_a_verdict(result) -> None:
    """Two dozen pairs are too few to be eligible, and that is what the verdict says."""
    assert result.verdict.outcome == "untestable" and "at least 100 pairs" in result.verdict.sentence
    assert {f.name for f in result.figures} == {"null", "arms"}
    assert {"effects", "partners"} <= set(result.tables)
    for reading in result.record.readings:
        for e in reading.estimates:
            assert e.estimate["value"] is None or e.estimate["low"] <= e.estimate["value"] <= e.estimate["high"], e


def test_the_identity_swap_is_an_exact_no_op_and_random_swaps_take_hold(result) -> None:
    controls = {c.name: c for c in result.verdict.controls}
    assert set(controls) == set(pattern_swap.EXPERIMENT.controls)
    assert controls["identity"].passed and controls["identity"].value == 0.0
    assert controls["takes-hold"].passed and controls["takes-hold"].value > 1.0
    assert controls["no-op"].passed and controls["patch-all"].passed


def test_a_swap_that_is_no_identity_turns_its_control_red(result, natural) -> None:
    """Mutant: the table holds the swap of both sides under the name of the identity."""
    effects = result.tables["effects"]
    first = effects[(effects["protocol"] == "standard") & (effects["world"] != "identity")].copy()
    first.loc[first["world"] == "both", "world"] = "identity"
    assert not identity_control(first, natural, "noop", "a swap").passed


def test_a_borrowed_pattern_is_that_of_the_lender(natural) -> None:
    """Heads of one KV group read the same keys, so borrowing a pattern is borrowing the query: the same logits as a
    model whose query rows were copied."""
    claim = adjusted(find_claim("parity"), pairs=6, layer=1)
    pairs = [encode(p, natural.tokenizer) for p in draw(claim, natural.tokenizer, None)[0]]
    world = World("swap", (exchange(1, pattern_swap.partners(natural.grid)["even-on-odd"], "pattern"),))
    found = sweep(natural, pairs, [world])["edited"].to_numpy()
    copied = load("decimals-natural")
    weight = copied.model.model.layers[1].self_attn.q_proj.weight
    rows = weight.detach().unflatten(0, (copied.grid.n_heads, -1))
    with torch.no_grad():
        rows[1::2] = rows[::2].clone()
    expected = sweep(copied, pairs, [World("unedited")])["edited"].to_numpy()
    unedited = sweep(natural, pairs, [World("unedited")])["edited"].to_numpy()
    assert abs(found - expected).max() < 1e-3 < abs(found - unedited).max()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_partners_stay_in_their_kv_group(grid: Grid) -> None:
    rng = random.Random(0)
    for _ in range(20):
        found = pattern_swap.relabelled(grid, rng)
        assert len(found) == grid.n_heads // 2 and not set(found) & set(found.values())
        if grid.group_size % 2 == 0:
            assert all(grid.kv_group_of(a) == grid.kv_group_of(b) for a, b in found.items())
        other = pattern_swap.from_another_group(grid, rng)
        assert all(grid.kv_group_of(a) != grid.kv_group_of(b) for a, b in other.items())
        assert bool(other) == (grid.n_kv_heads > 1 and grid.group_size % 2 == 0)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_parity_partners_are_the_published_ones(grid: Grid) -> None:
    found = pattern_swap.partners(grid)
    assert all(b == a - 1 and a % 2 == 1 for a, b in found["even-on-odd"].items())
    assert all(b == a + 1 and a % 2 == 0 for a, b in found["odd-on-even"].items())
    assert all(a % 2 == b % 2 == 1 and a != b for a, b in found["same-odd"].items())


@pytest.mark.accept
@pytest.mark.parametrize("model", ["decimals-natural", "decimals-planted-even"])
def test_parity_of_the_lender_tells_nothing_at_full_size(model: str, store) -> None:
    assert trial("pattern-swap", model, store=store).verdict.outcome == "refuted"

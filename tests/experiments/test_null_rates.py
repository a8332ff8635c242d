"""null-rates: a numbering asked of the model as it is says what really moving the heads says, and the rule keeps its rate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from headlab.claims import ClaimError
from headlab.designs import numberings
from headlab.experiments import load, null_rates, null_rates_table, trial
from headlab.experiments.heads import relabelled
from headlab.experiments.null_rates import allowed, shares
from headlab.experiments.null_rates_table import defaults, over_models
from headlab.experiments.trial import EXPERIMENTS, adjusted, find_claim
from headlab.heads import Grid
from headlab.store import Store

MANY = 5


def claim_of(n: int = MANY, **fields):
    return adjusted(find_claim("null-rates"), options={"relabellings": n}, readings=("standard",), **fields)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A Gemma-shaped organism and one that does not exist; the reference is counted by its own numbering only."""
    store = Store(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(null_rates_table, "PLANTED", "decimals-natural-gemma")
        models = ["decimals-natural-gemma", "no-such-folder/model"]
        return store, over_models(models, relabellings=15, store=store)


def move(lab, at: int, order: tuple[int, ...]) -> None:
    """Really number a Llama-shaped layer anew: rows of W_Q, W_K and W_V, columns of W_O."""
    size, attention = lab.grid.group_size, lab.attentions[at]
    groups = [old // size for old in order[::size]]
    with torch.no_grad():
        for name, new in (("q_proj", list(order)), ("k_proj", groups), ("v_proj", groups)):
            weight = getattr(attention, name).weight
            weight.copy_(weight.unflatten(0, (len(new), -1))[new].flatten(0, 1))
        weight = attention.o_proj.weight
        weight.copy_(weight.unflatten(1, (len(order), -1))[:, list(order)].flatten(1))


@pytest.mark.parametrize(
    ("name", "at"), [("decimals-natural-gemma", 0), pytest.param("decimals-planted-even", 1, marks=pytest.mark.accept)]
)
def test_really_moving_the_heads_gives_the_same_trial(name: str, at: int, tmp_path) -> None:
    """The whole of ``parity`` on a model whose weights were moved, against the row that needed no second run."""
    told = trial(claim_of(layer=at), name, store=tmp_path / "a")
    rows = told.tables["trials"].set_index("relabelling")
    other = rows[rows["contrast"] != rows.loc[0, "contrast"]].sort_values("contrast").index[-1]
    row, order = rows.loc[other], tuple(map(int, rows.loc[other, "order"].split()))
    lab = load(name)
    size = lab.grid.group_size
    assert lab.grid.n_kv_heads == 1 or [h // size for h in order[::size]] != list(range(lab.grid.n_kv_heads))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = lab.model(ids).logits
        move(lab, at, order)
        assert (lab.model(ids).logits - before).abs().max() < 1e-4
    parity = adjusted(find_claim("parity"), pairs=100, readings=("standard",), layer=at, decide="fixed")
    result = trial(parity, lab, store=tmp_path / "b")
    found = {e.name: e.estimate["value"] for e in result.record.readings[0].estimates if e.arm == "z"}
    assert result.verdict.outcome == row["outcome"] != "void"
    assert found["repair:even"] == row["repair_even"] and found["repair:odd"] == row["repair_odd"]
    assert found["rank:even"] == pytest.approx(row["p"]) and found["rank:even"] != rows.loc[0, "p"]
    assert found["contrast:recovery"] == pytest.approx(row["recovery_gap"], abs=1e-4)
    naive = next(r for r in result.record.readings if r.protocol == "naive").verdict.outcome == "upheld"
    assert naive == row["naive"]


@pytest.mark.accept
def test_the_planted_numbering_is_upheld_and_its_controls_pass(store) -> None:
    planted = trial(claim_of(layer=1), "decimals-planted-even", store=store)
    own = planted.tables["trials"].set_index("relabelling").loc[0]
    assert own["outcome"] == "upheld" and own["p"] == pytest.approx(1 / 1296) and own["contrast"] > 0.9
    controls = {c.name: c for c in planted.verdict.controls}
    assert controls["no-op"].passed and controls["no-op"].value < 1e-4 and controls["patch-all"].value == 1.0
    assert planted.tables["layers"].loc[0, "halves"] == 1296 and len(planted.figures) == 1
    assert len(planted.tables["trials"]) == MANY + 1


@pytest.mark.parametrize("grid", [Grid(1, 8, 1), Grid(1, 6, 6), Grid(1, 8, 2), Grid(1, 6, 2)])
def test_numberings_keep_groups_whole_and_reach_every_half_alike(grid: Grid) -> None:
    drawn = numberings.free_numberings(grid, 4000, "a test")
    size = grid.group_size
    for order in drawn[:50]:
        assert sorted(order) == list(range(grid.n_heads))
        for start in range(0, grid.n_heads, size):
            assert len({h // size for h in order[start : start + size]}) == 1
    counts = Counter(numberings.evens_of(0, order) for order in drawn)
    # size 3: two groups of three, evens at places 0 2 | 4, so two of one group and one of the other
    expected = {Grid(1, 8, 1): 70, Grid(1, 6, 6): 20, Grid(1, 8, 2): 36, Grid(1, 6, 2): 18}[grid]
    assert len(counts) == expected and chisquare(list(counts.values())).pvalue > 0.001


def frame(decided: int, upheld: int, naive: int = 0, trials: int | None = None) -> pd.DataFrame:
    n = np.arange(decided if trials is None else trials)
    return pd.DataFrame({"decided": n < decided, "upheld": n < upheld, "naive": n < naive, "model": "m"})


def test_the_bound_and_its_denominator() -> None:
    assert allowed(100) == pytest.approx(0.05 + 2 * 0.0217945, abs=1e-6) and allowed(0) is None
    found = shares(frame(80, 3, 60, trials=100))
    assert (found["upheld:relabelled"].value, found["upheld:relabelled"].n) == (3 / 80, 80)
    assert found["naive:relabelled"].value == 60 / 80 and found["decided:relabelled"].value == 0.8


def test_a_rule_that_upholds_too_often_and_a_parity_not_found_are_void() -> None:
    own = pd.DataFrame({"relabelling": [0, 1], "outcome": ["upheld", "refuted"]})
    claim = find_claim("null-rates")
    two = pd.concat([frame(50, 2, 40), frame(50, 2, 40).assign(model="n")])
    assert null_rates_table._pooled(claim, two, own).verdict.outcome == "refuted"
    too_many = pd.concat([frame(50, 5, 40), frame(50, 5, 40).assign(model="n")])
    verdict = null_rates_table._pooled(claim, too_many, own).verdict
    assert verdict.outcome == "void" and "nominal-rate" in verdict.sentence
    missed = null_rates_table._pooled(claim, two, own.assign(outcome="refuted")).verdict
    assert missed.outcome == "void" and "planted" in missed.sentence


def test_a_list_of_models_is_a_table_with_its_denominator(table) -> None:
    store, result = table
    rows = result.tables["models"].set_index("model")
    one, missing = rows.loc["decimals-natural-gemma"], rows.loc["no-such-folder/model"]
    child = store.record(one["id"])
    assert one["trials"] == 15 * len(child.settings["layers"]) and 0 < one["decided"] <= one["trials"]
    assert one["upheld_share"] == one["upheld"] / one["decided"] and one["upheld_low"] <= one["upheld_share"]
    assert missing["trials"] == 0 and "no-such-folder/model" in missing["reason"]
    assert one["naive"] > one["upheld"] and f"{one['decided']} decided" in result.record.notes[0]
    assert {f.name for f in result.figures} == {"models"} and result.record.slug not in EXPERIMENTS
    assert [c.name for c in result.verdict.controls] == ["nominal-rate", "planted"]


def test_a_rule_without_its_rank_breaks_the_bound(table, store, monkeypatch) -> None:
    """Mutant: every half counts as the most extreme.  What then is upheld is what the naive reading finds."""
    real = relabelled.Halves.rank
    best = {"outcome": "upheld", "low": 0.0, "high": 0.0, "under": 1.0, "over": 0.0}
    monkeypatch.setattr(relabelled.Halves, "rank", lambda self, half: replace(real(self, half), **best))
    result = trial(claim_of(12, layer=0), "decimals-natural-gemma", store=store)
    found = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert found["upheld:relabelled"]["value"] > allowed(found["upheld:relabelled"]["n"])


def test_a_model_in_which_no_layer_repairs_is_untestable(store, monkeypatch) -> None:
    scan = [{"layer": at, "repaired": share, "pairs": 60} for at, share in enumerate((0.1, 0.5, 0.3))]
    monkeypatch.setattr(null_rates, "choose_layer", lambda *_: (1, scan))
    result = trial(claim_of(2), "decimals-natural-gemma", store=store)
    assert result.verdict.outcome == "untestable" and "layer 1, the best, repairs 50%" in result.verdict.sentence


def test_one_head_has_no_halves() -> None:
    with pytest.raises(ClaimError, match="one head"):
        numberings.free_numberings(Grid(1, 1, 1), 3, "a test")


def test_the_command_refuses_what_makes_no_table(store, capsys) -> None:
    from headlab.cli import main

    assert main(["null-rates", "decimals-null-0", "decimals-null-0", "--store", str(store)]) == 2
    assert "named twice" in capsys.readouterr().err
    assert main(["null-rates", "--relabellings", "0", "--store", str(store)]) == 2
    assert len(defaults()) == 13


@pytest.mark.accept
def test_over_null_seeds_and_natural_organisms_the_rule_keeps_its_rate(store) -> None:
    """At the layers that repair: upheld in at most 5 % and two standard errors of the decided trials; naive far more."""
    result = over_models(store=store)
    rows = result.tables["models"]
    decided, upheld, naive = (int(rows[c].sum()) for c in ("decided", "upheld", "naive"))
    assert decided >= 1300 and len(rows) == 13 and (rows["decided"] > 0).all()
    assert upheld / decided <= 0.05 + 2 * (0.05 * 0.95 / decided) ** 0.5, (upheld, decided)
    assert naive / decided > 0.3 and naive > 5 * upheld, (naive, upheld, decided)
    assert all(c.passed for c in result.verdict.controls) and result.verdict.outcome == "refuted"

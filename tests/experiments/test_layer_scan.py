"""layer-scan names the planted layer, on pairs that the choice never saw."""

from __future__ import annotations

import numpy as np
import pytest

from headlab import organisms
from headlab.experiments import builtin_claims, trial
from headlab.experiments.heads import layer_scan
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.report import nulls
from headlab.trials import layer_choice

EXPERIMENTS.setdefault("layer-scan", layer_scan.EXPERIMENT)
SMALL = {"pairs": 100, "selection_pairs": 20, "matched_sets": 8, "decide": "fixed", "readings": ("standard",)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    claim = adjusted(builtin_claims()["layer-scan"], **{**SMALL, "matched_sets": 75})
    return trial(claim, "decimals-planted-even", store=tmp_path_factory.mktemp("runs"))


def found(result) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[0].estimates}


def test_the_planted_layer_is_named_and_the_claim_upheld(planted) -> None:
    truth = organisms.card("decimals-planted-even").truth
    assert truth is not None and planted.record.settings["layer"] == truth.layer == 1
    assert planted.verdict.outcome == "upheld", planted.verdict.sentence
    assert found(planted)["repair:elsewhere"]["high"] < 0.5 < found(planted)["repair:even"]["low"]
    assert found(planted)["selection:steady"]["low"] > 0.9
    assert {f.kind for f in planted.figures} == {"curve", "null"} and "effects" in planted.tables
    (null,) = [n for f in planted.figures if (n := nulls.null(f, planted.record, planted.tables))]
    assert len(null.sets) == len(null.values) == 75 and all(s.layers == (1,) for s in null.sets)


def test_controls_pass_and_the_no_op_is_exact(planted) -> None:
    passed = {c.name: c for c in planted.verdict.controls}
    assert all(c.passed for c in passed.values()) and passed["no-op"].value < 1e-4 and passed["patch-all"].value == 1.0


def test_holm_over_layers_finds_parity_at_the_planted_layer_only(planted) -> None:
    tests = planted.tables["tests"].set_index("layer")
    assert tests.loc[1, "rank_p_holm"] < 0.05 and tests.loc[1, "p_holm"] < 0.05
    assert (tests["p_holm"] >= tests["p"]).all() and (tests["rank_p_holm"] >= tests["rank_p"]).all()
    assert tests.loc[2, "p_holm"] > 0.05


def test_selection_pairs_share_no_fraction_pair_with_the_test() -> None:
    from headlab.experiments import load
    from headlab.trials.case import draw

    claim = adjusted(builtin_claims()["layer-scan"], **SMALL)
    test, selection = draw(claim, load("decimals-planted-random").tokenizer, None)
    assert len(selection) > 5 and not {p.cluster for p in test} & {p.cluster for p in selection}


def test_on_the_random_planted_set_the_layer_is_named_and_parity_falls(store) -> None:
    claim = adjusted(builtin_claims()["layer-scan"], **SMALL)
    result = trial(claim, "decimals-planted-random", store=store)
    assert result.record.settings["layer"] == 1 and found(result)["repair:all"]["value"] == 1.0
    assert result.verdict.outcome == "refuted"


def test_a_layer_chosen_by_few_pairs_is_called_unsteady() -> None:
    """Two layers that repair other clusters: resampling the clusters must change the winner."""
    hits = np.array([[True] * 11 + [False] * 9, [False] * 10 + [True] * 10])
    wins = layer_choice.wins(hits, np.arange(20), seed=0)
    assert wins.sum() == layer_choice.RESAMPLES and 100 < wins[1] < wins[0]


def test_the_bound_for_other_layers_holds_for_all_at_once(planted) -> None:
    """The maximum over layers has the widest upper bound of all, not that of one look."""
    scan = planted.tables["scan"]
    others = scan[(scan["set"] == "all") & (scan["layer"] != 1)]
    assert found(planted)["repair:elsewhere"]["high"] > others["high"].max()
    assert found(planted)["repair:elsewhere"]["value"] == others["repaired"].max()


@pytest.mark.accept
def test_the_published_protocol_stands_beside_it(store) -> None:
    result = trial("layer-scan", "decimals-natural", store=store)
    standard, published = result.record.readings
    assert (standard.protocol, published.protocol) == ("standard", "published")
    assert standard.verdict.outcome == "refuted" and published.verdict.outcome == "void"

"""critical-paths: the strongest edges beat random ones of equal weight, and equal weight is equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headlab.designs.edges import Edges, alike, knock_out, parted, roles_of, strongest
from headlab.engine.captures import capture
from headlab.experiments import load, trial
from headlab.experiments.attention import critical_paths
from headlab.experiments.trial import EXPERIMENTS, adjusted, find_claim
from headlab.measures.edges import role_edges
from headlab.prompts import encode
from headlab.trials import knocked_out
from headlab.trials.case import draw

EXPERIMENTS.setdefault("critical-paths", critical_paths.EXPERIMENT)


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def clean(natural):
    claim = adjusted(find_claim("parity"), pairs=10, layer=1)
    return [encode(p, natural.tokenizer) for p in draw(claim, natural.tokenizer, None)[0]]


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    claim = adjusted(find_claim("critical-paths"), pairs=20, matched_sets=75, layer=0)
    return trial(claim, natural, store=tmp_path_factory.mktemp("runs"))


def test_top_edges_beat_random_edges_of_equal_weight(result) -> None:
    """The truth that the experiment must find: gradients see edges on which the answer depends."""
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    assert {f.name for f in result.figures} == {"null", "arms"}
    sets = result.tables["sets"]
    assert np.allclose(sets["weight"] * sets["scaled_by"], sets["top_weight"] * sets["top_scaled_by"])
    assert np.allclose(sets[["scaled_by", "top_scaled_by"]].max(axis=1), 1.0)


def test_the_published_list_cuts_nothing(result) -> None:
    assert result.record.readings[1].verdict.outcome == "untestable"
    assert "cannot run" in result.record.readings[1].verdict.sentence


def test_controls(result) -> None:
    controls = {c.name: c for c in result.verdict.controls}
    assert controls["no-op"].passed and controls["no-op"].value < 1e-3
    assert controls["knock-out-all"].passed


def test_edges_chosen_for_doing_nothing_are_refuted(natural, store, monkeypatch) -> None:
    """Mutant: the edges with the least attribution in the place of the strongest."""

    def weakest(found: Edges, top: int) -> list[int]:
        return strongest(replace(found, attribution=1e-9 / (1 + abs(found.attribution))), top)

    monkeypatch.setattr(knocked_out, "strongest", weakest)
    claim = adjusted(find_claim("critical-paths"), pairs=24, matched_sets=24, layer=0, readings=("standard",))
    assert trial(claim, natural, store=store).verdict.outcome in {"refuted", "undecided"}


def test_weights_are_those_of_the_pattern(natural, clean) -> None:
    """The weight of an edge between roles, summed from captured patterns by hand."""
    encoded = [p.clean for p in clean]
    roles = roles_of(encoded)
    assert "bos" not in roles and "last" not in roles and "answer" in roles
    found = role_edges(natural, encoded, 1, roles)
    patterns = capture(natural, encoded, [(1, "pattern")])[1, "pattern"]
    for edge in ((3, "answer", "a_frac"), (0, "cue", "b_int")):
        head, query, key = edge
        sums = []
        for e, pattern in zip(encoded, patterns, strict=True):
            queries = range(e.n_prompt, len(e.ids)) if query == "answer" else e.roles[query]
            sums.append(sum(float(pattern[q, head, k]) for q in queries for k in e.roles[key]))
        assert found.weight[found.edges.index(edge)] == pytest.approx(np.mean(sums), rel=1e-4)


def test_random_edges_come_from_the_same_rows() -> None:
    edges = tuple((h, q, k) for h in range(2) for q in "ab" for k in "xyz")
    found = Edges(edges, np.linspace(1, 2, 12), np.linspace(-1, 1, 12))
    top = strongest(found, 2)
    assert [edges[i] for i in top] == [(1, "b", "z"), (1, "b", "y")]
    for seed in range(5):
        drawn = alike(found, top, np.random.default_rng(seed))
        assert [edges[i] for i in drawn] == [(1, "b", "x")]


def test_heads_that_share_an_edge_go_into_one_mask() -> None:
    world = knock_out("w", 1, [(0, "q", "k"), (3, "q", "k"), (2, "q", "j")], 0.5)
    assert [(str(i.heads), i.roles, i.keys, i.amount) for i in world.interventions] == [
        ("L1H2", ("q",), ("j",), 0.5),
        ("L1H0 L1H3", ("q",), ("k",), 0.5),
    ]


def test_edges_are_chosen_on_other_fraction_pairs(clean) -> None:
    choosing, test = parted(clean, 0.4, 0)
    assert choosing and test and len(choosing) + len(test) == len(clean)
    assert not {p.pair.cluster for p in choosing} & {p.pair.cluster for p in test}


def test_a_knock_out_that_takes_nothing_away_fails_its_control() -> None:
    """Mutant: every edge cut, and the answer's margin where it was."""
    import pandas as pd

    rows = [
        {"pair": i, "cluster": f"c{i}", "world": world, "edited": 5.0 + 0.1 * i}
        for i in range(11)
        for world in ("baseline", "all")
    ]
    table = pd.DataFrame(rows)
    assert not critical_paths.Lost(table, 0).positive().passed
    table.loc[table["world"] == "all", "edited"] -= 4.0
    assert critical_paths.Lost(table, 0).positive().passed


@pytest.mark.accept
def test_top_edges_beat_matched_random_edges_at_full_size(store) -> None:
    """As it ships, on the natural organism: the layer chosen on selection pairs, 99 random sets of equal weight."""
    result = trial("critical-paths", "decimals-natural", store=store)
    found = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    assert found["contrast:lost"]["low"] > 0.3 and found["rank:top"]["high"] < 0.05
    assert len(result.tables["sets"]) == 99 and all(c.passed for c in result.verdict.controls)

"""Sets of heads as documents name them, and those drawn in their place.  Counts by hand; draws against enumeration."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from headlab.designs import matched_sets
from headlab.heads import Grid, Head, Heads
from headlab.trials.alternatives import least_p
from headlab.trials.references import Matching, redrawn
from headlab.trials.score_files import ScoreError, circuit, scores
from headlab.trials.sets import Family, Scene, SetError, parse, resolve

GRID = Grid(3, 6, 2)  # three layers, six heads in two KV groups of three
SCORES = {Head(at, h): at + h / 10 for at in range(3) for h in range(6)}


def made(value: object, **sets: object) -> object:
    scene = Scene(GRID, (1,), sets, lambda _: SCORES, seed=0)  # type: ignore[arg-type]
    return resolve(parse(value), scene, "it")


def test_every_kind_of_set() -> None:
    named = Heads.parse("L0H1 L2H5")
    assert made("L0H1 L2H5") == named
    assert made({"pool": "even"}) == Heads.of(1, [0, 2, 4])
    assert made({"pool": [0, 5], "layer": [0, 2]}) == Heads.parse("L0H0 L0H5 L2H0 L2H5")
    assert made({"top": 2, "by": "s"}) == Heads.parse("L2H5 L2H4")
    assert made({"top": 0.5, "by": "s", "among": {"pool": "all"}}) == Heads.parse("L1H5 L1H4 L1H3")
    assert made({"above": 2.35, "by": "s"}) == Heads.parse("L2H4 L2H5")
    assert made({"not": "a", "among": {"pool": "all", "layer": 0}}, a=named) == Heads.of(0, [0, 2, 3, 4, 5])
    assert made(["a", "L1H1"], a=named) == named | Heads.parse("L1H1")
    singles = made({"singles": "a"}, a=named)
    assert isinstance(singles, Family) and [str(m) for m in singles.members] == ["L0H1", "L2H5"]
    united = made(["a", {"singles": "L1H0 L1H1"}], a=named)
    assert isinstance(united, Family) and united.members[1] == named | Heads.parse("L1H1")
    chain = made({"chains": {"pool": "even"}, "by": "s"})
    assert isinstance(chain, Family) and [len(m) for m in chain.members] == [1, 2, 3]
    assert str(chain.members[0]) == "L1H4"
    drawn = made({"draw": 2, "from": {"pool": "all"}, "n": 15})
    assert isinstance(drawn, Family) and len(set(drawn.members)) == math.comb(6, 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("L0H9", "out of range"),
        ({"pool": "prime"}, "unknown pool"),
        ({"top": 99, "by": "s"}, "99 of 18"),
        ({"above": 9, "by": "s"}, "holds no head"),
        ({"draw": 9, "from": {"pool": "all"}, "n": 2}, "9 of 6 heads"),
    ],
)
def test_a_set_that_this_model_cannot_give_says_so(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(value)


@pytest.mark.parametrize(
    "value", [3, [], {"pol": "even"}, {"top": 2}, {"top": 2.5, "by": "s"}, {"pool": "all", "n": 2}, "L1"]
)
def test_what_is_no_set_is_refused_when_it_is_read(value: object) -> None:
    with pytest.raises(SetError):
        parse(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("9.6 9.9", "L9H6 L9H9"),
        (9.6, "L9H6"),
        ([9, 6], "L9H6"),
        ("(9, 6)", "L9H6"),
        ("a9.h6, l9h9", "L9H6 L9H9"),
        ([[9, 6], "L9H9"], "L9H6"),
    ],
)
def test_heads_written_in_another_way_are_told_as_headlab_writes_them(value: object, written: str) -> None:
    with pytest.raises(SetError, match=f"; write '{written}'$"):
        parse(value)


def test_scores_of_other_tools_are_read_and_others_refused(tmp_path: Path) -> None:
    """The forms are those of the tools' own writers (EAP-IG Graph.to_json, CircuitKIT CircuitScores.to_json), beside plain
    names and tables.  Expected numbers by hand; an edge counts for the head that it leaves, by its absolute score."""
    nodes = {"a2.h1<q>": {"score": 0.3}, "a2.h1<v>": {"score": 0.2}, "m2": {"score": 9}, "a1.h4": {"score": 0.25}}
    marked = {"in_graph": False}
    edges = {"a2.h1->a3.h0<q>": -0.3, "a2.h1->logits": 0.2, "a1.h4->m2": 0.25, "m2->logits": 5, "input->a1.h4<k>": 7}
    files = {
        "plain.json": {"L2H1": 0.5, "1.4": 0.25},
        "graph.json": {"cfg": {"n_layers": 3}, "nodes": nodes},
        "edges.json": {
            "cfg": {"n_layers": 3},
            "nodes": {"input": marked, "a2.h1": {"in_graph": True}, "a1.h4": marked, "m2": {"in_graph": True}},
            "edges": {name: {"score": x, "in_graph": True} for name, x in edges.items()},
        },
        "kit_scores.json": {
            "task": "ioi", "level": "node", "version": "1.0", "node_scores": {"A2.1": 0.5, "A1.4": 0.25, "MLP 2": 9.0},
        },
        "rows.json": [{"layer": 2, "head": 1, "score": 0.5}, {"layer": 1, "head": 4, "score": 0.25}],
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_text(json.dumps(data))
        assert scores(tmp_path / name) == {Head(2, 1): 0.5, Head(1, 4): 0.25}, name
    assert circuit(tmp_path / "edges.json") == [Head(2, 1)]
    (tmp_path / "t.csv").write_text("layer,head,score\n2,1,0.5\n1,4,0.25\n")
    assert scores(tmp_path / "t.csv") == {Head(2, 1): 0.5, Head(1, 4): 0.25}
    neurons = '{"level": "neuron", "node_scores": {"L3.42": 1}}'
    refused = {"a.json": "{}", "b.json": "[1, 2]", "c.json": "not", "d.csv": "x,y\n1,2\n", "n.json": neurons}
    for name, text in refused.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ScoreError, match=name):
            scores(tmp_path / name)
    with pytest.raises(ScoreError, match="marks no head"):
        circuit(tmp_path / "graph.json")


def test_references_over_layers_are_all_there_are_or_uniform_draws() -> None:
    """Counted by hand: two heads of one KV group in layer 0 can lie in either group (2 · C(3,2) = 6 sets); one head of
    layer 2 anywhere in it (6): 36.  A sample of them is uniform (chi-square under its 99.9 % point)."""
    observed = Heads.parse("L0H0 L0H1 L2H3")
    shared = Matching(frozenset({"layer", "sharing"}))
    every = redrawn(GRID, observed, shared, n=999, seed=0)
    assert every.enumerated and len(every.sets) == 36 and observed in every.sets
    assert least_p(every) == 1 / 36
    for one in every.sets:
        assert [len(one.at(at)) for at in range(3)] == [2, 0, 1]
        assert GRID.kv_group_of(one.at(0)[0]) == GRID.kv_group_of(one.at(0)[1])
    by_layer = redrawn(GRID, observed, Matching(frozenset({"layer"})), n=999, seed=0)
    assert len(by_layer.sets) == math.comb(6, 2) * 6
    anywhere = redrawn(GRID, Heads.parse("L1H2"), Matching(frozenset()), n=999, seed=0)
    assert len(anywhere.sets) == 18
    count = Counter(s for seed in range(150) for s in redrawn(GRID, observed, shared, n=9, seed=seed).sets)
    assert observed not in count
    expected = 150 * 9 / 35
    chi = sum((count[s] - expected) ** 2 / expected for s in every.sets if s != observed)
    assert chi < 66.6  # chi-square, 34 degrees of freedom


def test_pools_exclusions_and_norms_narrow_what_is_drawn() -> None:
    observed = Heads.parse("L1H0 L1H1")
    without = redrawn(GRID, observed, Matching(frozenset({"layer"}), exclude=observed), n=50, seed=0)
    assert all(s == observed or not set(s) & set(observed) for s in without.sets)
    norms = {h: 1.0 if h.index < 3 else 5.0 for h in SCORES}
    near = redrawn(GRID, observed, Matching(frozenset({"layer", "norm"}), norms=norms), n=50, seed=0)
    assert {h.index for s in near.sets for h in s} == {0, 1, 2}
    with pytest.raises(ValueError, match="only"):
        redrawn(Grid(2, 32, 32), Heads.of(0, range(8)), Matching(frozenset({"layer", "norm"}), norms={
            Head(at, h): 1.0 if h < 8 else 9.0 for at in range(2) for h in range(32)}), n=50, seed=0)  # fmt: skip


def test_halves_of_one_layer_are_those_of_parity() -> None:
    grid = Grid(2, 16, 4)
    observed = Heads.of(1, range(0, 16, 2))
    found = redrawn(grid, observed, Matching(frozenset({"layer", "kv"})), n=999, seed=0)
    assert found == matched_sets(grid, observed, n=999, seed=0) and len(found.sets) == 6**4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5000 + "]" * 5000, "nested more than"),
        ('{"L0H1": 1, "L0H1": 2}', "L0H1"),
        ('{"L0H1": NaN}', "NaN"),
        ("{", "JSON"),
    ],
)
def test_score_files_are_read_within_the_bounds_of_every_other_text(text: str, said: str, tmp_path: Path) -> None:
    from headlab.trials.score_files import ScoreError, scores

    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ScoreError, match=said) as error:
        scores(path)
    assert "\n" not in str(error.value) and str(error.value).startswith("scores.json")

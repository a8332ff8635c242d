"""mechanism: clusters that were planted differ and act as units; clusters by chance do not, and the published test says they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from headlab.claims import Claim, ClaimError
from headlab.designs import matched_sets
from headlab.experiments import load, trial
from headlab.experiments.heads import mechanism as room
from headlab.experiments.trial import EXPERIMENTS, builtin_claims
from headlab.heads import Grid, Heads
from headlab.measures import entropy, norms
from headlab.measures.correspondence import beyond_groups, parting_table
from headlab.measures.head_effects import Profiles
from headlab.measures.head_traits import KINDS, TRAITS, Partition, cut
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import head_weights
from headlab.prompts import encode
from headlab.stats import Estimate, rank
from headlab.stats.agreement import adjusted_rand
from headlab.stats.clustering import euclidean, hierarchical
from headlab.tasks.decimals import decimals
from headlab.trials import parted
from headlab.trials.cluster_patches import Patched, foremost

EXPERIMENTS.setdefault("mechanism", room.EXPERIMENT)


def claim(layer: int = 1, pairs: int = 100, **options: Any) -> Claim:
    own = builtin_claims()["mechanism"]
    small = {"sets": 199, "pairs_by_set": 8, "views": ["pca"], **options}
    return own.model_copy(
        update={"layer": layer, "pairs": pairs, "matched_sets": 999, "options": {**own.options, **small}}
    )


@pytest.fixture(scope="module")
def clustered():
    return load("decimals-planted-clustered")


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


def numbers(reading: Any) -> dict[str, Any]:
    return {e.name: e.estimate["value"] for e in reading.estimates}


# -- what must be shown -------------------------------------------------------------------------------------


def test_planted_clusters_differ_and_act_as_a_unit(clustered, store) -> None:
    """The clusters by weights are the even and the odd heads; they differ in effect, and the even ones patched recover more
    than any matched half."""
    result = trial(claim(), clustered, store=store)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert result.verdict.outcome == "undecided" and "nothing was planted" in result.verdict.sentence
    assert {r.outcome for r in result.verdict.rulings} == {"upheld"}
    heads = result.tables["heads"]
    assert heads.groupby("weights")["parity"].nunique().tolist() == [1, 1]
    rows = result.tables["properties"].query("clusters == 'clusters by weights'").set_index("property")
    assert set(rows.index) == set(TRAITS.values())
    assert rows["p_holm"].min() < 0.05 and rows["share"].idxmax() in {TRAITS["single"], TRAITS["left_out"]}
    acted = result.tables["clusters"].set_index("heads")
    even, odd = (acted.loc[str(Heads.of(1, range(s, 16, 2)))] for s in (0, 1))
    assert even["recovery"] > 0.9 and odd["recovery"] < 0.3 and even["p"] < 0.025 and odd["p"] > 0.5
    kinds = [(f.kind, f.name) for f in result.figures]
    assert kinds == [
        ("null", "null-differ"), ("estimates", "properties"), ("null", "null-patched"), ("scatter", "view-pca"),
    ]  # fmt: skip
    assert set(result.tables["properties"]["clusters"]) == {v for k, v in KINDS.items() if k != "given"}
    assert "misleads" in result.record.sections[-1]["heading"]
    from headlab.report.figures import spec

    assert all(spec(f) for f in result.figures)


def test_clusters_by_chance_do_not_and_uncorrected_tests_say_they_do(natural, store) -> None:
    result = trial(claim(layer=0), natural, store=store)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    published = result.record.readings[1]
    assert published.verdict.outcome == "upheld" and numbers(published)["smallest-p"] < 0.05
    assert "clusters of [4, 4, 4, 4] heads" in published.words


def test_labels_of_ones_own_and_what_groups_are_made_of(natural, store) -> None:
    labels = ["first"] * 3 + ["second"] * 13
    result = trial(claim(0, 20, clusters="given", labels=labels, sets=20), natural, store=store, protocol="standard")
    assert result.record.settings["sizes"] == [3, 13]
    table = result.tables["properties"]
    made = {k: set(part["property"]) for k, part in table.groupby("clusters")}
    assert made["given labels"] == set(TRAITS.values())
    assert not made["groups by effects"] & {TRAITS["single"], TRAITS["left_out"]}
    assert not made["KV groups"] & {TRAITS[t] for t in ("norm_qk", "norm_ov", "rank_qk", "rank_ov")}
    with pytest.raises(ClaimError, match="names 2 heads"):
        trial(claim(labels=["a", "b"]), natural, store=store)
    with pytest.raises(ClaimError, match="expected one of weights"):
        trial(claim(clusters="colour"), natural, store=store)


def test_whole_kv_groups_cannot_be_ranked(natural, store) -> None:
    labels = [f"group {h // 4}" for h in range(16)]
    result = trial(claim(0, 20, clusters="given", labels=labels), natural, store=store)
    assert result.verdict.outcome == "untestable" and "another way" in result.verdict.sentence


@pytest.mark.accept
def test_the_shipped_claim_on_organisms(store) -> None:
    for name, outcome in (
        ("decimals-planted-clustered", "undecided"), ("decimals-natural-neox", None), ("decimals-natural-gemma", None),
    ):  # fmt: skip
        result = trial("mechanism", name, store=store)
        assert all(c.passed for c in result.verdict.controls), result.verdict.controls
        assert outcome is None or result.verdict.outcome == outcome


@pytest.mark.accept
@pytest.mark.parametrize("clusters", ["behaviour", "parity", "kv"])
def test_other_ways_to_part_heads(clusters: str, clustered, store) -> None:
    result = trial(claim(clusters=clusters), clustered, store=store, protocol="standard")
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert result.record.settings["clusters"] == clusters


# -- controls can fail --------------------------------------------------------------------------------------


def test_names_that_matter_void_the_trial(clustered, store, monkeypatch) -> None:
    def misled(weights: Any, layer: int, seed: int) -> Any:
        moved, order = reordered(weights, layer, seed)
        return moved, np.arange(len(order))

    monkeypatch.setattr(parted, "reordered", misled)
    result = trial(claim(pairs=20), clustered, store=store, protocol="standard")
    assert result.verdict.outcome == "void" and "reordered" in result.verdict.sentence


def test_a_made_up_property_that_is_noise_voids_the_trial(clustered, store, monkeypatch) -> None:
    honest = parted.injected
    monkeypatch.setattr(parted, "injected", lambda part, seed: honest(part, seed, noise=1e9))
    result = trial(claim(pairs=20), clustered, store=store, protocol="standard")
    assert result.verdict.outcome == "void" and "injected" in result.verdict.sentence


def test_three_heads_have_no_clusters(natural, store) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24, vocab_size=382
    )
    lab = load(GPTNeoXForCausalLM(config), tokenizer=natural.tokenizer)
    result = trial(claim(), lab, store=store)
    assert result.verdict.outcome == "untestable" and "at least 4" in result.verdict.sentence


# -- parts --------------------------------------------------------------------------------------------------


def test_traits_are_those_of_the_measures(natural) -> None:
    """Each trait where it stands alone: norms from the weights, entropy as the mean of the measure's rows."""
    pairs = [
        encode(p, natural.tokenizer) for p in decimals(5, clean="simple", corrupted="qa", tokenizer=natural.tokenizer)
    ]
    weights = head_weights(natural, [1])

    heads, pair = np.arange(32.0).reshape(16, 2, 1), np.zeros(1)
    made = Profiles(1, heads[:, 0], -heads[:, 1], pair, pair + 1, pair, ("one",))
    found = parted.traits(natural, weights, 1, made, pairs)
    assert list(found) == list(TRAITS)
    table = norms(weights).query("block == 'o'").sort_values("head")["norm"]
    assert np.exp(found["norm_o"]) == pytest.approx(table.to_numpy())
    rows = entropy(natural, [p.corrupted for p in pairs], at="decision", layers=[1])
    one = rows[rows["head"] == 3]
    assert found["entropy"][3] == pytest.approx((one["bits"] / one["most"]).mean())
    assert found["left_out"].tolist() == list(range(1, 33, 2))
    assert (found["numbers"] >= 0).all() and (found["numbers"] <= 1).all()


def test_distances_beyond_groups_by_hand() -> None:
    """Two KV groups of two: inside, one pair each, nothing is left; across, the mean of four is taken out."""
    table = np.array([[0.0, 1, 5, 7], [1, 0, 5, 3], [5, 5, 0, 2], [7, 3, 2, 0]])
    left = np.array([[0.0, 0, 0, 2], [0, 0, 0, -2], [0, 0, 0, 0], [2, -2, 0, 0]])
    assert beyond_groups(table, Grid(1, 4, 2)) == pytest.approx((left + 2) * (1 - np.eye(4)), abs=1e-8)
    assert (beyond_groups(table, Grid(1, 4, 4)) == table).all() and (beyond_groups(table, Grid(1, 4, 1)) == table).all()


def test_groups_that_are_far_apart_do_not_make_the_clusters(natural) -> None:
    """Points far apart by KV group, near by parity: beyond the groups, the clusters are parity."""
    rng = np.random.default_rng(0)
    heads = np.arange(16)
    places = np.column_stack([50 * np.eye(4)[heads // 4], 3.0 * (heads % 2)]) + 0.1 * rng.normal(size=(16, 5))
    made = hierarchical(beyond_groups(euclidean(places), natural.grid), 2)
    assert adjusted_rand(made.labels, heads % 2) == 1.0
    assert adjusted_rand(hierarchical(euclidean(places)).labels, heads // 4) == 1.0


def test_the_cut_moves_with_the_heads(clustered) -> None:
    weights = head_weights(clustered, [1])
    moved, order = reordered(weights, 1, 3)
    own = cut(weights, 1, 2).labels
    assert adjusted_rand(np.array(own)[order], cut(moved, 1, 2).labels) == 1.0
    assert adjusted_rand(own, np.arange(16) % 2) == 1.0
    assert parting_table(moved, 1) == pytest.approx(parting_table(weights, 1)[np.ix_(order, order)], abs=1e-5)
    assert cut(weights, 1, 3).k == 3 and adjusted_rand(cut(weights, 1, 0).labels, own) == 1.0


def test_pairs_that_make_groups_are_not_those_that_test_them(natural) -> None:
    pairs = [
        encode(p, natural.tokenizer) for p in decimals(60, clean="simple", corrupted="qa", tokenizer=natural.tokenizer)
    ]
    first, second = parted.halves(pairs, 11)
    assert len(second) == 11 and len(first) > 11
    assert not {p.pair.cluster for p in first} & {p.pair.cluster for p in second}


def test_the_foremost_cluster_is_the_one_with_the_smallest_p(natural) -> None:
    """Three clusters: one without another such set, one in the middle of its null, one at its top."""
    value = Estimate(0.5, 0.4, 0.6, 9, "pairs", "by hand")
    middle, top = (rank(x, np.arange(99.0), enumerated=False) for x in (50, 98.5))
    made = [
        Patched(name, Heads.of(0, [i]), value, (), test)
        for i, (name, test) in enumerate([("whole", None), ("middle", middle), ("top", top)])
    ]
    found = foremost(made)
    assert found is not None and found.label == "top" and foremost(made[:1]) is None
    assert matched_sets(natural.grid, Heads.of(0, range(4)), n=9, seed=0).total == 1


def test_clusters_stand_in_the_order_of_their_heads() -> None:
    parted = Partition("given", ("b", "a", "b"), None)
    assert parted.clusters == {"b": [0, 2], "a": [1]}

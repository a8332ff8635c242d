"""weight-clusters: the published clusters are made of copies; with proper features and nulls the same model has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from headlab.claims import Claim, ClaimError
from headlab.experiments import load, trial
from headlab.experiments.trial import EXPERIMENTS, builtin_claims
from headlab.experiments.weights import weight_clusters as room
from headlab.measures import weight_nulls
from headlab.measures.weight_clusters import NULLS
from headlab.measures.weight_labels import grouped
from headlab.measures.weight_nulls import apart, circuits, cloud_tables, planted, reordered, stacked, untrained
from headlab.measures.weight_sets import shared, traits
from headlab.measures.weights import head_weights, norm_matched
from headlab.stats.agreement import adjusted_rand, cluster_test
from headlab.stats.clustering import euclidean, hierarchical
from headlab.stats.views import principal_coordinates
from headlab.trials import weighed

EXPERIMENTS.setdefault("weight-clusters", room.EXPERIMENT)


def claim(**options: Any) -> Claim:
    """The shipped claim at a named layer, with small nulls and without patching."""
    own = builtin_claims()["weight-clusters"]
    small = {"draws": 39, "subsets": 0, "views": ["pca"], **options}
    return own.model_copy(update={"layer": 0, "pairs": 2, "matched_sets": 99, "options": {**own.options, **small}})


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def random_32(natural):
    """32 heads in 8 KV groups, never trained: the layout of Llama-3.1-8B, small."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=32, num_key_value_heads=8, head_dim=4,
        intermediate_size=64, vocab_size=382,
    )  # fmt: skip
    return load(LlamaForCausalLM(config), tokenizer=natural.tokenizer)


def numbers(reading: Any) -> dict[str, Any]:
    return {e.name: e.estimate["value"] for e in reading.estimates}


# -- what must be shown -------------------------------------------------------------------------------------


def test_published_clusters_are_the_kv_groups_and_proper_ones_are_not_there(random_32, store) -> None:
    """Random weights: the published features give clusters of four, ARI with parity -0.0598 and a prediction of 100 %,
    and each artefact is named; W_QK and W_OV beside untrained models have no clusters."""
    result = trial(claim(), random_32, store=store)
    standard, published = result.record.readings
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls

    old = numbers(published)
    assert old["ari:parity"] == -0.05982905982905983 and old["ari:kv"] == 1.0 and old["prediction:set"] == 1.0
    assert old["mean:cosine"] == pytest.approx(-1 / 31, abs=0.002)
    assert published.verdict.outcome == "upheld"
    rows = result.tables["published"]
    assert set(rows["k"]) == {8} and set(rows["ari_parity"]) == {-0.05982905982905983}
    found = result.tables["artefacts"].set_index("artefact")["found"]
    assert found["repetition"] and found["forced_mean"] and found["self_counted"] and not found["singleton"].any()
    assert "copies" in published.words and "Found (repetition)" in result.record.sections[0]["text"]

    own = numbers(standard)
    assert own["rank:qk"] > 0.05 and own["rank:ov"] > 0.05
    assert own["rank:qk"] == max(own[f"rank:qk:{null}"] for null in NULLS)
    assert own["prediction:set"] < 0.8 and own["rank:prediction"] > 0.05
    assert own["rank:kv:qk"] > 0.05 and own["rank:kv:ov"] > 0.05
    assert result.verdict.outcome == "refuted"
    clusters = result.tables["clusters"]
    assert len(clusters) == 2 * 2 and (clusters["p_holm"] > 0.05).all() and (clusters["n"] == 32).all()


def test_planted_copies_are_found_where_they_stand(random_32, natural) -> None:
    """Copies in other KV groups are one cluster by each circuit; drowned in noise they are not."""
    for lab, layer, count in ((random_32, 1, 5), (natural, 2, 3)):
        weights = head_weights(lab, [layer])
        made, places = planted(weights, layer, 3)
        groups = {lab.grid.kv_group_of(p) for p in places}
        assert len(places) == len(groups) == count
        null = [norm_matched(weights, 50 + i) for i in range(39)]
        for circuit in circuits(weights):
            for drawn, wanted in ((made, True), (planted(weights, layer, 3, noise=50.0)[0], False)):
                tested = cluster_test(
                    apart(drawn, layer, circuit, "cosine"), [apart(w, layer, circuit, "cosine") for w in null]
                )
                assert tested.test and tested.clustering
                together = len({tested.clustering.labels[p] for p in places}) == 1
                assert (together and tested.test.p == 1 / 40) is wanted, (circuit, wanted, tested.test)


def test_the_record_of_an_organism(natural, store) -> None:
    own = list("abcdabcdabcdabcd")
    result = trial(claim(labels=own, members="0,1,5,9"), natural, store=store)
    assert [r.protocol for r in result.record.readings] == ["standard", "published"]
    kinds = [(f.kind, f.name) for f in result.figures]
    assert kinds[:3] == [("null", "null-qk"), ("null", "null-ov"), ("curve", "layers")]
    assert [n for k, n in kinds[3:] if k == "scatter"] == ["view-qk-pca", "view-ov-pca", "view-published"]
    assert set(result.tables) >= {"clusters", "heads", "labels", "methods", "published", "artefacts"}
    assert len(result.tables["clusters"]) == 3 * 2 and len(result.tables["heads"]) == 3 * 2 * 16
    labels = result.tables["labels"]
    assert set(labels["label"]) == {"parity", "KV group", "layer", "the given labels"}
    given = labels[labels["label"] == "the given labels"]
    assert set(given["layer"]) == {0} and given["p_silhouette"].between(0, 1).all()
    assert result.record.settings["members"] == "L0H0 L0H1 L0H5 L0H9"
    assert "misleads" in result.record.sections[-1]["heading"]
    assert set(result.tables["methods"]["method"]) == {
        "average linkage",
        "Ward",
        "k-means",
        "DBSCAN",
        "HDBSCAN",
        "gap statistic",
    }
    from headlab.report.figures import spec

    assert all(spec(f) for f in result.figures)
    with pytest.raises(ClaimError, match="names 3 heads; give one"):
        trial(claim(labels=["a", "b", "c"]), natural, store=store)


@pytest.mark.accept
def test_parity_that_was_planted_is_in_the_weights_and_natural_parity_is_not(natural, store) -> None:
    """The planted organism's even heads share a job, which their W_QK and W_OV show within KV groups (Holm over
    layers and circuits); nothing of the kind in the natural one.  Halves that repair are compared too."""
    rows = {}
    for name in ("decimals-planted-even", "decimals-natural"):
        whole = builtin_claims()["weight-clusters"].model_copy(update={"layer": 1 if "even" in name else 0})
        result = trial(whole, name, store=store)
        assert all(c.passed for c in result.verdict.controls) and result.verdict.outcome == "refuted"
        rows[name] = result.tables["labels"].query("label == 'parity'").set_index(["layer", "circuit"])["p_holm"]
        assert len(result.tables["halves"]) == 60 and "rank:subsets:similarity" in numbers(result.record.readings[0])
    assert (rows["decimals-planted-even"][1.0] < 0.05).all() and (
        rows["decimals-planted-even"].drop(1.0, level=0) > 0.05
    ).all()
    assert (rows["decimals-natural"] > 0.05).all()


@pytest.mark.accept
@pytest.mark.parametrize("name", ["decimals-natural-neox", "decimals-natural-gemma"])
def test_heads_of_their_own_keys_and_one_key_for_all(name: str, store) -> None:
    result = trial(claim(views=["tsne"], feature="subspace"), name, store=store)
    assert all(c.passed for c in result.verdict.controls), result.verdict.controls
    assert "KV group" not in set(result.tables["labels"]["label"])
    assert not result.tables["artefacts"].set_index("artefact")["found"]["repetition"]


# -- controls can fail, options are checked -----------------------------------------------------------------


def test_controls_that_fail_void_the_trial(natural, store, monkeypatch) -> None:
    """Keys and values left where they were while the queries move: other heads, so other clusters.  Copies that are
    noise: nothing to find."""

    def scrambled(weights: Any, layer: int, seed: int) -> Any:
        moved, order = reordered(weights, layer, seed)
        kept = replace(moved.at(layer), k=weights.at(layer).k, v=weights.at(layer).v)
        return replace(moved, layers={layer: kept}), order

    monkeypatch.setattr(weighed, "reordered", scrambled)
    monkeypatch.setattr(weighed, "planted", lambda w, at, seed: planted(w, at, seed, noise=100.0))
    result = trial(claim(), natural, store=store, protocol="standard")
    assert result.verdict.outcome == "void" and not any(c.passed for c in result.verdict.controls)
    assert "reordered" in result.verdict.sentence and "planted-copies" in result.verdict.sentence


def test_three_heads_have_no_clusters(natural, store) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24, vocab_size=382
    )
    lab = load(GPTNeoXForCausalLM(config), tokenizer=natural.tokenizer)
    result = trial(claim(), lab, store=store)
    assert result.verdict.outcome == "untestable" and "at least 4" in result.verdict.sentence


# -- nulls --------------------------------------------------------------------------------------------------


def test_another_order_moves_the_distances_and_nothing_else(natural) -> None:
    weights = head_weights(natural, [1])
    moved, order = reordered(weights, 1, 5)
    assert sorted(order) == list(range(16)) and list(order) != sorted(order)
    assert all(len({natural.grid.kv_group_of(int(h)) for h in order[g * 4 : g * 4 + 4]}) == 1 for g in range(4))
    for circuit in ("qk", "ov", "both"):
        for feature in weight_nulls.FEATURES:
            table = apart(weights, 1, circuit, feature)
            assert apart(moved, 1, circuit, feature) == pytest.approx(table[np.ix_(order, order)], abs=1e-6)
    with pytest.raises(ValueError, match="cosine, subspace"):
        apart(weights, 1, "qk", "norm")


def test_untrained_models_are_fresh_and_repeatable(natural) -> None:
    made, again = untrained(natural, 99, 7), untrained(natural, 99, 7)
    assert len(made.models) == 33 and len(made.tables(head_weights(natural, [1]).at(1), "ov", "cosine")) == 99
    first, other = made.models[0].at(0).q, made.models[20].at(0).q
    assert first is not None and other is not None and not torch.equal(first, other)
    for one, two in zip(made.models[::9], again.models[::9], strict=True):
        assert torch.equal(one.at(2).o, two.at(2).o)  # type: ignore[arg-type]
    scale = natural.model.config.initializer_range
    assert float(other.std()) == pytest.approx(scale, rel=0.05)
    trained = head_weights(natural, [0]).at(0).q
    assert trained is not None and float(trained.std()) > 1.5 * scale
    before = torch.random.get_rng_state()
    untrained(natural, 99, 8)
    assert torch.equal(before, torch.random.get_rng_state())


def test_large_models_are_drawn_with_fewer_layers(natural, monkeypatch) -> None:
    monkeypatch.setattr(weight_nulls, "LARGE", 1000)
    monkeypatch.setattr(weight_nulls, "LAYERS", 2)
    made = untrained(natural, 500, 0)
    assert len(made.models) == 50 and set(made.models[0].layers) == {0, 1} and made.draws == 99
    assert made.models[3].grid.n_heads == 16 and made.models[3].grid.n_kv_heads == 4


def test_clouds_keep_the_spread_and_tell_parted_from_stretched() -> None:
    rng = np.random.default_rng(0)
    long = rng.normal(size=(23, 3)) * [30, 1, 1]
    table = euclidean(long)
    points, _ = principal_coordinates(table)
    for drawn in cloud_tables(table, 3, 1):
        again, _ = principal_coordinates(drawn)
        assert np.linalg.norm(again, axis=0) == pytest.approx(np.linalg.norm(points, axis=0))
    stretched = cluster_test(table, cloud_tables(table, 199, 0))
    assert stretched.value is not None and stretched.value > 0.45 and stretched.test and stretched.test.p > 0.05
    round_ones = [euclidean(rng.normal(size=(23, 3))) for _ in range(199)]
    fooled = cluster_test(table, round_ones)  # what any other null says of a stretched cloud
    assert fooled.test and fooled.test.p < 0.05
    parted = euclidean(np.repeat([[0.0, 0, 0], [30, 0, 0]], [12, 11], 0) + rng.normal(size=(23, 3)))
    found = cluster_test(parted, cloud_tables(parted, 199, 0))
    assert found.test and found.test.p == 1 / 200


def test_clouds_are_right_for_one_gaussian() -> None:
    """Heads drawn from one Gaussian, in more axes than heads: p <= .1 in about a tenth of 40 (over 9: 1 in 200)."""
    under = 0
    for seed in range(40):
        table = euclidean(np.random.default_rng(seed).normal(size=(9, 20)) * np.linspace(1, 3, 20))
        test = cluster_test(table, cloud_tables(table, 29, seed)).test
        under += test is not None and test.p <= 0.1
    assert 0 < under <= 9


def test_layers_side_by_side_keep_their_own_distances(natural) -> None:
    weights = head_weights(natural)
    whole = stacked(weights, [0, 2])
    for circuit in ("qk", "ov"):
        table = apart(whole, 0, circuit, "cosine")
        assert table.shape == (32, 32)
        assert table[:16, :16] == pytest.approx(apart(weights, 0, circuit, "cosine"), abs=1e-5)
        assert table[16:, 16:] == pytest.approx(apart(weights, 2, circuit, "cosine"), abs=1e-5)


def test_groups_by_hand() -> None:
    table = np.array([[0, 1, 4, 6], [1, 0, 2, 8], [4, 2, 0, 3], [6, 8, 3, 0.0]])
    assert grouped(table, 2).tolist() == [[0, 5], [5, 0]] and grouped(table, 1).tolist() == table.tolist()


# -- sets ---------------------------------------------------------------------------------------------------


def test_the_share_of_a_set_by_hand() -> None:
    """Heads 0, 1, 2 are alike, 3, 4, 5 are alike: either set predicts itself, a mixed one only in part."""
    x = np.repeat(np.eye(2), 3, 0) + 1e-3 * np.random.default_rng(0).normal(size=(6, 2))
    alike = -(euclidean(x) ** 2)
    assert shared(alike, (0, 1, 2)) == 1.0 and shared(alike, (3, 4, 5)) == 1.0
    assert shared(alike, (0, 1, 3)) < 1.0
    labels = hierarchical(euclidean(x), 2).labels
    assert adjusted_rand(labels, [0, 0, 0, 1, 1, 1]) == 1.0


def test_traits_by_hand() -> None:
    table = euclidean([[0.0], [1], [5], [6]])
    assert traits((0, 0, 1, 1), table, (0, 1, 2)) == {
        "count": 2,
        "purity": pytest.approx(2 / 3),
        "similarity": pytest.approx(-10 / 3),
    }
    assert traits((0, 0, 1, 1), table, (2, 3)) == {"count": 1, "purity": 1, "similarity": -1}

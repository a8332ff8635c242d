"""Do the weights of attention heads fall into clusters, and do these know which heads do what?

1. W_QK and W_OV of every head, compared by what a change of basis inside a head leaves as it is; nothing is repeated.
2. In every layer: the tree's cut with the largest silhouette, among the same of (a) untrained models of this
   architecture, (b) single clouds of the heads' own spread, (c) Gaussian blocks of the heads' norms (at the claim's layer).
   The rank that counts is the one in the least favourable null.
3. Labels (parity, KV group, layer, any given): silhouette of the label and ARI and purity of the clusters, among labels
   dealt out again, within KV groups for parity; KV groups among untrained models, since their heads share weights.
4. Prediction: which heads are most like the even ones (or another set), each judged by the others of the set.
5. Halves that repair beside halves that do not: clusters touched, purity, likeness of members.
6. The published reading on the published features, with the artefacts that its detectors find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.engine.model import ModelError
from headlab.experiments.attention.watched import chosen_layer, untestable, without_ranks
from headlab.experiments.base import Bench, Experiment, Outcome, named
from headlab.experiments.weights.weight_figures import figures
from headlab.experiments.weights.weight_sets import Subsets, members_of, subsets
from headlab.measures.weight_labels import Labelled, by_label, by_layer_label, given_labels, methods
from headlab.measures.weight_nulls import (
    Untrained,
    apart,
    circuits,
    cloud_tables,
    planted,
    random_tables,
    reordered,
    untrained,
)
from headlab.measures.weight_published import Published, published
from headlab.measures.weight_sets import TRAITS, Prediction, predicted
from headlab.measures.weights import HeadWeights, LayerWeights, head_weights
from headlab.stats import Estimate, Rank, holm, rank
from headlab.stats.agreement import ClusterTest, adjusted_rand, cluster_test
from headlab.stats.clustering import LEAST, hierarchical
from headlab.stats.figures import rounded
from headlab.store import NamedEstimate, Reading

STATISTICS = (
    "silhouette:*", "rank:qk", "rank:ov", "rank:qk:*", "rank:ov:*", "ari:*", "rank:parity:*", "rank:kv:*", "rank:label:*",
    "rank:layer:*", "prediction:set", "rank:prediction", "subsets:*", "rank:subsets:*",
)  # fmt: skip
NAMES = {"qk": "W_QK", "ov": "W_OV"}
NULLS = {"untrained": "untrained models", "cloud": "single clouds", "norms": "random weights of equal norms"}
EXACT = 1e-9
_WORDS = "rotation-invariant distances of W_QK and W_OV, nothing repeated; the least favourable of the nulls counts"


@dataclass(frozen=True)
class Found:
    """The clusters of one layer by one circuit: distances [head, head] and a test for each null; ``here``: it is the
    claim's layer."""

    layer: int
    circuit: str
    table: Any
    tests: Mapping[str, ClusterTest]
    layer_weights: LayerWeights
    here: bool

    @property
    def worst(self) -> tuple[str, ClusterTest]:
        """The null in which these clusters stand out least."""
        tested = {n: t for n, t in self.tests.items() if t.test is not None}
        return max(tested.items(), key=lambda item: (item[1].test.p, item[1].test.high))  # type: ignore[union-attr]

    @property
    def test(self) -> Rank:
        where = self.worst[1].test
        assert where is not None
        return where

    @property
    def labels(self) -> tuple[int, ...]:
        made = self.worst[1].clustering
        return () if made is None else made.labels

    @property
    def said(self) -> str:
        """What the test says of a picture of these clusters."""
        return f"Colours are the clusters, which {'do' if self.test.outcome == 'upheld' else 'do not'} stand out: {self.test}."

    def bands(self) -> list[tuple[str, float, float, float]]:
        """Name, 2.5 %, mean and 97.5 % of the nulls that every layer has."""
        out = []
        for name in ("untrained", "cloud"):
            null = np.array(self.tests[name].null)
            low, high = np.quantile(null, [0.025, 0.975])
            out.append((NULLS[name], float(low), float(null.mean()), float(high)))
        return out


def weight_clusters(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    lab, claim, option = bench.lab, bench.claim, lambda name: bench.option(name, EXPERIMENT)
    grid, feature = lab.grid, option("feature")
    if grid.n_heads < LEAST:
        return untestable(bench, f"{lab.name} has {grid.n_heads} heads in each layer: at least {LEAST} make clusters")
    given = given_labels(grid, option("labels"))
    at, scan = chosen_layer(bench)
    lab.attention_of(at)
    weights = head_weights(lab)
    try:
        kinds = circuits(weights)
        tables = {(n, c): apart(weights, n, c, feature) for n in sorted(weights.layers) for c in kinds}
    except ModelError as error:
        return untestable(bench, str(error))
    bench.progress("untrained models", 0, 1)
    draws = untrained(lab, option("draws"), bench.seed)
    found = {key: _tested(weights, key, table, draws, at, bench) for key, table in tables.items()}
    here = {c: found[at, c] for c in kinds}
    adjusted = dict(zip(found, holm([f.test.p for f in found.values()]).tolist(), strict=True))
    labelled = by_label(grid, claim, found, draws, given, feature)
    labelled += by_layer_label(grid, claim, weights, kinds, feature)
    heads = members_of(bench, at, option("members"))
    both = apart(weights, at, "both", feature)
    guess = predicted(-(both**2), heads, grid, n=claim.matched_sets, seed=claim.seed, alpha=claim.alpha)
    halves = subsets(bench, at, here[kinds[-1]].labels, both, option("subsets"))
    checks = _controls(bench, weights, here, feature)
    numbers = _estimates(here, labelled, guess, halves, at)
    findings: dict[str, Any] = {
        e.name: Estimate.from_dict(e.estimate) for e in numbers if not e.name.startswith("rank:")
    }
    findings |= _ranks(here, labelled, guess, halves, at)
    readings = [
        Reading(protocol="standard", words=_WORDS, verdict=decide(claim, findings, checks), estimates=tuple(numbers))
    ]
    old = published(weights, grid, at, heads.at(at), seed=bench.seed) if "published" in claim.readings else None
    if old is not None:
        readings.append(_published(bench, old, checks))
    return Outcome(
        readings,
        figures(bench, here, found, at, list(option("views")), old),
        {
            "clusters": pd.DataFrame([_row(f, adjusted[key]) for key, f in found.items()]),
            "heads": _heads(bench, found),
            "labels": pd.DataFrame([x.row() for x in labelled]),
            "methods": methods(here, bench.seed),
            "halves": halves.table,
            **({} if old is None else {"published": old.table, "artefacts": old.artefact_table}),
        },
        {"ok": True, "reason": "", "rule": "none: weights are compared, not answers; only halves that repair need the bug"},
        settings={"layer": at, "layer_scan": scan, "feature": feature, "circuits": list(kinds), "members": str(heads),
                  "untrained": sum(len(m.layers) for m in draws.models)},
        sections=[*([] if old is None else [_artefacts(old)]), *_SECTIONS],
        notes=[halves.why or halves.words, *(x.note for x in labelled if x.note)],
    )  # fmt: skip


def _tested(weights: HeadWeights, key: tuple[int, str], table: Any, draws: Untrained, at: int, bench: Bench) -> Found:
    """The best silhouette of one layer among each null; random weights of equal norms at the claim's layer only."""
    layer, circuit = key
    feature, n = bench.option("feature", EXPERIMENT), draws.draws
    common: dict[str, Any] = {"alpha": bench.claim.alpha, "seed": bench.seed}
    nulls = {"cloud": cloud_tables(table, n, bench.seed)}
    if layer == at:
        nulls["norms"] = random_tables(weights, layer, circuit, feature, n, bench.seed)
    tests = {"untrained": draws.test(table, weights.at(layer), circuit, feature, unit=NULLS["untrained"], **common)}
    tests |= {name: cluster_test(table, null, unit=NULLS[name], **common) for name, null in nulls.items()}
    if any(t.test is None for t in tests.values()):
        raise ModelError(f"the heads of layer {layer} have no clusters to test: {next(iter(tests.values())).note}")
    return Found(layer, circuit, table, tests, weights.at(layer), layer == at)


# -- numbers ------------------------------------------------------------------------------------------------


def _estimates(
    here: Mapping[str, Found], labelled: Sequence[Labelled], guess: Prediction, halves: Subsets, at: int
) -> list[NamedEstimate]:
    out = []
    for circuit, found in here.items():
        null, test = found.worst
        chance = f"{rounded(test.chance)} on average among {NULLS[null]}"
        own = _counted(test.value, len(found.table), "heads", chance)
        out.append(named(f"silhouette:{circuit}", f"{NAMES[circuit]}: silhouette of the best cut", own))
        out.append(named(f"rank:{circuit}", f"{NAMES[circuit]}: least favourable null", found.test.estimate))
        for name, one in found.tests.items():
            assert one.test is not None
            label = f"{NAMES[circuit]}: {NULLS[name]} with clusters at least as clear"
            out.append(named(f"rank:{circuit}:{name}", label, one.test.estimate))
    for x in labelled:
        if x.layer == at or x.layer is None:
            out += x.estimates(NAMES)
    out.append(named("prediction:set", "share of the set among the heads most like it, each left out", guess.share))
    out.append(named("rank:prediction", "matched sets that predict themselves at least as well", guess.rank.estimate))
    for trait, association in halves.found.items():
        label = f"rank correlation with repair: {TRAITS[trait]}"
        out.append(named(f"subsets:{trait}", label, association.correlation))
        if association.rank is not None:
            label = f"shuffled outcomes that go with it as well ({TRAITS[trait]}); Holm p = {halves.p_holm[trait]:.3g}"
            out.append(named(f"rank:subsets:{trait}", label, association.rank.estimate))
    return out


def _counted(value: float | None, n: int, unit: str, note: str) -> Estimate:
    """A number of these very heads: nothing was sampled, so it has no width."""
    if value is None:
        return Estimate.undefined(unit, n, note)
    return Estimate(value, value, value, n, unit, "counted", note=note)


def _ranks(
    here: Mapping[str, Found], labelled: Sequence[Labelled], guess: Prediction, halves: Subsets, at: int
) -> dict[str, Rank]:
    out = {f"rank:{c}": f.test for c, f in here.items()}
    out |= {f"rank:{c}:{name}": t.test for c, f in here.items() for name, t in f.tests.items() if t.test is not None}
    out |= {f"rank:{x.name}": x.test for x in labelled if (x.layer == at or x.layer is None) and x.test is not None}
    out |= {f"rank:subsets:{trait}": a.rank for trait, a in halves.found.items() if a.rank is not None}
    return out | {"rank:prediction": guess.rank}


def _row(found: Found, p_holm: float) -> dict[str, Any]:
    null, test = found.worst
    made = test.clustering
    ranks = {f"p_{name}": None if t.test is None else t.test.p for name, t in found.tests.items()}
    return {
        "layer": found.layer, "circuit": found.circuit, "k": made.k if made else None,
        "sizes": str(made.sizes) if made else "", "silhouette": test.value, "null": null, "null_mean": test.chance,
        "n": len(found.table), "tables": len(test.null), "p_norms": None, **ranks, "p": found.test.p, "p_holm": p_holm,
    }  # fmt: skip


def _heads(bench: Bench, found: Mapping[Any, Found]) -> Any:
    import pandas as pd

    grid = bench.lab.grid
    return pd.DataFrame(
        [
            {"layer": f.layer, "circuit": f.circuit, "head": h, "cluster": c, "kv_group": grid.kv_group_of(h), "even": h % 2 == 0}
            for f in found.values()
            for h, c in enumerate(f.labels)
        ]
    )  # fmt: skip


# -- controls -----------------------------------------------------------------------------------------------


def _controls(bench: Bench, weights: HeadWeights, here: Mapping[str, Found], feature: str) -> list[Control]:
    at = next(iter(here.values())).layer
    parity = np.arange(bench.lab.grid.n_heads) % 2
    moved, order = reordered(weights, at, bench.seed)
    gap, same = 0.0, True
    for circuit, found in here.items():
        own = cluster_test(found.table, labels=parity.tolist(), statistic="ari", permutations=100)
        new = cluster_test(
            apart(moved, at, circuit, feature), labels=parity[order].tolist(), statistic="ari", permutations=100
        )
        assert own.clustering and new.clustering
        same &= adjusted_rand(np.array(own.clustering.labels)[order], new.clustering.labels) == 1.0
        gap = max(
            gap,
            abs((own.clustering.silhouette or 0) - (new.clustering.silhouette or 0)),
            abs((own.value or 0) - (new.value or 0)),
        )
    drawn, places = planted(weights, at, bench.seed)
    fires, said = True, []
    for circuit, found in here.items():
        made = hierarchical(apart(drawn, at, circuit, feature))
        null = found.tests["norms"].null
        place = rank(made.silhouette or 0.0, null, enumerated=False, alpha=bench.claim.alpha, unit=NULLS["norms"])
        together = len({made.labels[p] for p in places}) == 1
        fires &= together and place.outcome == "upheld"
        said.append(f"by {NAMES[circuit]} they {'share' if together else 'do not share'} a cluster, {place}")
    return [
        Control(
            name="reordered",
            kind="negative",
            passed=same and gap <= EXACT,
            words=f"heads and KV groups in another order: {'the same' if same else 'other'} clusters; largest change of a "
            f"silhouette or ARI {gap:.2g}",
            value=gap,
        ),
        Control(
            name="planted-copies",
            kind="positive",
            passed=fires,
            words=f"copies of one head with noise, in random weights as heads {', '.join(map(str, places))}: {'; '.join(said)}",
        ),
    ]


# -- the page -----------------------------------------------------------------------------------------------


def _published(bench: Bench, old: Published, checks: Sequence[Control]) -> Reading:
    """The published numbers, read as they were: no null, and the detectors' sentences beside them."""
    said = "; ".join(a.words for a in old.artefacts if a.found) or "no artefact was found"
    numbers = [named(k, label, e) for k, (label, e) in old.estimates.items()]
    return Reading(
        protocol="published",
        words=f"W_Q, W_K, W_V and W_O flattened, K and V repeated, standardised over heads; no null. Artefacts: {said}",
        verdict=decide(without_ranks(bench.claim), {k: e for k, (_, e) in old.estimates.items()}, checks),
        estimates=tuple(numbers),
    )


def _artefacts(old: Published) -> dict[str, str]:
    return {
        "heading": "What the published features show of themselves",
        "text": " ".join(f"{'Found' if a.found else 'Not found'} ({a.name}): {a.words}." for a in old.artefacts),
    }


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Any heads can be cut in two, and some cut is always the best; only the null says whether it is a good one. "
            "Against untrained models any structure counts, so a single stretched cloud of the heads' own spread must be "
            "beaten too. Heads of a KV group share W_K and W_V and are alike for that reason even before training: labels "
            "are dealt out inside groups, and the groups themselves are held against untrained models. A cluster of one "
            "head is most often one large norm; norms are left out of the distances here. Alike in weights is not alike "
            "in effect: what a head does depends on what it is given to read."
        ),
    }
]

EXPERIMENT = Experiment(
    "weight-clusters",
    "Do the weights of attention heads fall into clusters, and do these know which heads do what?",
    weight_clusters,
    STATISTICS,
    controls=("reordered", "planted-copies"),
    options={
        "feature": "cosine", "draws": 299, "members": "even", "labels": [], "subsets": 60, "views": ["pca", "tsne"],
    },
)  # fmt: skip

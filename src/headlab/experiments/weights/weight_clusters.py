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

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from headlab.effects import Figure
from headlab.measures.weight_clusters import NULLS
from headlab.measures.weight_labels import methods
from headlab.measures.weight_published import Published
from headlab.measures.weight_published import published as as_published
from headlab.measures.weight_sets import TRAITS
from headlab.stats.clustering import LEAST
from headlab.stats.figures import rounded
from headlab.trials.charts import heads_apart
from headlab.trials.flow import Method, OnPairs, Undefined, without_ranks
from headlab.trials.numbers import counted
from headlab.trials.sweeps import Seen, Told
from headlab.trials.weighed import (
    CIRCUITS,
    among,
    by_layer,
    copies_are_found,
    guess,
    halves,
    heads,
    labelled,
    layers,
    members,
    names_do_not_matter,
    views,
    weighed,
)


def too_few(case: Any) -> str:
    n = case.lab.grid.n_heads
    return f"{case.lab.name} has {n} heads in each layer: at least {LEAST} make clusters" if n < LEAST else ""


def clusters(seen: Seen) -> Iterator[Told]:
    for circuit, found in seen.of_trial(weighed).here.items():
        null, test = found.worst
        chance = f"{rounded(test.chance)} on average among {NULLS[null]}"
        own = counted(test.value, len(found.table), "heads", chance)
        yield Told(f"silhouette:{circuit}", f"{CIRCUITS[circuit]}: silhouette of the best cut", own)
        yield Told(f"rank:{circuit}", f"{CIRCUITS[circuit]}: least favourable null", found.test)
        for name, one in found.tests.items():
            assert one.test is not None
            label = f"{CIRCUITS[circuit]}: {NULLS[name]} with clusters at least as clear"
            yield Told(f"rank:{circuit}:{name}", label, one.test)


def what_they_know(seen: Seen) -> Iterator[Told]:
    """Of labels, of the set, and of halves that repair."""
    for x in seen.once(labelled):
        if x.layer in {seen.scope.layer, None}:
            yield from (Told(*told) for told in x.numbers(CIRCUITS))
    own, parted = seen.once(guess), seen.once(halves)
    yield Told("prediction:set", "share of the set among the heads most like it, each left out", own.share)
    yield Told("rank:prediction", "matched sets that predict themselves at least as well", own.rank)
    for trait, association in parted.found.items():
        yield Told(f"subsets:{trait}", f"rank correlation with repair: {TRAITS[trait]}", association.correlation)
        if association.rank is not None:
            label = f"shuffled outcomes that go with it as well ({TRAITS[trait]}); Holm p = {parted.p_holm[trait]:.3g}"
            yield Told(f"rank:subsets:{trait}", label, association.rank)


def old(seen: Seen) -> Published:
    """The published features, clusters and detectors."""
    made, scope = seen.of_trial(weighed), seen.scope
    found = as_published(made.weights, scope.grid, scope.layer, members(scope).at(scope.layer), seed=scope.seed)
    if found is None:
        raise Undefined(f"{scope.lab.name} has no W_Q, W_K, W_V and W_O of its own to flatten")
    return found


def published(seen: Seen) -> Iterator[Told]:
    yield from (Told(name, label, e) for name, (label, e) in seen.once(old).estimates.items())


def old_view(seen: Seen) -> Sequence[Figure]:
    scope = seen.scope
    groups = [scope.grid.kv_group_of(h) for h in range(scope.grid.n_heads)]
    if len(set(groups)) in {1, len(groups)}:
        return []
    said = "Colours are KV groups: copies of W_K and W_V in the features put each group in one place."
    title, table = f"Heads of layer {scope.layer} by the published features", seen.once(old).distances
    return heads_apart("published", title, said, table, groups, "pca", scope.seed, "KV group")


EXPERIMENT = OnPairs(
    slug="weight-clusters",
    question="Do the weights of attention heads fall into clusters, and do these know which heads do what?",
    statistics=(
        *("silhouette:*", "rank:qk", "rank:ov", "rank:qk:*", "rank:ov:*", "ari:*", "rank:parity:*", "rank:kv:*"),
        *("rank:label:*", "rank:layer:*", "prediction:set", "rank:prediction", "subsets:*", "rank:subsets:*"),
    ),
    controls=("reordered", "planted-copies"),
    options={
        "feature": "cosine",
        "draws": 299,
        "members": "even",
        "labels": [],
        "subsets": 60,
        "views": ["pca", "tsne"],
    },
    cannot=too_few,
    eligibility={
        "ok": True,
        "reason": "",
        "rule": "none: weights are compared, not answers; only halves that repair need the bug",
    },
    methods={
        "standard": Method(
            "rotation-invariant distances of W_QK and W_OV, nothing repeated; the least favourable of the nulls counts",
            numbers=(clusters, what_they_know),
            controls=(names_do_not_matter, copies_are_found),
            figures=(among, layers, views),
            tables={
                "clusters": by_layer,
                "heads": heads,
                "labels": lambda seen: pd.DataFrame([x.row() for x in seen.once(labelled)]),
                "methods": lambda seen: methods(seen.of_trial(weighed).here, seen.scope.seed),
                "halves": lambda seen: seen.once(halves).table,
            },
            settings=lambda seen: {
                "feature": seen.scope.options["feature"],
                "circuits": list(seen.of_trial(weighed).kinds),
                "members": str(members(seen.scope)),
                "untrained": sum(len(m.layers) for m in seen.of_trial(weighed).draws.models),
            },
            notes=lambda seen: [
                seen.once(halves).why or seen.once(halves).words,
                *(x.note for x in seen.once(labelled) if x.note),
            ],
        ),
        "published": Method(
            lambda seen: (
                "W_Q, W_K, W_V and W_O flattened, K and V repeated, standardised over heads; no null. Artefacts: "
                + ("; ".join(a.words for a in seen.once(old).artefacts if a.found) or "no artefact was found")
            ),
            numbers=(published,),
            controls=(names_do_not_matter, copies_are_found),
            figures=(old_view,),
            tables={
                "published": lambda seen: seen.once(old).table,
                "artefacts": lambda seen: seen.once(old).artefact_table,
            },
            sections=lambda seen: {
                "What the published features show of themselves": " ".join(
                    f"{'Found' if a.found else 'Not found'} ({a.name}): {a.words}." for a in seen.once(old).artefacts
                )
            },
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "Any heads can be cut in two, and some cut is always the best; only the null says whether it is a good one. "
            "Trained heads are more clustered than every null here also where nothing was planted, W_OV almost always: that "
            "part of the claim can refute it and is no evidence for it. What keeps the claim from being upheld by chance is the "
            "prediction of the even heads among matched sets, whose reference is exact where names mean nothing. "
            "Against untrained models any structure counts, so a single stretched cloud of the heads' own spread must be "
            "beaten too. Heads of a KV group share W_K and W_V and are alike for that reason even before training: labels "
            "are dealt out inside groups, and the groups themselves are held against untrained models. A cluster of one "
            "head is most often one large norm; norms are left out of the distances here. Alike in weights is not alike "
            "in effect: what a head does depends on what it is given to read."
        )
    },
)

"""What differs between clusters of heads, and does a cluster do more than as many other heads?

1. Clusters of a layer by weights (directions of W_QK and W_OV beyond what KV groups explain; two of them, as published), by
   effects, by KV group, by parity or given; the option ``clusters`` names the one that the claim is about.
2. Measured of every head: norms, effective ranks, attention to numbers, entropy, effect alone, effect left out.
3. Each property: share of its rank variance between clusters, among labels dealt out again (within KV groups), Holm over
   properties; the largest share among the largest of every dealing is the one test that the claim needs.
4. Each cluster patched, among sets of as many heads of the same KV groups, on pairs that made no groups; the one that stands
   out most is judged at α over the number of clusters.
5. Views by principal coordinates and t-SNE.  The published reading: clusters by flattened weights, one uncorrected test for
   each property.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, ClaimError, Control, Prediction, decide
from headlab.engine.model import ModelError
from headlab.experiments.attention.watched import chosen_layer, untestable
from headlab.experiments.base import Bench, Experiment, Outcome, eligibility, named
from headlab.experiments.heads.head_effects import profiles
from headlab.experiments.heads.mechanism_figures import figures
from headlab.experiments.heads.patched_sets import checked
from headlab.experiments.weights.cluster_patches import Patched, foremost, patched
from headlab.measures import published_features
from headlab.measures.correspondence import parting_table
from headlab.measures.head_traits import KINDS, TRAITS, Partition, cut, partitions, traits
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import HeadWeights, head_weights
from headlab.stats import Estimate, Rank
from headlab.stats.clustering import LEAST, euclidean, hierarchical
from headlab.stats.figures import rounded
from headlab.stats.groups import GroupTest, groups_differ
from headlab.store import NamedEstimate, Reading

STATISTICS = ("differ:*", "rank:differ", "rank:differ:*", "property:*", "rank:property:*", "recovery:*", "rank:patched",
              "rank:patched:*", "smallest-p")  # fmt: skip
EXACT = 1e-9
_WORDS = "what is measured of heads in different clusters, labels dealt out within KV groups; clusters patched among matched sets"


@dataclass(frozen=True)
class Tested:
    """A partition before the traits that it is not made of."""

    parted: Partition
    names: tuple[str, ...]
    test: GroupTest


def mechanism(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    lab, claim, option = bench.lab, bench.claim, lambda name: bench.option(name, EXPERIMENT)
    if lab.grid.n_heads < LEAST:
        return untestable(bench, f"{lab.name} has {lab.grid.n_heads} heads in each layer: at least {LEAST} are parted")
    at, scan = chosen_layer(bench)
    lab.attention_of(at)
    try:
        weights = head_weights(lab, [at])
        parting_table(weights, at)
    except ModelError as error:
        return untestable(bench, str(error))
    able = eligibility(bench, PROTOCOLS["standard"])
    pairs = able.usable(bench)
    first, second = _halves(pairs, option("pairs_by_set"))
    effects = profiles(bench, first, at)
    ways = partitions(weights, effects, lab.grid, at, option("labels"), option("k"))
    kind = option("clusters")
    if kind not in ways:
        return _unparted(bench, kind, ways)
    measured = traits(lab, weights, at, effects, first)
    tested = {k: _tested(bench, p, measured) for k, p in ways.items()}
    chosen = tested[kind]
    if chosen.test.test is None:
        return untestable(
            bench, f"{KINDS[kind]} of layer {at} cannot be tested: {chosen.parted.note or chosen.test.note}"
        )
    table, checks = checked(bench, PROTOCOLS["standard"], pairs, at)
    acted = patched(bench, chosen.parted, at, second, option("sets"))
    checks = [*checks, *_controls(bench, weights, at, chosen, measured)]
    numbers, ruled = _estimates(tested, chosen, acted, lab.grid.n_heads)
    readings = [
        Reading(
            protocol="standard",
            words=_WORDS,
            verdict=decide(claim, ruled, checks, ineligible=able.reason),
            estimates=tuple(numbers),
        )
    ]
    if "published" in claim.readings:
        readings.append(_published(bench, weights, at, measured, checks))
    apart = parting_table(weights, at)
    return Outcome(
        readings,
        figures(bench, apart, chosen, acted, at, list(option("views"))),
        {
            "properties": pd.DataFrame(_rows(tested, at)),
            "heads": _heads(measured, ways, at),
            "clusters": pd.DataFrame([f.row() for f in acted]),
            "effects": table,
        },
        able.plain(),
        settings={"layer": at, "layer_scan": scan, "clusters": kind, "sizes": [len(h) for h in chosen.parted.clusters.values()],
                  "pairs_of_effects": len(first), "pairs_of_sets": len(second)},
        sections=_SECTIONS,
        notes=[f"{KINDS[k]}: {t.parted.note or t.test.note}" for k, t in tested.items() if t.test.test is None],
    )  # fmt: skip


def _halves(pairs: Sequence[Any], most: int) -> tuple[list[Any], list[Any]]:
    """Pairs that make effects and groups, and pairs on which clusters are patched: no cluster of pairs is in both."""
    names = list(dict.fromkeys(p.pair.cluster or p.pair.id for p in pairs))
    early = set(names[: len(names) // 2])
    halves = [[p for p in pairs if ((p.pair.cluster or p.pair.id) in early) is side] for side in (True, False)]
    first, second = halves if all(len(h) >= 2 for h in halves) else (list(pairs), list(pairs))
    return first, second[:most]


def _unparted(bench: Bench, kind: str, ways: Mapping[str, Partition]) -> Outcome:
    if kind == "kv":
        return untestable(bench, f"{bench.lab.name} has no KV groups that part its heads")
    raise ClaimError(
        f"option 'clusters' is {kind!r}; expected one of {', '.join(ways)} (given: with the option 'labels')"
    )


def _tested(bench: Bench, parted: Partition, measured: Mapping[str, Any]) -> Tested:
    names = tuple(n for n in measured if n not in parted.left_out)
    values = np.stack([measured[n] for n in names], 1)
    labels = parted.labels or (0,) * len(values)
    test = groups_differ(
        values, labels, parted.within, permutations=max(100, bench.claim.matched_sets), seed=bench.seed,
        alpha=bench.claim.alpha,
    )  # fmt: skip
    return Tested(parted, names, test)


# -- numbers ------------------------------------------------------------------------------------------------


def _counted(value: float | None, n: int, note: str) -> Estimate:
    if value is None:
        return Estimate.undefined("heads", n, note or "nothing to compare")
    return Estimate(value, value, value, n, "heads", "counted", note=note)


def _estimates(
    tested: Mapping[str, Tested], chosen: Tested, acted: Sequence[Patched], heads: int
) -> tuple[list[NamedEstimate], dict[str, Any]]:
    out: list[NamedEstimate] = []
    ruled: dict[str, Any] = {}

    def add(name: str, label: str, value: Estimate | Rank | None) -> None:
        if value is not None:
            ruled[name] = value
            out.append(named(name, label, value.estimate if isinstance(value, Rank) else value))

    add("rank:differ", "labellings of which some property differs as much", chosen.test.test)
    for name, one in zip(chosen.names, chosen.test.properties, strict=True):
        note = (
            "all equal"
            if one.share is None
            else f"{rounded(one.chance)} on average among labellings; Holm p = {one.p_holm:.3g}"
        )
        add(
            f"property:{name}",
            f"{TRAITS[name]}: share of its variance between clusters",
            _counted(one.share, heads, note),
        )
        add(f"rank:property:{name}", f"{TRAITS[name]}: labellings that part it as well", one.test)
    best = foremost(acted)
    for f in acted:
        note = f"cluster {f.label} ({len(f.heads)} heads), patched: logit difference recovered"
        add(f"recovery:{f.label}", note, f.recovery)
        add(f"rank:patched:{f.label}", f"matched sets that recover as much as cluster {f.label}", f.test)
    if best is not None:
        add(
            "rank:patched",
            f"matched sets that recover as much as cluster {best.label}, at α over {len(acted)} clusters",
            best.test,
        )
    for kind, t in tested.items():
        note = t.parted.note or t.test.note or f"{rounded(np.mean(t.test.null))} on average among labellings"
        add(
            f"differ:{kind}",
            f"{KINDS[kind]}: largest share of a property's variance between them",
            _counted(t.test.largest, heads, note),
        )
        add(f"rank:differ:{kind}", f"{KINDS[kind]}: labellings of which some property differs as much", t.test.test)
    return out, ruled


def _rows(tested: Mapping[str, Tested], at: int) -> list[dict[str, Any]]:
    """A row for each partition and property; Holm's p is over the properties of a partition."""
    return [
        {"layer": at, "clusters": KINDS[kind], "k": len(t.parted.clusters), "property": TRAITS[name], "share": d.share,
         "chance": d.chance, "p": d.test.p if d.test else None, "p_holm": d.p_holm, "heads": len(t.parted.labels),
         "note": t.parted.note or t.test.note}
        for kind, t in tested.items() for name, d in zip(t.names, t.test.properties, strict=True)
    ]  # fmt: skip


def _heads(measured: Mapping[str, Any], ways: Mapping[str, Partition], at: int) -> Any:
    import pandas as pd

    labels = {k: p.labels for k, p in ways.items() if p.labels}
    n = len(next(iter(measured.values())))
    return pd.DataFrame({"layer": at, "head": range(n), **measured, **labels})


# -- controls and the published reading -----------------------------------------------------------------------


def _controls(
    bench: Bench, weights: HeadWeights, at: int, chosen: Tested, measured: Mapping[str, Any]
) -> list[Control]:
    moved, order = reordered(weights, at, bench.seed)
    parted = chosen.parted
    labels: Any = np.array(parted.labels, dtype=object)[order]
    if parted.kind == "weights":  # clustered again from the weights under their new names
        labels = cut(moved, at, bench.option("k", EXPERIMENT)).labels
    within = None if parted.within is None else [parted.within[h] for h in order]
    values = np.stack([measured[n] for n in chosen.names], 1)
    again = groups_differ(values[order], list(labels), within, permutations=100, seed=0)
    pairs = zip(again.properties, chosen.test.properties, strict=True)
    gap = max((abs(a.share - b.share) for a, b in pairs if a.share is not None and b.share is not None), default=np.inf)
    injected = _injected(parted, bench.seed)
    found = groups_differ(
        injected, parted.labels, parted.within, permutations=max(100, bench.claim.matched_sets), seed=bench.seed,
        alpha=bench.claim.alpha,
    ).test  # fmt: skip
    return [
        Control(
            name="reordered", kind="negative", passed=gap <= EXACT, value=gap if np.isfinite(gap) else None,
            words=f"heads and KV groups under other names: largest change of a property's share between clusters {gap:.2g}",
        ),
        Control(
            name="injected", kind="positive", passed=found is not None and found.outcome in {"upheld", "untestable"},
            value=found and found.p, words=f"a made-up property that follows the clusters, with noise, is found: {found}",
        ),
    ]  # fmt: skip


def _injected(parted: Partition, seed: int, noise: float = 0.1) -> Any:
    """One property [head, 1]: the number of the head's cluster, and noise."""
    codes = np.unique(np.array([str(x) for x in parted.labels]), return_inverse=True)[1]
    return (codes + noise * np.random.default_rng(seed).normal(size=len(codes)))[:, None]


def _published(
    bench: Bench, weights: HeadWeights, at: int, measured: Mapping[str, Any], checks: Sequence[Control]
) -> Reading:
    """Clusters of flattened weights; a one-way analysis of variance for each property, none corrected."""
    from scipy.stats import f_oneway

    words = "flattened, standardised weights, K and V repeated; one analysis of variance for each property, uncorrected"
    rule = Prediction(
        statistic="smallest-p", op="<", threshold=bench.claim.alpha, words="some property differs between clusters"
    )
    own = bench.claim.model_copy(update={"predictions": (rule,)})
    if any(getattr(weights.at(at), b) is None for b in "qkvo"):
        why = f"{bench.lab.name} has no W_Q, W_K, W_V and W_O of its own to flatten"
        return Reading(protocol="published", words=words, verdict=decide(own, {}, [], impossible=why))
    labels = np.array(hierarchical(euclidean(published_features(weights, at))).labels)
    parts = [labels == c for c in dict.fromkeys(labels.tolist())]
    if len(parts) < 2 or len(parts) >= len(labels):
        return Reading(
            protocol="published",
            words=words,
            verdict=decide(own, {}, [], impossible="the flattened weights have no clusters"),
        )
    p = {n: float(f_oneway(*[x[part] for part in parts])[1]) for n, x in measured.items() if np.ptp(x) > 0}
    p = {n: x for n, x in p.items() if np.isfinite(x)}
    if not p:
        return Reading(
            protocol="published", words=words, verdict=decide(own, {}, [], impossible="no property has a variance")
        )
    name, least = min(p.items(), key=lambda item: item[1])
    under, alpha = sum(x < bench.claim.alpha for x in p.values()), bench.claim.alpha
    note = f"{TRAITS[name]}; the smallest of {len(p)} tests, {under} under {alpha:g}"
    found = Estimate(least, least, least, len(labels), "heads", "analysis of variance", note=note)
    return Reading(
        protocol="published",
        words=f"{words}; clusters of {sorted(int(x.sum()) for x in parts)} heads",
        verdict=decide(own, {"smallest-p": found}, checks),
        estimates=(named("smallest-p", f"smallest p: {TRAITS[name]}", found, ""),),
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A cluster is cut from the same weights whose norms and spectra are then compared: a difference between clusters "
            "describes them and explains nothing. Groups by effects differ in effect by construction, so effects are left out "
            "there; KV groups share W_K and W_V, so what is made of these is left out. With ten properties the smallest of ten "
            "p is often under .05; the largest share among the largest of every dealing asks about all at once. A large "
            "cluster patched repairs for its size: only sets of its size and its KV groups are a fair comparison, and where a "
            "cluster is a whole KV group there is no other such set. The views are pictures: t-SNE makes islands of noise."
        ),
    }
]

EXPERIMENT = Experiment(
    "mechanism",
    "What differs between clusters of heads, and does a cluster do more than as many other heads?",
    mechanism,
    STATISTICS,
    controls=("no-op", "patch-all", "reordered", "injected"),
    options={"clusters": "weights", "k": 2, "labels": [], "sets": 299, "pairs_by_set": 40, "views": ["pca", "tsne"]},
)

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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Claim, ClaimError, Control, Prediction
from headlab.effects import Table
from headlab.engine.model import ModelError
from headlab.experiments.heads import mechanism_figures as figures
from headlab.measures import published_features
from headlab.measures.correspondence import parting_table
from headlab.measures.head_effects import Profiles
from headlab.measures.head_traits import KINDS, TRAITS, Partition, cut, partitions, traits
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import HeadWeights, head_weights
from headlab.prompts import EncodedPair
from headlab.stats import Estimate
from headlab.stats.clustering import LEAST, euclidean, hierarchical
from headlab.stats.figures import rounded
from headlab.stats.groups import GroupTest, groups_differ
from headlab.trials.checks import no_op, patch_all
from headlab.trials.cluster_patches import Patched, foremost, patched
from headlab.trials.flow import Found, Method, OnPairs, Scope, Seen, Sweep, Told, Undefined
from headlab.trials.head_profiles import each_head, profiles
from headlab.trials.numbers import counted
from headlab.trials.pairs import clusters_of

EXACT = 1e-9


@dataclass(frozen=True)
class Tested:
    """A partition before the traits that it is not made of."""

    parted: Partition
    names: tuple[str, ...]
    test: GroupTest


def too_few(case: Any) -> str:
    n = case.lab.grid.n_heads
    return f"{case.lab.name} has {n} heads in each layer: at least {LEAST} are parted" if n < LEAST else ""


def unparted(scope: Scope) -> str:
    """Why the heads cannot be parted as the claim says.  Raises ClaimError for a way that nobody knows."""
    scope.lab.attention_of(scope.layer)
    try:
        parting_table(weights(scope), scope.layer)
    except ModelError as error:
        return str(error)
    kind, known = scope.options["clusters"], [k for k in KINDS if k != "given" or scope.options["labels"]]
    if kind not in known:
        expected = ", ".join(known)
        raise ClaimError(f"option 'clusters' is {kind!r}; expected one of {expected} (given: with the option 'labels')")
    alone = kind == "kv" and scope.grid.group_size == 1
    return f"{scope.lab.name} has no KV groups that part its heads" if alone else ""


def weights(scope: Scope) -> HeadWeights:
    return head_weights(scope.lab, [scope.layer])


def halves(pairs: Sequence[EncodedPair], most: int) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Pairs that make effects and groups, and pairs on which clusters are patched: no cluster of pairs is in both."""
    names = clusters_of(pairs)
    order = list(dict.fromkeys(names))
    early = set(order[: len(order) // 2])
    sides = [[p for p, name in zip(pairs, names, strict=True) if (name in early) is side] for side in (True, False)]
    first, second = sides if all(len(h) >= 2 for h in sides) else (list(pairs), list(pairs))
    return first, second[:most]


def of_scope(scope: Scope) -> tuple[list[EncodedPair], list[EncodedPair]]:
    return halves(scope.pairs, scope.options["pairs_by_set"])


def sweeps(scope: Scope) -> dict[str, Sweep]:
    return {
        "controls": Sweep((scope.edit("all", scope.whole), *scope.idle()), texts=True),
        "heads": each_head(scope, scope.layer, of_scope(scope)[0]),
    }


def effects(seen: Seen) -> Profiles:
    return profiles(seen, "heads", seen.scope.layer)


def ways(seen: Seen) -> dict[str, Partition]:
    """Every way to part the heads."""
    scope = seen.scope
    labels, k = scope.options["labels"], scope.options["k"]
    return partitions(seen.of_trial(weights), seen.once(effects), scope.grid, scope.layer, labels, k)


def measured(seen: Seen) -> dict[str, Any]:
    """Every trait of every head [head]."""
    scope = seen.scope
    return traits(scope.lab, seen.of_trial(weights), scope.layer, seen.once(effects), of_scope(scope)[0])


def tested(seen: Seen) -> dict[str, Tested]:
    """Every partition before the traits."""
    claim, values, out = seen.scope.claim, seen.once(measured), {}
    how: dict[str, Any] = {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}
    for kind, parted in seen.once(ways).items():
        names = tuple(n for n in values if n not in parted.left_out)
        rows = np.stack([values[n] for n in names], 1)
        labels = parted.labels or (0,) * len(rows)
        out[kind] = Tested(parted, names, groups_differ(rows, labels, parted.within, **how))
    return out


def chosen(seen: Seen) -> Tested:
    """The partition that the claim is about."""
    kind = seen.scope.options["clusters"]
    one = seen.once(tested)[kind]
    if one.test.test is None:
        why = one.parted.note or one.test.note
        raise Undefined(f"{KINDS[kind]} of layer {seen.scope.layer} cannot be tested: {why}")
    return one


def acted(seen: Seen) -> list[Patched]:
    return patched(seen, chosen(seen).parted, of_scope(seen.scope)[1], seen.scope.options["sets"])


# -- numbers ------------------------------------------------------------------------------------------------


def numbers(seen: Seen) -> Iterator[Told]:
    own, n, clusters = chosen(seen), seen.scope.grid.n_heads, seen.once(acted)

    def ranked(name: str, label: str, test: Any) -> Iterator[Told]:
        if test is not None:
            yield Told(name, label, test)

    yield from ranked("rank:differ", "labellings of which some property differs as much", own.test.test)
    for name, one in zip(own.names, own.test.properties, strict=True):
        note = "all equal"
        if one.share is not None:
            note = f"{rounded(one.chance)} on average among labellings; Holm p = {one.p_holm:.3g}"
        share = counted(one.share, n, "heads", note)
        yield Told(f"property:{name}", f"{TRAITS[name]}: share of its variance between clusters", share)
        yield from ranked(f"rank:property:{name}", f"{TRAITS[name]}: labellings that part it as well", one.test)
    for f in clusters:
        label = f"cluster {f.label} ({len(f.heads)} heads), patched: logit difference recovered"
        yield Told(f"recovery:{f.label}", label, f.recovery)
        yield from ranked(f"rank:patched:{f.label}", f"matched sets that recover as much as cluster {f.label}", f.test)
    if (best := foremost(clusters)) is not None:
        label = f"matched sets that recover as much as cluster {best.label}, at α over {len(clusters)} clusters"
        yield from ranked("rank:patched", label, best.test)
    for kind, t in seen.once(tested).items():
        note = t.parted.note or t.test.note or f"{rounded(np.mean(t.test.null))} on average among labellings"
        largest = counted(t.test.largest, n, "heads", note)
        yield Told(f"differ:{kind}", f"{KINDS[kind]}: largest share of a property's variance between them", largest)
        label = f"{KINDS[kind]}: labellings of which some property differs as much"
        yield from ranked(f"rank:differ:{kind}", label, t.test.test)


def smallest(seen: Seen) -> tuple[Estimate, list[int]]:
    """The smallest p of one analysis of variance for each property, between clusters of flattened weights; their sizes."""
    from scipy.stats import f_oneway

    scope, own = seen.scope, seen.of_trial(weights)
    if any(getattr(own.at(scope.layer), b) is None for b in "qkvo"):
        raise Undefined(f"{scope.lab.name} has no W_Q, W_K, W_V and W_O of its own to flatten")
    labels = np.array(hierarchical(euclidean(published_features(own, scope.layer))).labels)
    parts = [labels == c for c in dict.fromkeys(labels.tolist())]
    if len(parts) < 2 or len(parts) >= len(labels):
        raise Undefined("the flattened weights have no clusters")
    values = EXPERIMENT.standard(seen).once(measured)
    p = {n: float(f_oneway(*[x[part] for part in parts])[1]) for n, x in values.items() if np.ptp(x) > 0}
    p = {n: x for n, x in p.items() if np.isfinite(x)}
    if not p:
        raise Undefined("no property has a variance")
    name, least = min(p.items(), key=lambda item: item[1])
    under, alpha = sum(x < scope.claim.alpha for x in p.values()), scope.claim.alpha
    note = f"{TRAITS[name]}; the smallest of {len(p)} tests, {under} under {alpha:g}"
    found = Estimate(least, least, least, len(labels), "heads", "analysis of variance", note=note)
    return found, sorted(int(x.sum()) for x in parts)


def published(seen: Seen) -> Iterator[Told]:
    found = seen.once(smallest)[0]
    yield Told("smallest-p", f"smallest p: {found.note.split(';')[0]}", found, "")


def some_property(claim: Claim, found: Mapping[str, Found]) -> Claim:
    """What the published reading amounts to."""
    words = "some property differs between clusters"
    rule = Prediction(statistic="smallest-p", op="<", threshold=claim.alpha, words=words)
    return claim.model_copy(update={"predictions": (rule,)})


# -- controls -----------------------------------------------------------------------------------------------


def names_do_not_matter(seen: Seen) -> Control:
    own, scope = chosen(seen), seen.scope
    moved, order = reordered(seen.of_trial(weights), scope.layer, scope.seed)
    labels: Any = np.array(own.parted.labels, dtype=object)[order]
    if own.parted.kind == "weights":  # clustered again from the weights under their new names
        labels = cut(moved, scope.layer, scope.options["k"]).labels
    within = None if own.parted.within is None else [own.parted.within[h] for h in order]
    values = np.stack([seen.once(measured)[n] for n in own.names], 1)
    again = groups_differ(values[order], list(labels), within, permutations=100, seed=0)
    both = zip(again.properties, own.test.properties, strict=True)
    gap = max((abs(a.share - b.share) for a, b in both if a.share is not None and b.share is not None), default=np.inf)
    words = f"heads and KV groups under other names: largest change of a property's share between clusters {gap:.2g}"
    value = gap if np.isfinite(gap) else None
    return Control(name="reordered", kind="negative", passed=gap <= EXACT, value=value, words=words)


def clusters_are_found(seen: Seen) -> Control:
    """A made-up property that follows the clusters."""
    parted, claim = chosen(seen).parted, seen.scope.claim
    how: dict[str, Any] = {"permutations": max(100, claim.matched_sets), "seed": claim.seed, "alpha": claim.alpha}
    found = groups_differ(injected(parted, claim.seed), parted.labels, parted.within, **how).test
    passed = found is not None and found.outcome in {"upheld", "untestable"}
    words = f"a made-up property that follows the clusters, with noise, is found: {found}"
    return Control(name="injected", kind="positive", passed=passed, value=found and found.p, words=words)


def injected(parted: Partition, seed: int, noise: float = 0.1) -> Any:
    """One property [head, 1]: the number of the head's cluster, and noise."""
    codes = np.unique(np.array([str(x) for x in parted.labels]), return_inverse=True)[1]
    return (codes + noise * np.random.default_rng(seed).normal(size=len(codes)))[:, None]


def checks(seen: Seen) -> list[Control]:
    every = (no_op("controls"), patch_all("controls"), names_do_not_matter, clusters_are_found)
    return [check(seen) for check in every]


def controls(seen: Seen) -> list[Control]:
    """Of the standard protocol; they bind the published reading too."""
    return EXPERIMENT.standard(seen).once(checks)


# -- tables -------------------------------------------------------------------------------------------------


def properties(seen: Seen) -> Table:
    """A row for each partition and property; Holm's p is over the properties of a partition."""
    rows: list[dict[str, Any]] = []
    for kind, t in seen.once(tested).items():
        for name, d in zip(t.names, t.test.properties, strict=True):
            rows.append({"layer": seen.scope.layer, "clusters": KINDS[kind], "k": len(t.parted.clusters)})
            rows[-1] |= {"property": TRAITS[name], "share": d.share, "chance": d.chance}
            rows[-1] |= {"p": d.test.p if d.test else None, "p_holm": d.p_holm, "heads": len(t.parted.labels)}
            rows[-1] |= {"note": t.parted.note or t.test.note}
    return pd.DataFrame(rows)


def heads(seen: Seen) -> Table:
    labels = {k: p.labels for k, p in seen.once(ways).items() if p.labels}
    own = {"layer": seen.scope.layer, "head": range(seen.scope.grid.n_heads)}
    return pd.DataFrame({**own, **seen.once(measured), **labels})


def settings(seen: Seen) -> dict[str, Any]:
    first, second = of_scope(seen.scope)
    sizes = [len(h) for h in chosen(seen).parted.clusters.values()]
    told = {"clusters": seen.scope.options["clusters"], "sizes": sizes}
    return {**told, "pairs_of_effects": len(first), "pairs_of_sets": len(second)}


def views(seen: Seen) -> Sequence[Any]:
    apart = parting_table(seen.of_trial(weights), seen.scope.layer)
    return figures.views(chosen(seen), apart, seen.scope)


PUBLISHED = "flattened, standardised weights, K and V repeated; one analysis of variance for each property, uncorrected"

EXPERIMENT = OnPairs(
    slug="mechanism",
    question="What differs between clusters of heads, and does a cluster do more than as many other heads?",
    statistics=(
        *("differ:*", "rank:differ", "rank:differ:*", "property:*", "rank:property:*", "recovery:*"),
        *("rank:patched", "rank:patched:*", "smallest-p"),
    ),
    controls=("no-op", "patch-all", "reordered", "injected"),
    options={"clusters": "weights", "k": 2, "labels": [], "sets": 299, "pairs_by_set": 40, "views": ["pca", "tsne"]},
    cannot=too_few,
    alone=True,
    methods={
        "standard": Method(
            "what is measured of heads in different clusters, labels dealt out within KV groups; clusters patched among "
            "matched sets",
            sweeps,
            numbers=(numbers,),
            controls=(controls,),
            figures=(
                lambda seen: figures.shares(chosen(seen), seen.scope.layer),
                lambda seen: figures.patched(seen.once(acted), seen.scope.layer),
                views,
            ),
            tables={
                "properties": properties,
                "heads": heads,
                "clusters": lambda seen: pd.DataFrame([f.row() for f in seen.once(acted)]),
            },
            settings=settings,
            notes=lambda seen: [
                f"{KINDS[k]}: {t.parted.note or t.test.note}"
                for k, t in seen.once(tested).items()
                if t.test.test is None
            ],
            impossible=unparted,
        ),
        "published": Method(
            lambda seen: f"{PUBLISHED}; clusters of {seen.once(smallest)[1]} heads",
            numbers=(published,),
            controls=(controls,),
            asks=some_property,
        ),
    },
    sections={
        "When this misleads": (
            "A cluster is cut from the same weights whose norms and spectra are then compared: a difference between clusters "
            "describes them and explains nothing. Groups by effects differ in effect by construction, so effects are left out "
            "there; KV groups share W_K and W_V, so what is made of these is left out. With ten properties the smallest of ten "
            "p is often under .05; the largest share among the largest of every dealing asks about all at once. A large "
            "cluster patched repairs for its size: only sets of its size and its KV groups are a fair comparison, and where a "
            "cluster is a whole KV group there is no other such set. The views are pictures: t-SNE makes islands of noise."
        )
    },
)

"""Heads parted in every way that there is, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import ClaimError, Control
from headlab.effects import Table
from headlab.engine.model import ModelError
from headlab.measures.correspondence import parting_table
from headlab.measures.head_effects import Profiles
from headlab.measures.head_traits import KINDS, TRAITS, Partition, cut, partitions, traits
from headlab.measures.weight_nulls import reordered
from headlab.measures.weights import HeadWeights, head_weights
from headlab.prompts import EncodedPair
from headlab.stats.groups import GroupTest, groups_differ
from headlab.trials.cluster_patches import Patched, patched
from headlab.trials.flow import Undefined
from headlab.trials.head_profiles import each_head, profiles
from headlab.trials.pairs import clusters_of
from headlab.trials.sweeps import Scope, Seen, Sweep

EXACT = 1e-9


@dataclass(frozen=True)
class Tested:
    """A partition before the traits that it is not made of."""

    parted: Partition
    names: tuple[str, ...]
    test: GroupTest


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

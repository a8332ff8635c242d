"""How many heads must be patched, and do more of them interfere?

1. Eligible pairs and the layer as in ``parity``.
2. Random subsets of every size from three pools (the claim's, even or odd, and any), patched from the clean run.  A
   pair counts as repaired when its logit difference is positive; greedy text of the whole pool checks that reading.
3. Nested chains: what one more head adds, at every size, with its sign ("interference" would be negative).
4. Three accounts of success compared on subsets they have not seen: which heads (additive), how many (count), which
   heads and which pairs of heads (pairwise).
5. Entropy of each head's pattern in bits, never summed over heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from headlab.designs import chains, membership, subsets
from headlab.effects import Figure, Table, mean_recovery
from headlab.heads import Grid, Heads, pool
from headlab.measures.attention import entropy
from headlab.stats import Estimate, bootstrap_mean, held_out_deviance
from headlab.stats.crossed import rate_over_sets
from headlab.trials import charts
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs
from headlab.trials.halves import patched_set
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

Drawn = list[tuple[str, int, Heads]]
"""Pool, size and subset."""


def sizes(grid: Grid) -> dict[str, int]:
    """The sizes that the claim names, as shares of a layer: 8, 7 and 12 of 32 heads."""
    quarter = max(1, grid.n_heads // 4)
    return {"quarter": quarter, "fewer": quarter - 1, "more": max(quarter + 1, 3 * grid.n_heads // 8)}


def pools(scope: Scope) -> dict[str, Heads]:
    """The claim's pool first, then even, odd and any."""
    names = dict.fromkeys([scope.claim.pool, "even", "odd", "any"])
    return {name: pool(scope.grid, scope.layer, name) for name in names}


def drawn(scope: Scope) -> Drawn:
    """Subsets of every size of every pool; under the published protocol of the named sizes alone."""
    if scope.protocol.name == "standard":
        n, wanted = scope.claim.subsets_per_size, [(p, s) for p, h in pools(scope).items() for s in range(len(h) + 1)]
    else:
        own, named = scope.claim.pool, sizes(scope.grid)
        whole = len(pools(scope)[own])
        wanted = [(own, named["fewer"]), (own, named["quarter"]), ("any", named["more"]), (own, whole)]
        n = int(scope.options["published_subsets"])
    return [
        (name, size, one)
        for name, size in wanted
        for one in subsets(pools(scope)[name], min(size, len(pools(scope)[name])), n=n, seed=scope.seed)
    ]


def nested(scope: Scope) -> Any:
    """Random chains through the layer."""
    return chains(scope.whole, n=int(scope.options["chains"]), seed=scope.seed)


def standard(scope: Scope) -> dict[str, Sweep]:
    sets = dict.fromkeys([*(h for *_, h in drawn(scope)), *(h for chain in nested(scope) for h in chain)])
    fixed = (scope.edit("all", scope.whole), *scope.idle())
    return {"fixed": Sweep(fixed, texts=True), "subsets": Sweep([patched_set(h) for h in sets])}


def published(scope: Scope) -> dict[str, Sweep]:
    sets = dict.fromkeys(h for *_, h in drawn(scope) if len(h))
    worlds = [scope.edit("all", scope.whole), *scope.idle(), *(scope.edit(patched_set(h).name, h) for h in sets)]
    return {"subsets": Sweep(worlds, texts=True, arm="out_block")}


def margins(seen: Seen) -> dict[str, Any]:
    """[pair] of each set's world: the logit difference; under the published protocol ±.5 by its text."""
    names = list(dict.fromkeys(seen["subsets"]["world"]))
    if seen.scope.protocol.name == "standard":
        return dict(zip(names, seen.values("subsets", names), strict=True))
    found = dict(zip(names, seen.values("subsets", names, "right") - 0.5, strict=True))
    return {"set": found["baseline"], **found}


def curve(seen: Seen) -> Table:
    """Share of pair × subset rows repaired, by pool and size."""
    scope, values = seen.scope, seen.once(margins)
    cells: dict[tuple[str, int], list[Heads]] = {}
    for name, size, heads in drawn(scope):
        cells.setdefault((name, size), []).append(heads)
    rows = []
    for (name, size), sets in cells.items():
        hits = np.stack([values[patched_set(h).name] > 0 for h in sets])
        whole = len(sets) == math.comb(len(pools(scope)[name]), size)
        e = rate_over_sets(hits, seen.clusters("subsets"), all_subsets=whole)
        row = {"pool": name, "size": size, "subsets": len(sets), "all_subsets": whole, "repaired": e.value}
        rows.append(row | {"low": e.low, "high": e.high, "n": e.n, "method": e.method})
    return pd.DataFrame(rows)


def told(seen: Seen) -> Iterator[Told]:
    """Repair at the sizes that the claim names."""
    rows, named, own = seen.once(curve), sizes(seen.scope.grid), seen.scope.claim.pool
    for name, where in (("quarter", own), ("fewer", own), ("more", "any")):
        for r in rows[(rows["pool"] == where) & (rows["size"] == named[name])].to_dict("records"):
            e = Estimate(r["repaired"], r["low"], r["high"], r["n"], "pairs × subsets", r["method"])
            arm = "z" if seen.scope.protocol.name == "standard" else "out_block"
            yield Told(f"repair:{name}", f"repair, {name}", e, arm)


def thresholds(seen: Seen) -> Iterator[Told]:
    """The smallest size whose repair lower bound exceeds .5, by pool; its low end is the smallest size whose upper
    bound does.  Undefined where no size gets there."""
    method, unit = "first size with its lower (upper) bound above .5", "sizes"
    for name, rows in seen.once(curve).groupby("pool", sort=False):
        rows = rows.sort_values("size")
        sure, may = (rows.loc[rows[end] > 0.5, "size"].tolist() for end in ("low", "high"))
        e = Estimate.undefined(unit, len(rows), "no size repairs most pairs")
        if sure:
            e = Estimate(float(sure[0]), float(may[0]), float(sure[0]), len(rows), unit, method)
        yield Told(f"threshold:{name}", f"heads from {name} until most pairs are repaired", e, unruled=True)


def recovered(seen: Seen) -> Any:
    """Recovery along the chains, [chain, size]."""
    one, values = seen.pairs("subsets"), seen.once(margins)
    clean, corrupted = one["clean"].to_numpy(), one["corrupted"].to_numpy()
    return np.array(
        [[float(mean_recovery(values[patched_set(h).name], clean, corrupted)) for h in c] for c in nested(seen.scope)]
    )


def late(seen: Seen) -> Iterator[Told]:
    gained = np.diff(seen.once(recovered), axis=1)[:, seen.scope.grid.n_heads // 2 :].mean(1)
    e = bootstrap_mean(gained, unit="chains", seed=seen.scope.seed)
    yield Told("gain:late", "recovery that one more head adds in the second half of a chain", e, unruled=True)


def accounts(seen: Seen) -> dict[str, Estimate]:
    """Held-out deviance of the three accounts of success."""
    values, sets = seen.once(margins), list(dict.fromkeys(h for *_, h in drawn(seen.scope)))
    inside = np.array(list(membership(sets, seen.scope.whole)))
    share = np.array([(values[patched_set(h).name] > 0).mean() for h in sets])
    return held_out_deviance(inside, share, trials=len(seen.scope.pairs), seed=seen.scope.seed)


def deviances(seen: Seen) -> Iterator[Told]:
    for name, e in seen.once(accounts).items():
        yield Told(f"deviance:{name}", f"{name} account: deviance on unseen subsets", e, unruled=True)


def bits(seen: Seen) -> Table:
    """Entropy in bits of each head's pattern where the clean answer is decided, by prompt."""
    found: Any = entropy(seen.scope.lab, [p.clean for p in seen.scope.pairs], at="decision", layers=[seen.scope.layer])
    return found


def of_one_head(seen: Seen) -> Iterator[Told]:
    clusters = [p.pair.cluster or p.pair.id for p in seen.scope.pairs]
    each = seen.once(bits).groupby("prompt")["bits"].mean().to_numpy()
    e = bootstrap_mean(each, clusters=clusters, unit="pairs", seed=seen.scope.seed)
    yield Told("entropy:head", "entropy of one head's pattern, bits, mean over heads", e, unruled=True)


def by_size(seen: Seen) -> Figure:
    rows = [
        {"x": r["size"], "y": r["repaired"], **{k: r[k] for k in ("low", "high", "n")}, "series": f"from {r['pool']}"}
        for r in seen.once(curve).to_dict("records")
    ]
    caption = (
        f"Up to {seen.scope.claim.subsets_per_size} random subsets of each size and pool; bands are 95 % intervals over pairs "
        "or over subsets, whichever is wider. A claim of an exact number asks for a step; a claim of interference for a fall."
    )
    title = f"Pairs repaired, by the number of heads patched at layer {seen.scope.layer}"
    return charts.curve("dose", title, caption, rows, "heads patched", "share of pairs repaired")


def by_chain(seen: Seen) -> Figure:
    gained = np.diff(seen.once(recovered), axis=1)
    each = [bootstrap_mean(column, unit="chains", seed=seen.scope.seed) for column in gained.T]
    rows = [charts.point("one more head", n + 1, e) for n, e in enumerate(each)]
    caption = (
        f"Mean gain in recovered logit difference along {len(gained)} random nested chains of layer {seen.scope.layer}, with "
        "95 % intervals over chains. Interference would be below zero."
    )
    title, y_title = "What one more head adds", "gain in recovery"
    return charts.curve("chains", title, caption, rows, "heads patched", y_title, threshold=0.0)


def sets_table(seen: Seen) -> Table:
    rows = [(p, s, str(h), patched_set(h).name, "z") for p, s, h in drawn(seen.scope)]
    return pd.DataFrame(rows, columns=["pool", "size", "heads", "world", "arm"])


def chain_table(seen: Seen) -> Table:
    found = seen.once(recovered)
    n, length = found.shape
    chain, size = np.repeat(np.arange(n), length), np.tile(np.arange(length), n)
    return pd.DataFrame({"chain": chain, "size": size, "recovery": found.ravel()})


def bits_table(seen: Seen) -> Table:
    each = seen.once(bits).groupby("head")["bits"].mean()
    return each.rename(lambda h: f"L{seen.scope.layer}H{h}").reset_index()


def deviance_table(seen: Seen) -> Table:
    return pd.DataFrame([{"account": k, **e.to_dict()} for k, e in seen.once(accounts).items()])


EXPERIMENT = OnPairs(
    slug="head-count",
    question="How many heads of a pool must be patched, and do more of them interfere?",
    statistics=("repair:quarter", "repair:fewer", "repair:more"),
    options={"chains": 20, "published_subsets": 10},
    methods={
        "standard": Method(
            "heads (z), same roles, random subsets of every size",
            standard,
            numbers=(told, thresholds, late, deviances, of_one_head),
            controls=(no_op("fixed"), patch_all("fixed")),
            figures=(by_size, by_chain),
            tables={
                "subsets": sets_table,
                "curve": lambda seen: seen.once(curve),
                "chains": chain_table,
                "models": deviance_table,
                "entropy": bits_table,
            },
            settings=lambda seen: {"sizes": sizes(seen.scope.grid)},
        ),
        "published": Method(
            "slices of the attention module's output, left-aligned, every step, any mention counted",
            published,
            numbers=(told,),
            controls=(no_op("subsets"), patch_all("subsets", "every slice of the layer")),
            tables={"published_curve": lambda seen: seen.once(curve)},
        ),
    },
    sections={
        "When this misleads": (
            "Repaired or not is the sign of one margin. If each head simply adds to that margin, a random subset repairs once "
            "enough has been added: the curve then looks like a critical number with redundancy, although nothing in the "
            "model counts heads. Compare the accounts by their deviance on unseen subsets before reading a threshold."
        )
    },
)

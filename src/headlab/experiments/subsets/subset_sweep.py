"""Do any k heads of a pool repair, and which heads does it depend on?

1. Eligible pairs and the layer as in ``parity``.
2. Random quarter-subsets of the pool are patched from the clean run (z); a subset succeeds when it repairs more than
   half of the pairs.  "Any" asks for nearly all of them.
3. Random subsets of the whole layer, each head in by a fair coin: Fisher's exact test for each head with Holm names the
   members; Banzhaf values of the same subsets, Shapley values along nested chains.
4. Can one weight for each head and a threshold reproduce every outcome, and how often can they for shuffled outcomes?
   Additive, pairwise and threshold accounts by deviance on unseen subsets; the additive rule on the subset left out.
5. Interference is a head whose marginal contribution is negative: its sign along the chains, Holm over heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headlab import organisms
from headlab.designs import leave_one_out, membership, random_masks, singles, subsets
from headlab.effects import Figure, Table, mean_recovery
from headlab.heads import Heads, pool
from headlab.organisms.cards import Truth
from headlab.stats import (
    Estimate,
    auroc,
    banzhaf,
    bootstrap_mean,
    clopper_pearson,
    held_out_deviance,
    holm,
    linear_separability,
    predict_left_out,
    shapley_from_chains,
    shapley_plan,
    sign_flip,
)
from headlab.stats.coalitions import fisher, late_gains, marginals
from headlab.trials import charts
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs, unsliced
from headlab.trials.halves import patched_set
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

FAMILIES = ("subsets", "masks", "chains", "singles", "left")
LABELS = {
    "success:subsets": "subsets of the pool that repair most pairs",
    "interfering": "heads whose marginals are negative, after Holm",
    "members": "heads that Fisher's test names, after Holm",
    "gain:late": "recovery that one more head adds in the second half of a chain",
    "deviance:count": "threshold account (how many heads): deviance on unseen subsets",
    "deviance:additive": "additive account (which heads): deviance on unseen subsets",
    "deviance:pairwise": "pairwise account (heads and pairs of heads): deviance on unseen subsets",
    "separable": "one weight for each head and a threshold reproduce every outcome",
    "separable:shuffled": "shuffled outcomes that are separable too",
    "accuracy:additive": "subsets left out that the additive rule predicts",
    "accuracy:majority": "subsets left out that the commoner outcome predicts",
}


def size_of(scope: Scope) -> int:
    """Heads of a subset: the option, or a quarter of the layer."""
    wanted = int(scope.options["size"]) or max(1, scope.grid.n_heads // 4)
    return min(wanted, len(pool(scope.grid, scope.layer, scope.claim.pool)))


def some_subsets(scope: Scope, n: int) -> Sequence[Heads]:
    """Random subsets of the claim's pool."""
    members = pool(scope.grid, scope.layer, scope.claim.pool)
    return subsets(members, size_of(scope), n=n, seed=scope.seed)


def plan(scope: Scope) -> Any:
    return shapley_plan(len(scope.whole), int(scope.options["permutations"]), scope.seed)


def drawn(scope: Scope) -> dict[str, Sequence[Heads]]:
    """Every set of the standard reading, by family."""
    rows = plan(scope).coalitions
    return {
        "subsets": some_subsets(scope, scope.claim.subsets_per_size),
        "masks": random_masks(scope.whole, n=int(scope.options["masks"]), seed=scope.seed),
        "chains": tuple(Heads(h for h, on in zip(scope.whole, row, strict=True) if on) for row in rows),
        "singles": singles(scope.whole),
        "left": leave_one_out(scope.whole),
    }


def fixed(scope: Scope) -> Sweep:
    return Sweep((scope.edit("all", scope.whole), *scope.idle()), texts=True, arm=scope.protocol.site)


def standard(scope: Scope) -> dict[str, Sweep]:
    sets = dict.fromkeys(h for some in drawn(scope).values() for h in some)
    return {"fixed": fixed(scope), "subsets": Sweep([patched_set(h) for h in sets])}


@dataclass(frozen=True)
class Outcomes:
    """What was drawn, and of each set its recovery and the share of pairs that it repairs."""

    drawn: Mapping[str, Sequence[Heads]]
    value: Mapping[Heads, float]
    share: Mapping[Heads, float]

    def won(self, sets: Sequence[Heads]) -> Any:
        """[set]: whether it repairs more than half of the pairs."""
        return np.array([self.share[h] > 0.5 for h in sets])


def outcomes(seen: Seen) -> Outcomes:
    found = drawn(seen.scope)
    sets = list(dict.fromkeys(h for some in found.values() for h in some))
    edited, one = seen.values("subsets", [patched_set(h) for h in sets]), seen.pairs("subsets")
    recovered = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
    value = dict(zip(sets, recovered.tolist(), strict=True))
    return Outcomes(found, value, dict(zip(sets, (edited > 0).mean(1).tolist(), strict=True)))


def success_of(won: Any) -> Estimate:
    """Share of subsets that succeed; Clopper-Pearson over subsets."""
    return clopper_pearson(int(won.sum()), len(won), unit="subsets")


def members(seen: Seen) -> list[dict[str, Any]]:
    """For each head: Fisher's test on random subsets with Holm, Banzhaf and Shapley values, the sign of its marginals."""
    scope, found = seen.scope, seen.once(outcomes)
    masks, alpha = found.drawn["masks"], scope.claim.alpha
    inside = np.array(list(membership(masks, scope.whole)))
    p, gap = fisher(inside, found.won(masks))
    chain = np.array([found.value[h] for h in found.drawn["chains"]])
    gains = marginals(plan(scope), chain)
    orders = np.repeat(np.arange(len(gains) // 2), 2)
    signs = holm([sign_flip(column, clusters=orders, seed=scope.seed).p for column in gains.T])
    values = {
        "shapley": shapley_from_chains(plan(scope), chain),
        "banzhaf": banzhaf(inside, np.array([found.value[h] for h in masks])),
    }
    planted, rows = planted_heads(scope), []
    for j, (head, adjusted) in enumerate(zip(scope.whole, holm(p).tolist(), strict=True)):
        row = {
            "head": str(head),
            "index": head.index,
            "p": float(p[j]),
            "p_holm": adjusted,
            "more_often_in_success": bool(gap[j] > 0),
            "member": bool(adjusted < alpha and gap[j] > 0),
            **{k: v[j] for k, v in values.items()},
            **{f"{k}_{part}": getattr(v[j], part) for k, v in values.items() for part in ("value", "low", "high")},
            "marginal_p_holm": float(signs[j]),
            "interferes": bool(signs[j] < alpha and gains[:, j].mean() < 0),
        }
        rows.append(row | ({"planted": str(head) in planted} if planted else {}))
    return rows


def planted_heads(scope: Scope) -> frozenset[str]:
    """The heads that an organism's card says were planted at this layer."""
    if scope.lab.name not in organisms.names("decimals"):
        return frozenset()
    truth = organisms.card(scope.lab.name).truth
    return frozenset(truth.heads) if isinstance(truth, Truth) and truth.layer == scope.layer else frozenset()


def by_member(seen: Seen) -> Iterator[Told]:
    """How many heads interfere and how many are members, and what one more head adds late in a chain."""
    rows, found = seen.once(members), seen.once(outcomes)
    for name, column in (("interfering", "interferes"), ("members", "member")):
        yield told(name, clopper_pearson(sum(r[column] for r in rows), len(rows), unit="heads"))
    late = late_gains(plan(seen.scope), np.array([found.value[h] for h in found.drawn["chains"]]))
    orders = np.repeat(np.arange(len(late) // 2), 2)
    yield told("gain:late", bootstrap_mean(late, clusters=orders, unit="orders", seed=seen.scope.seed))


def accounts(seen: Seen) -> Iterator[Told]:
    """Separability with its chance level, the additive rule on the subset left out, deviance of the three accounts."""
    found, scope = seen.once(outcomes), seen.scope
    few = found.drawn["subsets"]
    sets = list(dict.fromkeys([*found.drawn["masks"], *few]))
    inside, won = np.array(list(membership(sets, scope.whole))), found.won(sets)
    rate = np.array([found.share[h] for h in sets])
    for name, e in held_out_deviance(inside, rate, trials=len(scope.pairs), seed=scope.seed).items():
        yield told(f"deviance:{name}", e)
    real = linear_separability(inside, won)
    if real.separable is None:
        yield told("separable", Estimate.undefined("subsets", len(sets), "all subsets succeed alike"))
    else:
        v, rng, n = float(real.separable), np.random.default_rng(scope.seed), int(scope.options["shuffles"])
        note = "1: separable, 0: not"
        yield told("separable", Estimate(v, v, v, len(sets), "subsets", "linear programme", note=note))
        hits = sum(linear_separability(inside, rng.permutation(won)).separable is True for _ in range(n))
        yield told("separable:shuffled", clopper_pearson(hits, n, unit="shuffles of the outcomes"))
    left = predict_left_out(np.array(list(membership(few, scope.whole))), found.won(few))
    yield told("accuracy:additive", left.accuracy)
    yield told("accuracy:majority", left.majority)


def told(name: str, e: Estimate) -> Told:
    return Told(name, LABELS[name], e)


def quarter(seen: Seen) -> Iterator[Told]:
    found = seen.once(outcomes)
    yield told("success:subsets", success_of(found.won(found.drawn["subsets"])))


def per_head(seen: Seen) -> Iterator[Told]:
    """Each head's values, and how well each measure puts planted heads above the others."""
    rows = seen.once(members)
    if truth := [r["planted"] for r in rows if "planted" in r]:
        for k in ("shapley", "banzhaf"):
            if all(r[f"{k}_value"] is not None for r in rows):
                e = auroc([r[f"{k}_value"] for r in rows], truth, unit="heads")
                yield Told(f"auroc:{k}", f"auroc, {k}", e, unruled=True)
    for r in rows:
        for k in ("shapley", "banzhaf"):
            yield Told(f"{k}:{r['head']}", f"{r['head']}: {k.capitalize()} value, recovery", r[k], unruled=True)


def published_sets(seen: Seen) -> Table:
    """Each subset with its share of pairs repaired, by free text."""
    scope = seen.scope
    n, pairs = int(scope.options["published_subsets"]), scope.pairs[: int(scope.options["published_pairs"])]
    sets = some_subsets(scope, n)[:n]
    worlds = [scope.edit(patched_set(h).name, h) for h in sets]
    made: Any = seen.case.texts(pairs, worlds, scope.protocol, f"published subsets L{scope.layer}")
    share = made.groupby("world")["right"].mean().to_dict()
    rows = [(str(h), share[patched_set(h).name]) for h in sets]
    table = pd.DataFrame(rows, columns=["heads", "repaired"])
    return table.assign(success=table["repaired"] > 0.5, pairs=len(pairs))


def published_success(seen: Seen) -> Iterator[Told]:
    e = success_of(seen.once(published_sets)["success"].to_numpy())
    yield Told("success:subsets", LABELS["success:subsets"], e, "out_block")


def member_table(seen: Seen) -> Table:
    rows = seen.once(members)
    return pd.DataFrame([{k: v for k, v in r.items() if not isinstance(v, Estimate)} for r in rows])


def set_table(seen: Seen) -> Table:
    found = seen.once(outcomes)
    rows = [
        (f, str(h), len(h), patched_set(h).name, found.value[h], found.share[h])
        for f in FAMILIES
        for h in found.drawn[f]
    ]
    table = pd.DataFrame(rows, columns=["family", "heads", "size", "world", "recovery", "repaired"])
    return table.assign(success=table["repaired"] > 0.5)


def values_figure(seen: Seen) -> Figure:
    rows = [
        (r["head"] + (" (named)" if r["member"] else ""), k.capitalize(), r[k])
        for k in ("shapley", "banzhaf")
        for r in seen.once(members)
    ]
    caption = (
        "Shapley values share the recovery of the whole layer out over nested chains of heads; Banzhaf values compare random "
        "subsets with and without a head. Named heads are more often in subsets that repair (Fisher's test, Holm over heads). "
        "A head below zero would interfere. Bars are 95 % intervals over orders or subsets."
    )
    title = f"What each head of layer {seen.scope.layer} adds to the recovery"
    return charts.estimates("members", title, caption, rows, "recovery of the logit difference", threshold=0.0)


def success_figure(seen: Seen) -> Figure:
    """Success against the number of named heads that a random subset holds."""
    found, which = seen.once(outcomes), {r["head"] for r in seen.once(members) if r["member"]}
    counts: dict[int, list[float]] = {}
    for h in found.drawn["masks"]:
        counts.setdefault(sum(str(x) in which for x in h), []).append(found.share[h])
    rows = []
    for n, values in sorted(counts.items()):
        e = bootstrap_mean(values, unit="subsets", seed=0)
        rows.append(charts.point("random subsets", n, e) | {"y": float(np.mean(values)), "n": len(values)})
    caption = (
        "Random subsets of the layer, each head in by a fair coin. A threshold on the named heads shows as a step; an additive "
        "margin as a slope. Bands are 95 % intervals over subsets; none where a single subset stands."
    )
    title = f"Pairs repaired, by how many of the named heads of layer {seen.scope.layer} are patched"
    return charts.curve("named", title, caption, rows, "named heads patched", "share of pairs repaired")


EXPERIMENT = OnPairs(
    slug="subset-sweep",
    question="Do any k heads of a pool repair the bug, and which heads does it depend on?",
    statistics=tuple(LABELS),
    options={
        "masks": 320,
        "permutations": 24,
        "size": 0,
        "shuffles": 40,
        "published_subsets": 30,
        "published_pairs": 20,
    },
    methods={
        "standard": Method(
            "heads (z), same roles; random subsets of the pool and of the whole layer",
            standard,
            numbers=(quarter, by_member, accounts, per_head),
            controls=(no_op("fixed"), patch_all("fixed")),
            figures=(values_figure, success_figure),
            tables={"members": member_table, "subsets": set_table},
            settings=lambda seen: {"size": size_of(seen.scope)},
        ),
        "published": Method(
            "slices of the attention module's output, left-aligned, every step, any mention counted; 30 subsets at most",
            lambda scope: {"fixed": fixed(scope)},
            numbers=(published_success,),
            controls=(no_op("fixed"), patch_all("fixed", "every slice of the layer")),
            tables={"published_subsets": lambda seen: seen.once(published_sets)},
            settings=lambda seen: {"size": size_of(seen.scope)},
            impossible=unsliced,
        ),
    },
    sections={
        "When this misleads": (
            "A subset succeeds when a margin crosses zero. If heads add to that margin, any large enough subset succeeds, and "
            "a rate over subsets says how far the margin is from zero, not that any k heads will do. Fisher's test looks at "
            "success alone: where nearly no random subset succeeds, or nearly all do, it names nobody, and the values decide. "
            "In the published outcomes one slice is in all eleven failures, and one weight for each slice reproduces every "
            "outcome. Intervals are over subsets or orders, for these pairs and this model: the sign of a marginal can be sure "
            "and its size of no account, so read it beside the Shapley value."
        )
    },
)

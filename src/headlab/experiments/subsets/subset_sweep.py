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

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab import organisms
from headlab.claims import PROTOCOLS, Claim, Protocol, decide
from headlab.designs import leave_one_out, membership, random_masks, singles, subsets
from headlab.effects import Figure, mean_recovery, pivot
from headlab.experiments.base import Bench, Eligibility, Experiment, Outcome, named
from headlab.experiments.heads.patched_sets import Made, checked, layer_of, readings_of, set_name, set_worlds, unsliced
from headlab.experiments.subsets.member_effects import members
from headlab.heads import Grid, Heads, pool
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.organisms.cards import Truth
from headlab.stats import (
    Estimate,
    auroc,
    bootstrap_mean,
    clopper_pearson,
    held_out_deviance,
    linear_separability,
    predict_left_out,
    shapley_plan,
)
from headlab.store import NamedEstimate, Reading

STATISTICS = ("success:subsets", "accuracy:*", "deviance:*", "separable", "separable:shuffled", "gain:late",
              "interfering", "members")  # fmt: skip
OPTIONS: Mapping[str, Any] = {"masks": 320, "permutations": 24, "size": 0}
PUBLISHED_SUBSETS, PUBLISHED_PAIRS = 30, 20
SHUFFLES = 40


def subset_sweep(bench: Bench) -> Outcome:
    """Run the experiment."""
    chosen = layer_of(bench)
    size = _size(bench.lab.grid, bench.claim, chosen[0])
    return readings_of(bench, {"standard": _standard, "published": _published}, chosen, _SECTIONS, size=size)


def _size(grid: Grid, claim: Claim, at: int) -> int:
    wanted = claim.options.get("size", OPTIONS["size"]) or max(1, grid.n_heads // 4)
    return min(int(wanted), len(pool(grid, at, claim.pool)))


def _drawn(grid: Grid, claim: Claim, at: int) -> dict[str, Any]:
    """Every set of the standard reading, by design."""
    whole, members = all_heads(grid, at), pool(grid, at, claim.pool)
    option = {**OPTIONS, **claim.options}
    plan = shapley_plan(len(whole), int(option["permutations"]), claim.seed)
    return {
        "plan": plan,
        "subsets": subsets(members, _size(grid, claim, at), n=claim.subsets_per_size, seed=claim.seed),
        "masks": random_masks(whole, n=int(option["masks"]), seed=claim.seed),
        "chains": tuple(Heads(h for h, on in zip(whole, row, strict=True) if on) for row in plan.coalitions),
        "singles": singles(whole),
        "left": leave_one_out(whole),
    }


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """Every set once."""
    drawn = _drawn(grid, claim, at)
    return set_worlds(PROTOCOLS["standard"], [h for key, sets in drawn.items() if key != "plan" for h in sets])


def _standard(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> Made:
    import pandas as pd

    claim, grid, seed = bench.claim, bench.lab.grid, bench.seed
    pairs, whole, drawn = able.usable(bench), all_heads(grid, at), _drawn(grid, claim, at)
    special, controls = checked(bench, protocol, pairs, at)
    worlds = design(grid, claim, at)
    swept = bench.sweep(pairs, worlds, f"subsets L{at}")
    edited = pivot(swept, [w.name for w in worlds])
    one = swept.drop_duplicates("pair").sort_values("pair")
    recovered = mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy())
    value = {w.name: float(v) for w, v in zip(worlds, recovered, strict=True)}
    share = {w.name: float(v) for w, v in zip(worlds, (edited > 0).mean(1), strict=True)}
    quarter, _ = success_of(drawn["subsets"], share)
    found: dict[str, Estimate] = {"success:subsets": quarter}
    member_rows, member_found = members(drawn, whole, value, share, claim)
    accounts = _accounts(drawn, whole, share, len(pairs), seed)
    found |= member_found | accounts
    planted = _planted(bench, at)
    extra = _against_truth(member_rows, planted)
    estimates = [named(k, _LABELS.get(k, k.replace(":", ", ")), e) for k, e in {**found, **extra}.items()]
    estimates += _per_head(member_rows)
    reading = Reading(
        protocol="standard",
        words="heads (z), same roles; random subsets of the pool and of the whole layer",
        verdict=decide(claim, found, controls, ineligible=able.reason),
        estimates=tuple(estimates),
    )
    plain = [{k: v for k, v in r.items() if not isinstance(v, Estimate)} for r in member_rows]
    sets = [
        {"family": key, "heads": str(h), "size": len(h), "world": set_name(h), "recovery": value[set_name(h)],
         "repaired": share[set_name(h)], "success": share[set_name(h)] > 0.5}
        for key in ("subsets", "masks", "chains", "singles", "left") for h in drawn[key]
    ]  # fmt: skip
    return {
        "reading": reading,
        "figures": [_members_figure(member_rows, at), _success_figure(drawn, share, whole, member_rows, at)],
        "tables": {"members": pd.DataFrame(plain), "subsets": pd.DataFrame(sets)},
        "effects": [special, swept.assign(protocol="standard", arm="z")],
    }


def success_of(sets: Sequence[Heads], share: Mapping[str, float]) -> tuple[Estimate, Any]:
    """Share of subsets that repair more than half of the pairs; Clopper-Pearson over subsets."""
    hits = np.array([share[set_name(h)] > 0.5 for h in sets])
    return clopper_pearson(int(hits.sum()), len(hits), unit="subsets"), hits


def _accounts(drawn: Mapping[str, Any], whole: Heads, share: Mapping[str, float], trials: int, seed: int) -> Any:
    """Separability with its chance level, the additive rule on the subset left out, deviance of the three accounts."""
    sets = list(dict.fromkeys([*drawn["masks"], *drawn["subsets"]]))
    inside = np.array(list(membership(sets, whole)))
    won = np.array([share[set_name(h)] > 0.5 for h in sets])
    rate = np.array([share[set_name(h)] for h in sets])
    found = {f"deviance:{k}": e for k, e in held_out_deviance(inside, rate, trials=trials, seed=seed).items()}
    out = dict(found)
    real = linear_separability(inside, won)
    if real.separable is None:
        out["separable"] = Estimate.undefined("subsets", len(sets), "all subsets succeed alike")
    else:
        v = 1.0 if real.separable else 0.0
        out["separable"] = Estimate(v, v, v, len(sets), "subsets", "linear programme", note="1: separable, 0: not")
        rng = np.random.default_rng(seed)
        hits = sum(linear_separability(inside, rng.permutation(won)).separable is True for _ in range(SHUFFLES))
        out["separable:shuffled"] = clopper_pearson(hits, SHUFFLES, unit="shuffles of the outcomes")
    few = list(drawn["subsets"])
    left = predict_left_out(np.array(list(membership(few, whole))), np.array([share[set_name(h)] > 0.5 for h in few]))
    return out | {"accuracy:additive": left.accuracy, "accuracy:majority": left.majority}


def _planted(bench: Bench, at: int) -> frozenset[str]:
    """The heads that an organism's card says were planted at this layer."""
    if bench.lab.name not in organisms.names("decimals"):
        return frozenset()
    truth = organisms.card(bench.lab.name).truth
    return frozenset(truth.heads) if isinstance(truth, Truth) and truth.layer == at else frozenset()


def _against_truth(rows: list[dict[str, Any]], planted: frozenset[str]) -> dict[str, Estimate]:
    """How well each measure puts planted heads above the others; empty where nothing was planted."""
    if not planted:
        return {}
    for r in rows:
        r["planted"] = r["head"] in planted
    truth = [r["planted"] for r in rows]
    return {
        f"auroc:{k}": auroc([r[f"{k}_value"] for r in rows], truth, unit="heads")
        for k in ("shapley", "banzhaf")
        if all(r[f"{k}_value"] is not None for r in rows)
    }


def _per_head(rows: Sequence[Mapping[str, Any]]) -> list[NamedEstimate]:
    return [
        named(f"{k}:{r['head']}", f"{r['head']}: {k.capitalize()} value, recovery", r[k])
        for r in rows
        for k in ("shapley", "banzhaf")
    ]


def _published(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> Made:
    import pandas as pd

    claim, words = bench.claim, _PUBLISHED
    if (nothing := unsliced(bench, claim, protocol, words)) is not None:
        return nothing
    pairs = able.usable(bench)
    special, controls = checked(bench, protocol, pairs, at)
    members_of = pool(bench.lab.grid, at, claim.pool)
    drawn = subsets(members_of, _size(bench.lab.grid, claim, at), n=PUBLISHED_SUBSETS, seed=claim.seed)[
        :PUBLISHED_SUBSETS
    ]
    worlds = set_worlds(protocol, drawn)
    made: Any = bench.texts(pairs[:PUBLISHED_PAIRS], worlds, protocol, f"published subsets L{at}")
    share: dict[str, float] = made.groupby("world")["right"].mean().to_dict()
    found, hits = success_of(drawn, share)
    rows = [
        {"heads": str(h), "repaired": share[set_name(h)], "success": bool(s), "pairs": min(len(pairs), PUBLISHED_PAIRS)}
        for h, s in zip(drawn, hits, strict=True)
    ]
    reading = Reading(
        protocol="published", words=words,
        verdict=decide(claim, {"success:subsets": found}, controls, ineligible=able.reason),
        estimates=(named("success:subsets", _LABELS["success:subsets"], found, "out_block"),),
    )  # fmt: skip
    return {
        "reading": reading,
        "effects": [special],
        "figures": [],
        "tables": {"published_subsets": pd.DataFrame(rows)},
    }


_PUBLISHED = (
    "slices of the attention module's output, left-aligned, every step, any mention counted; 30 subsets at most"
)
_LABELS = {
    "success:subsets": "subsets of the pool that repair most pairs",
    "members": "heads that Fisher's test names, after Holm",
    "interfering": "heads whose marginals are negative, after Holm",
    "gain:late": "recovery that one more head adds in the second half of a chain",
    "accuracy:additive": "subsets left out that the additive rule predicts",
    "accuracy:majority": "subsets left out that the commoner outcome predicts",
    "deviance:count": "threshold account (how many heads): deviance on unseen subsets",
    "deviance:additive": "additive account (which heads): deviance on unseen subsets",
    "deviance:pairwise": "pairwise account (heads and pairs of heads): deviance on unseen subsets",
    "separable": "one weight for each head and a threshold reproduce every outcome",
    "separable:shuffled": "shuffled outcomes that are separable too",
}


def _members_figure(rows: Sequence[Mapping[str, Any]], at: int) -> Figure:
    data = tuple(
        {
            "label": r["head"] + (" (named)" if r["member"] else ""), "group": kind.capitalize(),
            "value": r[kind].value, "low": r[kind].low, "high": r[kind].high, "n": r[kind].n, "unit": r[kind].unit,
        }
        for kind in ("shapley", "banzhaf") for r in rows
    )  # fmt: skip
    return Figure(
        kind="estimates", name="members", title=f"What each head of layer {at} adds to the recovery",
        caption=(
            "Shapley values share the recovery of the whole layer out over nested chains of heads; Banzhaf values compare "
            "random subsets with and without a head. Named heads are more often in subsets that repair (Fisher's test, Holm "
            "over heads). A head below zero would interfere. Bars are 95 % intervals over orders or subsets."
        ),
        data=data, options={"threshold": 0.0, "x_title": "recovery of the logit difference"},
    )  # fmt: skip


def _success_figure(
    drawn: Mapping[str, Any], share: Mapping[str, float], whole: Heads, rows: Sequence[Mapping[str, Any]], at: int
) -> Figure:
    """Success against the number of named heads that a random subset holds."""
    which = {r["head"] for r in rows if r["member"]}
    counts: dict[int, list[float]] = {}
    for h in drawn["masks"]:
        counts.setdefault(sum(str(x) in which for x in h), []).append(share[set_name(h)])
    data = []
    for n, values in sorted(counts.items()):
        e = bootstrap_mean(values, unit="subsets", seed=0)
        low, high = (e.low, e.high) if e.defined else (None, None)
        data.append(
            {
                "x": n,
                "y": float(np.mean(values)),
                "low": low,
                "high": high,
                "series": "random subsets",
                "n": len(values),
            }
        )
    return Figure(
        kind="curve", name="named", title=f"Pairs repaired, by how many of the named heads of layer {at} are patched",
        caption=(
            "Random subsets of the layer, each head in by a fair coin. A threshold on the named heads shows as a step; an "
            "additive margin as a slope. Bands are 95 % intervals over subsets; none where a single subset stands."
        ),
        data=tuple(data), options={"threshold": 0.5, "x_title": "named heads patched", "y_title": "share of pairs repaired"},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A subset succeeds when a margin crosses zero. If heads add to that margin, any large enough subset succeeds, and "
            "a rate over subsets says how far the margin is from zero, not that any k heads will do. Fisher's test looks at "
            "success alone: where nearly no random subset succeeds, or nearly all do, it names nobody, and the values decide. "
            "In the published outcomes one slice is in all eleven failures, and one weight for each slice reproduces every "
            "outcome. Intervals are over subsets or orders, for these pairs and this model: the sign of a marginal can be sure "
            "and its size of no account, so read it beside the Shapley value."
        ),
    }
]

EXPERIMENT = Experiment(
    "subset-sweep",
    "Do any k heads of a pool repair the bug, and which heads does it depend on?",
    subset_sweep,
    STATISTICS,
    options=OPTIONS,
    design=design,
)

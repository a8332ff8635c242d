"""Do the attention edges with the largest gradient × pattern carry the answer, more than others of equal weight?

1. The clean prompts, which the model answers; the layer as in ``parity``.  An edge is a query role × key role of one
   head ("answer → a_frac"); roles inside a larger one count with it, the first token, where the sink is, is left out.
2. On some of the pairs, the gradient of the logit difference times the pattern at every edge, corrected for the weight
   that a cut edge hands to the row's other keys; the top k edges of every head are those that work most for the answer.
3. On the other pairs (no fraction pair in common) the top edges of all heads are knocked out at once: their weight is
   scaled down and the row keeps its sum.
4. The null: as many other edges from the same queries of the same heads, drawn in proportion to their weight.  A set
   is held against the top edges with the heavier of the two scaled down until both lose the same weight in total.
5. Scaling down by nothing must change nothing; knocking out every edge of the layer must change the answer's margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.designs.edges import Edges, alike, knock_out, parted, roles_of, strongest
from headlab.effects import Figure, of_world, pivot
from headlab.engine.model import Lab
from headlab.engine.selfcheck import TOLERANCE
from headlab.experiments.base import Bench, Experiment, Outcome, choose_layer, named
from headlab.experiments.null import rank_by_pair
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World, role_positions
from headlab.measures.edges import gradient_edges
from headlab.prompts import Encoded, EncodedPair, encode
from headlab.stats import Estimate, Rank, bootstrap_mean, bootstrap_ratio
from headlab.stats.figures import percent
from headlab.store import Reading
from headlab.trials.charts import estimates as estimates_figure

STATISTICS = ("lost:top", "lost:random", "lost:whole", "contrast:lost", "rank:top")
CONTROLS = ("no-op", "knock-out-all")
OPTIONS = {"top": 3, "choosing": 0.4}
"""Edges for each head, and the share of the pairs on which they are chosen."""


def edges_of(lab: Lab, encoded: Sequence[Encoded], at: int, roles: Sequence[str]) -> Edges:
    """Weight and attribution of every role × role edge with any weight, means over prompts."""
    table = gradient_edges(lab, encoded, [at], top=None)
    longest = max(len(e.ids) for e in encoded)
    role = np.full((len(encoded), longest), -1)
    for i, e in enumerate(encoded):
        for n, name in enumerate(roles):
            role[i, list(role_positions(e, name))] = n
    query, key = (role[table["prompt"], table[side]] for side in ("query", "key"))
    known = (query >= 0) & (key >= 0)
    sums = np.zeros((2, lab.grid.n_heads, len(roles), len(roles)))
    for n, column in enumerate(("pattern", "centred")):
        np.add.at(sums[n], (table["head"].to_numpy()[known], query[known], key[known]), table[column].to_numpy()[known])
    heads, queries, keys = np.nonzero(sums[0] > 0)
    weight, attribution = sums[:, heads, queries, keys] / len(encoded)
    edges = tuple((int(h), roles[int(q)], roles[int(k)]) for h, q, k in zip(heads, queries, keys, strict=True))
    return Edges(edges, weight, attribution)


def critical_paths(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    chosen = [encode(p, lab.tokenizer) for p in bench.selection] if claim.layer == "auto" else []
    at, scan = choose_layer(bench, chosen)
    clean = [replace(p, corrupted=p.clean) for p in bench.encoded]
    choosing, test = parted(clean, bench.option("choosing", EXPERIMENT), bench.seed)
    roles = roles_of([p.clean for p in clean])
    seen = edges_of(lab, [p.clean for p in choosing], at, roles)
    there = edges_of(lab, [p.clean for p in test], at, roles)
    names = [seen.edges[i] for i in strongest(seen, bench.option("top", EXPERIMENT))]
    place = {edge: i for i, edge in enumerate(there.edges)}
    top = [place[e] for e in names if e in place]
    readings, figures, effects, sets = [], [], pd.DataFrame(), pd.DataFrame()
    for name in claim.readings:
        if name == "published":
            readings.append(_published(bench))
        else:
            reading, figures, effects, sets = _standard(bench, test, there, top, at)
            readings.append(reading)
    table = pd.DataFrame(
        [
            {"head": f"L{at}H{h}", "query": q, "key": k, "weight": there.weight[i], "attribution": there.attribution[i],
             "chosen": i in set(top)}
            for i, (h, q, k) in enumerate(there.edges)
        ]
    )  # fmt: skip
    return Outcome(
        readings, figures, {"effects": effects, "edges": table, "sets": sets},
        {"ok": True, "reason": "", "rule": "none: a claim about attention", "eligible_pairs": len(test)},
        settings={"layer": at, "layer_scan": scan, "roles": roles, "pairs_choosing": len(choosing)}, sections=_SECTIONS,
    )  # fmt: skip


def _published(bench: Bench) -> Reading:
    why = (
        "it cannot run: the published script ranks gradients of the attention module's output, position by channel, which "
        "name no edge between tokens, and knocks nothing out"
    )
    return Reading(
        protocol="published", words="a list of positions and channels with a large gradient, on one prompt",
        verdict=decide(bench.claim, {}, [], impossible=why),
    )  # fmt: skip


def _standard(
    bench: Bench, pairs: Sequence[EncodedPair], found: Edges, top: Sequence[int], at: int
) -> tuple[Reading, list[Figure], Any, Any]:
    import pandas as pd

    claim, seed, rng = bench.claim, bench.seed, np.random.default_rng(bench.seed)
    drawn = {f"random {n}": alike(found, top, rng) for n in range(claim.matched_sets)}
    best = [found.edges[i] for i in top]
    table = pd.DataFrame([_equal(found, top, name, chosen) for name, chosen in drawn.items()])
    worlds = [
        World("baseline"),
        knock_out("noop", at, best, 0.0),
        knock_out("top whole", at, best, 1.0),
        World("all", (Intervention(all_heads(bench.lab.grid, at), "pattern", "mask", keys=_keys(found)),)),
    ]
    for name, own, top_share in zip(table["world"], table["scaled_by"], table["top_scaled_by"], strict=True):
        worlds.append(knock_out(name, at, [found.edges[i] for i in drawn[name]], float(own)))
        worlds.append(knock_out(f"top, as {name}", at, best, float(top_share)))
    effects = bench.sweep(pairs, worlds, f"knock-outs L{at}")
    lost, random = Lost(effects, seed), list(drawn)
    tops = [f"top, as {n}" for n in random]
    table["lost"], table["top_lost"] = ([lost.mean(n) for n in names] for names in (random, tops))
    gaps = (table["top_lost"] - table["lost"]).to_numpy()
    more = np.sign(lost.margin) * (pivot(effects, random) - pivot(effects, tops))  # lost by pair, top beyond random
    where = rank_by_pair(
        np.vstack([np.zeros(more.shape[1]), more]), lost.clusters, claim, enumerated=False,
        unit="random sets of edges", tail="less",
    )  # fmt: skip
    findings: dict[str, Estimate | Rank] = {
        "lost:top": lost.share(tops),
        "lost:random": lost.share(random),
        "lost:whole": lost.share(["top whole"]),
        "contrast:lost": lost.share(tops, random),
        "rank:top": where,
    }
    labels = {
        "lost:top": "top edges: share of the margin lost", "lost:random": "random edges of equal weight: share lost",
        "lost:whole": "top edges cut entirely: share lost", "contrast:lost": "top minus random edges: share lost",
        "rank:top": "random sets that cost as much",
    }  # fmt: skip
    estimates = tuple(
        named(k, labels[k], f.estimate if isinstance(f, Rank) else f, "pattern") for k, f in findings.items()
    )
    controls = [_no_op(effects, bench.lab), lost.positive()]
    reading = Reading(
        protocol="standard", verdict=decide(claim, findings, controls), estimates=estimates,
        words="edges by token role, chosen on other pairs, scaled down in the clean run; random edges that take away as much "
        "weight as null",
    )  # fmt: skip
    figures = _figures(findings, gaps, float(table["top_scaled_by"].to_numpy().mean()), at)
    return reading, figures, effects.assign(protocol="standard", arm="pattern"), table


def _equal(found: Edges, top: Sequence[int], name: str, chosen: Sequence[int]) -> dict[str, Any]:
    """By how much a random set and the top edges are scaled down, so that both lose the weight of the lighter one."""
    own, best = found.total(chosen), found.total(top)
    taken = min(own, best)
    return {
        "world": name, "edges": len(chosen), "weight": own, "top_weight": best,
        "scaled_by": taken / own if own else 0.0, "top_scaled_by": taken / best if best else 0.0,
    }  # fmt: skip


def _keys(found: Edges) -> tuple[str, ...]:
    return tuple(sorted({key for _, _, key in found.edges}))


class Lost:
    """What knock-outs take from the logit difference of the unedited run, as a share of its mean over pairs."""

    def __init__(self, effects: Any, seed: int) -> None:
        self.effects, self.seed = effects, seed
        one = of_world(effects, "baseline").sort_values("pair")
        self.base, self.clusters = one["edited"].to_numpy(), one["cluster"].to_numpy()
        self.margin = float(self.base.mean())

    def by_pair(self, worlds: Sequence[str]) -> Any:
        return self.base - pivot(self.effects, worlds).mean(0)

    def mean(self, world: str) -> float:
        return float(self.by_pair([world]).mean() / self.margin)

    def share(self, worlds: Sequence[str], against: Sequence[str] = ()) -> Estimate:
        taken = self.by_pair(worlds) - (self.by_pair(against) if against else 0.0)
        return bootstrap_ratio(taken, self.base, clusters=self.clusters, unit="pairs", seed=self.seed)

    def positive(self) -> Control:
        """Knocking out every edge of the layer at once must move the margin."""
        found = bootstrap_mean(abs(self.by_pair(["all"])), clusters=self.clusters, unit="pairs", seed=self.seed)
        least = 0.05 * abs(self.margin)
        return Control(
            name="knock-out-all", kind="positive", passed=found.above(least) == "yes", value=found.value,
            words=f"knocking out every edge of the layer moves the logit difference by {found}, at least {least:.2g} asked",
        )  # fmt: skip


def _no_op(effects: Any, lab: Lab) -> Control:
    base, same = (of_world(effects, w).sort_values("pair")["edited"].to_numpy() for w in ("baseline", "noop"))
    gap, scale = float(abs(base - same).max()), max(1.0, float(abs(base).max()))
    return Control(
        name="no-op", kind="negative", passed=gap <= TOLERANCE[lab.dtype] * scale, value=gap,
        words=f"edges scaled down by nothing change a logit difference by at most {gap:.2g} over {len(base)} pairs",
    )  # fmt: skip


def _figures(findings: Mapping[str, Any], gaps: Any, share: float, at: int) -> list[Figure]:
    rows = [
        ("top edges", "equal weight taken away", findings["lost:top"]),
        ("random edges", "equal weight taken away", findings["lost:random"]),
        ("top edges", "cut entirely", findings["lost:whole"]),
    ]
    arms = estimates_figure(
        "arms", "Share of the answer's margin lost, by which edges are knocked out",
        f"Top edges are each head's strongest by gradient × pattern, chosen on other pairs. For equal weight they are scaled "
        f"down by {percent(share)} on average. Bars are 95 % intervals by prompt pair.",
        rows, "share of the logit difference lost",
    )  # fmt: skip
    where: Rank = findings["rank:top"]
    shown = Figure(
        kind="null", name="null", title=f"Top edges of layer {at} against random edges that take away as much weight",
        caption=f"Each bar counts random sets ({len(gaps):,} drawn: other keys of the same queries and heads, in proportion to "
        "their weight) by how much more of the logit difference the top edges cost when both lose the same weight. The line "
        f"is no difference. In {where.at_least_as_extreme} of {where.n_sets:,} draws the random edges cost as much or more: "
        f"p = {where.p:.3g}.",
        data=tuple({"value": float(g)} for g in gaps),
        options={"observed": 0.0, "low": 0.0, "high": 0.0, "label": "no difference", "p": where.p,
                 "x_title": "share lost to the top edges minus share lost to random ones"},
    )  # fmt: skip
    return [shown, replace(arms, options={**arms.options, "threshold": 0.0})]


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A gradient sees small steps: an edge that holds most of its row's weight may matter and have no slope, and heads "
            "above may make up for a cut. Edges are knocked out together, so one strong edge can carry the set. Roles lump "
            "tokens: an edge from the answer's shared start stands for each of its tokens. That the top edges beat random "
            "ones says that gradients find edges that matter here, not that these are the only ones, nor that they differ "
            "between even and odd heads."
        ),
    },
    {
        "heading": "Equal weight",
        "text": (
            "Strong edges often hold much of the attention, and taking away much attention does harm wherever it lies. Each "
            "random set is therefore held against the top edges at equal weight, measured on the test pairs: the lighter of "
            "the two is cut entirely, the heavier scaled down. The weight goes to the other keys of the same row. Where top "
            "edges hold nearly all of their rows, only a small part of them is tested this way; the cost of cutting them "
            "entirely stands beside it."
        ),
    },
]

EXPERIMENT = Experiment(
    "critical-paths",
    "Do the attention edges with the largest gradient × pattern carry the answer, more than others of equal weight?",
    critical_paths,
    STATISTICS,
    controls=CONTROLS,
    options=OPTIONS,
)

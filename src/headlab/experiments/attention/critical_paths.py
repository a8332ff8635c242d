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

from collections.abc import Iterator

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table, of_world, pivot
from headlab.engine.selfcheck import TOLERANCE
from headlab.stats.figures import percent
from headlab.trials.charts import estimates, null
from headlab.trials.flow import Method, OnPairs
from headlab.trials.knocked_out import chosen, drawn, halves, knocked_out, scaled
from headlab.trials.lost import Lost
from headlab.trials.ranks import rank_by_pair
from headlab.trials.sweeps import Seen, Told


def losses(seen: Seen) -> Lost:
    return Lost(seen.once(knocked_out), seen.scope.seed)


def sets(seen: Seen) -> Table:
    """A row for each random set, with the share of the margin lost to it and to the top edges at equal weight."""
    lost, table = seen.once(losses), seen.once(scaled)
    return table.assign(
        lost=[lost.mean(n) for n in table["world"]], top_lost=[lost.mean(f"top, as {n}") for n in table["world"]]
    )


def numbers(seen: Seen) -> Iterator[Told]:
    lost, random = seen.once(losses), list(seen.once(drawn))
    tops = [f"top, as {n}" for n in random]
    more = np.sign(lost.margin) * (
        pivot(lost.effects, random) - pivot(lost.effects, tops)
    )  # top beyond random, by pair
    gained = np.vstack([np.zeros(more.shape[1]), more])
    unit = "random sets of edges"
    where = rank_by_pair(gained, lost.clusters, seen.scope.claim, enumerated=False, unit=unit, tail="less")
    for name, label, found in (
        ("lost:top", "top edges: share of the margin lost", lost.share(tops)),
        ("lost:random", "random edges of equal weight: share lost", lost.share(random)),
        ("lost:whole", "top edges cut entirely: share lost", lost.share(["top whole"])),
        ("contrast:lost", "top minus random edges: share lost", lost.share(tops, random)),
        ("rank:top", "random sets that cost as much", where),
    ):
        yield Told(name, label, found, "pattern")


def no_op(seen: Seen) -> Control:
    effects = seen.once(knocked_out)
    base, same = (of_world(effects, w).sort_values("pair")["edited"].to_numpy() for w in ("baseline", "noop"))
    gap, scale = float(abs(base - same).max()), max(1.0, float(abs(base).max()))
    words = f"edges scaled down by nothing change a logit difference by at most {gap:.2g} over {len(base)} pairs"
    passed = gap <= TOLERANCE[seen.scope.lab.dtype] * scale
    return Control(name="no-op", kind="negative", passed=passed, value=gap, words=words)


def among(seen: Seen) -> Figure:
    where, table = seen.rank("rank:top"), seen.once(sets)
    gaps = (table["top_lost"] - table["lost"]).to_numpy()
    title = f"Top edges of layer {seen.scope.layer} against random edges that take away as much weight"
    caption = (
        f"Each bar counts random sets ({len(gaps):,} drawn: other keys of the same queries and heads, in proportion to "
        "their weight) by how much more of the logit difference the top edges cost when both lose the same weight. The line "
        f"is no difference. In {where.at_least_as_extreme} of {where.n_sets:,} draws the random edges cost as much or more: "
        f"p = {where.p:.3g}."
    )
    x_title = "share lost to the top edges minus share lost to random ones"
    return null("null", title, caption, gaps, 0.0, "no difference", x_title, where.p, of="sets of edges")


def arms(seen: Seen) -> Figure:
    share = float(seen.once(scaled)["top_scaled_by"].to_numpy().mean())
    rows = [
        ("top edges", "equal weight taken away", seen.estimate("lost:top")),
        ("random edges", "equal weight taken away", seen.estimate("lost:random")),
        ("top edges", "cut entirely", seen.estimate("lost:whole")),
    ]
    title = "Share of the answer's margin lost, by which edges are knocked out"
    caption = (
        f"Top edges are each head's strongest by gradient × pattern, chosen on other pairs. For equal weight they are scaled "
        f"down by {percent(share)} on average. Bars are 95 % intervals by prompt pair."
    )
    return estimates("arms", title, caption, rows, "share of the logit difference lost", 0.0)


def edges(seen: Seen) -> Table:
    at, own = seen.scope.layer, seen.of_trial(chosen)
    rows = [
        {
            "head": f"L{at}H{h}",
            "query": q,
            "key": k,
            "weight": own.found.weight[i],
            "attribution": own.found.attribution[i],
        }
        | {"chosen": i in set(own.top)}
        for i, (h, q, k) in enumerate(own.found.edges)
    ]
    return pd.DataFrame(rows)


EXPERIMENT = OnPairs(
    slug="critical-paths",
    question="Do the attention edges with the largest gradient × pattern carry the answer, more than others of equal weight?",
    statistics=("lost:top", "lost:random", "lost:whole", "contrast:lost", "rank:top"),
    controls=("no-op", "knock-out-all"),
    options={"top": 3, "choosing": 0.4},
    eligibility=lambda case: {
        "ok": True,
        "reason": "",
        "rule": "none: a claim about attention",
        "eligible_pairs": len(halves(case, {**EXPERIMENT.options, **case.claim.options}["choosing"])[1]),
    },
    methods={
        "standard": Method(
            "edges by token role, chosen on other pairs, scaled down in the clean run; random edges that take away as much "
            "weight as null",
            numbers=(numbers,),
            controls=(no_op, lambda seen: seen.once(losses).positive()),
            figures=(among, arms),
            tables={
                "effects": lambda seen: seen.once(knocked_out).assign(protocol="standard", arm="pattern"),
                "edges": edges,
                "sets": sets,
            },
            settings=lambda seen: {
                "roles": seen.of_trial(chosen).roles,
                "pairs_choosing": len(seen.of_trial(chosen).choosing),
            },
        ),
        "published": Method(
            "a list of positions and channels with a large gradient, on one prompt",
            impossible=lambda scope: (
                "it cannot run: the published script ranks gradients of the attention module's output, position by channel, "
                "which name no edge between tokens, and knocks nothing out"
            ),
        ),
    },
    sections={
        "When this misleads": (
            "A gradient sees small steps: an edge that holds most of its row's weight may matter and have no slope, and heads "
            "above may make up for a cut. Edges are knocked out together, so one strong edge can carry the set. Roles lump "
            "tokens: an edge from the answer's shared start stands for each of its tokens. That the top edges beat random "
            "ones says that gradients find edges that matter here, not that these are the only ones, nor that they differ "
            "between even and odd heads."
        ),
        "Equal weight": (
            "Strong edges often hold much of the attention, and taking away much attention does harm wherever it lies. Each "
            "random set is therefore held against the top edges at equal weight, measured on the test pairs: the lighter of "
            "the two is cut entirely, the heavier scaled down. The weight goes to the other keys of the same row. Where top "
            "edges hold nearly all of their rows, only a small part of them is tested this way; the cost of cutting them "
            "entirely stands beside it."
        ),
    },
)

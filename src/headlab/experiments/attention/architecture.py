"""Is a head's position in its KV group a better label than its parity, and what is this model's attention made of?

1. A table of facts, probed in the running model and compared with its config: heads, KV heads, group size, positions,
   rotary share, windows, soft-cap.
2. Eligible pairs and the layer as in ``parity``.  One pool for each position in the KV group (one head of every group),
   patched from the clean run.
3. The null of one position: every pool, or a sample of pools, with one head of every KV group.
   The null of the label: the layer divided at random into pools of that kind; statistic: the most that one pool of a
   division recovers minus the least.
4. Parity among matched halves beside it.
5. The published reading compared four models; it cannot be made on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from headlab.effects import Figure, Table, recovery
from headlab.heads import even
from headlab.measures.machine import facts_table
from headlab.stats import holm
from headlab.trials.charts import estimates, null
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs
from headlab.trials.halves import Halves, patched_set
from headlab.trials.numbers import repaired
from headlab.trials.position_pools import own, pools, ranks, recovered, spreads
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

HALVES = Halves(even, "the even heads", "even − odd", rank="rank:parity")


def no_positions(case: Any) -> str:
    lab = case.lab
    why = (
        f"each of the {lab.grid.n_heads} heads of {lab.name} has keys and values of its own: no KV group has positions"
    )
    return why if lab.grid.group_size == 1 else ""


def sweeps(scope: Scope) -> dict[str, Sweep]:
    named = [scope.edit(f"position:{p}", heads) for p, heads in enumerate(own(scope))]
    return {
        "positions": Sweep((*named, scope.edit("all", scope.whole), *scope.idle()), texts=True),
        "pools": Sweep([patched_set(s) for s in pools(scope)[2]]),
        "halves": HALVES.run(scope),
    }


def positions(seen: Seen) -> Iterator[Told]:
    words = {f"position:{p}": f"position {p} of the KV groups" for p in range(seen.scope.grid.group_size)}
    yield from repaired("positions", words, arm="")(seen)
    for name, found in seen.once(ranks).items():
        label = f"pools that recover at least as much as position {name.rsplit(':', 1)[1]}"
        if name == "rank:label":
            label = "random divisions whose pools differ at least as much as the positions"
        yield Told(name, label, found, "")


def parity(seen: Seen) -> Iterator[Told]:
    half = HALVES.found(seen)
    yield Told("contrast:parity", "even minus odd: logit difference recovered", half.contrast, "")
    yield Told("rank:parity", "matched halves with a contrast at least as large", half.rank, "")


def by_position(seen: Seen) -> Table:
    found = [seen.once(ranks)[f"rank:position:{p}"] for p in range(seen.scope.grid.group_size)]
    rows = [
        {"position": p, "heads": str(s), "recovery": seen.once(recovered)[s], "p": found[p].p}
        for p, s in enumerate(own(seen.scope))
    ]
    return pd.DataFrame(rows).assign(p_holm=holm([r.high for r in found]))


def every_pool(seen: Seen) -> Table:
    return pd.DataFrame([{"heads": str(s), "recovery": r} for s, r in seen.once(recovered).items()])


def positions_figure(seen: Seen) -> Figure:
    scope, group = seen.scope, "one head of every group"
    return estimates(
        "positions",
        f"Logit difference recovered by each position of the KV groups, layer {scope.layer}",
        "Each pool holds one head of every KV group. Bars are 95 % intervals over pairs: two pools that differ clearly are "
        "no sign that position matters, as any two pools do.",
        [
            (f"position {p}", group, recovery(seen["positions"], f"position:{p}", seed=scope.seed))
            for p in range(scope.grid.group_size)
        ],
        "recovery of the logit difference",
        None,
    )


def among_pools(seen: Seen) -> Figure:
    found, place = seen.once(recovered), seen.once(ranks)["rank:position:0"]
    null_sets = pools(seen.scope)[0].sets
    title = f"Position 0, among {len(null_sets):,} pools of layer {seen.scope.layer} with one head of every KV group"
    caption = (
        "Each bar counts pools by how much of the logit difference they recover. The line is the pool of position 0: "
        f"p = {place.p:.3g}."
    )
    line, x_title = seen.estimate("recovery:position:0"), "recovery of the logit difference"
    told = ([found[s] for s in null_sets], line, "position 0", x_title, place.p)
    return null("null", title, caption, *told, of=null_sets, named=own(seen.scope)[0])


def among_divisions(seen: Seen) -> Figure:
    (observed, *divided), label = seen.once(spreads), seen.once(ranks)["rank:label"]
    title = f"How far the positions differ, among {label.n_sets:,} random divisions of layer {seen.scope.layer}"
    caption = (
        "Each bar counts divisions of the layer into such pools by the most that a pool recovers minus the least. The line "
        f"is the division by position: p = {label.p:.3g}."
    )
    x_title = "most minus least recovered by a pool"
    return null("label", title, caption, divided, observed, "positions", x_title, label.p, of="divisions")


EXPERIMENT = OnPairs(
    slug="architecture",
    question="Is a head's position in its KV group a better label than its parity?",
    statistics=(
        "recovery:position:*",
        "repair:position:*",
        "rank:position:*",
        "rank:label",
        "rank:parity",
        "contrast:parity",
    ),
    cannot=no_positions,
    alone=True,
    facts={"facts": lambda case: facts_table(case.lab)},
    methods={
        "standard": Method(
            "pools of one head from every KV group (z), patched at the same roles, among pools of that kind that nobody "
            "named",
            sweeps,
            numbers=(positions, parity),
            controls=(no_op("positions"), patch_all("positions")),
            figures=(positions_figure, among_pools, among_divisions),
            tables={"positions": by_position, "pools": every_pool},
        ),
        "published": Method(
            "models compared",
            impossible=lambda scope: (
                "it cannot run on one model: the published table compares four models that differ in size, tokenizer and "
                "training data as well as in architecture"
            ),
        ),
    },
    sections={
        "When this misleads": (
            "Which head of a KV group stands first is an accident of training: exchanging the heads of a group leaves the model "
            "as it is. A position that carries the effect in one model is therefore no property of grouped queries until it "
            "returns in models trained from other seeds. Models that differ in size, tokenizer and data as well as in "
            "architecture cannot say which of these made a difference."
        )
    },
)

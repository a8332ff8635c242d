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

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Claim, decide
from headlab.designs import matched_sets
from headlab.effects import Figure, mean_recovery, pivot, recovery
from headlab.engine.model import Lab
from headlab.experiments.attention.watched import chosen_layer, estimates_figure
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    eligibility,
    named,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
    standard_estimates,
    with_texts,
)
from headlab.experiments.null import matched_null, null_worlds, rank_by_pair
from headlab.heads import Grid, Heads, even, group_position
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.measures import architecture as facts_of
from headlab.stats import Estimate, Rank, holm
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.store import NamedEstimate, Reading

STATISTICS = (
    "recovery:position:*",
    "repair:position:*",
    "rank:position:*",
    "rank:label",
    "rank:parity",
    "contrast:parity",
)
_FOUR = (
    "it cannot run on one model: the published table compares four models that differ in size, tokenizer and training data "
    "as well as in architecture"
)


def architecture(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    facts = facts_table(lab)
    published = [
        Reading(protocol="published", words="models compared", verdict=decide(claim, {}, [], impossible=_FOUR))
    ]
    published *= "published" in claim.readings
    if lab.grid.group_size == 1:
        why = f"each of the {lab.grid.n_heads} heads of {lab.name} has keys and values of its own: no KV group has positions"
        alone = Reading(protocol="standard", words=_WORDS, verdict=decide(claim, {}, [], impossible=why))
        return Outcome([alone, *published], [], {"facts": facts}, {"ok": False, "reason": why}, sections=_SECTIONS)
    at, scan = chosen_layer(bench)
    able = eligibility(bench, PROTOCOLS["standard"])
    named_rows = _named(bench, able, at)
    found, swept = _positions(bench, able, at)
    null = matched_null(bench, able.usable(bench), even(lab.grid, at), 0.5)
    ruled: dict[str, Any] = {**found["ranks"], "rank:parity": null.rank, "contrast:parity": null.contrast}
    estimates: list[NamedEstimate] = []
    for p in range(lab.grid.group_size):
        estimates += standard_estimates(
            named_rows, {f"position:{p}": f"position {p} of the KV groups"}, bench.seed, ""
        ).values()
    ruled |= {e.name: Estimate.from_dict(e.estimate) for e in estimates}
    estimates += [named(k, _label(k), r.estimate, "") for k, r in found["ranks"].items()]
    estimates += [
        named("contrast:parity", "even minus odd: logit difference recovered", null.contrast, ""),
        named("rank:parity", "matched halves with a contrast at least as large", null.rank.estimate, ""),
    ]
    checks = [no_op_control(named_rows, lab), patch_all_control(named_rows, bench.seed)]
    verdict = decide(claim, ruled, checks, ineligible=able.reason)
    standard = Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))
    return Outcome(
        [standard, *published],
        [_figure(named_rows, lab.grid, at, bench.seed), *_null_figures(found, at)],
        {"facts": facts, "positions": found["table"], "pools": found["pools"],
         "effects": pd.concat(
             [named_rows, *(t.assign(protocol="standard", arm="z") for t in (swept, null.effects))], ignore_index=True)},
        able.plain(),
        settings={"layer": at, "layer_scan": scan},
        sections=_SECTIONS,
    )  # fmt: skip


_WORDS = (
    "pools of one head from every KV group (z), patched at the same roles, among pools of that kind that nobody named"
)


def facts_table(lab: Lab) -> Any:
    """What the running model's attention is made of, one row for each fact, beside what its config says."""
    import pandas as pd

    found = dict(facts_of(lab))
    told: Mapping[str, Any] = found.pop("config", {})
    disagreements: Sequence[str] = found.pop("disagreements", ())
    found["disagreements with the config"] = "; ".join(disagreements) or "none"
    return pd.DataFrame(
        [{"fact": k, "value": _plain(v), "config": _plain(told[k]) if k in told else ""} for k, v in found.items()]
    )


def _plain(value: Any) -> str:
    """A fact in words: one value where every layer has the same."""
    if isinstance(value, Mapping) and value:
        kinds = {str(v) for v in value.values()}
        return kinds.pop() if len(kinds) == 1 else ", ".join(f"L{k}: {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _world(heads: Heads) -> World:
    return World(f"set {heads}", (Intervention(heads),))


def divisions(grid: Grid, at: int, n: int, seed: int) -> list[tuple[Heads, ...]]:
    """``n`` random divisions of a layer into pools with one head of every KV group each."""
    rng, size, out = random.Random(f"divisions {seed} {at}"), grid.group_size, []
    for _ in range(n):
        orders = [rng.sample(range(g * size, (g + 1) * size), size) for g in range(grid.n_kv_heads)]
        out.append(tuple(Heads.of(at, column) for column in zip(*orders, strict=True)))
    return out


def _pools(grid: Grid, claim: Claim, at: int) -> tuple[Any, list[tuple[Heads, ...]], list[Heads]]:
    """Pools like a position's, divisions of the layer, and every set that has to run."""
    own = tuple(group_position(grid, at, p) for p in range(grid.group_size))
    matched = matched_sets(grid, own[0], n=claim.matched_sets, seed=claim.seed)
    divided = divisions(grid, at, claim.matched_sets, claim.seed)
    every = dict.fromkeys([*own, *matched.sets, *(s for d in divided for s in d)])
    return matched, divided, list(every)


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """The worlds that most of the time goes to."""
    if grid.group_size == 1:
        return [_world(all_heads(grid, at))]
    return [
        *map(_world, _pools(grid, claim, at)[2]),
        *null_worlds(grid, even(grid, at), claim.matched_sets, claim.seed),
    ]


def _named(bench: Bench, able: Eligibility, at: int) -> Any:
    """Text and logit differences of each position's pool and of the controls."""
    grid, protocol = bench.lab.grid, PROTOCOLS["standard"]
    whole, pairs = all_heads(grid, at), able.usable(bench)
    worlds = [
        *(protocol_patch(protocol, f"position:{p}", group_position(grid, at, p)) for p in range(grid.group_size)),
        protocol_patch(protocol, "all", whole),
        protocol_patch(protocol, "baseline", whole, amount=0.0),
        no_op_world(protocol, whole),
    ]
    effects, what = bench.sweep(pairs, worlds, f"positions L{at}"), f"positions L{at}"
    return with_texts(effects, bench.texts(pairs, worlds, protocol, what), protocol="standard", arm="z")


def _positions(bench: Bench, able: Eligibility, at: int) -> tuple[dict[str, Any], Any]:
    """Each position's rank among pools with one head of every group, and the label's rank among divisions."""
    import pandas as pd

    grid, claim = bench.lab.grid, bench.claim
    matched, divided, every = _pools(grid, claim, at)
    swept = bench.sweep(able.usable(bench), [_world(s) for s in every], f"pools L{at}")
    edited = pivot(swept, [_world(s).name for s in every])
    one = swept.drop_duplicates("pair").sort_values("pair")
    recovered = dict(
        zip(every, mean_recovery(edited, one["clean"].to_numpy(), one["corrupted"].to_numpy()), strict=True)
    )
    by_pair = dict(zip(every, edited - one["corrupted"].to_numpy(), strict=True))
    null = np.array([recovered[s] for s in matched.sets])
    own = [group_position(grid, at, p) for p in range(grid.group_size)]
    ranks: dict[str, Rank] = {
        f"rank:position:{p}": rank_by_pair(
            np.stack([by_pair[x] for x in (s, *matched.sets)]),
            one["cluster"].to_numpy(),
            claim,
            enumerated=matched.enumerated,
            unit="matched pools",
        )
        for p, s in enumerate(own)
    }
    spreads = np.array([np.ptp([recovered[s] for s in d]) for d in divided])
    observed = float(np.ptp([recovered[s] for s in own]))
    places = {s: i for i, s in enumerate(every)}
    parts = [[places[s] for s in d] for d in (own, *divided)]
    by_division = bootstrap_of_means(
        np.stack(list(by_pair.values())).T, lambda m: np.stack([np.ptp(m[..., p], axis=-1) for p in parts], -1),
        one["cluster"].to_numpy(), unit="pairs", seed=claim.seed,
    )  # fmt: skip
    ranks["rank:label"] = rank_over_draws(by_division, enumerated=False, alpha=claim.alpha, unit="divisions")
    adjusted = holm([ranks[f"rank:position:{p}"].high for p in range(len(own))])
    table = pd.DataFrame(
        [
            {
                "position": p,
                "heads": str(s),
                "recovery": recovered[s],
                "p": ranks[f"rank:position:{p}"].p,
                "p_holm": float(q),
            }
            for p, (s, q) in enumerate(zip(own, adjusted, strict=True))
        ]
    )
    pools = pd.DataFrame([{"heads": str(s), "recovery": recovered[s]} for s in every])
    return {
        "ranks": ranks,
        "table": table,
        "pools": pools,
        "null": null,
        "spreads": spreads,
        "observed": observed,
    }, swept


def _label(name: str) -> str:
    if name == "rank:label":
        return "random divisions whose pools differ at least as much as the positions"
    return f"pools that recover at least as much as position {name.rsplit(':', 1)[1]}"


def _figure(rows: Any, grid: Grid, at: int, seed: int) -> Figure:
    return estimates_figure(
        "positions",
        f"Logit difference recovered by each position of the KV groups, layer {at}",
        "Each pool holds one head of every KV group. Bars are 95 % intervals over pairs: two pools that differ clearly are "
        "no sign that position matters, as any two pools do.",
        [
            (f"position {p}", "one head of every group", recovery(rows, f"position:{p}", seed=seed))
            for p in range(grid.group_size)
        ],
        "recovery of the logit difference",
    )


def _null_figures(found: dict[str, Any], at: int) -> list[Figure]:
    table, ranks = found["table"], found["ranks"]
    first = table.iloc[0]
    label = ranks["rank:label"]
    return [
        Figure(
            kind="null",
            name="null",
            title=f"Position 0, among {len(found['null']):,} pools of layer {at} with one head of every KV group",
            caption=(
                "Each bar counts pools by how much of the logit difference they recover. The line is the pool of position 0: "
                f"p = {ranks['rank:position:0'].p:.3g}."
            ),
            data=tuple({"value": float(x)} for x in found["null"]),
            options={"observed": float(first["recovery"]), "low": None, "high": None, "label": "position 0",
                     "x_title": "recovery of the logit difference", "p": ranks["rank:position:0"].p},
        ),
        Figure(
            kind="null",
            name="label",
            title=f"How far the positions differ, among {label.n_sets:,} random divisions of layer {at}",
            caption=(
                "Each bar counts divisions of the layer into such pools by the most that a pool recovers minus the least. The "
                f"line is the division by position: p = {label.p:.3g}."
            ),
            data=tuple({"value": float(x)} for x in found["spreads"]),
            options={"observed": found["observed"], "low": None, "high": None, "label": "positions",
                     "x_title": "most minus least recovered by a pool", "p": label.p},
        ),
    ]  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Which head of a KV group stands first is an accident of training: exchanging the heads of a group leaves the model "
            "as it is. A position that carries the effect in one model is therefore no property of grouped queries until it "
            "returns in models trained from other seeds. Models that differ in size, tokenizer and data as well as in "
            "architecture cannot say which of these made a difference."
        ),
    }
]

EXPERIMENT = Experiment(
    "architecture",
    "Is a head's position in its KV group a better label than its parity?",
    architecture,
    STATISTICS,
    design=design,
)

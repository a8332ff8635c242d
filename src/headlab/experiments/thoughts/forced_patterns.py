"""Does it matter which thoughts the thoughts attend to?

1. In every head, after the softmax, the attention of each thought to thoughts is overwritten: four fifths on the hub,
   uniform, only the thought before, only itself.  A row keeps its mass on thoughts and everything else it attends to.
2. Accuracy lost against the unedited model in the same kernels, paired by problem; exact McNemar, Holm over patterns.
3. The reference for the hub: each head is given a hub of its own, positions dealt out at random and evenly over heads.
   The strength is the same, the place is not.
4. The extent: attention to earlier thoughts blocked altogether, its mass left to the rest of the row; and the same for
   the answer's tokens.
5. The identity pattern changes no bit; a forced hub is read back from the attention itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thinking import ThoughtBench, of_world
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_causal import (
    Array,
    Effect,
    cannot_run,
    drops_figure,
    hub_of,
    measured,
    not_rebuilt,
    parse_control,
    silent_control,
    tabled,
    told,
    without_thoughts,
)
from headlab.experiments.thoughts.thought_rows import every_head, few, forced
from headlab.heads import Grid, Heads
from headlab.interventions import Intervention
from headlab.stats import Rank, holm, rank
from headlab.stats.figures import rounded
from headlab.store import Reading
from headlab.thoughts.worlds import Force, ThoughtWorld

STATISTICS = ("drop:*", "kept:*", "relative:*", "accuracy:*", "parsed:*", "rank:*")
SHARE, EXACT = 0.8, 1e-4


def forced_patterns(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 3):
        return cannot_run(bench, why)
    hub = hub_of(bench, bench.option("hub", EXPERIMENT))
    patterns = pattern_worlds(bench.lab.grid, hub)
    found, table, base = measured(bench, patterns, "forced patterns", holm)
    extents = [blocked(bench, "thoughts"), blocked(bench, "answer")]
    cut, _, _ = measured(bench, extents, "attention blocked", holm)
    null = _random(bench, base)
    assert found["hub"].drop.value is not None
    place = rank(
        found["hub"].drop.value, null, enumerated=False, alpha=bench.claim.alpha, unit="random placements", tail="less"
    )
    checks = [
        bench.exact(identity(bench.lab.grid), words="every pattern overwritten by itself"),
        parse_control(bench.baseline, table),
        takes_hold(bench, hub),
        silent_control(bench),
    ]
    every = {**found, **cut}
    findings: dict[str, Any] = {"rank:hub": place}
    for key, e in every.items():
        findings |= {
            f"drop:{key}": e.drop,
            f"kept:{key}": e.kept,
            f"relative:{key}": e.relative,
            f"accuracy:{key}": e.accuracy,
        }
        findings[f"parsed:{key}"] = e.parsed
    estimates = [
        named("rank:hub", "random placements of hubs that cost as little", place.estimate, ""),
        *(named(f"kept:{k}", f"{e.label}: share of the accuracy kept", e.kept, e.group) for k, e in every.items()),
        *(x for k, e in every.items() for x in told(e, k)),
    ]
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason)
    readings = [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))]
    if "published" in bench.claim.readings:
        readings.append(not_rebuilt(bench, _NOT_REBUILT))
    return Outcome(
        readings,
        _figures(found, cut, null, place, hub),
        {"effects": tabled(base, list(every.values()), bench.seed), "random": _random_table(null)},
        bench.able.plain(),
        settings={"hub": hub, "share": SHARE, "random": len(null)},
        sections=_SECTIONS,
        notes=_notes(every, place, hub),
    )


def pattern_worlds(grid: Grid, hub: int) -> list[ThoughtWorld]:
    """The patterns, in all heads, rows of thoughts."""
    heads = every_head(grid)
    shapes = {
        "hub": (Force(heads, "hub", hub=hub, share=SHARE), f"hub at thought {hub}, 80 %"),
        "uniform": (Force(heads, "uniform"), "uniform"),
        "sequential": (Force(heads, "sequential", share=1.0), "only the thought before"),
        "self": (Force(heads, "self"), "only itself"),
    }
    return [
        ThoughtWorld(name, forces=(force,), labels={"label": words, "group": "forced among thoughts"})
        for name, (force, words) in shapes.items()
    ]


def identity(grid: Grid) -> ThoughtWorld:
    return ThoughtWorld("identity", forces=(Force(every_head(grid), "identity", rows="all"),))


def blocked(bench: ThoughtBench, readers: str) -> ThoughtWorld:
    """Attention of thoughts to earlier thoughts, or of the answer to all thoughts, removed in every head."""
    n = bench.n_thoughts
    cuts = (
        {(f"thought[{i}]",): tuple(f"thought[{j}]" for j in range(i)) for i in range(1, n)}
        if readers == "thoughts"
        else {("eot", "answer"): ("thoughts",)}
    )
    ones = tuple(
        Intervention(Heads.of(at, range(bench.lab.grid.n_heads)), "pattern", "mask", roles=rows, keys=keys)
        for at in range(bench.lab.grid.n_layers)
        for rows, keys in cuts.items()
    )
    words = "earlier thoughts blocked for thoughts" if readers == "thoughts" else "thoughts blocked for the answer"
    return ThoughtWorld(f"blocked-{readers}", ones, labels={"label": words, "group": "extent"})


def dealt_hubs(grid: Grid, n: int, seed: int) -> tuple[Force, ...]:
    """A hub for each head, each thought the hub of as many heads (up to one), dealt out at random."""
    heads = list(every_head(grid))
    places = [i % n for i in range(len(heads))]
    random.Random(f"hubs {seed}").shuffle(places)
    return tuple(
        Force(Heads(h for h, p in zip(heads, places, strict=True) if p == k), "hub", hub=k, share=SHARE)
        for k in sorted(set(places))
    )


def _random(bench: ThoughtBench, base: Any) -> Array:
    """Accuracy lost under random placements of hubs."""
    grid, n = bench.lab.grid, bench.n_thoughts
    worlds = [
        ThoughtWorld(f"random {i}", forces=dealt_hubs(grid, n, bench.seed + i)) for i in range(bench.claim.matched_sets)
    ]
    table = bench.think(worlds, "random hubs")
    whole = float(base["right"].mean())
    return np.array([whole - float(of_world(table, w.name)["right"].mean()) for w in worlds])


def takes_hold(bench: ThoughtBench, hub: int) -> Control:
    return judged_hold(forced(bench, few(bench), "hub", hub), hub)


def judged_hold(seen: Array, hub: int) -> Control:
    """The forced hub must be read back, [problem, head, thought, key]: its share of the mass on thoughts."""
    rows = seen[..., max(1, hub) :, :]
    share = float((rows[..., hub] / rows.sum(-1)).mean())
    return Control(
        name="takes-hold",
        kind="positive",
        passed=abs(share - SHARE) <= EXACT,
        words=f"with four fifths forced onto thought {hub}, {rounded(share)} of the attention among thoughts is read there",
        value=share,
    )


def _random_table(null: Array) -> Any:
    import pandas as pd

    return pd.DataFrame({"placement": range(len(null)), "drop": null})


def _figures(
    found: Mapping[str, Effect], cut: Mapping[str, Effect], null: Array, place: Rank, hub: int
) -> list[Figure]:
    return [
        drops_figure(
            "patterns", "Share of the accuracy lost under forced attention",
            "All heads, rows of thoughts, after the softmax; 95 % intervals over problems. Zero is the identity pattern, which is "
            "exact.", [*found.values(), *cut.values()], by="relative", threshold=0, x_title="share of the accuracy lost",
        ),
        draw.null(
            "random", f"The hub at thought {hub}, among random placements of hubs",
            f"Each bar counts placements in which every head has a hub of its own. {place}.", null, found["hub"].drop,
            f"hub at {hub}", "accuracy lost", "random placements",
        ),
    ]  # fmt: skip


def _notes(every: Mapping[str, Effect], place: Rank, hub: int) -> list[str]:
    hurt = [e.label for e in every.values() if e.matters]
    return [
        f"Costs accuracy (exact McNemar, Holm): {', '.join(hurt) or 'none'}.",
        f"Random placements of hubs that cost as little as thought {hub}: {place}.",
        f"With all attention to earlier thoughts blocked {every['blocked-thoughts'].kept} of the accuracy is kept.",
    ]


_WORDS = "weights inside each row's mass on thoughts overwritten after the softmax, in all heads and rows of thoughts"
_NOT_REBUILT = (
    "the published patterns were additive masks (0 keep, −10000 block) given as attention_mask; transformers reads a 2-D one "
    "as booleans, which attends only to what was to be blocked, so the sign of those numbers is not known"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A forced pattern changes only how a head's mass on thoughts is divided. Where that mass is small, or where "
            "cutting it altogether costs nothing, no pattern can matter, whatever the attention looks like: read the "
            "blocked row first. All heads are forced at once; a pattern may be harmless because another road is open, or "
            "harmful because one head needed its own. The hub at thought k acts on the rows that see k, so late hubs have "
            "fewer rows to act on."
        ),
    }
]

EXPERIMENT = Experiment(
    "forced-patterns",
    "Does it matter which thoughts the thoughts attend to?",
    forced_patterns,
    STATISTICS,
    controls=("no-op", "parse-rate", "takes-hold", "silence-all"),
    options={"hub": "auto", "max_new_tokens": 12},
)

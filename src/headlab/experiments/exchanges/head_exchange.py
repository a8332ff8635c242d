"""Can heads be shuffled among the even ones, or the odd ones, but not across?

1. Eligible pairs and the layer as in ``parity``.  All heads of the layer are patched from the clean run, which repairs
   the bug; then z is really exchanged: slot i (its part of the output projection) receives what head j computed.
2. Shuffles among the even heads, among the odd ones, among both, and across (each even slot receives an odd head and
   the reverse); in all of them nobody keeps its place.
3. The null: random permutations with as many moved heads.  Half of the layer (as many of each KV group) shuffled for
   the even and the odd ones, all heads for the others.
4. A shuffle that leaves every head in its place must change nothing; random shuffles of all heads must change something.
5. As published: the sets that the scripts called shuffles, since a shuffle inside a patched set is the same set.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pandas as pd

from headlab.designs import matched_sets
from headlab.designs.exchanges import derangement, exchange
from headlab.effects import Figure
from headlab.heads import Grid, even, odd
from headlab.interventions import Intervention, World
from headlab.trials import charts
from headlab.trials.alternatives import wanted
from headlab.trials.checks import no_op, patch_all
from headlab.trials.exchanges import identity, takes_hold
from headlab.trials.families import Families, Place, Tail
from headlab.trials.flow import Method, OnPairs, unsliced, without_ranks
from headlab.trials.numbers import repaired
from headlab.trials.sweeps import Scope, Seen, Sweep

LABELS = {
    "within-even": "shuffled among the even heads",
    "within-odd": "shuffled among the odd heads",
    "within": "even among even and odd among odd",
    "across": "even slots receive odd heads and the reverse",
    "half": "random halves shuffled",
    "all": "all heads shuffled at random",
}
TAILS: dict[str, tuple[str, Tail]] = {
    "within-even": ("half", "greater"),
    "within-odd": ("half", "greater"),
    "within": ("all", "greater"),
    "across": ("all", "less"),
}


def across(grid: Grid, rng: random.Random) -> dict[int, int]:
    """Each even slot receives an odd head, each odd slot an even one; in a layer of an odd number one stays."""
    pairs = grid.n_heads // 2
    evens, odds = (rng.sample(range(first, 2 * pairs, 2), pairs) for first in (0, 1))
    back = rng.sample(evens, pairs)
    return dict(zip(evens, odds, strict=True)) | dict(zip(odds, back, strict=True))


def mappings(scope: Scope) -> dict[str, list[dict[int, int]]]:
    """As many shuffles of each kind that the claim names as ``shuffles`` says, ``matched_sets`` of each null."""
    grid, at, n = scope.grid, scope.layer, int(scope.options["shuffles"])
    rng = random.Random(f"shuffles {scope.seed}")
    evens, odds = even(grid, at).at(at), odd(grid, at).at(at)
    wide = wanted(scope.claim, scope.claim.matched_sets, [f"rank:{kind}" for kind in TAILS])
    halves = list(matched_sets(grid, even(grid, at), n=wide, seed=scope.seed).sets)
    chosen = [rng.choice(halves) for _ in range(wide)]
    every = range(grid.n_heads)
    return {
        "within-even": [derangement(evens, rng) for _ in range(n)],
        "within-odd": [derangement(odds, rng) for _ in range(n)],
        "within": [{**derangement(evens, rng), **derangement(odds, rng)} for _ in range(n)],
        "across": [across(grid, rng) for _ in range(n)],
        "half": [derangement(s.at(at), rng) for s in chosen],
        "all": [derangement(every, rng) for _ in range(wide)],
    }


def exchanged(scope: Scope, name: str, mapping: dict[int, int]) -> World:
    """Every head from the clean run, then exchanged."""
    return World(name, (Intervention(scope.whole), exchange(scope.layer, mapping, "z")))


def shuffles(scope: Scope) -> dict[str, list[World]]:
    drawn = mappings(scope).items()
    return {kind: [exchanged(scope, f"{kind} {n}", m) for n, m in enumerate(some)] for kind, some in drawn}


def place(kind: str) -> Place:
    """The rank of one kind of shuffle among random permutations."""
    among, tail = TAILS[kind]
    label = f"{LABELS[kind]}: random permutations with {'as much left' if tail == 'greater' else 'as little left'}"
    return Place(label, lambda seen: SHUFFLED.values(seen, kind).mean(0), among, "random permutations", tail)


SHUFFLED = Families(shuffles, "shuffles", ranks={f"rank:{kind}": place(kind) for kind in TAILS})


def standard(scope: Scope) -> dict[str, Sweep]:
    still = exchanged(scope, "identity", {i: i for i in range(scope.grid.n_heads)})
    fixed = (scope.edit("all", scope.whole), still, *scope.idle())
    return {"fixed": Sweep(fixed, texts=True), "shuffles": SHUFFLED.run(scope)}


def published(scope: Scope) -> dict[str, Sweep]:
    """The sets that the scripts patched under the names of shuffles."""
    sets = {"all": scope.whole, "within-even": even(scope.grid, scope.layer), "across": odd(scope.grid, scope.layer)}
    worlds = [scope.edit(name, heads) for name, heads in sets.items()]
    return {"sets": Sweep((*worlds, *scope.idle()), texts=True, arm="out_block")}


def among_permutations(kind: str) -> Callable[[Seen], Figure]:
    """A kind of shuffle as a line in the histogram of its null."""

    def draw(seen: Seen) -> Figure:
        among, band, found = TAILS[kind][0], seen.estimate(f"recovery:{kind}"), seen.rank(f"rank:{kind}")
        null = SHUFFLED.recoveries(seen, among)
        how = "half of the layer, as many heads of each KV group" if among == "half" else "all heads of the layer"
        caption = (
            f"Each bar counts random permutations ({len(null):,} drawn: {how}, none of them in its place) by how much of "
            "the logit difference is left of the repair; 1 is the unshuffled repair. The line is the mean of the shuffles "
            f"that the claim names. The band is the 95 % interval over {band.n} pairs. {found.at_least_as_extreme} of "
            f"{found.n_sets:,} are at least as extreme: p = {found.p:.3g}."
        )
        title = f"{LABELS[kind].capitalize()}, among random permutations of layer {seen.scope.layer}"
        line = (band, LABELS[kind], "logit difference recovered", found.p)
        return charts.null(f"null-{kind}", title, caption, null, *line, of="permutations")

    return draw


def arms(seen: Seen) -> Figure:
    rows = [
        (label, "random" if kind in {"half", "all"} else "named", seen.estimate(f"repair:{kind}"))
        for kind, label in LABELS.items()
    ]
    caption = (
        "Every head of the layer is patched from the clean run, which repairs the bug, and then given to other slots. Each "
        "row is a mean over shuffles of its kind, in which no named head keeps its place; bars are 95 % intervals by prompt "
        "pair. If parity were what slots need, shuffles within it would stand above random ones."
    )
    title = "Pairs still repaired, by who changed places"
    return charts.estimates("arms", title, caption, rows, "share of pairs repaired")


def moved(seen: Seen) -> Any:
    """A row for each slot of each shuffle."""
    return pd.DataFrame(
        {"world": f"{kind} {n}", "family": kind, "slot": i, "receives": j, "layer": seen.scope.layer}
        for kind, some in mappings(seen.scope).items()
        for n, mapping in enumerate(some[: len(SHUFFLED.names(seen)[kind])])
        for i, j in mapping.items()
    )


EXPERIMENT = OnPairs(
    slug="head-exchange",
    question="Can heads be shuffled among the even ones, or the odd ones, but not across?",
    statistics=(*(f"{what}:{s}" for what in ("repair", "recovery") for s in LABELS), *(f"rank:{s}" for s in TAILS)),
    controls=("no-op", "identity", "takes-hold", "patch-all"),
    options={"shuffles": 20},
    methods={
        "standard": Method(
            "all heads patched from the clean run, then z exchanged between slots; random permutations with as many moved "
            "heads as null",
            standard,
            numbers=(SHUFFLED.told(LABELS, "pairs still repaired"), SHUFFLED.ranked),
            controls=(
                no_op("fixed"),
                identity("fixed", "all", "a shuffle that leaves every head in its place"),
                patch_all("fixed"),
                takes_hold(SHUFFLED, "all", "fixed", "all"),
            ),
            figures=(among_permutations("across"), among_permutations("within-even"), arms),
            tables={"shuffles": moved},
        ),
        "published": Method(
            "the sets that were patched under the names of shuffles: the even set (shuffled within) and the odd set "
            "(swapped); slices of the attention module's output, left-aligned, every step, any mention counted",
            published,
            numbers=(
                repaired(
                    "sets",
                    {"within-even": "the even set, called a shuffle within", "across": "the odd set, called a swap"},
                    arm="out_block",
                ),
            ),
            controls=(no_op("sets"), patch_all("sets", "every slice of the layer")),
            impossible=unsliced,
            asks=without_ranks,
            binds=("no-op", "patch-all"),
        ),
    },
    sections={
        "When this misleads": (
            "Each slot's output projection is trained for its own head: what another head computed is read through the wrong "
            "weights, so most real exchanges do harm, whichever heads they join. A layer whose effect sits in one or two heads "
            "survives every shuffle that leaves those in place, and none here does for the heads it moves. That a shuffle of "
            "one half does less harm than one of all says only that fewer heads moved: compare with as many moved heads."
        ),
        "What the published shuffles are": (
            "The published scripts patched the set of heads [6, 2, 4, 8, 0, 10] and called it a shuffle of the even heads; a "
            "set has no order, so it is the even set. Their swap is the odd set. No head was exchanged with another."
        ),
    },
)

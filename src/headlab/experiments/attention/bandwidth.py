"""Do even heads give more of their attention to the numbers than odd heads?

1. Every pair is read in its clean and its corrupted format; token classes come from roles, never from what a token's
   text contains.
2. For each head: the share of attention on numbers, and that share relative to uniform causal attention, from the last
   query and from all queries, with the sink counted and left out; beside it the share of what the head writes.
3. Even minus odd at the layer, with an interval over pairs and a rank among KV-matched halves; the same in every layer,
   Holm-adjusted; a paired test of each head between the two formats, Holm over heads and layers.
4. Where the causal heads are known: how well bandwidth tells them from the others.
5. The published reading (tokens sorted by substring, all queries, sink counted) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.measures import PublishedClasses
from headlab.measures.edited import CONTROLS, controls, shuffled_roles
from headlab.prompts import Encoded
from headlab.stats import holm
from headlab.stats.permutation import flips
from headlab.trials import charts
from headlab.trials.attention_scores import Watched, grids, naive, no_halves, share_of, sides, to_numbers, written
from headlab.trials.flow import NO_ANSWERS, Method, OnPairs, without_ranks
from headlab.trials.pairs import clusters_of
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.truths import tells_causal_heads

NAMES = ("share", "relative", "output")
ARMS = {"last": "last query", "all": "all queries", "out": "sink left out", "in": "sink counted"}


def asked(scope: Scope) -> dict[str, Any]:
    """The claim's choice of queries and of the sink."""
    return {k: scope.options[k] for k in ("queries", "sink")}


def tables(seen: Seen) -> dict[str, Any]:
    """Attention to the numbers in both formats."""
    formats = {"clean": [p.clean for p in seen.scope.pairs], "corrupted": corrupted(seen.scope)}
    return {k: to_numbers(seen.scope.lab, v, **asked(seen.scope)) for k, v in formats.items()}


def corrupted(scope: Scope) -> list[Encoded]:
    return [p.corrupted for p in scope.pairs]


RELATIVE = Watched(
    lambda seen: grids(seen.once(tables)["corrupted"], "relative"), "Numeric bandwidth relative to uniform attention"
)
TRUTH = tells_causal_heads(RELATIVE, "relative bandwidth tells the causal heads from the others: AUROC")


def shares(seen: Seen) -> Iterator[Told]:
    """Under each choice of queries and of the sink; the claim's own carries no arm and is ruled."""
    scope, own = seen.scope, tuple(asked(seen.scope).values())
    ways = [(q, s) for q in ("last", "all") for s in ("out", "in")]
    arms = {way: "" if way == own else f"{ARMS[way[0]]}, {ARMS[way[1]]}" for way in ways}
    for (q, s), arm in sorted(arms.items(), key=lambda one: one[1]):
        table = to_numbers(scope.lab, corrupted(scope), queries=q, sink=s, relative=False, layers=[scope.layer])
        found = sides(scope, grids(table, "share")[scope.layer])
        yield from found.told("share", "share of attention on numbers", arm, unruled=bool(arm))


def outputs(seen: Seen) -> Iterator[Told]:
    if (table := written(seen.scope, corrupted(seen.scope), **asked(seen.scope))) is not None:
        found = sides(seen.scope, grids(table, "share")[seen.scope.layer])
        yield from found.told("output", "share of what heads write that comes from numbers")


def by_substring(seen: Seen) -> Iterator[Told]:
    """As the published scripts sort tokens and read shares."""
    scope = seen.scope
    classes = PublishedClasses(scope.lab.tokenizer)
    table = to_numbers(
        scope.lab, corrupted(scope), classes, queries="all", sink="in", relative=False, layers=[scope.layer]
    )
    found = sides(scope, grids(table, "share")[scope.layer])
    yield from found.told("share", "share of attention on numbers, by substring", ranked=False)
    shares_written = written(scope, corrupted(scope), classes, sink="in")
    labels = {
        "published_weight_share": "published weights: last query, by substring",
        "published_output_share": "published outputs: size of output slices at numeric positions",
    }
    for column, label in labels.items():
        grid = None if shares_written is None else grids(shares_written, column)[scope.layer]
        if grid is not None and not np.isnan(grid).all():
            yield from sides(scope, grid).told(column.replace("_", "-"), label, unruled=True, ranked=False)


def checks(scope: Scope) -> list[Control]:
    lab, at, encoded, clusters = scope.lab, scope.layer, corrupted(scope), clusters_of(scope.pairs)
    return [*controls(lab, encoded, at, share_of(at)), shuffled_roles(lab, encoded, at, clusters, scope.seed)]


def both_formats(seen: Seen) -> Table:
    return pd.concat([t.assign(prompt_format=k) for k, t in seen.once(tables).items()], ignore_index=True)


def heads(seen: Seen) -> Table:
    """Each head in both formats, and a paired test of the difference, Holm over heads and layers."""
    found = {
        f"{column}_{k}": grids(t, column) for column in ("share", "relative") for k, t in seen.once(tables).items()
    }
    first, second = found["relative_clean"], found["relative_corrupted"]
    moved = np.concatenate([second[at] - first[at] for at in sorted(first)], 1)
    p = flips(np.nan_to_num(moved), clusters_of(seen.scope.pairs), seen.scope.seed)
    rows = [
        {"layer": at, "head": h, "parity": "odd" if h % 2 else "even"}
        | {name: float(np.nanmean(by[at][:, h])) for name, by in found.items()}
        for at in sorted(first)
        for h in range(seen.scope.grid.n_heads)
    ]
    return pd.DataFrame(rows).assign(p=p, p_holm=holm(p), pairs=len(moved))


def shares_figure(seen: Seen) -> Figure:
    rows, scope = [], seen.scope
    for key, fmt in (("clean", scope.claim.task.clean), ("corrupted", scope.claim.task.corrupted)):
        one = sides(scope, grids(seen.once(tables)[key], "share")[scope.layer])
        rows += [("even heads", fmt, one.even), ("odd heads", fmt, one.odd)]
    title = f"Share of attention on the numbers, even and odd heads, layer {scope.layer}"
    caption = (
        "Means over heads and pairs with 95 % intervals over pairs. The line is the claimed threshold of 40 %. Formats differ "
        "in how many of their tokens are numbers: compare halves within a format, not formats."
    )
    return charts.estimates("shares", title, caption, rows, "share of attention on numbers", threshold=0.4)


EXPERIMENT = OnPairs(
    slug="bandwidth",
    question="Do even heads give more of their attention to the numbers than odd heads?",
    statistics=(
        *(f"{name}:{half}" for name in NAMES for half in ("even", "odd")),
        *(f"{kind}:{name}" for kind in ("contrast", "rank") for name in NAMES),
        "auroc:truth",
    ),
    controls=(*CONTROLS, "shuffled-roles"),
    options={"queries": "last", "sink": "out"},
    needs="numbers",
    cannot=no_halves,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            lambda seen: (
                f"token roles, {', '.join(ARMS[x] for x in asked(seen.scope).values())}, relative to uniform causal "
                "attention, matched halves as null"
            ),
            numbers=(shares, RELATIVE.told("relative", "attention on numbers, times uniform"), outputs, TRUTH),
            controls=(lambda seen: seen.of_trial(checks),),
            figures=(shares_figure, RELATIVE.null, RELATIVE.curve),
            tables={"heads": heads, "layers": RELATIVE.layers, "bandwidth": both_formats},
            settings=lambda seen: asked(seen.scope),
            also=(naive("relative"),),
        ),
        "published": Method(
            "tokens sorted by substring, all queries, the sink counted; the published scripts read one prompt, this reads all",
            numbers=(by_substring,),
            controls=(lambda seen: seen.of_trial(checks),),
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "Attention is not use: a head may look at numbers and write nothing of them, and a head that carries the answer "
            "may look elsewhere. A share also follows from how many tokens are numbers; the relative rate takes that out. "
            "Any two halves of a layer differ somewhat, so an interval over prompts that leaves zero says nothing about "
            "parity: only the rank among halves that nobody named does."
        ),
        "What the published shares are": (
            "The published output share sums the size of output slices over positions. Slices of about equal size give the "
            "share of positions that are numbers, whatever any head does, which is why it hardly differed between heads."
        ),
    },
)

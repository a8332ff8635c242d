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

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab import organisms
from headlab.claims import Control, decide
from headlab.engine.model import Lab, ModelError
from headlab.experiments.attention.watched import (
    Array,
    Halves,
    by_layer,
    chosen_layer,
    clusters_of,
    estimates_figure,
    flips,
    grids,
    halves,
    layers_figure,
    naive,
    no_halves,
    null_figure,
    untestable,
    without_ranks,
)
from headlab.experiments.base import Bench, Experiment, Outcome, named
from headlab.experiments.edited import CONTROLS, controls
from headlab.measures import DECIMALS, PublishedClasses, output_bandwidth
from headlab.measures import bandwidth as attention_bandwidth
from headlab.measures.classes import SINK
from headlab.organisms.cards import Truth
from headlab.prompts import Encoded
from headlab.stats import Estimate, auroc, bootstrap_mean, holm
from headlab.store import NamedEstimate, Reading

NAMES = ("share", "relative", "output")
STATISTICS = (
    *(f"{name}:{half}" for name in NAMES for half in ("even", "odd")),
    *(f"{kind}:{name}" for kind in ("contrast", "rank") for name in NAMES),
    "auroc:truth",
)
ARMS = {"last": "last query", "all": "all queries", "out": "sink left out", "in": "sink counted"}
NEAR = 0.05


def bandwidth(bench: Bench) -> Outcome:
    """Run the experiment."""
    claim, lab = bench.claim, bench.lab
    if why := no_halves(lab):
        return untestable(bench, why)
    at, scan = chosen_layer(bench)
    prompts = {"clean": [p.clean for p in bench.encoded], "corrupted": [p.corrupted for p in bench.encoded]}
    clusters = clusters_of(bench.encoded)
    queries, sink = bench.option("queries", EXPERIMENT), bench.option("sink", EXPERIMENT)
    seen = {k: _numeric(lab, v, queries=queries, sink=sink) for k, v in prompts.items()}
    share, relative = (grids(seen["corrupted"], c) for c in ("share", "relative"))
    found = {
        "share": halves(share[at], clusters, lab.grid, at, claim),
        "relative": halves(relative[at], clusters, lab.grid, at, claim),
    }
    estimates = [
        *_arms(bench, prompts, at, (queries, sink)),
        *found["relative"].estimates("relative", _LABELS["relative"]),
    ]
    if (written := _written(bench, prompts["corrupted"], at, queries, sink)) is not None:
        found["output"] = written
        estimates += written.estimates("output", _LABELS["output"])
    found_truth = _truth(lab, relative)
    estimates.append(
        named("auroc:truth", "relative bandwidth tells the causal heads from the others: AUROC", found_truth, "")
    )
    ruled: dict[str, Any] = {k: v for name, h in found.items() for k, v in h.findings(name).items()}
    checks = [*controls(lab, prompts["corrupted"], at, _measure(at)), _shuffled(bench, prompts["corrupted"], at)]
    readings = [
        Reading(
            protocol="standard",
            words=f"token roles, {ARMS[queries]}, {ARMS[sink]}, relative to uniform causal attention, matched halves as null",
            verdict=decide(claim, {**ruled, "auroc:truth": found_truth}, checks),
            estimates=tuple(estimates),
        ),
        naive(found["relative"].gap, "relative", checks),
    ]
    if "published" in claim.readings:
        readings.append(_published(bench, prompts["corrupted"], at, checks))
    layers = by_layer(relative, clusters, lab.grid, claim)
    import pandas as pd

    return Outcome(
        readings,
        [
            _figure(seen, clusters, at, bench),
            null_figure(found["relative"], at, "Numeric bandwidth relative to uniform attention"),
            layers_figure(layers, "Numeric bandwidth relative to uniform attention"),
        ],
        {"heads": _heads(seen, clusters, bench.seed), "layers": pd.DataFrame(layers),
         "bandwidth": pd.concat([t.assign(prompt_format=k) for k, t in seen.items()], ignore_index=True)},
        _NEEDS_NONE,
        settings={"layer": at, "layer_scan": scan, "queries": queries, "sink": sink},
        sections=_SECTIONS,
    )  # fmt: skip


_NEEDS_NONE = {
    "ok": True,
    "reason": "",
    "rule": "none: what heads attend to is measured, not whether answers are right",
}
_LABELS = {
    "share": "share of attention on numbers",
    "relative": "attention on numbers, times uniform",
    "output": "share of what heads write that comes from numbers",
}


def _numeric(lab: Lab, encoded: Sequence[Encoded], classes: Any = DECIMALS, **settings: Any) -> Any:
    table = attention_bandwidth(lab, encoded, classes, **settings)
    return table[table["token_class"] == "numeric"].reset_index(drop=True)


def _measure(at: int) -> Any:
    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        return grids(_numeric(lab, encoded, sink="out", relative=False, layers=[at], tokens=tokens), "share")[at]

    return share


def _arms(bench: Bench, prompts: dict[str, list[Encoded]], at: int, main: tuple[str, str]) -> list[NamedEstimate]:
    """Shares under each choice of queries and sink; those of the claim carry no arm."""
    out = []
    for queries in ("last", "all"):
        for sink in ("out", "in"):
            table = _numeric(bench.lab, prompts["corrupted"], queries=queries, sink=sink, relative=False, layers=[at])
            one = halves(grids(table, "share")[at], clusters_of(bench.encoded), bench.lab.grid, at, bench.claim)
            arm = "" if (queries, sink) == main else f"{ARMS[queries]}, {ARMS[sink]}"
            out += one.estimates("share", _LABELS["share"], arm)
    return sorted(out, key=lambda e: e.arm)


def _written(bench: Bench, encoded: Sequence[Encoded], at: int, queries: Any, sink: Any) -> Halves | None:
    """Share of α·v·W_O that comes from numbers; None where no projection takes z itself."""
    try:
        table = output_bandwidth(bench.lab, encoded, queries=queries, sink=sink, layers=[at])
    except ModelError:
        return None
    table = table[table["token_class"] == "numeric"]
    return halves(grids(table, "share")[at], clusters_of(bench.encoded), bench.lab.grid, at, bench.claim)


def _truth(lab: Lab, relative: dict[int, Array]) -> Estimate:
    """AUROC of mean relative bandwidth for the planted heads, where the model is a shipped organism with a truth."""
    truth = organisms.card(lab.name).truth if lab.name in organisms.names("decimals") else None
    if not isinstance(truth, Truth):
        return Estimate.undefined("heads", lab.grid.n_heads, "the causal heads of this model are not known")
    planted = [f"L{truth.layer}H{h}" in truth.heads for h in range(lab.grid.n_heads)]
    return auroc(np.nanmean(relative[truth.layer], 0), planted, unit="heads")


@dataclass(frozen=True)
class _Shuffled:
    """The classes of a prompt's tokens dealt out again at random; the sink stays where it is."""

    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        return DECIMALS.names

    def of(self, encoded: Encoded) -> tuple[str, ...]:
        kinds = list(DECIMALS.of(encoded))
        places = [i for i, kind in enumerate(kinds[: encoded.n_prompt]) if kind != SINK]
        dealt = [kinds[i] for i in places]
        random.Random(f"{self.seed} {encoded.ids}").shuffle(dealt)
        for i, kind in zip(places, dealt, strict=True):
            kinds[i] = kind
        return tuple(kinds)


def _shuffled(bench: Bench, encoded: Sequence[Encoded], at: int) -> Control:
    """Roles dealt out at random: on average each head then gives "numbers" exactly what uniform attention does."""
    deals = [
        grids(_numeric(bench.lab, encoded, _Shuffled(bench.seed + n), sink="out", layers=[at]), "relative")[at].mean(1)
        for n in range(8)
    ]
    found = bootstrap_mean(
        np.mean(deals, 0), clusters_of(bench.encoded), unit="pairs", seed=bench.seed, level=0.999
    )  # fmt: skip
    value = found.value if found.value is not None else 1.0
    holds = found.above(1.0) == "unsure" or abs(value - 1) <= NEAR
    return Control(
        name="shuffled-roles",
        kind="negative",
        passed=holds,
        words=f"with token classes dealt out at random, heads give the numbers {found} times what uniform attention does",
        value=value,
    )


def _published(bench: Bench, encoded: Sequence[Encoded], at: int, checks: Sequence[Control]) -> Reading:
    claim, lab, clusters = bench.claim, bench.lab, clusters_of(bench.encoded)
    classes = PublishedClasses(lab.tokenizer)
    table = _numeric(lab, encoded, classes, queries="all", sink="in", relative=False, layers=[at])
    found = halves(grids(table, "share")[at], clusters, lab.grid, at, claim)
    estimates = found.estimates("share", "share of attention on numbers, by substring")[:3]
    try:
        written = output_bandwidth(lab, encoded, classes, sink="in", layers=[at])
    except ModelError:
        written = None
    for column, label in _PUBLISHED_SHARES.items():
        grid = None if written is None else grids(written[written["token_class"] == "numeric"], column)[at]
        if grid is not None and not np.isnan(grid).all():
            one = halves(grid, clusters, lab.grid, at, claim)
            estimates += one.estimates(column.replace("_", "-"), label)[:3]
    return Reading(
        protocol="published",
        words="tokens sorted by substring, all queries, the sink counted; the published scripts read one prompt, this reads all",
        verdict=decide(without_ranks(claim), found.findings("share"), checks),
        estimates=tuple(estimates),
    )


_PUBLISHED_SHARES = {
    "published_weight_share": "published weights: last query, by substring",
    "published_output_share": "published outputs: size of output slices at numeric positions",
}


def _heads(seen: dict[str, Any], clusters: Sequence[str], seed: int) -> Any:
    """Each head in both formats, and a paired test of the difference, Holm over heads and layers."""
    import pandas as pd

    grid = {k: grids(t, "relative") for k, t in seen.items()}
    shares = {k: grids(t, "share") for k, t in seen.items()}
    layers = sorted(grid["clean"])
    moved = np.concatenate([grid["corrupted"][at] - grid["clean"][at] for at in layers], 1)
    p = flips(np.nan_to_num(moved), clusters, seed)
    rows = [
        {"layer": at, "head": h, "parity": "odd" if h % 2 else "even"}
        | {f"share_{k}": float(np.nanmean(shares[k][at][:, h])) for k in shares}
        | {f"relative_{k}": float(np.nanmean(grid[k][at][:, h])) for k in grid}
        for at in layers
        for h in range(grid["clean"][at].shape[1])
    ]
    return pd.DataFrame(rows).assign(p=p, p_holm=holm(p), pairs=len(moved))


def _figure(seen: dict[str, Any], clusters: Sequence[str], at: int, bench: Bench) -> Any:
    rows = []
    task = bench.claim.task
    for key, fmt in (("clean", task.clean), ("corrupted", task.corrupted)):
        one = halves(grids(seen[key], "share")[at], clusters, bench.lab.grid, at, bench.claim)
        rows += [("even heads", fmt, one.even), ("odd heads", fmt, one.odd)]
    return estimates_figure(
        "shares",
        f"Share of attention on the numbers at layer {at}, even and odd heads",
        "Means over heads and pairs with 95 % intervals over pairs. The line is the claimed threshold of 40 %. Formats differ "
        "in how many of their tokens are numbers: compare halves within a format, not formats.",
        rows,
        "share of attention on numbers",
        0.4,
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Attention is not use: a head may look at numbers and write nothing of them, and a head that carries the answer "
            "may look elsewhere. A share also follows from how many tokens are numbers; the relative rate takes that out. "
            "Any two halves of a layer differ somewhat, so an interval over prompts that leaves zero says nothing about "
            "parity: only the rank among halves that nobody named does."
        ),
    },
    {
        "heading": "What the published shares are",
        "text": (
            "The published output share sums the size of output slices over positions. Slices of about equal size give the "
            "share of positions that are numbers, whatever any head does, which is why it hardly differed between heads."
        ),
    },
]

EXPERIMENT = Experiment(
    "bandwidth",
    "Do even heads give more of their attention to the numbers than odd heads?",
    bandwidth,
    STATISTICS,
    controls=(*CONTROLS, "shuffled-roles"),
    options={"queries": "last", "sink": "out"},
    needs="numbers",
)

"""Do even heads route the numbers to the end of the prompt?

1. Attention from the last token of the prompt, and from the token where the two answers part, to the integer, the point
   and the fraction of each number: every head of every layer, every pair.
2. By role at the layer: even and odd heads with intervals over pairs, and their rank among KV-matched halves.
3. The sum over the six roles, even minus odd, in every layer, Holm-adjusted.
4. The published reading (five layers pooled, four roles, no test) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.claims import decide
from headlab.engine.model import Lab
from headlab.experiments.attention.watched import (
    Array,
    Halves,
    by_layer,
    chosen_layer,
    clusters_of,
    estimates_figure,
    grids,
    halves,
    layers_figure,
    naive,
    no_halves,
    null_figure,
    untestable,
    without_ranks,
)
from headlab.experiments.base import Bench, Experiment, Outcome
from headlab.measures import routing as routes
from headlab.measures.edited import CONTROLS, controls
from headlab.prompts import Encoded
from headlab.stats import holm
from headlab.store import Reading
from headlab.tasks.decimals import NUMERIC_ROLES

ROLES = {
    "a_int": "integer of the first number",
    "a_dot": "point of the first number",
    "a_frac": "fraction of the first number",
    "b_int": "integer of the second number",
    "b_dot": "point of the second number",
    "b_frac": "fraction of the second number",
}
QUERIES = {"last": "from the last token of the prompt", "decision": "from the token where the answers part"}
STATISTICS = tuple(
    f"{head}:{what}" if half == "" else f"{what}:{half}"
    for what in ("numbers", *ROLES)
    for head, half in (("", "even"), ("", "odd"), ("contrast", ""), ("rank", ""))
)
AROUND = 2
MINIMUM = 0.1


def routing(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    if why := no_halves(lab):
        return untestable(bench, why)
    at, scan = chosen_layer(bench)
    encoded, clusters = [p.corrupted for p in bench.encoded], clusters_of(bench.encoded)
    query = bench.option("query", EXPERIMENT)
    table = routes(lab, encoded, NUMERIC_ROLES)
    found = {q: _by_role(table, q, clusters, at, bench) for q in QUERIES}
    estimates = [
        e
        for q in sorted(QUERIES, key=lambda q: q != query)
        for name, one in found[q].items()
        for e in one.estimates(name, f"attention to {ROLES.get(name, 'the numbers')}", "" if q == query else QUERIES[q])
    ]
    ruled: dict[str, Any] = {k: v for name, one in found[query].items() for k, v in one.findings(name).items()}
    checks = controls(lab, encoded, at, _measure(at))
    readings = [
        Reading(
            protocol="standard",
            words=f"roles from the template, {QUERIES[query]}, all pairs, matched halves as null",
            verdict=decide(claim, ruled, checks),
            estimates=tuple(estimates),
        ),
        naive(found[query]["numbers"].gap, "numbers", checks),
    ]
    if "published" in claim.readings:
        readings.append(_published(table, at, clusters, bench, checks))
    layers = by_layer(_numbers(table, query), clusters, lab.grid, claim)
    return Outcome(
        readings,
        [
            _figure(found[query], at, QUERIES[query]),
            null_figure(found[query]["numbers"], at, "Attention to the numbers"),
            layers_figure(layers, f"Attention to the numbers {QUERIES[query]}"),
        ],
        {"routing": _means(table), "layers": pd.DataFrame(layers), "roles": _roles(found)},
        {"ok": True, "reason": "", "rule": "none: what heads attend to is measured, not whether answers are right"},
        settings={"layer": at, "layer_scan": scan, "query": query},
        sections=_SECTIONS,
    )


def _numbers(table: Any, query: str, roles: Sequence[str] = NUMERIC_ROLES) -> dict[int, Array]:
    """The sum over roles, [prompt, head] by layer."""
    part = table[(table["query"] == query) & table["role"].isin(list(roles))]
    summed = part.groupby(["prompt", "layer", "head"], as_index=False)["attention"].sum()
    return grids(summed, "attention")


def _by_role(table: Any, query: str, clusters: Sequence[str], at: int, bench: Bench) -> dict[str, Halves]:
    grid, claim = bench.lab.grid, bench.claim
    part = table[(table["query"] == query) & (table["layer"] == at)]
    out = {"numbers": halves(_numbers(part, query)[at], clusters, grid, at, claim)}
    for role in ROLES:
        out[role] = halves(grids(part[part["role"] == role], "attention")[at], clusters, grid, at, claim)
    return out


def _measure(at: int) -> Any:
    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        return _numbers(routes(lab, encoded, NUMERIC_ROLES, [at], at=("last",), tokens=tokens), "last")[at]

    return share


def _published(table: Any, at: int, clusters: Sequence[str], bench: Bench, checks: Any) -> Reading:
    """The published script's five layers around the chosen one and its dictionary of four tokens, pooled."""
    roles = ("b_int", "b_dot", "a_frac", "b_frac")  # of two tokens with one text the last wins
    layers = _numbers(table, "last", roles)
    chosen = [layer for layer in layers if abs(layer - at) <= AROUND]
    found = halves(np.mean([layers[layer] for layer in chosen], 0), clusters, bench.lab.grid, at, bench.claim)
    return Reading(
        protocol="published",
        words=f"layers {chosen[0]} to {chosen[-1]} pooled, last token, integer and point of one number and both fractions; "
        "the published script drew one prompt and tested nothing, this reads all pairs",
        verdict=decide(without_ranks(bench.claim), found.findings("numbers"), checks),
        estimates=tuple(found.estimates("numbers", "attention to four number tokens, layers pooled")[:3]),
    )


def _means(table: Any) -> Any:
    """Mean attention of each head to each role, beside what uniform attention would give."""
    keys = ["query", "layer", "head", "role"]
    means = table.groupby(keys, as_index=False)[["attention", "uniform"]].mean()
    return means.assign(pairs=table["prompt"].nunique())


def _roles(found: dict[str, dict[str, Halves]]) -> Any:
    """Even minus odd by query and role; p Holm-adjusted over the six roles of a query."""
    import pandas as pd

    rows = []
    for query, by_role in found.items():
        adjusted = dict(zip(ROLES, holm([by_role[r].rank.high for r in ROLES]), strict=True))
        for role, one in by_role.items():
            gap = one.gap
            rows.append(
                {"query": query, "role": role, "even": one.even.value, "odd": one.odd.value, "gap": gap.value,
                 "low": gap.low, "high": gap.high, "n": gap.n, "p": one.rank.p, "p_holm": float(adjusted.get(role, np.nan))}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _figure(found: dict[str, Halves], at: int, where: str) -> Any:
    rows = [(ROLES[r], half, getattr(found[r], half)) for r in ROLES for half in ("even", "odd")]
    return estimates_figure(
        "roles",
        f"Attention {where} to the parts of the numbers, layer {at}",
        "Means over heads and pairs with 95 % intervals over pairs. The line is the published minimum of 0.1. A part with more "
        "tokens gets more attention from a head that looks nowhere.",
        [(label, f"{half} heads", e) for label, half, e in rows],
        "attention weight",
        MINIMUM,
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "What stands at a digit's place after the first layer is no longer the digit alone, so attention to the place is "
            "not attention to the digit, and the last token of the prompt is not where the answer is decided: 9.8 and 9.11 "
            "part only after the point. Attention that arrives may be ignored by what the head writes."
        ),
    }
]

EXPERIMENT = Experiment(
    "routing",
    "Do even heads route the numbers to the end of the prompt?",
    routing,
    STATISTICS,
    controls=CONTROLS,
    options={"query": "last"},
    needs="numbers",
)

"""Do even heads route the numbers to the end of the prompt?

1. Attention from the last token of the prompt, and from the token where the two answers part, to the integer, the point
   and the fraction of each number: every head of every layer, every pair.
2. By role at the layer: even and odd heads with intervals over pairs, and their rank among KV-matched halves.
3. The sum over the six roles, even minus odd, in every layer, Holm-adjusted.
4. The published reading (five layers pooled, four roles, no test) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.engine.model import Lab
from headlab.measures import routing as routes
from headlab.measures.edited import CONTROLS, controls
from headlab.prompts import Encoded
from headlab.stats import holm
from headlab.tasks.decimals import NUMERIC_ROLES
from headlab.trials.attention_scores import Array, Sides, Watched, grids, naive, no_halves, sides
from headlab.trials.charts import estimates
from headlab.trials.flow import NO_ANSWERS, Method, OnPairs, without_ranks
from headlab.trials.sweeps import Scope, Seen, Told

ROLES = {
    "a_int": "integer of the first number",
    "a_dot": "point of the first number",
    "a_frac": "fraction of the first number",
    "b_int": "integer of the second number",
    "b_dot": "point of the second number",
    "b_frac": "fraction of the second number",
}
QUERIES = {"last": "from the last token of the prompt", "decision": "from the token where the answers part"}
PUBLISHED = ("b_int", "b_dot", "a_frac", "b_frac")
"""Of two tokens with one text the last won in the published script's dictionary."""
AROUND = 2


def table(scope: Scope) -> Any:
    """Attention of every head to every role, in the corrupted format."""
    return routes(scope.lab, [p.corrupted for p in scope.pairs], NUMERIC_ROLES)


def to_numbers(table: Any, query: str, roles: Sequence[str] = NUMERIC_ROLES) -> dict[int, Array]:
    """The sum over roles, [prompt, head] by layer."""
    part = table[(table["query"] == query) & table["role"].isin(list(roles))]
    summed = part.groupby(["prompt", "layer", "head"], as_index=False)["attention"].sum()
    return grids(summed, "attention")


NUMBERS = Watched(
    lambda seen: to_numbers(seen.of_trial(table), seen.scope.options["query"]),
    lambda seen: f"Attention to the numbers {QUERIES[seen.scope.options['query']]}",
)


def by_role(seen: Seen) -> dict[str, dict[str, Sides]]:
    """Even against odd by query, the claim's own first, and role; the sum over roles before them."""
    out, scope, found = {}, seen.scope, seen.of_trial(table)
    for query in sorted(QUERIES, key=lambda q: q != scope.options["query"]):
        there = found[(found["query"] == query) & (found["layer"] == scope.layer)]
        parts = {"numbers": to_numbers(there, query)}
        parts |= {role: grids(there[there["role"] == role], "attention") for role in ROLES}
        out[query] = {name: sides(scope, part[scope.layer]) for name, part in parts.items()}
    return out


def each_role(seen: Seen) -> Iterator[Told]:
    """Of the claim's query, which is ruled, and of the other."""
    own = seen.scope.options["query"]
    for query, roles in seen.once(by_role).items():
        for name, one in roles.items():
            label = f"attention to {ROLES.get(name, 'the numbers')}"
            yield from one.told(name, label, "" if query == own else QUERIES[query], unruled=query != own)


def pooled(seen: Seen) -> dict[int, Array]:
    """Attention to the four published roles in the layers around the one of the claim."""
    layers = to_numbers(seen.of_trial(table), "last", PUBLISHED)
    return {at: x for at, x in layers.items() if abs(at - seen.scope.layer) <= AROUND}


def published(seen: Seen) -> Iterator[Told]:
    found = sides(seen.scope, np.mean(list(seen.once(pooled).values()), 0))
    yield from found.told("numbers", "attention to four number tokens, layers pooled", ranked=False)


def checks(scope: Scope) -> list[Control]:
    at = scope.layer

    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        return to_numbers(routes(lab, encoded, NUMERIC_ROLES, [at], at=("last",), tokens=tokens), "last")[at]

    return controls(scope.lab, [p.corrupted for p in scope.pairs], at, share)


def means(seen: Seen) -> Table:
    """Mean attention of each head to each role, beside what uniform attention would give."""
    found = seen.of_trial(table)
    by = found.groupby(["query", "layer", "head", "role"], as_index=False)[["attention", "uniform"]].mean()
    return by.assign(pairs=found["prompt"].nunique())


def roles(seen: Seen) -> Table:
    """Even minus odd by query and role; p Holm-adjusted over the six roles of a query."""
    rows = []
    for query in QUERIES:
        found = seen.once(by_role)[query]
        adjusted = dict(zip(ROLES, holm([found[r].rank.high for r in ROLES]), strict=True))
        for role, one in found.items():
            rows.append({"query": query, "role": role, "even": one.even.value, "odd": one.odd.value})
            rows[-1] |= {"gap": one.gap.value, "low": one.gap.low, "high": one.gap.high, "n": one.gap.n}
            rows[-1] |= {"p": one.rank.p, "p_holm": float(adjusted.get(role, np.nan))}
    return pd.DataFrame(rows)


def parts(seen: Seen) -> Figure:
    query = seen.scope.options["query"]
    found = seen.once(by_role)[query]
    return estimates(
        "roles",
        f"Attention {QUERIES[query]} to the parts of the numbers, layer {seen.scope.layer}",
        "Means over heads and pairs with 95 % intervals over pairs. The line is the published minimum of 0.1. A part with more "
        "tokens gets more attention from a head that looks nowhere.",
        [(ROLES[r], f"{half} heads", getattr(found[r], half)) for r in ROLES for half in ("even", "odd")],
        "attention weight",
        0.1,
    )


EXPERIMENT = OnPairs(
    slug="routing",
    question="Do even heads route the numbers to the end of the prompt?",
    statistics=tuple(
        name.format(what) for what in ("numbers", *ROLES) for name in ("{}:even", "{}:odd", "contrast:{}", "rank:{}")
    ),
    controls=CONTROLS,
    options={"query": "last"},
    needs="numbers",
    cannot=no_halves,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            lambda seen: (
                f"roles from the template, {QUERIES[seen.scope.options['query']]}, all pairs, matched halves as null"
            ),
            numbers=(each_role,),
            controls=(lambda seen: seen.of_trial(checks),),
            figures=(parts, NUMBERS.null, NUMBERS.curve),
            tables={"routing": means, "layers": NUMBERS.layers, "roles": roles},
            settings=lambda seen: {"query": seen.scope.options["query"]},
            also=(naive("numbers"),),
        ),
        "published": Method(
            lambda seen: (
                f"layers {min(seen.once(pooled))} to {max(seen.once(pooled))} pooled, last token, integer and point of one "
                "number and both fractions; the published script drew one prompt and tested nothing, this reads all pairs"
            ),
            numbers=(published,),
            controls=(lambda seen: seen.of_trial(checks),),
            asks=without_ranks,
        ),
    },
    sections={
        "When this misleads": (
            "What stands at a digit's place after the first layer is no longer the digit alone, so attention to the place is "
            "not attention to the digit, and the last token of the prompt is not where the answer is decided: 9.8 and 9.11 "
            "part only after the point. Attention that arrives may be ignored by what the head writes."
        )
    },
)

"""How often is the question answered wrongly, by format, wording, order and class of pair?

1. Comparisons of each class are drawn once and asked in both orders, in every format and wording, so that cells differ
   in the prompt alone.  The published prompts are among the formats.
2. One rule scores every cell: greedy text from the end of the prompt, its first number against the right one.  A text
   without a number is unread; it is neither right nor the bug.
3. Accuracy, bug rate (the other number was given) and parse rate, with intervals clustered by fraction pair.
4. Order and wording are compared on the same comparisons, pair by pair.
5. The published reading: its own prompts and one comparison, its success strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from headlab.effects import Figure, Table
from headlab.prompts import Pair
from headlab.stats import Estimate, clopper_pearson, clustered_rate, paired_difference
from headlab.stats.figures import percent
from headlab.tasks.decimals import CATEGORIES, fill, get_format
from headlab.trials.flow import Method, OnPairs
from headlab.trials.questions import CELL, ORDERS, UNEDITED, answered, asked_of, batches, no_op, own, scoring
from headlab.trials.sweeps import Seen, Told

PARSED_AT_LEAST = 0.95
RATES = {"accuracy": "right", "bug": "bug", "parsed": "parsed"}
LABELS = {
    "accuracy": "{}: answered rightly",
    "bug": "{}: the other number given",
    "parsed": "{}: answers that can be read",
    "order": "{}: accuracy with the larger number first minus last",
    "wording": "{}: accuracy when asked for the bigger minus the smaller",
}


def answers(seen: Seen) -> Table:
    return pd.concat([answered(seen.scope, batch) for batch in batches(seen.scope)], ignore_index=True)


def rate(rows: Any, column: str) -> Estimate:
    return clustered_rate(rows[column].to_numpy(bool), clusters=rows["cluster"].to_numpy(), unit="prompts")


def cells(seen: Seen) -> Table:
    """Accuracy, bug rate and parse rate of every format × wording × order × class."""
    out: list[dict[str, Any]] = []
    table: Any = seen.once(answers)
    for key, rows in table.groupby(list(CELL), sort=False):
        out.append(dict(zip(CELL, key, strict=True)))
        for name, column in RATES.items():
            e = rate(rows, column)
            out[-1] |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        out[-1] |= {"n": len(rows), "unit": "prompts", "seed": seen.scope.seed}
    return pd.DataFrame(out)


def numbers(seen: Seen) -> Iterator[Told]:
    """Of the claim's class: accuracy, bug and parse rate by format in the claim's wording, contrasts of order and
    wording.  ``clean`` and ``corrupted`` stand for the formats of the claim's task."""
    task, seed = seen.scope.claim.task, seen.scope.seed
    table: Any = seen.once(answers)
    mine = own(seen.scope)
    of_class = table[table["category"] == (table["category"].iloc[0] if mine else task.category)]
    names = dict.fromkeys(table["format"])
    aliases = {} if mine else {"clean": get_format(task.clean).name, "corrupted": get_format(task.corrupted).name}
    for name, fmt in {**{n: n for n in names}, **{k: v for k, v in aliases.items() if v in names}}.items():
        said = list(dict.fromkeys(table[table["format"] == fmt]["wording"]))
        there = of_class[of_class["format"] == fmt]
        rows = there[there["wording"] == (task.wording if task.wording in said else said[0])]
        if not len(rows):
            continue
        found = {kind: rate(rows, column) for kind, column in RATES.items()}
        if name in names and rows["order"].nunique() == 2:
            found["order"] = paired(rows, "order", ORDERS, ["item"], seed)
        if name in names and len(said) == 2:
            found["wording"] = paired(there, "wording", ("bigger", "smaller"), ["item", "order"], seed)
        for kind, e in found.items():
            yield Told(f"{kind}:{name}", LABELS[kind].format(name), e, "text")


def paired(rows: Any, factor: str, levels: tuple[str, str], by: list[str], seed: int) -> Estimate:
    """Accuracy at the first level minus that at the second, on the same comparisons."""
    a, b = (rows[rows[factor] == level].set_index(by).sort_index() for level in levels)
    hits, clusters = (t["right"].to_numpy(bool) for t in (a, b)), a["cluster"].to_numpy()
    return paired_difference(*hits, clusters=clusters, unit="comparisons", seed=seed)


def unread(seen: Seen) -> str:
    """Why the answers that the claim speaks of cannot be ruled on, or nothing."""
    parsed = {t.name.split(":")[1]: t.plain.value for t in seen.told if t.name.startswith("parsed:")}
    asked = [p.statistic.split(":")[1] for p in seen.scope.claim.predictions]
    few = [
        f"{k} ({percent(v, PARSED_AT_LEAST)})"
        for k in asked
        if (v := parsed.get(k)) is not None and v < PARSED_AT_LEAST
    ]
    return f"too few answers can be read (at least {PARSED_AT_LEAST:.0%} needed) in {', '.join(few)}" if few else ""


def published(seen: Seen) -> Iterator[Told]:
    """The paper's prompts with its one comparison: greedy, so one answer each however often it is repeated."""
    scope, (a, b) = seen.scope, ("9.8", "9.11")
    for name in ("paper-clean", "paper-qa", "chat"):
        prompt = fill(get_format(name), a, b, "bigger", scope.lab.tokenizer)
        one = asked_of(Pair(f"{name} {a}|{b}", prompt, prompt, a, b), prompt, scope.lab.tokenizer, CELL, 0)
        made = scope.case.texts([one.encoded], [UNEDITED], scope.protocol, f"published {name}")
        right, parsed, given = bool(made["right"].all()), bool(made["parsed"].all()), "".join(made["text"])
        for kind, hit in (("accuracy", int(right)), ("bug", int(parsed and not right))):
            e = replace(clopper_pearson(hit, 1, unit="prompts"), note=f"answer: {given.strip()[:40]!r}")
            yield Told(f"{kind}:{name}", LABELS[kind].format(name), e, "published strings")


def by_cell(name: str, title: str) -> Callable[[Seen], Figure]:
    caption = (
        "The same comparisons in every cell of a class, one scoring rule. An answer without a number counts for neither; "
        "the table of cells holds the share that could be read. Bars are 95 % intervals clustered by fraction pair; the "
        "dashed line is what a coin would get."
    )

    def draw(seen: Seen) -> Figure:
        data = tuple(
            {"label": f"{c['format']}, {c['wording']}, {c['order']}", "group": c["category"], "value": c[name]}
            | {"low": c[f"{name}_low"], "high": c[f"{name}_high"], "n": c["n"], "unit": c["unit"]}
            for c in seen.once(cells).to_dict("records")
        )
        options = {"threshold": 0.5, "x_title": "share of prompts"}
        return Figure(
            "estimates", name, f"{title}, by format, wording, order and class of pair", caption, data, options
        )

    return draw


CONTROLS = (lambda seen: seen.of_trial(no_op), lambda seen: seen.of_trial(scoring))

EXPERIMENT = OnPairs(
    slug="bug-rate",
    question="How often is the question answered wrongly, by format, wording, order and class of pair?",
    statistics=tuple(f"{kind}:*" for kind in LABELS),
    controls=("no-op", "scoring"),
    options={"formats": ("simple", "qa", "chat", "paper-clean", "paper-qa"), "classes": CATEGORIES},
    eligibility={},
    layered=False,
    methods={
        "standard": Method(
            "greedy text after the prompt, its first number against the right one, the same rule in every cell",
            numbers=(numbers,),
            controls=CONTROLS,
            ineligible=unread,
            figures=(
                by_cell("accuracy", "Questions answered rightly"),
                by_cell("bug", "Questions answered with the other number"),
            ),
            tables={"answers": lambda seen: seen.once(answers), "cells": lambda seen: seen.once(cells)},
        ),
        "published": Method(
            "the published prompts, 9.8 against 9.11 alone, success strings; repeated greedy runs are one answer",
            numbers=(published,),
            controls=CONTROLS,
        ),
    },
    sections={
        "When this misleads": (
            "Greedy decoding gives one answer to a prompt: repeating it a thousand times adds nothing, so n counts prompts, "
            "and the intervals count fraction pairs, which recur with other integer parts. A rate near one half can be two "
            "formats answered by opposite rules, or always the first number: read the orders and classes before speaking of "
            "a bug. A format is a whole prompt; that two formats differ says nothing on which of their tokens matters."
        )
    },
)

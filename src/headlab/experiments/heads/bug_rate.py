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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from headlab.claims import PROTOCOLS, Control
from headlab.effects import Figure, Table
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, Pair, encode_prompt
from headlab.stats import Estimate, clopper_pearson, clustered_rate, paired_difference
from headlab.stats.figures import percent
from headlab.tasks.decimals import CATEGORIES, decimals, fill, get_format, right_answer
from headlab.tasks.grading import grade
from headlab.trials.flow import Method, OnPairs, Scope, Seen, Told

FREE = PROTOCOLS["standard"].model_copy(update={"name": "free", "decode_from": "prompt"})
"""One scoring rule: the first number of what is written after the prompt."""
PARSED_AT_LEAST = 0.95
ORDERS = ("larger first", "larger last")
RATES = {"accuracy": "right", "bug": "bug", "parsed": "parsed"}
LABELS = {
    "accuracy": "{}: answered rightly",
    "bug": "{}: the other number given",
    "parsed": "{}: answers that can be read",
    "order": "{}: accuracy with the larger number first minus last",
    "wording": "{}: accuracy when asked for the bigger minus the smaller",
}
CELL = ["format", "wording", "order", "category"]
UNEDITED = World("unedited")


@dataclass(frozen=True)
class Asked:
    """One comparison as it was asked; ``item`` is the same in both orders and in every format and wording."""

    format: str
    wording: str
    order: str
    category: str
    item: int
    encoded: EncodedPair


def asked_of(pair: Pair, prompt: Any, tokenizer: Any, *cell: Any) -> Asked:
    one = encode_prompt(prompt, pair.answer, pair.wrong, tokenizer)
    return Asked(*cell, EncodedPair(pair, one, one))


def own(scope: Scope) -> bool:
    """Whether the pairs are the user's own and not drawn from the task."""
    return scope.case.test.name != "decimals"


def comparisons(scope: Scope, category: Any) -> list[tuple[str, str, str]]:
    """``(larger, smaller, cluster)`` of a class, each once."""
    n, fields = scope.claim.pairs, {"category": category, "split": scope.claim.task.split, "seed": scope.seed}
    drawn = decimals(2 * n, clean="simple", corrupted="simple", **fields)
    found = {(p.answer, p.wrong): p.cluster or p.id for p in drawn}
    return [(a, b, c) for (a, b), c in found.items()][:n]


def batches(scope: Scope) -> Iterator[list[Asked]]:
    """What is asked, in one batch for each format and wording."""
    tokenizer = scope.lab.tokenizer
    if own(scope):
        for kind in ("clean", "corrupted"):
            yield [
                asked_of(p, getattr(p, kind), tokenizer, kind, "own", "own", p.category or "own", n)
                for n, p in enumerate(scope.case.test)
            ]
        return
    items = [(kind, n, *one) for kind in scope.options["classes"] for n, one in enumerate(comparisons(scope, kind))]
    for fmt in map(get_format, scope.options["formats"]):
        if fmt.chat_template and not getattr(tokenizer, "chat_template", None):
            continue
        for wording in fmt.wordings:
            batch = []
            for category, n, large, small, cluster in items:
                for order, (a, b) in zip(ORDERS, ((large, small), (small, large)), strict=True):
                    prompt, answer = fill(fmt, a, b, wording, tokenizer), right_answer(a, b, wording)
                    pair = Pair(f"{a}|{b}", prompt, prompt, answer, b if answer == a else a, cluster, category)
                    batch.append(asked_of(pair, prompt, tokenizer, fmt.name, wording, order, category, n))
            yield batch


def answered(scope: Scope, asked: Sequence[Asked]) -> Table:
    """A row for each question: what was written, whether it could be read, whether it is right."""
    what = f"{asked[0].format} {asked[0].wording}"
    texts = scope.case.texts([a.encoded for a in asked], [UNEDITED], FREE, what)
    table = pd.DataFrame([{k: getattr(a, k) for k in (*CELL, "item")} for a in asked])
    pairs = [a.encoded.pair for a in asked]
    table = table.assign(pair_id=[p.id for p in pairs], cluster=[p.cluster or p.id for p in pairs])
    table = pd.concat([table, texts[["world", "text", "parsed", "right"]]], axis=1)
    turned = [replace(p, answer=p.wrong, wrong=p.answer) for p in pairs]
    table["bug"] = [
        parsed and not right and grade(text, other, scope.case.test.grader).right
        for text, parsed, right, other in zip(table["text"], table["parsed"], table["right"], turned, strict=True)
    ]
    return table


def answers(seen: Seen) -> Table:
    return pd.concat([answered(seen.scope, batch) for batch in batches(seen.scope)], ignore_index=True)


def rate(rows: Any, column: str) -> Estimate:
    return clustered_rate(rows[column].to_numpy(bool), clusters=rows["cluster"].to_numpy(), unit="prompts")


def cells(seen: Seen) -> Table:
    """Accuracy, bug rate and parse rate of every format × wording × order × class."""
    out = []
    for key, rows in seen.once(answers).groupby(CELL, sort=False):
        out.append(dict(zip(CELL, key, strict=True)))
        for name, column in RATES.items():
            e = rate(rows, column)
            out[-1] |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        out[-1] |= {"n": len(rows), "unit": "prompts", "seed": seen.scope.seed}
    return pd.DataFrame(out)


def numbers(seen: Seen) -> Iterator[Told]:
    """Of the claim's class: accuracy, bug and parse rate by format in the claim's wording, contrasts of order and
    wording.  ``clean`` and ``corrupted`` stand for the formats of the claim's task."""
    task, seed, table = seen.scope.claim.task, seen.scope.seed, seen.once(answers)
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
    parsed = {t.name.split(":")[1]: t.found.value for t in seen.told if t.name.startswith("parsed:")}
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
        one = asked_of(Pair(f"{name} {a}|{b}", prompt, prompt, a, b), prompt, scope.lab.tokenizer, *CELL, 0)
        made = scope.case.texts([one.encoded], [UNEDITED], scope.protocol, f"published {name}")
        right, parsed, given = bool(made["right"].all()), bool(made["parsed"].all()), "".join(made["text"])
        for kind, hit in (("accuracy", int(right)), ("bug", int(parsed and not right))):
            e = replace(clopper_pearson(hit, 1, unit="prompts"), note=f"answer: {given.strip()[:40]!r}")
            yield Told(f"{kind}:{name}", LABELS[kind].format(name), e, "published strings")


def no_op(scope: Scope) -> Control:
    """Asked again beside an edit that writes nothing, in other batches, every answer must be the same text."""
    batch, case = scope.case.encoded[:40], scope.case
    whole = all_heads(scope.grid, scope.lab.slots[0].layer)
    worlds = [UNEDITED, World("noop", (Intervention(whole, amount=0.0),))]
    made: Any = case.texts(batch, worlds, FREE, "no-op").pivot(index="pair", columns="world", values="text")
    alone = [case.texts([p], worlds[:1], FREE, f"alone {n}")["text"].iloc[0] for n, p in enumerate(batch[:8])]
    changed = int((made["unedited"] != made["noop"]).sum())
    changed += sum(a != b for a, b in zip(alone, made["unedited"], strict=False))
    words = (
        f"{changed} of {len(batch)} answers change under an edit that writes nothing, or of {len(alone)} when a prompt "
        "is asked alone instead of in a batch"
    )
    return Control(name="no-op", kind="negative", passed=changed == 0, words=words, value=float(changed))


def scoring(scope: Scope) -> Control:
    """The rule itself, on texts whose mark is known: the right answer, the other number, no number."""
    pairs, grader, wrong = list(scope.case.test), scope.case.test.grader, 0
    for p in pairs:
        marks = [grade(t, p, grader) for t in (f" {p.answer.strip()} is it.", f" {p.wrong.strip()}", " neither")]
        wrong += [m.right for m in marks] != [True, False, False] or marks[2].parsed is not None
    words = f"texts whose mark is known (right, wrong, none) are marked wrongly for {wrong} of {len(pairs)} pairs"
    return Control(name="scoring", kind="positive", passed=wrong == 0, words=words, value=float(wrong))


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

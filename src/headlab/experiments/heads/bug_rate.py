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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headlab.claims import PROTOCOLS, Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Bench, Experiment, Outcome, named
from headlab.heads import Grid
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, Pair, encode_prompt
from headlab.stats import Estimate, clopper_pearson, clustered_rate, paired_difference
from headlab.stats.figures import percent
from headlab.store import Reading
from headlab.tasks.decimals import CATEGORIES, decimals, fill, get_format, right_answer
from headlab.tasks.grading import grade

STATISTICS = ("accuracy:*", "bug:*", "parsed:*", "order:*", "wording:*")
CONTROLS = ("no-op", "scoring")
OPTIONS: Mapping[str, Any] = {
    "formats": ("simple", "qa", "chat", "paper-clean", "paper-qa"),
    "classes": CATEGORIES,
}
FREE = PROTOCOLS["standard"].model_copy(update={"name": "free", "decode_from": "prompt"})
"""One scoring rule: the first number of what is written after the prompt."""
PARSED_AT_LEAST = 0.95
ORDERS = ("larger first", "larger last")
PAPER = ("9.8", "9.11")


@dataclass(frozen=True)
class Asked:
    """One comparison as it was asked; ``item`` is the same in both orders and in every format and wording."""

    format: str
    wording: str
    order: str
    category: str
    item: int
    encoded: EncodedPair


def bug_rate(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    table = pd.concat([_answers(bench, cell) for cell in _batches(bench)], ignore_index=True)
    cells = cell_table(table, bench.seed)
    reading = _standard(bench, table)
    readings = [reading if name == "standard" else _published(bench) for name in bench.claim.readings]
    return Outcome(
        readings, [_figure(cells, "accuracy"), _figure(cells, "bug")],
        {"answers": table, "cells": pd.DataFrame(cells)}, {}, sections=_SECTIONS,
    )  # fmt: skip


def design(grid: Grid, claim: Any, at: int) -> list[World]:
    """One world: nothing is edited."""
    return [World("unedited")]


def _own(bench: Bench) -> bool:
    """Whether the pairs are the user's own and not drawn from the task."""
    return bench.test.name != "decimals"


def comparisons(bench: Bench, category: str) -> list[tuple[str, str, str]]:
    """``(larger, smaller, cluster)`` of a class, each once."""
    drawn = decimals(2 * bench.claim.pairs, clean="simple", corrupted="simple", category=category,  # type: ignore[arg-type]
                     split=bench.claim.task.split, seed=bench.seed)  # fmt: skip
    found = {(p.answer, p.wrong): p.cluster or p.id for p in drawn}
    return [(a, b, c) for (a, b), c in found.items()][: bench.claim.pairs]


def _batches(bench: Bench) -> list[list[Asked]]:
    """What is asked, in one batch for each format and wording."""
    if _own(bench):
        return [[_of_pair(p, kind, n, bench) for n, p in enumerate(bench.test)] for kind in ("clean", "corrupted")]
    tokenizer, out = bench.lab.tokenizer, []
    items = [
        (kind, n, *one)
        for kind in bench.option("classes", EXPERIMENT)
        for n, one in enumerate(comparisons(bench, kind))
    ]
    for name in bench.option("formats", EXPERIMENT):
        fmt = get_format(name)
        if fmt.chat_template and not getattr(tokenizer, "chat_template", None):
            continue
        for wording in fmt.wordings:
            batch = []
            for category, n, large, small, cluster in items:
                for order, (a, b) in zip(ORDERS, ((large, small), (small, large)), strict=True):
                    prompt, answer = fill(fmt, a, b, wording, tokenizer), right_answer(a, b, wording)
                    pair = Pair(f"{a}|{b}", prompt, prompt, answer, b if answer == a else a, cluster, category)
                    one = encode_prompt(prompt, pair.answer, pair.wrong, tokenizer)
                    batch.append(Asked(fmt.name, wording, order, category, n, EncodedPair(pair, one, one)))
            out.append(batch)
    return out


def _of_pair(pair: Pair, kind: str, n: int, bench: Bench) -> Asked:
    prompt = pair.clean if kind == "clean" else pair.corrupted
    one = encode_prompt(prompt, pair.answer, pair.wrong, bench.lab.tokenizer)
    return Asked(kind, "own", "own", pair.category or "own", n, EncodedPair(pair, one, one))


def _answers(bench: Bench, asked: Sequence[Asked]) -> Any:
    """A row for each question: what was written, whether it could be read, whether it is right."""
    import pandas as pd

    pairs = [a.encoded for a in asked]
    texts = bench.texts(pairs, [World("unedited")], FREE, f"{asked[0].format} {asked[0].wording}")
    rows = [
        {"format": a.format, "wording": a.wording, "order": a.order, "category": a.category, "item": a.item,
         "pair_id": a.encoded.pair.id, "cluster": a.encoded.pair.cluster or a.encoded.pair.id}
        for a in asked
    ]  # fmt: skip
    table = pd.concat([pd.DataFrame(rows), texts[["world", "text", "parsed", "right"]]], axis=1)
    table["bug"] = [
        parsed and not right and grade(text, _swapped(a.encoded.pair), bench.test.grader).right
        for text, parsed, right, a in zip(table["text"], table["parsed"], table["right"], asked, strict=True)
    ]
    return table


def _swapped(pair: Pair) -> Pair:
    return replace(pair, answer=pair.wrong, wrong=pair.answer)


def _rate(rows: Any, column: str) -> Estimate:
    return clustered_rate(rows[column].to_numpy(bool), clusters=rows["cluster"].to_numpy(), unit="prompts")


def cell_table(table: Any, seed: int) -> list[dict[str, Any]]:
    """Accuracy, bug rate and parse rate of every format × wording × order × class."""
    out = []
    for key, rows in table.groupby(["format", "wording", "order", "category"], sort=False):
        row: dict[str, Any] = dict(zip(("format", "wording", "order", "category"), key, strict=True))
        for name, column in (("accuracy", "right"), ("bug", "bug"), ("parsed", "parsed")):
            e = _rate(rows, column)
            row |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        out.append(row | {"n": len(rows), "unit": "prompts", "seed": seed})
    return out


def _cell(table: Any, fmt: str, wording: str, category: str) -> Any:
    return table[(table["format"] == fmt) & (table["wording"] == wording) & (table["category"] == category)]


def _findings(bench: Bench, table: Any) -> dict[str, Estimate]:
    """Of the claim's class: accuracy, bug and parse rate by format in the claim's wording, contrasts of order and
    wording.  ``clean`` and ``corrupted`` stand for the formats of the claim's task."""
    task, seed, out = bench.claim.task, bench.seed, {}
    own = _own(bench)
    kind = table["category"].iloc[0] if own else task.category
    names = dict.fromkeys(table["format"])
    aliases = {} if own else {"clean": get_format(task.clean).name, "corrupted": get_format(task.corrupted).name}
    for label, fmt in {**{n: n for n in names}, **{k: v for k, v in aliases.items() if v in names}}.items():
        said = list(dict.fromkeys(table[table["format"] == fmt]["wording"]))
        rows = _cell(table, fmt, task.wording if task.wording in said else said[0], kind)
        if not len(rows):
            continue
        for name, column in (("accuracy", "right"), ("bug", "bug"), ("parsed", "parsed")):
            out[f"{name}:{label}"] = _rate(rows, column)
        if label in names and rows["order"].nunique() == 2:
            out[f"order:{label}"] = _paired(rows, "order", ORDERS, ["item"], seed)
        if label in names and len(said) == 2:
            both = table[(table["format"] == fmt) & (table["category"] == kind)]
            out[f"wording:{label}"] = _paired(both, "wording", ("bigger", "smaller"), ["item", "order"], seed)
    return out


def _paired(rows: Any, factor: str, levels: tuple[str, str], by: list[str], seed: int) -> Estimate:
    """Accuracy at the first level minus that at the second, on the same comparisons."""
    a, b = (rows[rows[factor] == level].set_index(by).sort_index() for level in levels)
    return paired_difference(
        a["right"].to_numpy(bool),
        b["right"].to_numpy(bool),
        clusters=a["cluster"].to_numpy(),
        unit="comparisons",
        seed=seed,
    )


def _standard(bench: Bench, table: Any) -> Reading:
    findings = _findings(bench, table)
    controls = [_no_op(bench), scoring_control(bench)]
    unread = [
        f"{k.split(':')[1]} ({percent(e.value)})"
        for p in bench.claim.predictions
        if (e := findings.get(k := f"parsed:{p.statistic.split(':')[1]}")) is not None
        and e.value is not None and e.value < PARSED_AT_LEAST
    ]  # fmt: skip
    reason = (
        f"too few answers can be read (at least {PARSED_AT_LEAST:.0%} needed) in {', '.join(unread)}" if unread else ""
    )
    return Reading(
        protocol="standard",
        words="greedy text after the prompt, its first number against the right one, the same rule in every cell",
        verdict=decide(bench.claim, findings, controls, ineligible=reason),
        estimates=tuple(
            named(k, _LABELS[k.split(":")[0]].format(k.split(":")[1]), e, "text") for k, e in findings.items()
        ),
    )


_LABELS = {
    "accuracy": "{}: answered rightly",
    "bug": "{}: the other number given",
    "parsed": "{}: answers that can be read",
    "order": "{}: accuracy with the larger number first minus last",
    "wording": "{}: accuracy when asked for the bigger minus the smaller",
}


def _no_op(bench: Bench) -> Control:
    """Asked again beside an edit that writes nothing, in other batches, every answer must be the same text."""
    batch = bench.encoded[:40]
    whole = all_heads(bench.lab.grid, bench.lab.slots[0].layer)
    worlds = [World("unedited"), World("noop", (Intervention(whole, amount=0.0),))]
    made: Any = bench.texts(batch, worlds, FREE, "no-op").pivot(index="pair", columns="world", values="text")
    alone = [bench.texts([p], worlds[:1], FREE, f"alone {n}")["text"].iloc[0] for n, p in enumerate(batch[:8])]
    changed = int((made["unedited"] != made["noop"]).sum()) + sum(
        a != b for a, b in zip(alone, made["unedited"], strict=False)
    )
    words = (
        f"{changed} of {len(batch)} answers change under an edit that writes nothing, or of {len(alone)} when a prompt "
        "is asked alone instead of in a batch"
    )
    return Control(name="no-op", kind="negative", passed=changed == 0, words=words, value=float(changed))


def scoring_control(bench: Bench) -> Control:
    """The rule itself, on texts whose mark is known: the right answer, the other number, no number, an echo first."""
    pairs, grader = list(bench.test), bench.test.grader
    wrong = 0
    for p in pairs:
        marks = [grade(t, p, grader) for t in (f" {p.answer.strip()} is it.", f" {p.wrong.strip()}", " neither")]
        wrong += [m.right for m in marks] != [True, False, False] or marks[2].parsed is not None
    return Control(
        name="scoring",
        kind="positive",
        passed=wrong == 0,
        words=f"texts whose mark is known (right, wrong, none) are marked wrongly for {wrong} of {len(pairs)} pairs",
        value=float(wrong),
    )


def _published(bench: Bench) -> Reading:
    """The paper's prompts with its one comparison: greedy, so one answer each however often it is repeated."""
    words = "the published prompts, 9.8 against 9.11 alone, success strings; repeated greedy runs are one answer"
    tokenizer, findings, estimates = bench.lab.tokenizer, {}, []
    a, b = PAPER
    for name in ("paper-clean", "paper-qa", "chat"):
        prompt = fill(get_format(name), a, b, "bigger", tokenizer)
        one = encode_prompt(prompt, a, b, tokenizer)
        pair = EncodedPair(Pair(f"{name} {a}|{b}", prompt, prompt, a, b), one, one)
        made = bench.texts([pair], [World("unedited")], PROTOCOLS["published"], f"published {name}")
        right, parsed, given = bool(made["right"].all()), bool(made["parsed"].all()), "".join(made["text"])
        for kind, hit in (("accuracy", int(right)), ("bug", int(parsed and not right))):
            e = replace(clopper_pearson(hit, 1, unit="prompts"), note=f"answer: {given.strip()[:40]!r}")
            findings[f"{kind}:{name}"] = e
            estimates.append(named(f"{kind}:{name}", _LABELS[kind].format(name), e, "published strings"))
    return Reading(
        protocol="published", words=words, verdict=decide(bench.claim, findings, [_no_op(bench), scoring_control(bench)]),
        estimates=tuple(estimates),
    )  # fmt: skip


def _figure(cells: Sequence[Mapping[str, Any]], name: str) -> Figure:
    title = {"accuracy": "Questions answered rightly", "bug": "Questions answered with the other number"}[name]
    data = tuple(
        {
            "label": f"{c['format']}, {c['wording']}, {c['order']}", "group": c["category"], "value": c[name],
            "low": c[f"{name}_low"], "high": c[f"{name}_high"], "n": c["n"], "unit": c["unit"],
        }
        for c in cells
    )  # fmt: skip
    return Figure(
        kind="estimates", name=name, title=f"{title}, by format, wording, order and class of pair",
        caption=(
            "The same comparisons in every cell of a class, one scoring rule. An answer without a number counts for neither; "
            "the table of cells holds the share that could be read. Bars are 95 % intervals clustered by fraction pair; the "
            "dashed line is what a coin would get."
        ),
        data=data, options={"threshold": 0.5, "x_title": "share of prompts"},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Greedy decoding gives one answer to a prompt: repeating it a thousand times adds nothing, so n counts prompts, "
            "and the intervals count fraction pairs, which recur with other integer parts. A rate near one half can be two "
            "formats answered by opposite rules, or always the first number: read the orders and classes before speaking of "
            "a bug. A format is a whole prompt; that two formats differ says nothing on which of their tokens matters."
        ),
    }
]

EXPERIMENT = Experiment(
    "bug-rate",
    "How often is the question answered wrongly, by format, wording, order and class of pair?",
    bug_rate,
    STATISTICS,
    CONTROLS,
    OPTIONS,
    design,
)

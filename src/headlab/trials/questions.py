"""Comparisons asked in both orders, in every format and wording, and scored by one rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from headlab.claims import PROTOCOLS, Control
from headlab.effects import Table
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import EncodedPair, Pair, encode_prompt
from headlab.tasks.decimals import decimals, fill, get_format, right_answer
from headlab.tasks.grading import grade
from headlab.trials.sweeps import Scope

FREE = PROTOCOLS["standard"].model_copy(update={"name": "free", "decode_from": "prompt"})
"""One scoring rule: the first number of what is written after the prompt."""


ORDERS = ("larger first", "larger last")


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


def asked_of(pair: Pair, prompt: Any, tokenizer: Any, cell: Sequence[str], item: int) -> Asked:
    one = encode_prompt(prompt, pair.answer, pair.wrong, tokenizer)
    fmt, wording, order, category = cell
    return Asked(fmt, wording, order, category, item, EncodedPair(pair, one, one))


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
                asked_of(p, getattr(p, kind), tokenizer, (kind, "own", "own", p.category or "own"), n)
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
                    batch.append(asked_of(pair, prompt, tokenizer, (fmt.name, wording, order, category), n))
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

"""Do attention to the numbers and accuracy fall as format words take a larger share of the prompt?

1. A factorial design: words are put before every comparison, so many (length) and such a share of them format words,
   the others neutral filler.  Length and share are thus told apart; in the published prompts they move together.
2. Attention of the layer's heads to the numbers, relative to uniform causal attention (a longer prompt leaves less for
   everything), and whether the answer is right (the sign of the logit difference; greedy text at the corners).
3. Regressions on the measured share of format tokens and on length, errors clustered by fraction pair; a step at the
   claimed 60 % beyond a steady decline.
4. The published reading: the framework's five prompts, share against attention and accuracy, length ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.interventions import World
from headlab.measures import PublishedClasses
from headlab.measures.edited import CONTROLS, controls
from headlab.stats import bootstrap_mean, clustered_rate
from headlab.stats.factorial import factorial_regression
from headlab.trials.attention_scores import grids, no_halves, share_of, to_numbers
from headlab.trials.charts import curve
from headlab.trials.eligibility import CLEAN_AT_LEAST, PAIRS_AT_LEAST
from headlab.trials.flow import Method, OnPairs
from headlab.trials.padded_prompts import (
    BASE,
    CLASSES,
    OUTCOMES,
    TERMS,
    asked,
    base,
    cells,
    composed,
    effects_of,
    filled,
    rows,
    shuffled,
    text_agrees,
    texts,
    together,
)
from headlab.trials.pairs import clusters_of, distinct, in_format
from headlab.trials.sweeps import Scope, Seen, Told

LABELS = {
    "accuracy:base": "right answers without padding",
    "length:format": "doublings of length per unit of format share (0: told apart)",
    **{f"{y}:{term}": f"{y_words}: {words}" for y, y_words in OUTCOMES.items() for term, words in TERMS.items()},
}


def step(scope: Scope) -> float:
    return float(scope.options["step"])


def unable(case: Any) -> str:
    own, pairs = base(case), distinct(case.encoded)
    if pairs < PAIRS_AT_LEAST:
        return f"the model is not eligible: eligibility needs at least {PAIRS_AT_LEAST} pairs, given {pairs}"
    few = own.value is None or own.value < CLEAN_AT_LEAST
    why = f"without padding it answers only {own} (at least {CLEAN_AT_LEAST:.0%} needed)"
    return f"the model is not eligible: {why}" if few else ""


def eligibility(case: Any) -> dict[str, Any]:
    why = unable(case)
    rule = f"accuracy without padding ≥ {CLEAN_AT_LEAST:.0%} on ≥ {PAIRS_AT_LEAST} pairs"
    return {"ok": not why, "reason": why, "rule": rule, "clean": base(case).to_dict()}


def crossed(seen: Seen) -> Iterator[Told]:
    found = effects_of(filled(seen), step(seen.scope))
    found |= {"accuracy:base": base(seen.case), "length:format": together(filled(seen))}
    yield from (Told(k, LABELS[k], e, "") for k, e in found.items())


def five(seen: Seen) -> Table:
    """Five prompts in which length and format share move together; shares by substring, any mention counted."""
    scope, case, parts = seen.scope, seen.case, []
    classes = PublishedClasses(scope.lab.tokenizer)
    for name in ("minimal", "light", "medium", "qa", "full"):
        encoded = [in_format(p, name, scope.lab.tokenizer) for p in scope.pairs]
        made = [replace(p, corrupted=e) for p, e in zip(scope.pairs, encoded, strict=True)]
        how: dict[str, Any] = {"queries": "all", "sink": "in", "relative": False, "layers": [scope.layer]}
        table = to_numbers(scope.lab, encoded, classes, **how)
        text = case.texts(made, [World("unedited")], scope.protocol, f"published {name}").sort_values("pair")
        told = {"pair": range(len(made)), "cluster": clusters_of(made), "cell": name, "words": 0}
        told |= composed(encoded, lambda e: classes.of(e)[: e.n_prompt])
        told |= {"attention": grids(table, "share")[scope.layer].mean(1), "accuracy": text["right"].to_numpy(float)}
        parts.append(pd.DataFrame(told))
    return pd.concat(parts, ignore_index=True)


def published(seen: Seen) -> Iterator[Told]:
    table = seen.once(five)
    factors, steps = {"format": table["format"].to_numpy()}, effects_of(table, step(seen.scope))
    found = {}
    for y in OUTCOMES:
        clusters, values = table["cluster"].to_numpy(), table[y].to_numpy()
        found[f"{y}:format"] = factorial_regression(values, factors, clusters, unit="prompts")["format"]
        found[f"{y}:step"] = steps[f"{y}:step"]
    found["length:format"] = together(table)
    yield from (Told(k, LABELS[k], e, "") for k, e in found.items())


def checks(seen: Seen) -> list[Control]:
    """Of the standard protocol; they bind the published reading too."""
    own = EXPERIMENT.standard(seen)
    scope, encoded = own.scope, [p.corrupted for p in asked(own.case, BASE)]
    pointed = controls(scope.lab, encoded, scope.layer, share_of(scope.layer, CLASSES))
    return [*pointed, shuffled(filled(own), scope.seed), text_agrees(own.once(rows), own.once(texts))]


def by_cell(seen: Seen) -> Table:
    out: list[dict[str, Any]] = []
    table: Any = seen.once(rows)
    for (words, cell), part in table.groupby(["words", "cell"], sort=False):
        out.append({"cell": cell, "words": int(words), "format": float(part["format"].mean()), "n": len(part)})
        told: dict[str, Any] = {"clusters": part["cluster"].to_numpy(), "unit": "pairs"}
        found = {"attention": bootstrap_mean(part["attention"].to_numpy(), seed=seen.scope.seed, **told)}
        found["accuracy"] = clustered_rate(part["accuracy"].to_numpy(), **told)
        for y, e in found.items():
            out[-1] |= {y: e.value, f"{y}_low": e.low, f"{y}_high": e.high}
    return pd.DataFrame(out)


def lines(seen: Seen) -> list[Figure]:
    out = []
    for y, words in OUTCOMES.items():
        points = [
            {"x": r["format"], "y": r[y], "low": r[f"{y}_low"], "high": r[f"{y}_high"], "series": f"{r['words']} words"}
            | {"n": r["n"]}
            for r in seen.once(by_cell).to_dict("records")
        ]
        where = f" at layer {seen.scope.layer}" if y == "attention" else ""
        title = f"{words.capitalize()}{where}, by the share of format tokens"
        caption = (
            "One line for each number of words put before the comparison; along a line only the share of format words "
            f"changes. Bands are 95 % intervals over pairs. The claim asks for a sharp fall at a share of {step(seen.scope):g}."
        )
        out.append(curve(y, title, caption, points, "share of format tokens", words, 1.0 if y == "attention" else 0.5))
    return out


EXPERIMENT = OnPairs(
    slug="format-injection",
    question="Do attention to the numbers and accuracy fall as format words take a larger share of the prompt?",
    statistics=(*(f"{y}:{term}" for y in OUTCOMES for term in TERMS), "accuracy:base", "length:format"),
    controls=(*CONTROLS, "shuffled-shares", "text"),
    options={"words": [8, 16, 32], "shares": [0.0, 0.25, 0.5, 0.75, 1.0], "step": 0.6, "queries": "last"},
    needs="numbers",
    cannot=no_halves,
    eligibility=eligibility,
    least=PAIRS_AT_LEAST,
    methods={
        "standard": Method(
            "format words and neutral filler crossed with length; attention relative to uniform; errors by fraction pair",
            numbers=(crossed,),
            controls=(checks,),
            ineligible=lambda seen: unable(seen.case),
            figures=(lines,),
            tables={
                "cells": lambda seen: seen.once(by_cell),
                "rows": lambda seen: seen.once(rows),
                "texts": lambda seen: seen.once(texts),
            },
            settings=lambda seen: {"step": step(seen.scope), "cells": [c.name for c in cells(seen.scope)]},
        ),
        "published": Method(
            "the framework's five prompts, tokens by substring, any mention of the right number counted; length is not held "
            "fixed, and the published script read one pair",
            numbers=(published,),
            controls=(checks,),
            tables={"published": lambda seen: seen.once(five)},
        ),
    },
    sections={
        "When this misleads": (
            "A small model has seen few prompts that start with other words, so any padding may confuse it: that shows as an "
            "effect of length and is no effect of format. Filler is neutral by meaning, not by training. A straight line "
            "through a threshold is its average slope; a step beyond the line is what the claim of 60 % predicts."
        )
    },
)

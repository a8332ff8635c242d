"""Prompts after words of format or filler: attention to the numbers and answers, by length and share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import PROTOCOLS, Control
from headlab.effects import Table
from headlab.engine.captures import logit_differences
from headlab.interventions import World
from headlab.measures import DECIMALS, TokenClasses
from headlab.prompts import Encoded, EncodedPair
from headlab.stats import Estimate, bootstrap_mean, clustered_rate
from headlab.stats.factorial import factorial_regression
from headlab.stats.figures import percent
from headlab.tasks.grading import first_number
from headlab.tasks.padding import Cell, design_cells, padded
from headlab.trials.attention_scores import grids, to_numbers
from headlab.trials.pairs import clusters_of
from headlab.trials.sweeps import Scope, Seen

OUTCOMES = {"attention": "attention to the numbers, times uniform", "accuracy": "share of right answers"}


TERMS = {"format": "per unit of format share", "length": "per doubling of length", "step": "step at the claimed share"}


CLASSES = TokenClasses({**DECIMALS.roles, "pad": "format", "filler": "filler"})


BASE = Cell(0, 0.0)


DEALS = 40


NEAR = 0.05


def cells(scope: Scope) -> list[Cell]:
    return [BASE, *design_cells(scope.options["words"], scope.options["shares"])]


def asked(case: Any, cell: Cell) -> list[EncodedPair]:
    return [padded(p, cell, case.lab.tokenizer, case.claim.seed) for p in case.encoded]


def composed(encoded: Sequence[Encoded], kinds: Callable[[Encoded], Sequence[str]]) -> dict[str, Any]:
    """Length in tokens and share of format tokens of each prompt."""
    kept = [kinds(e) for e in encoded]
    return {"length": [len(k) for k in kept], "format": [list(k).count("format") / len(k) for k in kept]}


def rows(seen: Seen) -> Table:
    """A row for each pair and cell: what was varied, as measured in tokens, and both outcomes."""
    scope, parts = seen.scope, []
    for cell in cells(seen.scope):
        made = asked(seen.case, cell)
        encoded = [p.corrupted for p in made]
        how: dict[str, Any] = {"queries": scope.options["queries"], "sink": "out", "layers": [scope.layer]}
        table = to_numbers(scope.lab, encoded, CLASSES, **how)
        margins = logit_differences(scope.lab, encoded).numpy()
        told = {"pair": range(len(made)), "cluster": clusters_of(made), "cell": cell.name, "words": cell.words}
        told |= {"wanted_share": cell.share}
        told |= composed(encoded, lambda e: [k for k in CLASSES.of(e)[: e.n_prompt] if k != "sink"])
        read = {
            k: grids(table, column)[scope.layer].mean(1)
            for k, column in (("attention", "relative"), ("share", "share"))
        }
        parts.append(pd.DataFrame({**told, **read, "margin": margins, "accuracy": (margins > 0).astype(float)}))
    return pd.concat(parts, ignore_index=True)


def filled(seen: Seen) -> Table:
    """The prompts of the factorial design."""
    every: Any = seen.once(rows)
    return every[every["words"] > 0]


def effects_of(rows: Any, step: float) -> dict[str, Estimate]:
    """Slopes of both outcomes on format share and length, and the step beyond a steady decline at one length."""
    out = {}
    clusters = rows["cluster"].to_numpy()
    for y in OUTCOMES:
        values = rows[y].to_numpy()
        if np.ptp(values) == 0:
            flat = Estimate.undefined("prompts", len(values), f"{y} is {values[0]:g} for every prompt")
            out |= {f"{y}:{term}": flat for term in TERMS}
            continue
        told = {"format": rows["format"].to_numpy(), "length": np.log2(rows["length"].to_numpy())}
        slopes = factorial_regression(values, told, clusters, unit="prompts")
        out |= {f"{y}:{term}": slopes[term] for term in ("format", "length")}
        past = np.where(rows["format"] > step, "past", "before")
        if len(set(past)) < 2:
            out[f"{y}:step"] = Estimate.undefined("prompts", len(past), f"no format share on one side of {step:g}")
            continue
        levels = rows["words"].astype(str).to_numpy()
        factors = {"format": rows["format"].to_numpy(), "past": (past == "past").astype(float)}
        factors |= {"words": levels} if len(set(levels)) > 1 else {}
        out[f"{y}:step"] = factorial_regression(values, factors, clusters, interactions=False, unit="prompts")["past"]
    return out


def together(rows: Any) -> Estimate:
    """Length in tokens against format share: near zero in a factorial design."""
    length, factors = np.log2(rows["length"].to_numpy(float)), {"format": rows["format"].to_numpy()}
    return factorial_regression(length, factors, rows["cluster"].to_numpy(), unit="prompts")["format"]


def answered(case: Any, cell: Cell) -> Table:
    """Greedy text of a cell, and whether it names one of the two numbers."""
    made = asked(case, cell)
    text = case.texts(made, [World("unedited")], PROTOCOLS["standard"], f"padded {cell.name}")
    found = [first_number(t) for t in text["text"]]
    wrong = [n == made[i].pair.wrong for i, n in zip(text["pair"], found, strict=True)]
    return text.assign(cell=cell.name, named=text["right"].to_numpy(bool) | np.array(wrong, dtype=bool))


def texts(seen: Seen) -> Table:
    every = cells(seen.scope)
    return pd.concat([answered(seen.case, c) for c in dict.fromkeys((BASE, every[1], every[-1]))], ignore_index=True)


def base(case: Any) -> Estimate:
    """Right answers without padding."""
    right = answered(case, BASE).sort_values("pair")["right"].to_numpy(bool)
    return clustered_rate(right, clusters=clusters_of(case.encoded), unit="pairs")


def shuffled(rows: Any, seed: int) -> Control:
    """Format shares dealt out again among the prompts of one length and pair: nothing may hang on them."""
    rng = np.random.default_rng(seed)
    attention, share = (rows[y] - rows.groupby("words")[y].transform("mean") for y in ("attention", "format"))
    places = list(rows.groupby(["pair", "words"]).indices.values())
    found = []
    for _ in range(DEALS if attention.std() > 0 else 0):
        dealt = share.to_numpy().copy()
        for place in places:
            dealt[place] = dealt[rng.permutation(place)]
        found.append(float(np.corrcoef(attention, dealt)[0, 1]))
    mean = bootstrap_mean(found or [0.0, 0.0], unit="deals", seed=seed)
    words = (
        f"format shares dealt out at random within one length correlate with attention by {mean}, at most {NEAR} asked"
    )
    passed = abs(mean.value or 0.0) <= NEAR
    return Control(name="shuffled-shares", kind="negative", passed=passed, words=words, value=mean.value)


def text_agrees(rows: Any, texts: Any) -> Control:
    """Free greedy text that names one of the two numbers names the one that the logit difference says."""
    both = texts[texts["named"]].merge(rows, on=["cell", "pair"])
    agree = float((both["right"] == (both["accuracy"] > 0)).mean()) if len(both) else 0.0
    words = (
        f"greedy text and the sign of the logit difference agree on {percent(agree)} of the {len(both)} answers, of "
        f"{len(texts)}, that name one of the two numbers (at least 90 %)"
    )
    return Control(name="text", kind="positive", passed=agree >= 0.9, words=words, value=agree)

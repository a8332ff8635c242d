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

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Control, decide
from headlab.effects import Figure
from headlab.engine.captures import logit_differences
from headlab.engine.model import Lab
from headlab.experiments.attention.watched import (
    Array,
    chosen_layer,
    clusters_of,
    grids,
    in_format,
    no_halves,
    untestable,
)
from headlab.experiments.base import Bench, Experiment, Outcome, distinct, named
from headlab.interventions import World
from headlab.measures import DECIMALS, PublishedClasses, TokenClasses
from headlab.measures import bandwidth as attention_bandwidth
from headlab.measures.edited import CONTROLS, controls
from headlab.prompts import Encoded, EncodedPair
from headlab.stats import Estimate, bootstrap_mean, clustered_rate
from headlab.stats.factorial import factorial_regression
from headlab.stats.figures import percent
from headlab.store import Reading
from headlab.tasks.grading import first_number
from headlab.tasks.padding import Cell, design_cells, padded

OUTCOMES = {"attention": "attention to the numbers, times uniform", "accuracy": "share of right answers"}
TERMS = {"format": "per unit of format share", "length": "per doubling of length", "step": "step at the claimed share"}
STATISTICS = (*(f"{y}:{term}" for y in OUTCOMES for term in TERMS), "accuracy:base", "length:format")
CLASSES = TokenClasses({**DECIMALS.roles, "pad": "format", "filler": "filler"})
PUBLISHED = ("minimal", "light", "medium", "qa", "full")
CLEAN_AT_LEAST, PAIRS_AT_LEAST = 0.9, 100
DEALS, NEAR = 40, 0.05


def format_injection(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    if why := no_halves(lab):
        return untestable(bench, why)
    at, scan = chosen_layer(bench)
    step = float(bench.option("step", EXPERIMENT))
    cells = [Cell(0, 0.0), *design_cells(bench.option("words", EXPERIMENT), bench.option("shares", EXPERIMENT))]
    made = {c: [padded(p, c, lab.tokenizer, claim.seed) for p in bench.encoded] for c in cells}
    rows = pd.concat([_rows(bench, c, prompts, at) for c, prompts in made.items()], ignore_index=True)
    texts = _texts(bench, {c: made[c] for c in (cells[0], cells[1], cells[-1])})
    filled = rows[rows["words"] > 0]
    ruled: dict[str, Any] = {**effects_of(filled, step), "accuracy:base": _rate(texts, cells[0].name, bench)}
    ruled["length:format"] = _together(filled, bench)
    checks = [
        *controls(lab, [e.corrupted for e in made[cells[0]]], at, _measure(at)),
        _shuffled(filled, bench.seed),
        _text_control(rows, texts),
    ]
    able = _able(ruled["accuracy:base"], distinct(bench.encoded))
    readings = [
        Reading(
            protocol="standard",
            words="format words and neutral filler crossed with length; attention relative to uniform; errors by fraction pair",
            verdict=decide(claim, ruled, checks, ineligible=able),
            estimates=tuple(named(k, _label(k), v, "") for k, v in ruled.items()),
        )
    ]
    tables: dict[str, Any] = {"cells": _cells(rows, bench.seed), "rows": rows, "texts": texts}
    if "published" in claim.readings:
        found, tables["published"] = _published(bench, at, step, checks)
        readings.append(found)
    return Outcome(
        readings,
        [_figure(tables["cells"], y, at, step) for y in OUTCOMES],
        tables,
        {"ok": not able, "reason": able, "rule": f"accuracy without padding ≥ {CLEAN_AT_LEAST:.0%} on ≥ {PAIRS_AT_LEAST} pairs",
         "clean": ruled["accuracy:base"].to_dict()},
        settings={"layer": at, "layer_scan": scan, "step": step, "cells": [c.name for c in cells]},
        sections=_SECTIONS,
    )  # fmt: skip


def _numeric(lab: Lab, encoded: Sequence[Encoded], **settings: Any) -> Any:
    table = attention_bandwidth(lab, encoded, CLASSES, **settings)
    return table[table["token_class"] == "numeric"].reset_index(drop=True)


def _measure(at: int) -> Any:
    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        return grids(_numeric(lab, encoded, sink="out", relative=False, layers=[at], tokens=tokens), "share")[at]

    return share


def _rows(bench: Bench, cell: Cell, prompts: Sequence[EncodedPair], at: int) -> Any:
    """A row for each pair: what was varied, as measured in tokens, and both outcomes."""
    import pandas as pd

    encoded = [p.corrupted for p in prompts]
    table = _numeric(bench.lab, encoded, queries=bench.option("queries", EXPERIMENT), sink="out", layers=[at])
    kinds = [[k for k in CLASSES.of(e)[: e.n_prompt] if k != "sink"] for e in encoded]
    margins = logit_differences(bench.lab, encoded).numpy()
    return pd.DataFrame(
        {
            "pair": range(len(prompts)),
            "cluster": clusters_of(prompts),
            "cell": cell.name,
            "words": cell.words,
            "wanted_share": cell.share,
            "length": [len(k) for k in kinds],
            "format": [k.count("format") / len(k) for k in kinds],
            "attention": grids(table, "relative")[at].mean(1),
            "share": grids(table, "share")[at].mean(1),
            "margin": margins,
            "accuracy": (margins > 0).astype(float),
        }
    )


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
        slopes = factorial_regression(
            values, {"format": rows["format"].to_numpy(), "length": np.log2(rows["length"].to_numpy())}, clusters,
            unit="prompts",
        )  # fmt: skip
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


def _together(rows: Any, bench: Bench) -> Estimate:
    """Length in tokens against format share: near zero in a factorial design."""
    length = np.log2(rows["length"].to_numpy(float))
    factors = {"format": rows["format"].to_numpy()}
    return factorial_regression(length, factors, rows["cluster"].to_numpy(), unit="prompts")["format"]


def _texts(bench: Bench, made: dict[Cell, list[EncodedPair]]) -> Any:
    import pandas as pd

    parts = []
    for cell, prompts in made.items():
        text = bench.texts(prompts, [World("unedited")], PROTOCOLS["standard"], f"padded {cell.name}")
        found = [first_number(t) for t in text["text"]]
        wrong = [n == prompts[i].pair.wrong for i, n in zip(text["pair"], found, strict=True)]
        parts.append(text.assign(cell=cell.name, named=text["right"].to_numpy(bool) | np.array(wrong, dtype=bool)))
    return pd.concat(parts, ignore_index=True)


def _rate(texts: Any, cell: str, bench: Bench) -> Estimate:
    right = texts[texts["cell"] == cell].sort_values("pair")["right"].to_numpy(bool)
    return clustered_rate(right, clusters=clusters_of(bench.encoded), unit="pairs")


def _able(base: Estimate, pairs: int) -> str:
    if pairs < PAIRS_AT_LEAST:
        return f"the model is not eligible: eligibility needs at least {PAIRS_AT_LEAST} pairs, given {pairs}"
    if base.value is None or base.value < CLEAN_AT_LEAST:
        return (
            f"the model is not eligible: without padding it answers only {base} (at least {CLEAN_AT_LEAST:.0%} needed)"
        )
    return ""


def _shuffled(rows: Any, seed: int) -> Control:
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
    return Control(
        name="shuffled-shares",
        kind="negative",
        passed=abs(mean.value or 0.0) <= NEAR,
        words=f"format shares dealt out at random within one length correlate with attention by {mean}, at most {NEAR} asked",
        value=mean.value,
    )


def _text_control(rows: Any, texts: Any) -> Control:
    """Free greedy text that names one of the two numbers names the one that the logit difference says."""
    both = texts[texts["named"]].merge(rows, on=["cell", "pair"])
    agree = float((both["right"] == (both["accuracy"] > 0)).mean()) if len(both) else 0.0
    return Control(
        name="text",
        kind="positive",
        passed=agree >= 0.9,
        words=f"greedy text and the sign of the logit difference agree on {percent(agree)} of the {len(both)} answers, of "
        f"{len(texts)}, that name one of the two numbers (at least 90 %)",
        value=agree,
    )


def _published(bench: Bench, at: int, step: float, checks: Sequence[Control]) -> tuple[Reading, Any]:
    """Five prompts in which length and format share move together; shares by substring, any mention counted."""
    import pandas as pd

    lab, classes, parts = bench.lab, PublishedClasses(bench.lab.tokenizer), []
    for name in PUBLISHED:
        encoded = [in_format(p, name, lab.tokenizer) for p in bench.encoded]
        pairs = [replace(p, corrupted=e) for p, e in zip(bench.encoded, encoded, strict=True)]
        table = attention_bandwidth(lab, encoded, classes, queries="all", sink="in", relative=False, layers=[at])
        table = table[table["token_class"] == "numeric"]
        kinds = [classes.of(e)[: e.n_prompt] for e in encoded]
        text = bench.texts(pairs, [World("unedited")], PROTOCOLS["published"], f"published {name}").sort_values("pair")
        parts.append(
            pd.DataFrame(
                {
                    "pair": range(len(pairs)), "cluster": clusters_of(pairs), "cell": name, "words": 0,
                    "length": [len(k) for k in kinds], "format": [k.count("format") / len(k) for k in kinds],
                    "attention": grids(table, "share")[at].mean(1), "accuracy": text["right"].to_numpy(float),
                }
            )
        )  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    found: dict[str, Any] = {}
    for y in OUTCOMES:
        factors = {"format": rows["format"].to_numpy()}
        found[f"{y}:format"] = factorial_regression(
            rows[y].to_numpy(), factors, rows["cluster"].to_numpy(), unit="prompts"
        )["format"]
        found[f"{y}:step"] = effects_of(rows, step)[f"{y}:step"]
    found["length:format"] = _together(rows, bench)
    reading = Reading(
        protocol="published",
        words="the framework's five prompts, tokens by substring, any mention of the right number counted; length is not held "
        "fixed, and the published script read one pair",
        verdict=decide(bench.claim, found, checks),
        estimates=tuple(named(k, _label(k), v, "") for k, v in found.items()),
    )
    return reading, rows


def _label(name: str) -> str:
    y, _, term = name.partition(":")
    if name == "accuracy:base":
        return "right answers without padding"
    if name == "length:format":
        return "doublings of length per unit of format share (0: told apart)"
    return f"{OUTCOMES[y]}: {TERMS[term]}"


def _cells(rows: Any, seed: int) -> Any:
    import pandas as pd

    out = []
    for (words, cell), part in rows.groupby(["words", "cell"], sort=False):
        row = {"cell": cell, "words": int(words), "format": float(part["format"].mean()), "n": len(part)}
        for y in OUTCOMES:
            told = {"clusters": part["cluster"].to_numpy(), "unit": "pairs"}
            rate, values = y == "accuracy", part[y].to_numpy()
            e = clustered_rate(values, **told) if rate else bootstrap_mean(values, seed=seed, **told)
            row |= {y: e.value, f"{y}_low": e.low, f"{y}_high": e.high}
        out.append(row)
    return pd.DataFrame(out)


def _figure(cells: Any, y: str, at: int, step: float) -> Figure:
    where = f" at layer {at}" if y == "attention" else ""
    return Figure(
        kind="curve",
        name=y,
        title=f"{OUTCOMES[y].capitalize()}{where}, by the share of format tokens",
        caption=(
            "One line for each number of words put before the comparison; along a line only the share of format words changes. "
            f"Bands are 95 % intervals over pairs. The claim asks for a sharp fall at a share of {step:g}."
        ),
        data=tuple(
            {"x": r["format"], "y": r[y], "low": r[f"{y}_low"], "high": r[f"{y}_high"], "series": f"{r['words']} words",
             "n": r["n"]}
            for r in cells.to_dict("records")
        ),
        options={"threshold": 1.0 if y == "attention" else 0.5, "x_title": "share of format tokens", "y_title": OUTCOMES[y]},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A small model has seen few prompts that start with other words, so any padding may confuse it: that shows as an "
            "effect of length and is no effect of format. Filler is neutral by meaning, not by training. A straight line "
            "through a threshold is its average slope; a step beyond the line is what the claim of 60 % predicts."
        ),
    }
]

EXPERIMENT = Experiment(
    "format-injection",
    "Do attention to the numbers and accuracy fall as format words take a larger share of the prompt?",
    format_injection,
    STATISTICS,
    controls=(*CONTROLS, "shuffled-shares", "text"),
    options={"words": [8, 16, 32], "shares": [0.0, 0.25, 0.5, 0.75, 1.0], "step": 0.6, "queries": "last"},
    needs="numbers",
)

"""With its heads numbered at random, how often would parity be found in a model?

1. The layers that repair, chosen on selection pairs; at each, R numberings of the heads that leave the function as it is
   (KV groups in any order, the query heads of a group in any order).
2. Every numbering is a trial of ``parity``, decided by its own rule: repair by even heads, by odd heads, and the rank of
   the contrast among matched halves.  Parity means nothing in such a trial, so at most 5 % may be upheld.
3. The naive reading of the same trials: parity is found when one side repairs at least .5 more of the pairs.

Over a list of models: :mod:`headlab.experiments.null_rates_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from headlab.claims import PROTOCOLS, Claim, Control, decide
from headlab.effects import Figure
from headlab.experiments.heads.parity import NAIVE
from headlab.experiments.heads.relabelled import trials
from headlab.experiments.known import builtin_claims
from headlab.heads import even
from headlab.prompts import encode
from headlab.stats import Estimate, clopper_pearson
from headlab.stats.figures import percent
from headlab.store import Reading
from headlab.trials import charts
from headlab.trials.case import Bench
from headlab.trials.experiment import Program
from headlab.trials.findings import Findings as Outcome
from headlab.trials.pairs import PAIRS_AT_LEAST, choose_layer, eligibility, named

NOMINAL = 0.05
STATISTICS = ("naive:relabelled", "upheld:relabelled", "decided:relabelled")
CONTROLS = ("no-op", "patch-all")
OPTIONS = {"relabellings": 100}
UNIT = "decided trials"
LABELS = {
    "naive:relabelled": "heads numbered at random: trials in which the naive reading finds parity",
    "upheld:relabelled": "heads numbered at random: trials in which parity is upheld",
    "decided:relabelled": "heads numbered at random: trials that could be decided",
    "naive:by-model": "the same, naive reading, models resampled as wholes",
    "upheld:by-model": "the same, parity upheld, models resampled as wholes",
}


def allowed(decided: int) -> float | None:
    """The largest share upheld that chance at 5 % explains: .05 + 2·√(.05·.95 / decided)."""
    return NOMINAL + 2 * sqrt(NOMINAL * (1 - NOMINAL) / decided) if decided else None


def null_rates(bench: Bench) -> Outcome:
    """One model."""
    import pandas as pd

    claim = bench.claim
    parity = parity_of(claim)
    able = eligibility(bench, PROTOCOLS["standard"])
    layers, scan = _repairing(bench)
    made = [trials(bench, parity, able, at, bench.option("relabellings", EXPERIMENT)) for at in layers]
    every = pd.concat([rows for _, rows in made], ignore_index=True) if made else pd.DataFrame(columns=COLUMNS)
    dealt = every[every["relabelling"] > 0]
    reading = _reading(claim, dealt, [h.controls for h, _ in made], _nothing(scan, layers), able.reason)
    published = Reading(
        protocol="published",
        words="slices of the module's output, whatever the heads are called",
        verdict=decide(
            claim,
            {},
            [],
            impossible="it cannot run: the published slices of the module's output lie after the "
            "output projection and stay where they are when heads are numbered anew",
        ),
    )
    tables = {"trials": every, "layers": pd.DataFrame([_layer(h, rows) for h, rows in made])}
    if made:
        tables["effects"] = pd.concat([h.effects for h, _ in made], ignore_index=True)
    return Outcome(
        [{"standard": reading, "published": published}[name] for name in claim.readings],
        [_null_figure(h, rows) for h, rows in made[:1]],
        tables,
        able.plain(),
        settings={"layers": layers, "layer_scan": scan},
        sections=SECTIONS,
        notes=[words(dealt)],
    )


COLUMNS = ("relabelling", "layer", "outcome", "decided", "upheld", "naive", "contrast")


def parity_of(claim: Claim) -> Claim:
    """The claim ``parity`` as it stands, with this claim's sizes and seed."""
    same = {k: getattr(claim, k) for k in ("task", "pairs", "selection_pairs", "matched_sets", "seed")}
    return builtin_claims()["parity"].model_copy(update={**same, "readings": ("standard",)})


def _repairing(bench: Bench) -> tuple[list[int], list[dict[str, Any]]]:
    """The claim's layer, or those that repair more than half of the selection pairs, the best first."""
    chosen = [encode(p, bench.lab.tokenizer) for p in bench.selection] if bench.claim.layer == "auto" else []
    best, scan = choose_layer(bench, chosen)
    if not scan:
        return [best], scan
    rows = [
        {
            **row,
            "repairs": clopper_pearson(round(row["repaired"] * row["pairs"]), row["pairs"], unit="pairs").above(0.5),
        }
        for row in scan
    ]
    kept = sorted((r for r in rows if r["repairs"] == "yes"), key=lambda r: (-r["repaired"], r["layer"]))
    return [r["layer"] for r in kept], rows


def _nothing(scan: Sequence[dict[str, Any]], layers: Sequence[int]) -> str:
    if layers:
        return ""
    best = max(scan, key=lambda r: r["repaired"])
    return (
        f"no layer repairs: patching every head of layer {best['layer']}, the best, repairs {percent(best['repaired'])} of "
        f"{best['pairs']} selection pairs"
    )


def shares(dealt: Any) -> dict[str, Estimate]:
    """Clopper-Pearson shares of the decided trials, and the share decided."""
    decided = dealt[dealt["decided"].astype(bool)]
    return {
        "naive:relabelled": clopper_pearson(int(decided["naive"].sum()), len(decided), unit=UNIT),
        "upheld:relabelled": clopper_pearson(int(decided["upheld"].sum()), len(decided), unit=UNIT),
        "decided:relabelled": clopper_pearson(len(decided), len(dealt), unit="trials"),
    }


def _reading(claim: Claim, dealt: Any, controls: Sequence[Sequence[Control]], nothing: str, unable: str) -> Reading:
    findings = shares(dealt)
    # a layer that repairs on selection pairs and not on the test pairs has void trials, which count as not decided
    negative = [max((c[0] for c in controls), key=lambda c: (not c.passed, c.value or 0.0))] if controls else []
    positive = [next((c[1] for c in controls if c[1].passed), controls[0][1])] if controls else []
    return Reading(
        protocol="standard",
        words="z patched, heads numbered at random; the same rule as parity for each numbering, and a fixed threshold beside it",
        verdict=decide(claim, findings, [*negative, *positive], ineligible=unable, impossible=nothing),
        estimates=tuple(named(k, LABELS[k], e) for k, e in findings.items()),
    )


def words(dealt: Any) -> str:
    """A model's or a table's rates in one line, the denominator and the bound with them."""
    decided = dealt[dealt["decided"].astype(bool)]
    n, found, bound = len(decided), shares(dealt), allowed(len(decided))
    if bound is None:
        return f"None of {len(dealt)} trials could be decided."
    return (
        f"{len(dealt):,} trials with heads numbered at random, {n:,} decided: parity upheld in {int(decided['upheld'].sum()):,} "
        f"({found['upheld:relabelled']}); at most {percent(bound)} (5 % and two standard errors of {n:,} trials) are expected. "
        f"The naive reading finds parity in {int(decided['naive'].sum()):,} ({found['naive:relabelled']})."
    )


def _layer(halves: Any, rows: Any) -> dict[str, Any]:
    own, dealt = rows[rows["relabelling"] == 0].iloc[0], rows[rows["relabelling"] > 0]
    return {
        "layer": halves.at,
        "halves": halves.matched.total,
        "enumerated": halves.matched.enumerated,
        "trials": len(dealt),
        "asked": dealt["even"].nunique(),
        "decided": int(dealt["decided"].sum()),
        "upheld": int(dealt["upheld"].sum()),
        "naive": int((dealt["naive"] & dealt["decided"]).sum()),
        "own_outcome": own["outcome"],
        "own_p": own["p"],
        "own_contrast": own["contrast"],
    }


def _null_figure(halves: Any, rows: Any) -> Figure:
    own, dealt = halves.contrast(even(halves.grid, halves.at)), rows[rows["relabelling"] > 0]
    many = int(dealt["naive"].sum())
    title = f"Even against odd at layer {halves.at}, with the heads numbered at random"
    caption = (
        f"Each bar counts numberings ({len(dealt):,} drawn; the function is the same in all) by how much more of the "
        f"pairs the heads with even numbers repair than the others. {many} of {len(dealt):,} show a contrast of at least "
        f"{NAIVE:g} in one direction or the other. The line is the numbering that the model has, its band the 95 % interval over "
        f"{own.n} pairs."
    )
    line = (own, "as it is numbered", "share of pairs repaired: even minus odd")
    return charts.null("null", title, caption, dealt["contrast"], *line, of="numberings")


SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Numberings of one model share its weights, its layer and its prompts: a thousand of them are one model, and "
            "their interval says how well this model's rate is known, not how another would behave. Over a list, the ruled "
            "interval resamples whole models. That parity is upheld in at most 5 % is close to true by construction where "
            "every matched half is enumerated; it shows that the rule does what it says, with eligibility, repair and rank "
            "together, and not that a model in which parity is upheld has a reason for it."
        ),
    },
    {
        "heading": "Why numbering anew needs no second run",
        "text": (
            "Moving whole KV groups, and query heads inside a group, with all of their projections leaves a model's function "
            "as it is. The even heads of the renumbered model are therefore some half of the heads of the model at hand, with "
            "as many in each KV group as the even heads have; patching them is the same pass. Where KV groups hold one head "
            "each, any half can come out."
        ),
    },
]

EXPERIMENT = Program(
    slug="null-rates",
    question="With its heads numbered at random, how often would parity be found in a model?",
    run=null_rates,
    statistics=STATISTICS,
    controls=CONTROLS,
    options=OPTIONS,
    least=PAIRS_AT_LEAST,
)

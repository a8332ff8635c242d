"""How much of the clean attention pattern must replace the own one before a pair is repaired, and is that a threshold?

1. Eligible pairs and the layer as in ``parity``.
2. (1 − α)·own + α·clean at the patterns, and at the heads' outputs z, for α = 0, 0.05 … 1.
3. Each pair's crossing α*: the first grid interval in which its logit difference turns positive, then bisected.
4. The curve of all pairs: a logistic fit with intervals on location and width; a dip test on the α*.
5. The null: what the curve would be if every pair's margin moved in proportion to α.  Do pairs flip earlier, more alike
   or more abruptly than that?
6. The norm of the last layer's output where the answers part, against α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Claim, Protocol, decide
from headlab.effects import Figure, pivot, repair
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    eligibility,
    named,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
)
from headlab.experiments.doses.crossings import (
    Curve,
    crossing_table,
    dose_world,
    final_norms,
    findings_of,
    grid_of,
    measure,
)
from headlab.experiments.doses.dosing import layer_of, measured, with_answers
from headlab.heads import Grid, Heads, pool
from headlab.interventions import Intervention, Site, World
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, clustered_rate
from headlab.stats.intervals import bootstrap_means
from headlab.stats.psychometric import psychometric
from headlab.store import Reading

ARMS: dict[Site, str] = {"pattern": "patterns replaced", "z": "heads' outputs replaced"}
STATISTICS = (
    "repair", "location", "width", "median", "earlier", "spread", "steepness", "linear:location", "linear:width",
    "once",
)  # fmt: skip
OPTIONS = {"step": 0.05, "tolerance": 0.01, "norm_pairs": 40}
PUBLISHED_DOSES = (0.2, 0.4, 0.6, 0.8, 1.0)
WORDS = {
    "standard": "patterns of the claim's heads moved toward the clean run's, same roles, prompt and shared start",
    "published": (
        "slices of the attention module's output blended with the clean run's at 20, 40, 60, 80 and 100 %, left-aligned, "
        "every step, any mention counted (the patterns themselves cannot be blended that way: the prompts differ in length)"
    ),
}


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """The grid of both arms."""
    step = claim.options.get("step", OPTIONS["step"])
    return [dose_world(arm, pool(grid, at, claim.pool), d) for arm in ARMS for d in grid_of(step)]


def pattern_threshold(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim = bench.claim
    at, scan = layer_of(bench)
    readings, figures, tables, suited, effects = [], [], {}, {}, []
    for name in claim.readings:
        protocol = PROTOCOLS[name]
        able = eligibility(bench, protocol)
        suited[name] = able.plain()
        if name == "standard":
            reading, figures, tables, rows = _standard(bench, protocol, able, at)
            effects += rows
        else:
            reading, table = _published(bench, protocol, able, at)
            effects += [] if table is None else [table]
        readings.append(reading)
    if effects:
        tables["effects"] = pd.concat(effects, ignore_index=True)
    return Outcome(
        readings, figures, tables, {**suited[claim.readings[0]], "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan}, sections=_SECTIONS,
    )  # fmt: skip


def _norms(bench: Bench, pairs: Sequence[EncodedPair], heads: Heads) -> Any:
    """Mean norm by arm and dose."""
    import pandas as pd

    some = list(pairs[: max(2, int(bench.option("norm_pairs", EXPERIMENT)))])
    clusters = [p.pair.cluster or p.pair.id for p in some]
    doses = [k / 10 for k in range(11)]
    rows = []
    for arm in ARMS:
        values = np.stack([final_norms(bench.lab, some, Intervention(heads, arm, amount=d)) for d in doses], 1)
        for d, e in zip(doses, bootstrap_means(values, clusters, unit="pairs", seed=bench.seed), strict=True):
            rows.append({"arm": arm, "dose": d, "norm": e.value, "low": e.low, "high": e.high, "n": e.n})
    return pd.DataFrame(rows)


def _standard(
    bench: Bench, protocol: Protocol, able: Eligibility, at: int
) -> tuple[Reading, list[Figure], dict[str, Any], list[Any]]:
    import pandas as pd

    pairs, seed, heads = able.usable(bench), bench.seed, pool(bench.lab.grid, at, bench.claim.pool)
    curves, checked, estimates, controls = {}, {}, [], []
    for arm in ARMS:
        special = [
            protocol_patch(protocol, "all", heads, site=arm),
            protocol_patch(protocol, "baseline", heads, site=arm, amount=0.0),
            no_op_world(protocol, heads, arm),
        ]
        checked[arm] = with_answers(bench, pairs, special, protocol, f"controls {arm}").assign(arm=arm)
        curves[arm] = measure(
            bench, pairs, arm, heads, *(float(bench.option(k, EXPERIMENT)) for k in ("step", "tolerance"))
        )
        one = no_op_control(checked[arm], bench.lab)
        controls.append(one.model_copy(update={"words": f"at {arm}: {one.words}"}))
        found = findings_of(curves[arm]) | {"repair": repair(checked[arm], "all")}
        estimates += [named(k, f"{ARMS[arm]}: {LABELS[k]}", e, arm) for k, e in found.items()]
    controls.append(patch_all_control(checked["z"], seed, "every head of the claim's pool (z)"))
    own = {e.name: Estimate.from_dict(e.estimate) for e in estimates if e.arm == "pattern"}
    verdict = decide(bench.claim, own, controls, ineligible=able.reason)
    reading = Reading(protocol="standard", words=WORDS["standard"], verdict=verdict, estimates=tuple(estimates))
    norms = _norms(bench, pairs, heads)
    crossings = pd.concat([crossing_table(c, pairs, arm) for arm, c in curves.items()], ignore_index=True)
    figures = [_curve_figure(curves, at), _crossing_figure(curves, at), _norm_figure(norms, at)]
    rows = [t.assign(protocol="standard", arm=a) for a, c in curves.items() for t in c.effects]
    return reading, figures, {"crossings": crossings, "norms": norms}, [*checked.values(), *rows]


def _published(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> tuple[Reading, Any]:
    lab, claim, seed = bench.lab, bench.claim, bench.seed
    if lab.d_model % lab.grid.n_heads:
        why = f"it cannot run: {lab.d_model} residual channels do not divide into {lab.grid.n_heads} slices"
        verdict = decide(claim, {}, [], impossible=why)
        return Reading(protocol="published", words=WORDS["published"], verdict=verdict), None
    pairs, heads = able.usable(bench), pool(lab.grid, at, claim.pool)
    worlds = [protocol_patch(protocol, f"blend {d:g}", heads, amount=d) for d in PUBLISHED_DOSES[:-1]]
    worlds += [
        protocol_patch(protocol, "all", heads), protocol_patch(protocol, "baseline", heads, amount=0.0),
        no_op_world(protocol, heads),
    ]  # fmt: skip
    effects = with_answers(bench, pairs, worlds, protocol, f"published L{at}").assign(arm="out_block")
    names = ["baseline", *(f"blend {d:g}" for d in PUBLISHED_DOSES[:-1]), "all"]
    right = pivot(effects.assign(right=effects["right"].astype(float)), names, "right").T > 0.5
    clusters = effects.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    doses = np.array([0.0, *PUBLISHED_DOSES])
    fit = psychometric(
        np.tile(doses, len(right)), right.ravel(), np.repeat(clusters, len(doses)), unit="pairs × doses", seed=seed
    )
    findings = {"repair": repair(effects, "all"), "location": fit.location, "width": fit.width}
    controls = [no_op_control(effects, lab), patch_all_control(effects, seed, "every slice of the layer")]
    verdict = decide(measured(claim, findings), findings, controls, ineligible=able.reason)
    estimates = tuple(named(k, f"slices blended: {LABELS[k]}", e, "out_block") for k, e in findings.items())
    return Reading(protocol="published", words=WORDS["published"], verdict=verdict, estimates=estimates), effects


def _shares(curve: Curve) -> list[Estimate]:
    up = (curve.margins > 0).T
    return [clustered_rate(x, curve.clusters, unit="pairs") for x in up]


def _curve_figure(curves: Mapping[Site, Curve], at: int) -> Figure:
    rows = []
    for arm, curve in curves.items():
        for series, shares in (
            (ARMS[arm], _shares(curve)),
            (f"{arm}: if margins moved in proportion", curve.null.curve),
        ):
            rows += [
                {"x": float(d), "y": e.value, "low": e.low, "high": e.high, "n": e.n, "series": series}
                for d, e in zip(curve.doses, shares, strict=True)
            ]  # fmt: skip
    return Figure(
        kind="curve", name="threshold", title=f"Pairs repaired, by how much of layer {at} is replaced by the clean run's",
        caption=(
            "0 leaves patterns (or heads' outputs) as they are, 1 replaces them. The other two lines are the null: the curve "
            "that appears when every pair's logit difference moves in proportion to the dose and nothing has a threshold. "
            "Bands are 95 % intervals over pairs."
        ),
        data=tuple(rows), options={"threshold": 0.5, "x_title": "share replaced (α)", "y_title": "share of pairs repaired"},
    )  # fmt: skip


def _crossing_figure(curves: Mapping[Site, Curve], at: int) -> Figure:
    rows, told = [], []
    for arm, curve in curves.items():
        both = {ARMS[arm]: curve.found, f"{arm}: in proportion": curve.null.crossings}
        for world, found in both.items():
            rows += [
                {"pair": p, "world": world, "value": float(found.at[p])} for p in np.flatnonzero(found.seen).tolist()
            ]
        p = "undefined" if curve.dip.test is None else f"p = {curve.dip.test.p:.2g}"
        told.append(
            f"{arm} {int(curve.found.seen.sum())} of {len(curve.margins)} pairs turn, dip test for several modes {p}"
        )
    return Figure(
        kind="pairs", name="crossings", title=f"Where each pair turns, when layer {at} is replaced by the clean run's",
        caption=(
            "A dot for each pair: the dose at which its logit difference turns positive, and the dose at which it would if it "
            f"moved in proportion. A threshold of the model would put the dots at one place ({'; '.join(told)})."
        ),
        data=tuple(rows), options={"x_title": "crossing dose α*"},
    )  # fmt: skip


def _norm_figure(norms: Any, at: int) -> Figure:
    return Figure(
        kind="curve", name="norm", title=f"Norm of the last layer's output, by how much of layer {at} is replaced",
        caption=(
            "At the position where the answers part, mean over pairs with 95 % intervals. The published account holds that "
            "features switch on at a critical strength; a step in the norm would be a sign of it."
        ),
        data=tuple({"x": r["dose"], "y": r["norm"], "low": r["low"], "high": r["high"], "n": r["n"],
                    "series": ARMS[r["arm"]]} for r in norms.to_dict("records")),
        options={"x_title": "share replaced (α)", "y_title": "norm"},
    )  # fmt: skip


LABELS = {
    "repair": "pairs repaired at α = 1",
    "location": "α at which half of the pairs are repaired (logistic fit)",
    "width": "from 10 % to 90 % repaired (logistic fit)",
    "median": "median crossing α* of all pairs",
    "linear:location": "location if margins moved in proportion",
    "linear:width": "width if margins moved in proportion",
    "earlier": "crossing α* minus that of a proportional margin",
    "spread": "spread of α* over pairs, relative to proportional margins",
    "steepness": "slope of a pair's margin at α*, relative to a proportional one",
    "once": "share of crossing pairs whose margin does not fall back",
    "dip": "dip test on α*, p",
}

_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Repaired or not is the sign of a margin. If every margin moves in proportion to the dose, the share of repaired "
            "pairs still rises in an S, and the more steeply the more alike the pairs are: only what differs from the "
            "proportional curve speaks for a threshold. A softmax further up or a normalisation bends margins too, so an "
            "abrupt turn is no proof of a feature that switches on. A clean pattern laid over a longer prompt loses the weight "
            "of tokens that have no partner there, and its own values are read under it."
        ),
    }
]

EXPERIMENT = Experiment(
    "pattern-threshold",
    "How much of the clean attention pattern repairs a pair, and is that a threshold?",
    pattern_threshold,
    STATISTICS,
    options=OPTIONS,
    design=design,
)

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

from collections.abc import Iterator

import numpy as np
import pandas as pd

from headlab.effects import Figure, Table, repair
from headlab.heads import Heads, pool
from headlab.interventions import Intervention, Site, World
from headlab.stats import Estimate, clustered_rate
from headlab.stats.intervals import bootstrap_means
from headlab.stats.psychometric import psychometric
from headlab.trials import charts
from headlab.trials.checks import no_op, patch_all
from headlab.trials.crossings import Curve, crossing_table, dose_world, final_norms, findings_of, grid_of, measure
from headlab.trials.flow import Method, OnPairs, unsliced, what_is_measured
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

ARMS: dict[Site, str] = {"pattern": "patterns replaced", "z": "heads' outputs replaced"}
PUBLISHED_DOSES = (0.2, 0.4, 0.6, 0.8, 1.0)
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


def heads_of(scope: Scope) -> Heads:
    return pool(scope.grid, scope.layer, scope.claim.pool)


def replaced(scope: Scope, site: str) -> tuple[World, ...]:
    """The claim's heads replaced whole, by nothing, and by their own."""
    heads = heads_of(scope)
    baseline = scope.edit("baseline", heads, site=site, amount=0.0)
    return scope.edit("all", heads, site=site), baseline, scope.noop(site, heads)


def standard(scope: Scope) -> dict[str, Sweep]:
    grid = grid_of(float(scope.options["step"]))
    fixed = {f"fixed {arm}": Sweep(replaced(scope, arm), texts=True, arm=arm) for arm in ARMS}
    grids = {f"grid {a}": Sweep([dose_world(a, heads_of(scope), d) for d in grid], arm=a) for a in ARMS}
    return fixed | grids


def published(scope: Scope) -> dict[str, Sweep]:
    heads = heads_of(scope)
    blends = [scope.edit(f"blend {d:g}", heads, amount=d) for d in PUBLISHED_DOSES[:-1]]
    return {"blends": Sweep((*blends, *replaced(scope, "")), texts=True, arm="out_block")}


def curves(seen: Seen) -> dict[Site, Curve]:
    return {arm: measure(seen, arm, heads_of(seen.scope)) for arm in ARMS}


def told(seen: Seen) -> Iterator[Told]:
    for arm, curve in seen.once(curves).items():
        found = findings_of(curve) | {"repair": repair(seen[f"fixed {arm}"], "all")}
        for name, e in found.items():
            yield Told(name, f"{ARMS[arm]}: {LABELS[name]}", e, arm, unruled=arm != "pattern")


def blended(seen: Seen) -> Iterator[Told]:
    names = ["baseline", *(f"blend {d:g}" for d in PUBLISHED_DOSES[:-1]), "all"]
    right = seen.values("blends", names, "right").T > 0.5
    doses, clusters = np.array([0.0, *PUBLISHED_DOSES]), np.repeat(seen.clusters("blends"), len(PUBLISHED_DOSES) + 1)
    fit = psychometric(np.tile(doses, len(right)), right.ravel(), clusters, unit="pairs × doses", seed=seen.scope.seed)
    found = {"repair": repair(seen["blends"], "all"), "location": fit.location, "width": fit.width}
    return (Told(name, f"slices blended: {LABELS[name]}", e, "out_block") for name, e in found.items())


def norms(seen: Seen) -> Table:
    """Mean norm by arm and dose."""
    scope, heads = seen.scope, heads_of(seen.scope)
    some = scope.pairs[: max(2, int(scope.options["norm_pairs"]))]
    clusters = [p.pair.cluster or p.pair.id for p in some]
    doses = [k / 10 for k in range(11)]
    rows = []
    for arm in ARMS:
        values = np.stack([final_norms(scope.lab, some, Intervention(heads, arm, amount=d)) for d in doses], 1)
        for d, e in zip(doses, bootstrap_means(values, clusters, unit="pairs", seed=scope.seed), strict=True):
            rows.append({"arm": arm, "dose": d, "norm": e.value, "low": e.low, "high": e.high, "n": e.n})
    return pd.DataFrame(rows)


def crossings(seen: Seen) -> Table:
    found = seen.once(curves).items()
    return pd.concat([crossing_table(c, seen.scope.pairs, arm) for arm, c in found], ignore_index=True)


def shares(curve: Curve) -> list[Estimate]:
    return [clustered_rate(x, curve.clusters, unit="pairs") for x in (curve.margins > 0).T]


def by_dose(seen: Seen) -> Figure:
    rows = []
    for arm, curve in seen.once(curves).items():
        lines = {ARMS[arm]: shares(curve), f"{arm}: if margins moved in proportion": curve.null.curve}
        for series, line in lines.items():
            rows += [charts.point(series, float(d), e) for d, e in zip(curve.doses, line, strict=True)]
    caption = (
        "0 leaves patterns (or heads' outputs) as they are, 1 replaces them. The other two lines are the null: the curve that "
        "appears when every pair's logit difference moves in proportion to the dose and nothing has a threshold. Bands are "
        "95 % intervals over pairs."
    )
    title = f"Pairs repaired, by how much of layer {seen.scope.layer} is replaced by the clean run's"
    return charts.curve("threshold", title, caption, rows, "share replaced (α)", "share of pairs repaired")


def by_pair(seen: Seen) -> Figure:
    rows, said = [], []
    for arm, curve in seen.once(curves).items():
        for world, found in {ARMS[arm]: curve.found, f"{arm}: in proportion": curve.null.crossings}.items():
            seen_at = np.flatnonzero(found.seen).tolist()
            rows += [{"pair": p, "world": world, "value": float(found.at[p])} for p in seen_at]
        p = "undefined" if curve.dip.test is None else f"p = {curve.dip.test.p:.2g}"
        turned = f"{int(curve.found.seen.sum())} of {len(curve.margins)} pairs turn"
        said.append(f"{arm} {turned}, dip test for several modes {p}")
    caption = (
        "A dot for each pair: the dose at which its logit difference turns positive, and the dose at which it would if it "
        f"moved in proportion. A threshold of the model would put the dots at one place ({'; '.join(said)})."
    )
    title = f"Where each pair turns, when layer {seen.scope.layer} is replaced by the clean run's"
    return Figure("pairs", "crossings", title, caption, tuple(rows), {"x_title": "crossing dose α*"})


def by_norm(seen: Seen) -> Figure:
    rows = [
        {"x": r["dose"], "y": r["norm"], **{k: r[k] for k in ("low", "high", "n")}, "series": ARMS[r["arm"]]}
        for r in seen.once(norms).to_dict("records")
    ]
    caption = (
        "At the position where the answers part, mean over pairs with 95 % intervals. The published account holds that "
        "features switch on at a critical strength; a step in the norm would be a sign of it."
    )
    title = f"Norm of the last layer's output, by how much of layer {seen.scope.layer} is replaced"
    return charts.curve("norm", title, caption, rows, "share replaced (α)", "norm", threshold=None)


EXPERIMENT = OnPairs(
    slug="pattern-threshold",
    question="How much of the clean attention pattern repairs a pair, and is that a threshold?",
    statistics=tuple(name for name in LABELS if name != "dip"),
    options={"step": 0.05, "tolerance": 0.01, "norm_pairs": 40},
    methods={
        "standard": Method(
            "patterns of the claim's heads moved toward the clean run's, same roles, prompt and shared start",
            standard,
            numbers=(told,),
            controls=(
                no_op("fixed pattern", "pattern"),
                no_op("fixed z", "z"),
                patch_all("fixed z", "every head of the claim's pool (z)"),
            ),
            figures=(by_dose, by_pair, by_norm),
            tables={"crossings": crossings, "norms": lambda seen: seen.once(norms)},
        ),
        "published": Method(
            "slices of the attention module's output blended with the clean run's at 20, 40, 60, 80 and 100 %, left-aligned, "
            "every step, any mention counted (the patterns themselves cannot be blended that way: the prompts differ in "
            "length)",
            published,
            numbers=(blended,),
            controls=(no_op("blends"), patch_all("blends", "every slice of the layer")),
            impossible=unsliced,
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "Repaired or not is the sign of a margin. If every margin moves in proportion to the dose, the share of repaired "
            "pairs still rises in an S, and the more steeply the more alike the pairs are: only what differs from the "
            "proportional curve speaks for a threshold. A softmax further up or a normalisation bends margins too, so an "
            "abrupt turn is no proof of a feature that switches on. A clean pattern laid over a longer prompt loses the weight "
            "of tokens that have no partner there, and its own values are read under it."
        )
    },
)

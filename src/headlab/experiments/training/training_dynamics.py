"""When in training do heads cluster, grow and take on their roles, and is the change a sudden one?

1. A series of checkpoints: the shipped run that the organism ends, or the folders or revisions that are listed.  They are
   loaded one at a time; what was measured of one is stored, so that an interrupted run goes on.
2. From the weights: block norms, and how clustered the heads of each layer are (best silhouette of W_QK and W_OV by
   cosine, norms removed) above random weights of the same norms; the same with norms left in.
3. From prompts: right answers by category, what patching each layer repairs, even against odd heads at the layer chosen on
   other pairs.
4. Each quantity of each series: is there one change in its level, between which looks, and does it jump there?  Holm over
   the quantities of a series.
5. Where a circuit was planted the change must bracket the recorded onset; where none was, nothing may change; looks in
   random order must show no change; a checkpoint measured twice must give the same numbers.
6. The same questions of the published blocks, cut and clustered as published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from headlab.effects import Table
from headlab.experiments.training.timelines import figures_of
from headlab.measures.changes import label, place, trace
from headlab.measures.checkpoints import WHOLE
from headlab.stats import Estimate
from headlab.stats.change_point import change_point
from headlab.trials.flow import Method, OnPairs, what_is_measured
from headlab.trials.looked import PLANTED, controls, looked, notes, parity_layer, series_of, which_steps
from headlab.trials.sweeps import Seen, Told


def no_series(case: Any) -> str:
    why = (
        f"{case.lab.name} is one checkpoint; list several: headlab emergence MODEL --revisions step0,step1000,… or "
        f"headlab emergence FOLDER FOLDER …, or try {PLANTED}"
    )
    return "" if series_of(case) else why


# -- numbers ------------------------------------------------------------------------------------------------


def about(seen: Seen, quantity: str, words: str) -> Iterator[Told]:
    """One measure of clustering along the first series: any change, a jump, and where."""
    made, claim = seen.of_trial(looked), seen.scope.claim
    rows = trace(made.looks, made.main.name, quantity)
    x, at = rows["value"].to_numpy(float), rows["step"].to_numpy(float)
    how: dict[str, Any] = {"seed": seen.scope.seed, "least": float(seen.scope.options["least"]), "alpha": claim.alpha}
    level, jump = change_point(x, at, **how), change_point(x, at, kind="jump", **how)
    reason = f"{level.n} looks cannot bring p under {claim.alpha:g}, whatever they show"
    p = level.p if level.attainable < claim.alpha else Estimate.undefined("looks", level.n, reason)
    yield Told("p:clustering", f"{words}: any change in level, p", p, "weights")
    yield Told("jump:clustering", f"{words}: a jump between two looks, p", jump.p, "weights")
    where = place(level, float(made.main.last.step))
    yield Told("place:clustering", "first look after the change, as a share of training", where, "weights")


def above_null(seen: Seen) -> Iterator[Told]:
    """Clustering above random weights of the same norms, and every change that was found."""
    made, what = seen.of_trial(looked), "clustering above"
    yield from about(seen, "excess", f"{what} its null")
    rows = trace(made.looks, made.main.name, "excess")
    if len(rows):
        first, last = (estimate(r) for r in (rows.iloc[0], rows.iloc[-1]))
        null = "random weights of the same norms, step"
        yield Told("excess:first", f"{what} {null} {made.main.steps[0]}", first, "weights")
        yield Told("excess:last", f"{what} {null} {made.main.last.step}", last, "weights")
        yield Told("gain:clustering", f"{what} its null, last look minus first", gain(first, last), "weights")
    for s in made.own:
        for (quantity, layer), level, _, adjusted in made.found[s.name]:
            if level.found and adjusted < seen.scope.claim.alpha:
                words = f"{s.name}: {label(quantity, layer)}, first look after its change"
                arm = "weights" if layer == WHOLE else "z"
                yield Told(f"step:{s.name}:{quantity}:{layer}", words, level.estimate, arm, unruled=True)


def estimate(r: Any) -> Estimate:
    return Estimate(float(r["value"]), float(r["low"]), float(r["high"]), int(r["n"]), str(r["unit"]), str(r["method"]))


def gain(first: Estimate, last: Estimate) -> Estimate:
    """Last minus first; the interval takes the worst ends of both."""
    if None in (first.value, first.low, first.high, last.value, last.low, last.high):
        return Estimate.undefined("draws", last.n, "one of the two looks is undefined")
    value, low, high = last.value - first.value, last.low - first.high, last.high - first.low  # type: ignore[operator]
    return Estimate(value, low, high, last.n, last.unit, "worst ends of both looks")


def published(seen: Seen) -> Iterator[Told]:
    """The published blocks of the middle layer, two clusters, norms left in."""
    made = seen.of_trial(looked)
    yield from about(seen, "published", "published silhouettes, mean of q, k and v")
    if len(rows := trace(made.looks, made.main.name, "published")):
        moved = float(rows["value"].iloc[-1] - rows["value"].iloc[0])
        all_blocks = Estimate(moved, moved, moved, 3, "blocks", "all of them")
        yield Told("gain:clustering", "published silhouettes: last look minus first", all_blocks, "weights")


def unrelated(seen: Seen) -> str:
    """Why the published measurement says nothing of the claim, or nothing."""
    names = {t.name for t in seen.told}
    told = any(p.statistic in names for p in seen.scope.claim.predictions)
    return "" if told else "none of the predictions is about what was published"


def as_published(seen: Seen) -> str:
    q, k = seen.scope.lab.geometry.q, seen.scope.lab.geometry.k
    fused = q is not None and (q == k or (k and q.path == k.path))
    how = (
        "the fused matrix cut as published (for GPT-NeoX that mixes q, k and v of neighbouring heads)"
        if fused
        else "the published cut cannot run, because q, k and v are separate here; their own blocks instead"
    )
    return f"flattened blocks of the middle layer, k-means with two clusters, norms left in; {how}"


# -- the page -----------------------------------------------------------------------------------------------


def checkpoints(seen: Seen) -> Table:
    rows = [
        {"series": s.name, "step": c.step, "model": c.model, "revision": c.revision or "", "onset": s.onset}
        for s in seen.of_trial(looked).every
        for c in s.checkpoints
    ]
    return pd.DataFrame(rows)


def settings(seen: Seen) -> dict[str, Any]:
    made = seen.of_trial(looked)
    own = {"layer": made.layer, "layer_scan": made.scan, "series": [s.plain() for s in made.own]}
    return {**own, "fingerprints": made.looks.attrs["fingerprints"]}


def figures(seen: Seen) -> Sequence[Any]:
    made = seen.of_trial(looked)
    return figures_of(made.looks, made.changes, made.own, parity_layer(made.main.name, made.layer), made.category)


EXPERIMENT = OnPairs(
    slug="training-dynamics",
    question="When in training do heads cluster and take on their roles, and is it sudden?",
    statistics=("p:*", "jump:*", "place:*", "excess:*", "gain:*"),
    controls=("planted-onset", "never-planted", "shuffled", "loaded-twice"),
    options={"series": [], "behaviour": True, "draws": 19, "least": 0.1, "pairs_elsewhere": 40},
    cannot=no_series,
    layered=False,
    eligibility={"ok": True, "reason": "weights need no behaviour; repairs are read where a checkpoint has the bug"},
    methods={
        "standard": Method(
            "norms removed, W_QK and W_OV of each head as one thing, above random weights of equal norms, at every look",
            numbers=(above_null,),
            controls=(controls,),
            figures=(figures,),
            tables={
                "looks": lambda seen: seen.of_trial(looked).looks,
                "changes": lambda seen: seen.of_trial(looked).changes,
                "checkpoints": checkpoints,
            },
            settings=settings,
            sections=which_steps,
            notes=notes,
        ),
        "published": Method(
            as_published, numbers=(published,), controls=(controls,), asks=what_is_measured, undefined=unrelated
        ),
    },
    sections={
        "When this misleads": (
            "Checkpoints of one run are one run: an interval over its looks says nothing of other seeds, so overlay several. "
            "A quantity that drifts has a change in level wherever one looks (the table of changes has these too); the "
            "claim's p reaches up to that against a drift, and only a jump that stands out among the "
            "differences of neighbouring looks is sudden, and a change that takes three looks is no jump. On log-spaced "
            "looks a jump is one of scale. The silhouette of the best cut is above zero for any cloud of heads: read it "
            "above random weights of the same norms, never alone. The repair rate is read among the pairs that a "
            "checkpoint has the bug on, which differ from step to step."
        ),
        "The published timeline": (
            "Eight of 154 checkpoints were looked at, none between steps 80,000 and 120,000, so a change between these two "
            "could not be called sudden. The fused matrix was cut as view(3, head, …), which for GPT-NeoX calls blocks of "
            "neighbouring heads query, key and value; the silhouettes of .6 are those of one block whose norm grew about "
            "fourfold. Step 0 was not looked at. 80,000 to 120,000 is 56 to 84 % of training, not its last 16 %."
        ),
    },
)

"""Do critical heads matter more for harder problems?

1. The three heads of the highest published composite ("hub heads") and, beside them, the three whose ablation alone costs
   most are chosen on selection problems.
2. Both sets are ablated (mean) on test problems; accuracy lost is paired by problem, exact McNemar, Holm over strata.
3. Strata: annotated steps (1 or 2, 3, 4 and more); confidence, the probability of the unedited answer, in three tiers
   whose edges are fixed on selection problems (confidence depends on the outcome); operations of the problem.
4. Hard minus easy, against levels dealt out anew to chains of steps, and against random heads of the same layers.
5. Interaction of ablation and steps: logistic regression, and the same in points, errors by chain of steps.
6. What wrong answers are: an intermediate result, a neighbour, a number of the question, no number, something else;
   beside what these shares come to when wrong answers change places.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from headlab.effects import Figure
from headlab.stats.figures import percent, rounded
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.flow import Method, OnProblems, what_is_measured
from headlab.trials.hardness import (
    as_published,
    by_world,
    effects,
    matched,
    parsed,
    places,
    planted_gap,
    ran,
    ranked,
    shuffles,
)
from headlab.trials.strata import EASY, HARD, MEDIUM, STEPS, errors, table_of
from headlab.trials.sweeps import Seen
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_checks import silenced, written_back

# -- tables, figures, words ---------------------------------------------------------------------------------


def wrong(seen: Seen) -> pd.DataFrame:
    one = ran(seen)
    both, labels = pd.concat([one.base, one.costs.table], ignore_index=True), {"baseline": "unedited", **one.labels}
    some = (errors(both, world, label, seen.case.test, seen.case.seed) for world, label in labels.items())
    return pd.DataFrame([row for rows in some for row in rows])


def figures(seen: Seen) -> list[Figure]:
    one, found = ran(seen), seen.once(effects)
    at = {EASY: 2.0, MEDIUM: 3.0, HARD: 4.0}
    own = {label: [w for w in found[world] if w.family == "steps"] for world, label in one.labels.items()}
    rows = [charts.point(label, at[w.level], w.edited) for label, ws in own.items() for w in ws if w.edited.defined]
    rows += [charts.point("unedited", at[w.level], w.base) for w in own[one.hub_label] if w.base.defined]
    for w in own[one.hub_label]:
        if w.base.value is not None:
            left = w.base.value - seen.once(matched)[f"drop_{w.level}"].to_numpy(float)
            rows += [draw.spread_point("random heads of the same layers", at[w.level], left)]
    bars = [
        (f"{STEPS.get(w.level, w.level)} ({w.family})", w.arm, w.drop)
        for ws in found.values()
        for w in ws
        if w.drop.defined
    ]
    caption = (
        "Bands are 95 % intervals over problems; for random heads of the same layers the middle 95 % of sets. 2 stands for one "
        "or two steps, 4 for four and more."
    )
    zero = f"95 % intervals over {len(one.base)} problems; zero is no effect. Edges of confidence were fixed on other problems."
    curve = ("Accuracy by number of steps", caption, rows, "annotated steps", "accuracy", None)
    out = [
        charts.curve("by-steps", *curve),
        charts.estimates("strata", "Accuracy lost in each stratum", zero, bars, "accuracy lost", 0.0),
    ]
    if place := seen.once(places).get("rank:gap"):
        title = "Hard minus easy, against levels dealt out at random"
        told = f"Each bar counts shuffles of the levels over chains of steps; {one.hub_label}. {place}."
        line = (seen.estimate("gap:steps"), "hard minus easy", "difference of accuracy lost")
        out.append(charts.null("null-gap", title, told, seen.once(shuffles), *line, of="shuffles"))
    return out


def notes(seen: Seen) -> Sequence[str]:
    one, level, majority = ran(seen), seen.case.able.accuracy.value or 0.0, seen.case.able.majority
    arms = list(zip(one.labels.values(), ("", "needed:"), strict=True))
    out = [f"{a[0].upper()}{a[1:]}: hard minus easy {seen.estimate(f'{key}gap:steps')}." for a, key in arms]
    for a, key in arms:
        logit, points = (seen.estimate(f"{key}interaction:{kind}") for kind in ("logit", "points"))
        out.append(f"Ablation × steps, {a}: {logit} in log odds, {points} in accuracy for each further step.")
    if level >= 0.98:
        out.append(
            f"The unedited model answers {percent(level)} rightly, so difficulty has no room here: no stratum is hard for it, its "
            "own errors are too few to sort, confidence cannot tell right from wrong, and where a whole cell is right the log odds "
            "are unbounded (their interaction is then undefined). What can be seen is how many points an ablation costs in each "
            "stratum."
        )
    by_step = {a: [w for w in ws if w.family == "steps"] for a, ws in seen.once(effects).items()}
    floor = max(majority * 2, 0.15)
    if low := [one.labels[a] for a, ws in by_step.items() if all((w.edited.value or 0) < floor for w in ws)]:
        out.append(
            f"Without {' and without '.join(low)} hardly anything is right in any stratum (commonest answer {percent(majority)}): "
            "at the floor too, a difference of strata cannot show; fewer heads (option k) leave it room."
        )
    edges = f"unsure up to {rounded(one.tiers.low)}, sure above {rounded(one.tiers.high)}"
    return [*out, f"Confidence: {edges} (thirds of the selection problems)."]


def settings(seen: Seen) -> dict[str, object]:
    one = ran(seen)
    edges = {"unsure_up_to": one.tiers.low, "sure_above": one.tiers.high}
    return {"hub_heads": f"{one.hub}", "needed_heads": f"{one.needed}", "edges": edges, "write": "mean"}


CONTROLS = (written_back, parsed, silenced, planted_gap)

EXPERIMENT = OnProblems(
    slug="difficulty",
    question="Do critical heads matter more for harder problems?",
    statistics=("drop:*", "relative:*", "accuracy:*", "gap:*", "interaction:*", "rank:*", "needed:*"),
    controls=("no-op", "parse-rate", "silence-all", "planted-gap"),
    options={"heads": "", "k": 3, "max_new_tokens": 12},
    cannot=thoughts_at_least(4),
    methods={
        "standard": Method(
            "mean ablation of three heads at every position; strata by annotated steps, by confidence in tiers fixed on other "
            "problems, by operations",
            numbers=(by_world, ranked),
            controls=CONTROLS,
            figures=(figures,),
            tables={
                "strata": lambda seen: table_of([w for ws in seen.once(effects).values() for w in ws]),
                "errors": wrong,
                "matched": lambda seen: seen.once(matched),
            },
            settings=settings,
            notes=notes,
        ),
        "published": Method(
            "tiers by the confidence of the unedited answer and steps together (over .9 and one; .6 to .9 and two or three; "
            "below .6 and more)",
            numbers=(as_published,),
            controls=CONTROLS,
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "Confidence is the model's own: a problem is unsure because its answer is about to be wrong, so strata of confidence "
            "sort by outcome, and an ablation seems to cost less where little was right to begin with. Steps are annotated before "
            "any model answers; that is why they bind. Points and log odds are different scales: from 100 % everything falls by "
            "more points than from 60 %, and an interaction on one scale may vanish on the other. More steps are also longer "
            "questions and other operations. An answer that equals an intermediate result may be so by chance where numbers are "
            "small: the expected share stands beside each."
        )
    },
)

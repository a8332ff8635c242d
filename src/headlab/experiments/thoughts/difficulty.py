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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.needed_heads import Needed, needed_heads
from headlab.experiments.thoughts.strata import (
    EASY,
    HARD,
    MEDIUM,
    STEPS,
    Array,
    Tiers,
    Within,
    by_steps,
    errors,
    gap,
    lost,
    planted_control,
    published_tiers,
    shuffled_gaps,
    table_of,
    within,
)
from headlab.experiments.thoughts.thought_causal import (
    cannot_run,
    matched_by_layer,
    output_norms,
    parse_control,
    point,
    published_scores,
    silent_control,
    spread_point,
    without_thoughts,
)
from headlab.experiments.thoughts.thought_rows import every_head
from headlab.heads import Heads
from headlab.stats import Estimate, Rank, clopper_pearson, rank
from headlab.stats.factorial import factorial_regression
from headlab.stats.figures import percent, rounded
from headlab.store import Reading
from headlab.thoughts.loop import touched_by
from headlab.thoughts.worlds import ablation
from headlab.trials.answers import of_world
from headlab.trials.thought_case import BASE, ThoughtBench
from headlab.trials.thought_checks import same_answers

STATISTICS = ("drop:*", "relative:*", "accuracy:*", "gap:*", "interaction:*", "rank:*", "needed:*")
SURENESS = ("sure", "middling", "unsure")


@dataclass(frozen=True)
class Arm:
    """A set of heads ablated: every problem's answer, and the effects by stratum."""

    key: str
    label: str
    heads: Heads
    table: Any
    found: list[Within]
    numbers: Mapping[str, Estimate]


def difficulty(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 4):
        return cannot_run(bench, why)
    option = lambda name: bench.option(name, EXPERIMENT)  # noqa: E731
    k, scores = option("k"), published_scores(bench)
    needed = needed_heads(bench, "", k)
    hub = bench.lab.grid.check(Heads.parse(option("heads"))) if option("heads") else Heads(scores.ranked[:k])
    worlds = [ablation("hub heads", hub), ablation("needed heads", needed.as_set)]
    base = bench.think([BASE], "difficulty: baseline", touched=touched_by(worlds))
    edited = bench.think(worlds, "difficulty")
    strata = _strata(bench, base)
    arms = [
        _arm(
            bench,
            "",
            f"{'named' if option('heads') else 'hub'} heads ({hub})",
            hub,
            base,
            of_world(edited, "hub heads"),
            strata,
        ),
        _arm(
            bench, "needed:", f"needed heads ({needed})", needed.as_set, base, of_world(edited, "needed heads"), strata
        ),
    ]
    null, others = _nulls(bench, arms[0], base, strata["steps"][0])
    ranks = _ranks(bench, arms[0], null, others)
    clusters = base.sort_values("problem")["cluster"].tolist()
    checks = [
        _exact(bench),
        parse_control(bench.baseline, edited),
        silent_control(bench),
        planted_control(base, strata["steps"][0], clusters, bench.seed),
    ]
    readings = [_standard(bench, arms, ranks, checks)]
    if "published" in bench.claim.readings:
        readings.append(_published(bench, base, arms[0], checks))
    both = _stacked(base, edited)
    wrong = [row for w, label in (("baseline", "unedited"), ("hub heads", arms[0].label), ("needed heads", arms[1].label))
             for row in errors(both, w, label, bench.test, bench.seed)]  # fmt: skip
    return Outcome(
        readings,
        _figures(bench, arms, base, null, others, ranks),
        {"strata": table_of([w for a in arms for w in a.found]), "errors": _frame(wrong), "matched": _frame(others)},
        bench.able.plain(),
        settings={
            "hub_heads": str(hub),
            "needed_heads": str(needed),
            "edges": strata["confidence"][2],
            "write": "mean",
        },
        sections=_SECTIONS,
        notes=_notes(bench, base, arms, strata, needed),
    )


def _exact(bench: ThoughtBench) -> Any:
    one = ablation("no-op", every_head(bench.lab.grid), "noop")
    few, touched = bench.test[: min(64, len(bench.test))], touched_by([one])
    base, same = (bench.think([w], f"no-op: {w.name}", problems=few, touched=touched) for w in (BASE, one))
    return same_answers("no-op", "writing every head's own z back", base, same)


def _strata(bench: ThoughtBench, base: Any) -> dict[str, tuple[Array, tuple[str, ...], dict[str, Any]]]:
    """Labels by problem, levels, and what fixed them, by family."""
    chosen = bench.think([BASE], "difficulty: confidence", problems=bench.selection)
    tiers = Tiers.of(chosen)
    kinds = np.array([p.kind or "none" for p in bench.test])
    return {
        "steps": (by_steps(bench.test), tuple(STEPS), {}),
        "confidence": (tiers.labels(base), SURENESS, {"unsure_up_to": tiers.low, "sure_above": tiers.high}),
        "operations": (kinds, tuple(sorted(set(kinds.tolist()))), {}),
    }


def _arm(
    bench: ThoughtBench, key: str, label: str, heads: Heads, base: Any, table: Any, strata: Mapping[str, Any]
) -> Arm:
    world, seed = str(table["world"].iloc[0]), bench.seed
    found = [
        w for family, (labels, levels, _) in strata.items()
        for w in within(base, table, world, labels, levels, family, label, seed)
    ]  # fmt: skip
    values, clusters = lost(base, table), base.sort_values("problem")["cluster"].tolist()
    numbers: dict[str, Estimate] = {}
    for w in found:
        if w.family != "operations":
            numbers |= {
                f"{key}drop:{w.level}": w.drop,
                f"{key}relative:{w.level}": w.relative,
                f"{key}accuracy:{w.level}": w.edited,
            }
    numbers[f"{key}gap:steps"] = gap(values, strata["steps"][0], clusters, HARD, EASY, seed)
    numbers[f"{key}gap:confidence"] = gap(values, strata["confidence"][0], clusters, "unsure", "sure", seed)
    numbers |= {f"{key}interaction:{kind}": e for kind, e in interaction(base, table).items()}
    return Arm(key, label, heads, table, found, numbers)


def interaction(base: Any, table: Any) -> dict[str, Estimate]:
    """Ablation × steps: how much more each further step costs under ablation than without it, in log odds ("logit", below
    zero: harder problems lose more) and in points of accuracy ("points"); errors by chain of steps."""
    both = _stacked(base, table).reset_index(drop=True)
    ablated = np.where(both["world"] == "baseline", "0 unedited", "1 ablated")
    told: dict[str, Any] = {"clusters": both["cluster"].tolist(), "unit": "answers"}
    factors = {"ablated": ablated, "steps": both["steps"].to_numpy(float)}
    right = both["right"].to_numpy(float)
    return {
        "logit": factorial_regression(right, factors, kind="logit", **told)["ablated × steps"],
        "points": factorial_regression(right, factors, kind="ols", **told)["ablated × steps"],
    }


def _stacked(*tables: Any) -> Any:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def _frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _nulls(bench: ThoughtBench, arm: Arm, base: Any, labels: Array) -> tuple[Array, list[dict[str, Any]]]:
    """The gap with levels dealt out anew; and of random heads of the same layers: drop and gap of each set."""
    values, clusters = lost(base, arm.table), base.sort_values("problem")["cluster"].tolist()
    there = (labels == HARD).any() and (labels == EASY).any()
    null = shuffled_gaps(values, labels, clusters, HARD, EASY, bench.seed) if there else np.empty(0)
    matched = matched_by_layer(bench.lab.grid, arm.heads, output_norms(bench), bench.claim.matched_sets, bench.seed)
    worlds = [ablation(f"matched {s}", s) for s in matched.sets]
    table = bench.think(worlds, "difficulty: matched sets")
    rows = []
    for world, heads in zip(worlds, matched.sets, strict=True):
        each = lost(base, of_world(table, world.name))
        by = {level: float(each[labels == level].mean()) if (labels == level).any() else None for level in STEPS}
        hard, easy = by[HARD], by[EASY]
        between = None if hard is None or easy is None else hard - easy
        rows.append(
            {
                "heads": str(heads),
                **{f"drop_{k}": v for k, v in by.items()},
                "gap": between,
                "enumerated": matched.enumerated,
            }
        )
    return null, rows


def _ranks(bench: ThoughtBench, arm: Arm, null: Array, others: Sequence[Mapping[str, Any]]) -> dict[str, Rank]:
    seen, alpha = arm.numbers["gap:steps"].value, bench.claim.alpha
    if seen is None:
        return {}
    sets = [o["gap"] for o in others if o["gap"] is not None]
    whole = bool(others and others[0]["enumerated"])
    out = {"rank:gap": rank(seen, null, enumerated=False, alpha=alpha, unit="shuffles of levels")}
    return out | ({"rank:sets": rank(seen, sets, enumerated=whole, alpha=alpha)} if sets else {})


_LABELS = {
    "gap:steps": "accuracy lost on hard problems minus on easy ones",
    "gap:confidence": "accuracy lost where the model was unsure minus where it was sure",
    "interaction:logit": "ablation × steps, log odds for each further step",
    "interaction:points": "ablation × steps, accuracy for each further step",
    "rank:gap": "shuffles of levels with as large a difference of hard and easy",
    "rank:sets": "random heads of the same layers with as large a difference of hard and easy",
}
_SAID = {"drop": "accuracy lost", "relative": "share of the accuracy lost", "accuracy": "accuracy without the heads"}


def _label(name: str) -> str:
    short = name.removeprefix("needed:")
    kind, _, level = short.partition(":")
    return _LABELS.get(short) or f"{STEPS.get(level, level)}: {_SAID[kind]}"


def _standard(bench: ThoughtBench, arms: Sequence[Arm], ranks: Mapping[str, Rank], checks: list[Any]) -> Reading:
    findings: dict[str, Any] = {k: e for a in arms for k, e in a.numbers.items()} | dict(ranks)
    estimates = [named(k, _label(k), e, a.label) for a in arms for k, e in a.numbers.items()]
    estimates += [named(k, _LABELS[k], r.estimate, arms[0].label) for k, r in ranks.items()]
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason)
    return Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))


def _published(bench: ThoughtBench, base: Any, arm: Arm, checks: list[Any]) -> Reading:
    """Tiers of confidence and steps together, as they were proposed."""
    labels = published_tiers(bench.test, base)
    found = within(base, arm.table, "hub heads", labels, (EASY, MEDIUM, HARD), "published", arm.label, bench.seed)
    numbers = {
        f"{kind}:{w.level}": e
        for w in found
        for kind, e in (("drop", w.drop), ("relative", w.relative), ("accuracy", w.edited))
    }
    share = clopper_pearson(int((labels == "none").sum()), len(labels), unit="problems")
    estimates = [named(k, _published_label(k), e, arm.label) for k, e in numbers.items()]
    estimates.append(named("gap:outside", "problems that fall into none of the three tiers", share, ""))
    verdict = decide(_drops(bench.claim), numbers, checks, ineligible=bench.able.reason)
    return Reading(protocol="published", words=_PUBLISHED, verdict=verdict, estimates=tuple(estimates))


def _published_label(name: str) -> str:
    kind, _, level = name.partition(":")
    return f"{level} by confidence and steps: {_SAID[kind]}"


def _drops(claim: Any) -> Any:
    """The claim without what the published reading does not measure."""
    kept = tuple(
        p for p in claim.predictions if p.op != "rank<" and not p.statistic.startswith(("gap", "interaction", "needed"))
    )
    return claim.model_copy(update={"predictions": kept or claim.predictions})


# -- figures and words --------------------------------------------------------------------------------------


def _figures(
    bench: ThoughtBench,
    arms: Sequence[Arm],
    base: Any,
    null: Array,
    others: Sequence[Mapping[str, Any]],
    ranks: Mapping[str, Rank],
) -> list[Figure]:
    place = {EASY: 2.0, MEDIUM: 3.0, HARD: 4.0}
    data = []
    for a in arms:
        data += [point(a.label, place[w.level], w.edited) for w in a.found if w.family == "steps" and w.edited.defined]
    data += [point("unedited", place[w.level], w.base) for w in arms[0].found if w.family == "steps" and w.base.defined]
    for w in arms[0].found:
        each = [
            w.base.value - o[f"drop_{w.level}"]
            for o in others
            if w.family == "steps" and w.base.value is not None and o[f"drop_{w.level}"] is not None
        ]
        data += [spread_point("random heads of the same layers", place[w.level], each)] if each else []
    rows = [
        (f"{STEPS.get(w.level, w.level)} ({w.family})", a.label, w.drop)
        for a in arms
        for w in a.found
        if w.drop.defined
    ]
    out = [
        Figure(
            "curve", "by-steps", "Accuracy by number of steps",
            "Bands are 95 % intervals over problems; for random heads of the same layers the middle 95 % of sets. 2 stands for "
            "one or "
            "two steps, 4 for four and more.", tuple(data), {"x_title": "annotated steps", "y_title": "accuracy"},
        ),
        draw.estimates(
            "strata", "Accuracy lost in each stratum",
            f"95 % intervals over {len(base)} problems; zero is no effect. Edges of confidence were fixed on other problems.", rows,
            "accuracy lost", threshold=0.0,
        ),
    ]  # fmt: skip
    seen = arms[0].numbers["gap:steps"]
    if "rank:gap" in ranks and seen.defined:
        out.append(
            draw.null(
                "null-gap", "Hard minus easy, against levels dealt out at random",
                f"Each bar counts shuffles of the levels over chains of steps; {arms[0].label}. {ranks['rank:gap']}.", null, seen,
                "hard minus easy", "difference of accuracy lost", "shuffles",
            )
        )  # fmt: skip
    return out


def _notes(bench: ThoughtBench, base: Any, arms: Sequence[Arm], strata: Mapping[str, Any], needed: Needed) -> list[str]:
    out = [f"{a.label[0].upper() + a.label[1:]}: hard minus easy {a.numbers[f'{a.key}gap:steps']}." for a in arms]
    out += [f"Ablation × steps, {a.label}: {a.numbers[f'{a.key}interaction:logit']} in log odds, "
            f"{a.numbers[f'{a.key}interaction:points']} in accuracy for each further step." for a in arms]  # fmt: skip
    level = bench.able.accuracy.value or 0
    if level >= 0.98:
        out.append(
            f"The unedited model answers {percent(level)} rightly, so difficulty has no room here: no stratum is hard for it, its "
            "own errors are too few to sort, confidence cannot tell right from wrong, and where a whole cell is right the log odds "
            "are unbounded (their interaction is then undefined). What can be seen is how many points an ablation costs "
            "in each stratum."
        )
    floor = max(bench.able.majority * 2, 0.15)
    low = [a.label for a in arms if all((w.edited.value or 0) < floor for w in a.found if w.family == "steps")]
    if low:
        out.append(
            f"Without {' and without '.join(low)} hardly anything is right in any stratum (commonest answer "
            f"{percent(bench.able.majority)}): at the floor too, a difference of strata cannot show; fewer heads "
            "(option k) leave it room."
        )
    edges = strata["confidence"][2]
    out.append(
        f"Confidence: unsure up to {rounded(edges['unsure_up_to'])}, sure above {rounded(edges['sure_above'])} "
        "(thirds of the selection problems)."
    )
    return out


_WORDS = (
    "mean ablation of three heads at every position; strata by annotated steps, by confidence in tiers fixed on other problems, "
    "by operations"
)
_PUBLISHED = (
    "tiers by the confidence of the unedited answer and steps together (over .9 and one; .6 to .9 and two or three; below .6 "
    "and more)"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Confidence is the model's own: a problem is unsure because its answer is about to be wrong, so strata of confidence "
            "sort by outcome, and an ablation seems to cost less where little was right to begin with. Steps are annotated before "
            "any model answers; that is why they bind. Points and log odds are different scales: from 100 % everything falls by "
            "more points than from 60 %, and an interaction on one scale may vanish on the other. More steps are also longer "
            "questions and other operations. An answer that equals an intermediate result may be so by chance where numbers are "
            "small: the expected share stands beside each."
        ),
    }
]  # fmt: skip

EXPERIMENT = Experiment(
    "difficulty",
    "Do critical heads matter more for harder problems?",
    difficulty,
    STATISTICS,
    controls=("no-op", "parse-rate", "silence-all", "planted-gap"),
    options={"heads": "", "k": 3, "max_new_tokens": 12},
)

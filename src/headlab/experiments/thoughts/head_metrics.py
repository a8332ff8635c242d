"""Which heads do flow, hub variance and skip put first, and does that say anything?

1. The published measures of every head's mean 6×6 matrix: flow, hub variance, skip, the composite
   .4·flow_n + .4·hub_n + .2·skip_n (min-max over heads), functional type, maximum attention, layer third, ranking.
2. Intervals of all of them over chains of steps, ranks and counts of types included.
3. Beside them: the largest hub variance when thoughts change places in each row, and the highest composite of untrained
   models, which min-max lifts as high as anyone's.
4. The published reading takes the published matrix (bot and five thoughts, keys off by one).  A term that is the same in
   every head is reported: there flow is one by construction, so its weight is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure
from headlab.stats import Rank, rank
from headlab.stats.figures import rounded
from headlab.thoughts import metrics
from headlab.thoughts.hubs import shuffled_matrices
from headlab.thoughts.profiles import TOP, Profile, profile
from headlab.thoughts.published_heads import PRINTED, recomputed
from headlab.thoughts.summaries import shuffled_rows
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems, what_is_measured
from headlab.trials.row_checks import batches, rows_sum
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_rows import references, rows_of

Array = np.ndarray
Profiled = Callable[[Seen], Profile]
MEASURES = ("flow", "hub_variance", "skip", "composite", "sequential", "max_attention")
CRITICAL = 0.7


def own(seen: Seen) -> Profile:
    return seen.of_trial(_own)


def _own(scope: Scope) -> Profile:
    grid = (scope.grid.n_layers, scope.grid.n_heads)
    return _warned(scope, "standard", profile(rows_of(scope).matrices, scope.case.clusters, grid, seed=scope.seed))


def _warned(scope: Scope, reading: str, made: Profile) -> Profile:
    if made.scores.warning:
        scope.case.run.warn(f"{reading} reading: {made.scores.warning}")
    return made


def view(seen: Seen) -> Profile:
    """The same of the published matrix."""
    return seen.of_trial(_view)


def _view(scope: Scope) -> Profile:
    grid, among = (scope.grid.n_layers, scope.grid.n_heads), metrics.published_view(rows_of(scope).matrices)
    return _warned(scope, "published", profile(among, scope.case.clusters, grid, seed=scope.seed))


def beside(seen: Seen) -> list[tuple[str, str, Profile]]:
    """Name, kind and profile of this model and of each reference of its shape."""
    shape, grid = seen.of_trial(rows_of).matrices.shape[1:], own(seen).grid
    others = [
        (o.name, o.kind, profile(o.matrices, o.clusters, grid, seed=seen.case.seed, draws=200))
        for o in seen.of_trial(references)
        if o.matrices.shape[1:] == shape
    ]
    return [(seen.case.thinker.name, "this model", own(seen)), *others]


def shuffled(seen: Seen) -> Array:
    """The largest hub variance of any head when thoughts change places, [shuffle]."""
    case = seen.case
    among, draws = seen.of_trial(rows_of).matrices, case.claim.matched_sets
    drawn = shuffled_matrices(among, case.clusters, seed=case.seed, draws=draws)
    return np.concatenate([metrics.hub_variance(block).max(-1) for block in drawn])


def place(seen: Seen) -> Rank:
    found, alpha = float(own(seen).numbers("hub_variance").max()), seen.case.claim.alpha
    return rank(found, seen.once(shuffled), enumerated=False, alpha=alpha, unit="shuffles")


def told(of: Profiled) -> Callable[[Seen], Iterator[Told]]:
    """Every number of a profile."""

    def numbers(seen: Seen) -> Iterator[Told]:
        one = of(seen)
        for m in MEASURES:
            yield Told(m, f"{m.replace('_', ' ')}, mean over heads", one.average(m), "")
        for m in MEASURES:
            yield Told(f"largest:{m}", f"largest {m.replace('_', ' ')} of any head", one.largest(m), "")
        yield Told("lead", f"composite of {one.names[one.ranked[0]]} less the highest of the others", one.lead(), "")
        for kind in (*metrics.KINDS, *metrics.THIRDS):
            yield Told(f"top20:{kind}", f"{kind} among the first {min(TOP, one.n)} heads", one.count(kind), "")

    return numbers


def ranked(seen: Seen) -> Iterator[Told]:
    said = "shuffles of thoughts with as large a hub variance in some head"
    yield Told("rank:variance", said, seen.once(place), "")


# -- controls -----------------------------------------------------------------------------------------------


def published_control(seen: Seen | None = None) -> Control:
    """The printed flow, hub and skip values must give the printed composites and types."""
    worst, types = recomputed()
    words = f"the published flow, hub and skip values give the published composites within {rounded(worst)} and "
    said = f"{words}{'their' if types else 'other'} types"
    passed = worst <= PRINTED and types
    return Control(name="published-values", kind="positive", passed=passed, words=said, value=worst)


def planted_head(seen: Seen) -> Control:
    return planted_control(seen.of_trial(rows_of).matrices, own(seen).grid)


def planted_control(among: Array, grid: tuple[int, int]) -> Control:
    """The last head of the ranking, given rows that rest on thought 0, must come first."""
    planted = np.array(among.mean(0))
    last = int(metrics.composite_of(planted).score.argmin())
    planted[last] = 0
    planted[last, :, 0] = 1
    first = int(metrics.composite_of(planted).score.argmax())
    where = "comes first" if first == last else f"stays behind head {first}"
    words = f"L{last // grid[1]}H{last % grid[1]}, the lowest head, given rows that rest on thought 0, {where}"
    return Control(name="planted-head", kind="positive", passed=first == last, words=words)


# -- text, tables, figures ----------------------------------------------------------------------------------


def findings(one: Profile) -> str:
    types, received, top = one.scores.types, metrics.incoming(one.mean), min(TOP, one.n)
    said = [
        f"{place}. {one.names[h]}, {types[h]}: composite {one.estimate('composite', h)}, rank {one.estimate('rank', h)}; "
        f"flow {one.estimate('flow', h)}, hub variance {one.estimate('hub_variance', h)} (most at thought "
        f"{int(received[h].argmax())}), skip {one.estimate('skip', h)}, largest cell {one.estimate('max_attention', h)}."
        for place, h in enumerate(one.ranked[:3], start=1)
    ]
    for what, kinds in (("Types", metrics.KINDS), ("Layers", metrics.THIRDS)):
        said.append(f"{what} among the first {top}: {'; '.join(f'{k} {one.count(k)}' for k in kinds)}.")
    critical = [one.names[h] for h in one.ranked if one.numbers("composite")[h] > CRITICAL]
    listed = f": {', '.join(critical)}" if critical else ""
    said.append(f"Composite over {CRITICAL}: {len(critical)} of {one.n} heads{listed}.")
    return " ".join([*said, *([f"Warning: {one.scores.warning}."] if one.scores.warning else [])])


def models(seen: Seen) -> pd.DataFrame:
    rows = []
    for name, kind, one in seen.once(beside):
        row = {"model": name, "kind": kind, "first": one.names[one.ranked[0]], "n": one.found.n}
        for m in ("composite", "hub_variance", "skip"):
            e = one.largest(m)
            row |= {f"largest_{m}": e.value, f"largest_{m}_low": e.low, f"largest_{m}_high": e.high}
        rows.append(row)
    return pd.DataFrame(rows)


def figures(seen: Seen) -> list[Figure]:
    one = own(seen)
    n, types, score = one.found.n, one.scores.types, one.numbers("composite")
    told = f"Mean over {n} problems; row i is the query of thought i. Intervals stand in the table."
    panels = [(f"{one.names[h]} {types[h]} {rounded(score[h])}", one.mean[h]) for h in one.ranked]
    even = {"thoughts shuffled, mean over heads": shuffled_rows(one.mean).mean(0)}
    first = one.ranked[:TOP]
    ladder = [(one.names[h], types[h], one.estimate("composite", h)) for h in first]
    best = [
        ("this model" if kind == "this model" else name, "largest composite", p.largest("composite"))
        for name, kind, p in seen.once(beside)
    ]
    shuffles = (
        "Each bar counts shuffles: in every row of each of ten sets of problems the visible thoughts change places, which "
        f"keeps how much each row spends on thoughts and how many rows see each. {seen.once(place)}."
    )
    title = "The largest hub variance of any head, among shuffled thoughts"
    line = (one.largest("hub_variance"), "this model", "largest hub variance")
    here = "The highest composite of any head, here and in models that learned nothing"
    scale = "Min-max over the heads of one model lifts its best head whatever it does. 95 % intervals over problems."
    anew = "95 % intervals over problems; minimum and maximum over heads are taken anew in each resample."
    ten = f"The {min(10, one.n)} heads with the highest composite"
    three = "The three heads with the highest composite"
    return [
        charts.null("null", title, shuffles, seen.once(shuffled), *line, of="shuffles"),
        charts.estimates("models", here, scale, best, "composite", CRITICAL),
        draw.heatmap("top10", ten, told, dict(panels[:10]), "attention"),
        draw.heatmap("top3", three, told, dict(panels[:3]) | even, "attention"),
        charts.estimates("top20", f"The first {len(first)} heads by composite", anew, ladder, "composite", CRITICAL),
    ]


def scatters(seen: Seen) -> list[Figure]:
    """Distributions of the measures over heads, an untrained model's heads among them."""
    one, out = own(seen), []
    groups = [("", one), *[("untrained", p) for _, kind, p in seen.once(beside) if kind == "untrained"][:1]]
    for name, x, y, title in (
        ("distributions", "hub_variance", "skip", "Hub variance and skip of every head"),
        ("flows", "flow", "sequential", "Flow and attention to the thought before, of every head"),
    ):
        data = tuple(
            {"x": float(a), "y": float(b), "label": label, "group": group or kind}
            for group, p in groups
            for a, b, label, kind in zip(p.numbers(x), p.numbers(y), p.names, p.scores.types, strict=True)
        )
        caption = f"One point for each head, of the mean over {one.found.n} problems; intervals stand in the table."
        axes = {"x_title": x.replace("_", " "), "y_title": y.replace("_", " ")}
        out.append(Figure("scatter", name, title, caption, data, axes))
    return out


CONTROLS = (rows_sum, batches, published_control, planted_head)

EXPERIMENT = OnProblems(
    slug="head-metrics",
    question="Which heads do flow, hub variance and skip put first, and are they more than any model's first?",
    statistics=(*MEASURES, *(f"largest:{m}" for m in MEASURES), "lead", "rank:variance", "top20:*"),
    controls=("rows-sum", "batch", "published-values", "planted-head"),
    options={"untrained": 6, "references": "auto", "max_new_tokens": 12},
    cannot=thoughts_at_least(4),
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "six thoughts fed, each query with the keys before it and its own; measures of the mean matrix",
            numbers=(told(own), ranked),
            controls=CONTROLS,
            asks=what_is_measured,
            figures=(figures, scatters),
            tables={
                "ranked_heads": lambda seen: own(seen).table(),
                "ranked_heads_published": lambda seen: view(seen).table(),
                "models": models,
            },
            settings=lambda seen: {"critical": CRITICAL, "top": TOP},
            sections=lambda seen: {"Findings": findings(own(seen)), "Findings, as published": findings(view(seen))},
            notes=lambda seen: [w] if (w := view(seen).scores.warning) else [],
        ),
        "published": Method(
            "bot and five thoughts fed, keys off by one, strict lower triangle; measures of the mean matrix",
            numbers=(told(view),),
            controls=CONTROLS,
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "The composite ranks heads of one model against each other, so every model has a best one, an untrained one too, and "
            "composites of two models are not on one scale. Hub variance and skip grow with the attention that a head spends on "
            "thoughts at all. A high rank says nothing of what a head causes: ablate it against heads matched by layer."
        )
    },
)

"""The panels of the comparison of two thinking models, a figure each."""

from __future__ import annotations

import numpy as np

from headlab.effects import Figure
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.compared import Model
from headlab.thoughts.profiles import TOP
from headlab.thoughts.summaries import by_problem
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.thought_case import ThoughtBench


def figures(case: ThoughtBench, both: tuple[Model, Model]) -> list[Figure]:
    told = f"{len(case.test)} problems, the same in both models; 95 % intervals over chains of steps."
    n, problems = case.n_thoughts, len(case.test)
    even = metrics.incoming(metrics.published_view(measure.even_rows(n))) * n
    mass = float(np.mean([float(m.view.mean.sum(-1).mean()) for m in both]))
    fair = {m.name: by_problem(m.ratios, case.clusters, case.seed) for m in both}
    fair["uniform attention"] = [draw.exactly(1.0, problems, "problems")] * n
    raw = {m.name: [m.raw.estimate(j) for j in range(n)] for m in both}
    flat = [draw.exactly(float(x) * mass * n / (n - 1), problems, "problems") for x in even]
    raw["even rows of the same mean mass"] = flat
    corrected, published = (
        [(f"thought {j}", name, each[j]) for j in range(n) for name, each in groups.items()] for groups in (fair, raw)
    )
    title, beside = "What each thought receives, corrected for exposure", "rows that have no preference"
    as_published = f"{told} Column sums of the published matrix over 1/6, beside {beside}."
    out = [
        charts.estimates(
            "hubs", title, f"{told} One is what exposure explains.", corrected, "times uniform", measure.ABOVE
        ),
        charts.estimates(
            "published-hubs", "What each thought receives, as published", as_published, published, "times 1/6", None
        ),
        _top(both, told),
    ]
    for kind, what, kinds in (
        ("types", "Functional types among", metrics.KINDS),
        ("layers", "Layer thirds of", metrics.THIRDS),
    ):
        for m in both:
            rows = [(k, "", m.own.count(k)) for k in kinds]
            named = f"{what} the first {min(TOP, m.own.n)} heads of {m.name}"
            thirds = f" {m.own.grid[0]} layers: early below ⌊L/3⌋, middle below ⌊2L/3⌋." if kind == "layers" else ""
            out.append(charts.estimates(f"{kind}-{_slug(m.name)}", named, told + thirds, rows, "heads", None))
    scores = [
        (k.replace("_", " "), m.name, m.own.average(k)) for k in ("hub_variance", "skip", "sequential") for m in both
    ]
    return [*out, charts.estimates("scores", "Mean scores over all heads", told, scores, "score", None)]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[-40:]


def _top(both: tuple[Model, Model], told: str) -> Figure:
    rows = [
        charts.point(m.name, place, m.own.estimate("composite", h))
        for m in both
        for place, h in enumerate(m.own.ranked[:TOP], start=1)
    ]
    caption = f"{told} Min-max is taken inside each model: the two are not on one scale."
    return charts.curve("top20", f"Composite of the first {TOP} heads", caption, rows, "rank", "composite", None)

"""The panels of the comparison of two thinking models, a figure each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_rows import clusters_of
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import OfMeans
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.profiles import TOP, Profile
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray


@dataclass(frozen=True)
class Model:
    """One of the two: attention among thoughts in either view, its hub, ratios by problem, profile of its heads."""

    name: str
    parameters: int
    hub: int
    ratios: Array
    raw: OfMeans
    own: Profile
    view: Profile


def figures(bench: ThoughtBench, both: list[Model]) -> list[Figure]:
    told = f"{len(bench.test)} problems, the same in both models; 95 % intervals over chains of steps."
    n, seed, clusters = bench.n_thoughts, bench.seed, clusters_of(bench.test)
    fair = {m.name: bootstrap_means(m.ratios, clusters, unit="problems", seed=seed) for m in both}
    even = metrics.incoming(metrics.published_view(measure.even_rows(n))) * n
    raw: list[Any] = []
    corrected: list[Any] = []
    for j in range(n):
        raw += [(f"thought {j}", m.name, m.raw.estimate(j)) for m in both]
        mass = [float(m.view.mean.sum(-1).mean()) for m in both]
        flat = float(even[j]) * float(np.mean(mass)) * n / (n - 1)
        raw.append((f"thought {j}", "even rows of the same mean mass", draw.exactly(flat, len(bench.test), "problems")))
        corrected += [(f"thought {j}", m.name, fair[m.name][j]) for m in both]
        corrected.append((f"thought {j}", "uniform attention", draw.exactly(1.0, len(bench.test), "problems")))
    out = [
        draw.estimates(
            "hubs", "What each thought receives, corrected for exposure", f"{told} One is what exposure explains.", corrected,
            "times uniform", measure.ABOVE,
        ),
        draw.estimates(
            "published-hubs", "What each thought receives, as published",
            f"{told} Column sums of the published matrix over 1/6, beside rows that have no preference.", raw, "times 1/6",
        ),
        _top(both, told),
    ]  # fmt: skip
    for m in both:
        rows = [(k, "", m.own.count(k)) for k in metrics.KINDS]
        title = f"Functional types among the first {min(TOP, m.own.n)} heads of {m.name}"
        out.append(draw.estimates(f"types-{_slug(m.name)}", title, told, rows, "heads"))
    for m in both:
        rows = [(k, "", m.own.count(k)) for k in metrics.THIRDS]
        title = f"Layer thirds of the first {min(TOP, m.own.n)} heads of {m.name}"
        caption = f"{told} {m.own.grid[0]} layers: early below ⌊L/3⌋, middle below ⌊2L/3⌋."
        out.append(draw.estimates(f"layers-{_slug(m.name)}", title, caption, rows, "heads"))
    scores = [
        (k.replace("_", " "), m.name, m.own.average(k)) for k in ("hub_variance", "skip", "sequential") for m in both
    ]
    out.append(draw.estimates("scores", "Mean scores over all heads", told, scores, "score"))
    return out


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[-40:]


def _top(both: list[Model], told: str) -> Figure:
    rows = []
    for m in both:
        for place, h in enumerate(m.own.ranked[:TOP], start=1):
            e = m.own.estimate("composite", h)
            rows.append({"x": place, "y": e.value, "low": e.low, "high": e.high, "series": m.name})
    return Figure(
        "curve", "top20", f"Composite of the first {TOP} heads", f"{told} Min-max is taken inside each model: the two are not on "
        "one scale.", tuple(rows), {"x_title": "rank", "y_title": "composite"},
    )  # fmt: skip

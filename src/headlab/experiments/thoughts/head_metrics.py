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

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_rows import (
    NO_ELIGIBILITY,
    Reference,
    batch_control,
    cannot,
    clusters_of,
    matrices,
    only,
    read,
    references,
    rows_control,
    untestable,
)
from headlab.stats import Estimate, Rank, rank
from headlab.stats.figures import rounded
from headlab.store import Reading
from headlab.thoughts import metrics
from headlab.thoughts.hubs import shuffled_matrices
from headlab.thoughts.profiles import TOP, Profile, profile
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
MEASURES = ("flow", "hub_variance", "skip", "composite", "sequential", "max_attention")
STATISTICS = (*MEASURES, *(f"largest:{m}" for m in MEASURES), "lead", "rank:variance", "top20:*")
CRITICAL = 0.7
PUBLISHED: dict[str, tuple[tuple[str, float, float, float, float, str], ...]] = {
    "Llama": (
        ("L4H5", 1.0, 0.300, 0.162, 0.528, "Hub Aggregator"),
        ("L5H30", 1.0, 0.246, 0.153, 0.449, "Hub Aggregator"),
        ("L5H28", 1.0, 0.196, 0.218, 0.434, "Skip Connection"),
    ),
    "GPT-2": (
        ("L0H3", 1.0, 0.266, 0.153, 0.600, "Multi-Purpose"),
        ("L5H3", 1.0, 0.213, 0.080, 0.425, "Hub Aggregator"),
        ("L6H0", 1.0, 0.197, 0.093, 0.417, "Hub Aggregator"),
    ),
}
"""Head, flow, hub variance, skip, composite and type, as printed; :data:`MAXIMA` are the largest over all heads."""
MAXIMA = {"Llama": (0.300, 0.252), "GPT-2": (0.266, 0.153)}
PRINTED = 0.0015
"""Three printed digits, and the rounding of the values that went in."""


def head_metrics(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := cannot(bench):
        return untestable(bench, why)
    found, clusters = read(bench, "attention"), clusters_of(bench.test)
    among, seed = matrices(found), bench.seed
    grid = (bench.lab.grid.n_layers, bench.lab.grid.n_heads)
    own = profile(among, clusters, grid, seed=seed)
    view = profile(metrics.published_view(among), clusters, grid, seed=seed)
    where, null = _shuffled(own, among, clusters, bench)
    others = references(bench, bench.option("untrained", EXPERIMENT), bench.option("references", EXPERIMENT))
    beside = [(o, profile(o.matrices, o.clusters, grid, seed=seed, draws=200)) for o in others if _same(o, among)]
    checks = [
        rows_control(found, bench.lab.dtype),
        batch_control(bench),
        published_control(),
        planted_control(among, grid),
    ]
    readings = [_reading(bench, "standard", _WORDS, own, checks, where)]
    if "published" in bench.claim.readings:
        readings.append(_reading(bench, "published", _PUBLISHED, view, checks, None))
    for name, one in (("standard", own), ("published", view)):
        if one.scores.warning:
            bench.run.warn(f"{name} reading: {one.scores.warning}")
    return Outcome(
        readings,
        _figures(bench, own, where, null, beside),
        {"ranked_heads": own.table(), "ranked_heads_published": view.table(), "models": _models(bench, own, beside)},
        NO_ELIGIBILITY,
        settings={"critical": CRITICAL, "top": TOP},
        sections=[_findings("Findings", own), _findings("Findings, as published", view), *_SECTIONS],
        notes=[one.scores.warning for one in (view,) if one.scores.warning],
    )


def _same(other: Reference, among: Array) -> bool:
    return other.matrices.shape[1:] == among.shape[1:]


def _shuffled(own: Profile, among: Array, clusters: Sequence[str], bench: ThoughtBench) -> tuple[Rank, Array]:
    """Where the largest hub variance stands among those of shuffled thoughts."""
    drawn = shuffled_matrices(among, clusters, seed=bench.seed, draws=bench.claim.matched_sets)
    null = np.concatenate([metrics.hub_variance(block).max(-1) for block in drawn])
    seen = float(own.numbers("hub_variance").max())
    return rank(seen, null, enumerated=False, alpha=bench.claim.alpha, unit="shuffles"), null


def _reading(
    bench: ThoughtBench, name: str, words: str, own: Profile, checks: list[Control], where: Rank | None
) -> Reading:
    numbers: dict[str, Any] = {m: own.average(m) for m in MEASURES}
    numbers |= {f"largest:{m}": own.largest(m) for m in MEASURES} | {"lead": own.lead()}
    numbers |= {f"top20:{kind}": own.count(kind) for kind in (*metrics.KINDS, *metrics.THIRDS)}
    findings = numbers | ({} if where is None else {"rank:variance": where})
    estimates = [named(k, _label(k, own), v, "") for k, v in numbers.items()]
    if where is not None:
        estimates.append(
            named("rank:variance", "shuffles of thoughts with as large a hub variance in some head", where.estimate, "")
        )
    return Reading(
        protocol=name,
        words=words,
        verdict=decide(only(bench.claim, *findings), findings, checks),
        estimates=tuple(estimates),
    )


def _label(name: str, own: Profile) -> str:
    kind, _, what = name.partition(":")
    if kind == "largest":
        return f"largest {what.replace('_', ' ')} of any head"
    if kind == "top20":
        return f"{what} among the first {min(TOP, own.n)} heads"
    if name == "lead":
        return f"composite of {own.names[own.ranked[0]]} less the highest of the others"
    return f"{name.replace('_', ' ')}, mean over heads"


# -- controls -----------------------------------------------------------------------------------------------


def published_control() -> Control:
    """The printed flow, hub and skip values must give the printed composites and types."""
    worst, types = 0.0, True
    for name, rows in PUBLISHED.items():
        hub, skip = MAXIMA[name]
        flow_, variance, skips = ([row[k] for row in rows] for k in (1, 2, 3))
        # the heads that were not printed: one with nothing, one with the largest skip, both of flow one
        got = metrics.composite([*flow_, 1.0, 1.0], [*variance, 0.0, 0.0], [*skips, 0.0, skip])
        assert max(variance) == hub
        worst = max(worst, *(abs(float(got.score[i]) - row[4]) for i, row in enumerate(rows)))
        types = types and [row[5] for row in rows] == got.types[: len(rows)]
    return Control(
        name="published-values",
        kind="positive",
        passed=worst <= PRINTED and types,
        words=(
            f"the published flow, hub and skip values give the published composites within {rounded(worst)} and "
            f"{'their' if types else 'other'} types"
        ),
        value=worst,
    )


def planted_control(among: Array, grid: tuple[int, int]) -> Control:
    """The last head of the ranking, given rows that rest on thought 0, must come first."""
    mean = among.mean(0)
    planted = np.array(mean)
    last = int(_composite(mean).score.argmin())
    planted[last] = 0
    planted[last, :, 0] = 1
    first = int(_composite(planted).score.argmax())
    return Control(
        name="planted-head",
        kind="positive",
        passed=first == last,
        words=f"L{last // grid[1]}H{last % grid[1]}, the lowest head, given rows that rest on thought 0, "
        f"{'comes first' if first == last else f'stays behind head {first}'}",
    )


def _composite(mean: Array) -> metrics.Composite:
    return metrics.composite_of(mean)


# -- text, tables, figures ----------------------------------------------------------------------------------


def _findings(heading: str, own: Profile) -> dict[str, str]:
    """The findings text, from the numbers."""
    types, received = own.scores.types, metrics.incoming(own.mean)
    said = []
    for place, h in enumerate(own.ranked[:3], start=1):
        said.append(
            f"{place}. {own.names[h]}, {types[h]}: composite {own.estimate('composite', h)}, rank {own.estimate('rank', h)}; "
            f"flow {own.estimate('flow', h)}, hub variance {own.estimate('hub_variance', h)} (most at thought "
            f"{int(received[h].argmax())}), skip {own.estimate('skip', h)}, largest cell {own.estimate('max_attention', h)}."
        )
    top = min(TOP, own.n)
    said.append(f"Types among the first {top}: " + "; ".join(f"{k} {own.count(k)}" for k in metrics.KINDS) + ".")
    said.append(f"Layers among the first {top}: " + "; ".join(f"{k} {own.count(k)}" for k in metrics.THIRDS) + ".")
    critical = [own.names[h] for h in own.ranked if own.numbers("composite")[h] > CRITICAL]
    said.append(
        f"Composite over {CRITICAL}: {len(critical)} of {own.n} heads{': ' + ', '.join(critical) if critical else ''}."
    )
    if own.scores.warning:
        said.append(f"Warning: {own.scores.warning}.")
    return {"heading": heading, "text": " ".join(said)}


def _models(bench: ThoughtBench, own: Profile, beside: Sequence[tuple[Reference, Profile]]) -> Any:
    import pandas as pd

    models = [(bench.thinker.name, "this model", own), *((o.name, o.kind, p) for o, p in beside)]
    rows = []
    for name, kind, one in models:
        row: dict[str, Any] = {"model": name, "kind": kind, "first": one.names[one.ranked[0]], "n": one.found.n}
        for m in ("composite", "hub_variance", "skip"):
            e = one.largest(m)
            row |= {f"largest_{m}": e.value, f"largest_{m}_low": e.low, f"largest_{m}_high": e.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _figures(
    bench: ThoughtBench, own: Profile, where: Rank, null: Array, beside: Sequence[tuple[Reference, Profile]]
) -> list[Figure]:
    n, types = own.mean.shape[-1], own.scores.types
    order = own.ranked
    told = f"Mean over {own.found.n} problems; row i is the query of thought i. Intervals stand in the table."

    def panels(k: int) -> dict[str, Array]:
        return {f"{own.names[h]} {types[h]} {rounded(own.numbers('composite')[h])}": own.mean[h] for h in order[:k]}

    mass = own.mean.sum(-1).mean(0)
    even = {"thoughts shuffled, mean over heads": mass[:, None] * np.tri(n) / np.arange(1, n + 1)[:, None]}
    rows: list[tuple[str, str, Estimate]] = [("this model", "largest composite", own.largest("composite"))]
    rows += [(o.name, "largest composite", p.largest("composite")) for o, p in beside]
    return [
        draw.null(
            "null", "The largest hub variance of any head, among shuffled thoughts",
            "Each bar counts shuffles: in every row of each of ten sets of problems the visible thoughts change places, which "
            f"keeps how much each row spends on thoughts and how many rows see each. {where}.",
            null, own.largest("hub_variance"), "this model", "largest hub variance", "shuffles",
        ),
        draw.estimates(
            "models", "The highest composite of any head, here and in models that learned nothing",
            "Min-max over the heads of one model lifts its best head whatever it does. 95 % intervals over problems.",
            rows, "composite", CRITICAL,
        ),
        draw.heatmap("top10", f"The {min(10, own.n)} heads with the highest composite", told, panels(10), "attention"),
        draw.heatmap("top3", "The three heads with the highest composite", told, panels(3) | even, "attention"),
        _ladder(own),
        *_scatters(own, beside),
    ]  # fmt: skip


def _ladder(own: Profile) -> Figure:
    rows = [(own.names[h], own.scores.types[h], own.estimate("composite", h)) for h in own.ranked[:TOP]]
    return draw.estimates(
        "top20", f"The first {len(rows)} heads by composite",
        "95 % intervals over problems; minimum and maximum over heads are taken anew in each resample.", rows, "composite",
        CRITICAL,
    )  # fmt: skip


def _scatters(own: Profile, beside: Sequence[tuple[Reference, Profile]]) -> list[Figure]:
    """Distributions of the measures over heads, an untrained model's heads among them."""
    groups = [("", own), *[("untrained", p) for o, p in beside if o.kind == "untrained"][:1]]
    out = []
    for name, x, y, title in (
        ("distributions", "hub_variance", "skip", "Hub variance and skip of every head"),
        ("flows", "flow", "sequential", "Flow and attention to the thought before, of every head"),
    ):
        data = tuple(
            {
                "x": float(p.numbers(x)[h]),
                "y": float(p.numbers(y)[h]),
                "label": p.names[h],
                "group": group or p.scores.types[h],
            }
            for group, p in groups
            for h in range(p.n)
        )
        caption = f"One point for each head, of the mean over {own.found.n} problems; intervals stand in the table."
        labels = {"x_title": x.replace("_", " "), "y_title": y.replace("_", " ")}
        out.append(Figure("scatter", name, title, caption, data, labels))
    return out


_WORDS = "six thoughts fed, each query with the keys before it and its own; measures of the mean matrix"
_PUBLISHED = "bot and five thoughts fed, keys off by one, strict lower triangle; measures of the mean matrix"
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "The composite ranks heads of one model against each other, so every model has a best one, an untrained one too, and "
            "composites of two models are not on one scale. Hub variance and skip grow with the attention that a head spends on "
            "thoughts at all. A high rank says nothing of what a head causes: ablate it against heads matched by layer."
        ),
    }
]

EXPERIMENT = Experiment(
    "head-metrics",
    "Which heads do flow, hub variance and skip put first, and are they more than any model's first?",
    head_metrics,
    STATISTICS,
    controls=("rows-sum", "batch", "published-values", "planted-head"),
    options={"untrained": 6, "references": "auto", "max_new_tokens": 12},
)

"""Figures of the hub experiment: ratios beside their nulls and references, counts of hubs, recency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headlab.effects import Figure
from headlab.heads import every_head
from headlab.stats import Estimate
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.hub_numbers import Looked, published_places, ratios
from headlab.thoughts.hubs import Hubs
from headlab.thoughts.summaries import by_problem, uniform_rows
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.thought_case import ThoughtBench
from headlab.trials.thought_rows import Reference, lengths, plain

Array = np.ndarray
HEADS_SHOWN = 48


def drawn(
    case: ThoughtBench, one: Looked, among: Array, others: Sequence[Reference], ruled: Mapping[str, Hubs]
) -> list[Figure]:
    n, names = among.shape[-1], list(map(str, every_head(case.grid)))
    observed = one.found.shuffled.observed
    shown = np.argsort(-np.nanmax(observed, 1), kind="stable")[:HEADS_SHOWN]
    shuffles = (
        "Each bar counts shuffles: in every row of each of ten sets of problems the visible thoughts change places. The line "
        "is this model (all heads), its band the 95 % interval over problems. One is what exposure explains."
    )
    title = f"What thought {one.thought} receives, among shuffles of the thoughts"
    line = (one.numbers["hub:ratio"], f"thought {one.thought}", "times uniform")
    readers = [
        (f"thought {j}", f"rows of {name}", one.numbers[f"{name}:{j}"])
        for j in range(n)
        for name in ("eot", "answer")
        if f"{name}:{j}" in one.numbers
    ]
    even = (
        "These rows see all thoughts, so an even share is the right reference (1). Means over heads, 95 % intervals over "
        "problems."
    )
    answers = ("What eot and the answer read among thoughts", even, readers, "times an even share", measure.ABOVE)
    return [
        charts.null("null", title, shuffles, one.null[:5000], *line, of="shuffles"),
        _by_thought(case, one, others, n, corrected=True),
        _by_thought(case, one, others, n, corrected=False),
        _counts(one, among, others, ruled),
        draw.cells(
            "heads",
            "Attention received by each thought, corrected for exposure, by head",
            f"The {len(shown)} heads with the largest ratio; 1 = uniform. Intervals and p stand in the table.",
            {names[h]: observed[h] for h in shown},
            y_title="head",
            value_title="times uniform",
        ),
        _recency(among, case),
        *([charts.estimates("answers", *answers)] if readers else []),
    ]


def _by_thought(case: ThoughtBench, one: Looked, others: Sequence[Reference], n: int, *, corrected: bool) -> Figure:
    """This model's ratio by thought, beside uniform attention, untrained models and siblings."""
    seed, problems = case.seed, one.numbers["hub:ratio"].n

    def of(x: Array) -> Array:
        return ratios(x) if corrected else metrics.published_ratio(metrics.published_view(x).mean(1))

    flat = np.ones(n)
    if not corrected:
        view = metrics.published_view(uniform_rows(lengths(case.thinker, case.test), n))
        flat = metrics.published_ratio(view.mean(0))
    kind = "ratio" if corrected else "published"
    groups: dict[str, list[Estimate]] = {
        "this model": [one.numbers[f"{kind}:{j}"] for j in range(n)],
        "uniform attention": [draw.exactly(float(x), problems, "problems") for x in flat],
    }
    if len(untrained := [of(o.matrices).mean(0) for o in plain(others)]) > 1:
        groups["untrained models"] = [draw.over_models(list(map(float, p)), seed) for p in zip(*untrained, strict=True)]
    groups |= {o.name: by_problem(of(o.matrices), o.clusters, seed) for o in others if o.kind == "other"}
    rows = [(f"thought {j}", name, each[j]) for j in range(n) for name, each in groups.items()]
    told = (
        "Rows normalised inside the thoughts, column sums over what uniform rows give them."
        if corrected
        else "Column sums of the published matrix over 1/6, the published ratio. Uniform attention over all keys, without any "
        "preference, falls from thought to thought in the same way."
    )
    caption = f"{told} Means over heads, 95 % intervals over problems (over models, for untrained ones)."
    if corrected:
        title = "What each thought receives, corrected for exposure"
        return charts.estimates("corrected", title, caption, rows, "times uniform", measure.ABOVE)
    return charts.estimates("published", "What each thought receives, as published", caption, rows, "times 1/6", None)


def _counts(one: Looked, among: Array, others: Sequence[Reference], ruled: Mapping[str, Hubs]) -> Figure:
    """Share of heads whose hub is thought j, by either rule, here and in untrained models."""
    places = {
        "published rule, this model": published_places(among),
        "corrected rule, this model": np.asarray(one.found.hub),
    }
    heads = f"{among.shape[1]} heads here"
    if untrained := plain(others):
        places["published rule, untrained"] = np.concatenate([published_places(o.matrices) for o in untrained])
        places["corrected rule, untrained"] = np.concatenate([ruled[o.name].hub for o in untrained])
        heads += f", {among.shape[1] * len(untrained)} in untrained models"
    caption = (
        f"Share of heads ({heads}). The published rule names a hub in every head; the corrected one only where the interval "
        "lies above 1.25 and the adjusted p under .05."
    )
    rows = {name: [(at == j).mean() for j in range(among.shape[-1])] for name, at in places.items()}
    title = "Where heads have their hub, by either rule"
    return draw.cells("counts", title, caption, rows, y_title="rule", value_title="share of heads")


def _recency(among: Array, case: ThoughtBench) -> Figure:
    got = by_problem(np.nanmean(measure.by_offset(among), 1), case.clusters, case.seed)
    rows = [(f"{d} back" if d else "itself", "this model", e) for d, e in enumerate(got)]
    caption = (
        "Over what uniform rows give. A head that reads what is near imitates a hub at late thoughts; one that reads itself "
        "does so most."
    )
    return charts.estimates("recency", "Attention among thoughts by distance", caption, rows, "times uniform", 1.0)

"""What does each thought read, and does thinking go from thought to thought?

1. For every head and problem: the attention of the query of each thought to the question, ``bot``, earlier thoughts and
   itself, and of ``eot`` and the answer to all thoughts.  Every row sums to one, or the run stops.
2. Mean masses with intervals over chains of steps; attention to the thought before (i → i−1), from the last thought to
   the first three (skip), the share that goes to earlier thoughts (flow), the spread over problems.
3. Beside them what the same rows give without any preference: uniform over all visible keys, and thoughts shuffled inside
   each row (mass kept); and what untrained models and siblings give.
4. The published reading: ``bot`` and five thoughts fed, keys off by one, strict lower triangle.  There i → i−1 is the
   attention of a thought to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure
from headlab.heads import every_head
from headlab.stats import Estimate
from headlab.stats.figures import rounded
from headlab.thoughts import metrics
from headlab.thoughts.summaries import by_problem, cells, masses, shuffled_rows, summary, uniform_rows
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems
from headlab.trials.row_checks import batches, judged_chain, rows_sum
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_rows import few, forced, lengths, plain, references, rows_of

Array = np.ndarray
LABELS = {
    "sequential": "attention of thought i to thought i−1",
    "skip": "attention of the last thought to the first three",
    "flow": "share of attention among thoughts that goes to earlier ones",
    "std": "standard deviation over problems, mean over the cells of the matrix",
    "mass:question": "attention of thoughts to the question",
    "mass:bot": "attention of thoughts to bot",
    "mass:thoughts": "attention of thoughts to thoughts, themselves included",
    "mass:self": "attention of thoughts to themselves",
    "answer:thoughts": "attention of the answer's tokens to thoughts",
    "eot:thoughts": "attention of eot to thoughts",
    "sequential:uniform": "i to i−1, over what shuffled thoughts give",
}


def standard(seen: Seen) -> Iterator[Told]:
    found, case = seen.of_trial(rows_of), seen.case
    numbers = summary(found.matrices, case.clusters, case.seed) | masses(found, case.clusters, case.seed)
    return (Told(k, LABELS[k], e, "") for k, e in numbers.items())


def published(seen: Seen) -> Iterator[Told]:
    view = metrics.published_view(seen.of_trial(rows_of).matrices)
    return (Told(k, LABELS[k], e, "") for k, e in summary(view, seen.case.clusters, seen.case.seed).items())


def planted_chain(seen: Seen) -> Control:
    return seen.of_trial(_planted_chain)


def _planted_chain(scope: Scope) -> Control:
    return judged_chain(forced(scope.case, few(scope.case), "sequential"))


# -- tables, figures, words ---------------------------------------------------------------------------------


def others_table(seen: Seen) -> pd.DataFrame:
    columns = ["model", "kind", "problems", "sequential", "skip", "mass_on_thoughts"]
    measures = (metrics.sequential, metrics.skip, lambda x: x[..., 1:, :].sum(-1))
    rows = [
        (o.name, o.kind, len(o.matrices), *(float(f(o.matrices).mean()) for f in measures))
        for o in seen.of_trial(references)
    ]
    return pd.DataFrame(rows, columns=columns)


def uniform(seen: Seen) -> Array:
    """Attention among thoughts when every visible key, the question's too, gets the same, [thought, key]."""
    return uniform_rows(lengths(seen.case.thinker, seen.case.test), seen.case.n_thoughts).mean(0)


def before(seen: Seen) -> Figure:
    """Attention i → i−1 by i, beside four ways of having no preference."""
    among, seed, clusters = seen.of_trial(rows_of).matrices, seen.case.seed, seen.case.clusters

    def diagonal(x: Array) -> Array:
        return np.diagonal(x, -1, -2, -1).mean(1)

    groups = {"this model": by_problem(diagonal(among), clusters, seed)}
    groups["thoughts shuffled in each row"] = by_problem(diagonal(shuffled_rows(among)), clusters, seed)
    flat = np.diagonal(seen.once(uniform), -1).tolist()
    groups["uniform over all keys"] = [draw.exactly(x, len(among), "problems") for x in flat]
    beside = seen.of_trial(references)
    if len(untrained := [diagonal(o.matrices).mean(0) for o in plain(beside)]) > 1:
        groups["untrained models"] = [draw.over_models(list(map(float, p)), seed) for p in zip(*untrained, strict=True)]
    for o in beside:
        if o.kind == "other":
            groups[o.name] = by_problem(diagonal(o.matrices), o.clusters, seed)
    rows = [(f"{i + 1} → {i}", name, each[i]) for i in range(among.shape[-1] - 1) for name, each in groups.items()]
    caption = (
        "Means over heads with 95 % intervals over problems (over models, for untrained ones). Shuffled: the row's own mass on "
        "thoughts, spread evenly over those it sees. The published matrix had attention to itself in these cells."
    )
    return charts.estimates(
        "before", "Attention of each thought to the one before it", caption, rows, "attention", None
    )


def maps(seen: Seen) -> list[Figure]:
    found = seen.of_trial(rows_of)
    mean = found.matrices.mean(0)
    order = np.argsort(-mean.max((-2, -1)), kind="stable")
    names = list(map(str, every_head(seen.scope.grid)))
    panels = [(names[h], mean[h]) for h in order]
    beside = {"uniform among all keys": seen.once(uniform)}
    if untrained := [o.matrices.mean((0, 1)) for o in plain(seen.of_trial(references))]:
        beside["untrained models"] = np.mean(untrained, 0)
    layers = {f"layer {at}": found.among[:, at].mean((0, 1)) for at in range(seen.scope.grid.n_layers)}
    told = f"Mean over {len(found.among)} problems; intervals stand in the table."
    rows = "Row i is the query of thought i; what a row lacks to one is on the question and bot."
    title = "The three heads with the highest attention, beside what no preference gives"
    ten = "The ten heads with the highest attention to a thought"
    return [
        draw.heatmap("top3", title, f"{told} {rows}", dict(panels[:3]) | beside, "attention"),
        draw.heatmap("top10", ten, f"{told} Chosen by their largest cell.", dict(panels[:10]), "attention"),
        draw.heatmap(
            "layers", "Attention among thoughts by layer", f"{told} Means over heads.", layers | beside, "attention"
        ),
    ]


def kinds(seen: Seen) -> Figure:
    """Where each layer's thoughts look."""
    found, rows = seen.of_trial(rows_of), list[tuple[str, str, Estimate]]()
    own = np.diagonal(found.among, 0, -2, -1)[..., 1:]
    parts = {
        "question": found.question[..., 1 : found.n_thoughts],
        "bot": found.bot[..., 1 : found.n_thoughts],
        "earlier thoughts": found.among[..., 1:, :].sum(-1) - own,
        "itself": own,
    }
    for at in range(seen.scope.grid.n_layers):
        for name, x in parts.items():
            each = by_problem(x[:, at].mean((1, 2)), seen.case.clusters, seen.case.seed)
            rows.append((f"layer {at}", name, each[0]))
    caption = "Thoughts 1 and later, means over heads, with 95 % intervals over problems. The four kinds sum to one."
    return charts.estimates("masses", "What thoughts attend to", caption, rows, "share of attention", None)


def notes(seen: Seen) -> Sequence[str]:
    one = seen.estimate
    out = [
        f"Thoughts spend {one('mass:thoughts')} of their attention on thoughts, {one('mass:self')} on themselves.",
        f"Attention to the thought before is {one('sequential')}, {one('sequential:uniform')} times what shuffled thoughts "
        "give.",
    ]
    if values := [float(metrics.sequential(o.matrices).mean()) for o in plain(seen.of_trial(references))]:
        said = f"{rounded(min(values))} to {rounded(max(values))}"
        out.append(f"{len(values)} untrained models of the same config give {said}.")
    return out


CONTROLS = (rows_sum, batches, planted_chain)

EXPERIMENT = OnProblems(
    slug="thought-attention",
    question="What does each thought read, and does thinking go from thought to thought?",
    statistics=tuple(LABELS),
    controls=("rows-sum", "batch", "planted-chain"),
    options={"untrained": 6, "references": "auto", "max_new_tokens": 12},
    cannot=thoughts_at_least(4),
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "six thoughts fed, each query with the keys before it and its own; row i is the query of thought i",
            numbers=(standard,),
            controls=CONTROLS,
            figures=(before, maps, kinds),
            tables={
                "attention": lambda seen: cells(seen.of_trial(rows_of), seen.case.clusters, seen.case.seed),
                "references": others_table,
            },
            settings=lambda seen: {
                "untrained": len(plain(seen.of_trial(references))),
                "references": [o.name for o in seen.of_trial(references)],
            },
            notes=notes,
        ),
        "published": Method(
            "bot and five thoughts fed, the query of thought i−1 stored as row i, strict lower triangle, mean matrix",
            numbers=(published,),
            controls=CONTROLS,
        ),
    },
    sections={
        "When this misleads": (
            "Attention is not use: a head may read a thought and write nothing of it. Most of a row lies on the question, so "
            "small numbers among thoughts are first of all small masses; compare with the shuffled thoughts, which keep the "
            "mass. A low attention to the thought before does not say that nothing passes between thoughts: what a thought is "
            "fed with is the last hidden state of the one before, which is a path that no attention shows."
        )
    },
)

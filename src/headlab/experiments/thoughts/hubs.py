"""Is one thought a hub that the others read?

1. The thought that receives most is named on selection problems (raw column sums, as published); it is tested on others.
2. Rows are normalised inside the thoughts and column sums divided by what uniform rows give them: an early thought is seen
   by more rows, and that alone makes it look like a hub.  1 = as exposure explains.
3. The null: in every row the visible thoughts change places, independently in ten sets of problems.  A thought is the hub
   of a head when its ratio's interval lies above 1.25 and its p, Holm-adjusted over all heads and thoughts, under .05.
4. Untrained models of the same config and siblings are read in the same way; so are the rows of eot and answer, which see
   all thoughts.
5. The published reading: column sums of the mean matrix (bot and five thoughts, keys off by one) against 1/6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure
from headlab.experiments.thoughts.hub_figures import drawn
from headlab.heads import every_head
from headlab.stats import Rank, clopper_pearson, rank
from headlab.stats.figures import percent
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.hub_numbers import Looked, look, most_received, published_places
from headlab.thoughts.hubs import Hubs, find_hubs
from headlab.thoughts.summaries import summary
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems, what_is_measured
from headlab.trials.row_checks import batches, judged_untrained, planted, rows_sum, uniform
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_rows import plain, read, references, rows_of

LABELS = {
    "hub:ratio": "attention received by the thought in question, over what its exposure explains",
    "hub:strict": "the same from later thoughts only, its own row left out",
    "hub:published": "its column sum over 1/6",
    "heads:hub": "heads that have a hub by the rule",
    "heads:first": "heads whose largest raw column sum is thought 0",
    "answer:ratio": "attention of the answer to it, over an even share of six",
    "eot:ratio": "attention of eot to it, over an even share of six",
}
EACH = {
    "ratio": "exposure-corrected attention to",
    "published": "column sum over 1/6 of",
    "eot": "attention of eot to",
    "answer": "attention of the answer to",
}
"""Numbers of each thought."""


def thought(scope: Scope) -> int:
    """The thought in question: the one named, or the one with the largest raw column sum on the selection problems."""
    if (asked := scope.options["thought"]) >= 0:
        return min(asked, scope.case.n_thoughts - 1)
    return most_received(read(scope.case, "choosing", problems=scope.case.selection).matrices)


def looked(seen: Seen) -> Looked:
    return seen.of_trial(_looked)


def _looked(scope: Scope) -> Looked:
    return look(rows_of(scope), scope.case.clusters, thought(scope), scope.seed)


def ruled(seen: Seen) -> dict[str, Hubs]:
    """The hubs of each reference."""
    return {o.name: find_hubs(o.matrices, o.clusters, seed=seen.case.seed) for o in seen.of_trial(references)}


def place(seen: Seen) -> Rank:
    one = looked(seen)
    return rank(one.observed, one.null, enumerated=False, alpha=seen.case.claim.alpha, unit="shuffles")


def told(*, raw: bool) -> Any:
    """The numbers of the published measure, or all others."""

    def numbers(seen: Seen) -> Iterator[Told]:
        for name, e in looked(seen).numbers.items():
            kind, _, j = name.partition(":")
            if (kind == "published" or name in ("hub:published", "heads:first")) == raw:
                yield Told(name, LABELS.get(name) or f"{EACH[kind]} thought {j}", e, "")

    return numbers


def ranked(seen: Seen) -> Iterator[Told]:
    yield Told("rank:hub", "shuffles of thoughts inside rows that give it at least as much", seen.once(place), "")


def untrained(seen: Seen) -> Control:
    return judged_untrained([seen.once(ruled)[o.name] for o in plain(seen.of_trial(references))])


# -- tables, JSON and findings ------------------------------------------------------------------------------


def table(seen: Seen) -> pd.DataFrame:
    """One row for each head and thought."""
    among, found = seen.of_trial(rows_of).matrices, looked(seen).found
    n = among.shape[-1]
    strict = np.pad(np.nanmean(measure.corrected(among, True)[..., :-1], 0), ((0, 0), (0, 1)), constant_values=np.nan)
    per_row, mass = measure.per_available_row(among.mean(0)), among[..., 1:, :].sum(-1).mean((0, 2))
    raw, rows = metrics.incoming(metrics.published_view(among).mean(0)), []
    for h, name in enumerate(map(str, every_head(seen.scope.grid))):
        for j in range(n):
            e = found.estimate(h, j)
            row: dict[str, Any] = {"head": name, "thought": j, "ratio": e.value, "low": e.low, "high": e.high}
            row |= {"n": e.n, "unit": e.unit, "p": float(found.shuffled.p[h, j]), "p_holm": float(found.p_holm[h, j])}
            row |= {"p_any": float(found.shuffled.any[h]), "is_hub": bool(found.hub[h] == j)}
            row |= {"strict": float(strict[h, j]), "per_available_row": float(per_row[h, j])}
            row |= {"published_column_sum": float(raw[h, j]), "published_hub": bool(raw[h].argmax() == j)}
            rows.append(row | {"mass_on_thoughts": float(mass[h])})
    return pd.DataFrame(rows)


def models(seen: Seen) -> pd.DataFrame:
    """One row for each model: how many heads have a hub by either rule."""
    others: list[Any] = [(o.name, o.kind, o.matrices, seen.once(ruled)[o.name]) for o in seen.of_trial(references)]
    own, rows = (seen.case.thinker.name, "this model", seen.of_trial(rows_of).matrices, looked(seen).found), []
    for name, kind, x, found in [own, *others]:
        share = clopper_pearson(int((found.hub >= 0).sum()), len(found.hub), unit="heads")
        row = {"model": name, "kind": kind, "problems": len(x), "heads": len(found.hub), "with_hub": share.value}
        row |= {"low": share.low, "high": share.high, "published_at_0": float((published_places(x) == 0).mean())}
        row |= {"published_ratio": float(metrics.published_ratio(metrics.published_view(x).mean((0, 1))).max())}
        rows.append(row | {f"ratio_{j}": float(r) for j, r in enumerate(np.nanmean(measure.corrected(x), (0, 1)))})
    return pd.DataFrame(rows)


def both_ways(seen: Seen) -> dict[str, Any]:
    """Hub and flow of both readings as data, each number with its interval."""
    among, out = seen.of_trial(rows_of).matrices, {}
    for name, kind, x in (("standard", "ratio", among), ("published", "published", metrics.published_view(among))):
        each = [looked(seen).numbers[f"{kind}:{j}"] for j in range(among.shape[-1])]
        flow = {k: e.to_dict() for k, e in summary(x, seen.case.clusters, seen.case.seed).items()}
        best = max(range(len(each)), key=lambda j: each[j].value or 0.0)
        out[name] = {"hub_position": best, "ratios": [e.to_dict() for e in each], **flow}
    return out


def notes(seen: Seen) -> Sequence[str]:
    one, names = looked(seen), list(map(str, every_head(seen.scope.grid)))
    with_hub = [f"{names[h]} (thought {j})" for h, j in enumerate(one.found.hub) if j >= 0]
    listed = ": " + ", ".join(with_hub[:12]) if with_hub else ""
    out = [
        f"Thought {one.thought} receives most on the selection problems; corrected for exposure it receives "
        f"{one.numbers['hub:ratio']} times its share, as published {one.numbers['hub:published']} times 1/6.",
        f"{len(with_hub)} of {len(names)} heads have a hub{listed}{' …' if len(with_hub) > 12 else ''}.",
    ]
    if others := plain(seen.of_trial(references)):
        at_0 = np.mean([(published_places(o.matrices) == 0).mean() for o in others])
        out.append(
            f"In {len(others)} untrained models of the same config the published rule finds its hub at thought 0 in "
            f"{percent(at_0)} of heads; the corrected rule finds one in "
            f"{percent(np.mean([seen.once(ruled)[o.name].share for o in others]))}."
        )
    return out


def figures(seen: Seen) -> list[Figure]:
    rows = seen.of_trial(rows_of).matrices
    return drawn(seen.case, looked(seen), rows, seen.of_trial(references), seen.once(ruled))


CONTROLS = (rows_sum, batches, uniform, planted, untrained)

EXPERIMENT = OnProblems(
    slug="hubs",
    question="Is one thought a hub that the others read?",
    statistics=(*LABELS, "rank:hub", "ratio:*", "published:*"),
    controls=("rows-sum", "batch", "uniform", "planted-hub", "untrained"),
    options={"thought": -1, "untrained": 6, "references": "auto", "max_new_tokens": 12},
    cannot=thoughts_at_least(4),
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            lambda seen: (
                f"thought {looked(seen).thought}: six thoughts fed, rows normalised inside the thoughts, column sums over what "
                "uniform rows give"
            ),
            numbers=(told(raw=False), ranked),
            controls=CONTROLS,
            asks=what_is_measured,
            figures=(figures,),
            tables={"hubs": table, "models": models},
            settings=lambda seen: {"thought": looked(seen).thought, "hubs_and_flow": both_ways(seen)},
            notes=notes,
        ),
        "published": Method(
            lambda seen: (
                f"thought {looked(seen).thought}: column sums of the mean matrix over 1/6; bot and five thoughts fed, keys off "
                "by one"
            ),
            numbers=(told(raw=True),),
            controls=CONTROLS,
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "Corrected for exposure, a thought that only its own row reads can still be a hub: look at the ratio from later "
            "thoughts (strict) and at attention by distance. Normalising inside the thoughts lets a head with a sliver of its "
            "attention on thoughts count like one that reads nothing else; the mass stands in the table. p says that a "
            "preference is no accident of the problems, not that it matters: what a hub causes is asked by forced patterns."
        )
    },
)

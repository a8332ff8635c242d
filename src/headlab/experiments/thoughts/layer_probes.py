"""At which layer and thought can the answer be read, and is that where the critical heads are?

1. The residual stream of unedited runs is read at bot, at each thought and at eot: what is fed there, and after each layer.
2. Linear probes (discriminants) for the answer and for the results of the first steps, cross-fitted so that no chain of
   steps is in training and test.  An intermediate result is asked only where it is not the answer.
3. Held against: the commonest class; shuffled labels; Hewitt and Liang's control task (a random class for each chain of
   steps, which only memory can predict), on folds in which chains recur.  Selectivity is the difference.
4. The inflection: the layer at which accuracy rises most (−1: it was there when fed), its interval over chains of steps.
5. Mean distance from the inflection to the layers of the heads whose ablation costs most on other problems (or of those
   named), against random sets of as many heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from headlab.effects import Figure
from headlab.stats.figures import percent, rounded
from headlab.thoughts.probing import INPUT
from headlab.thoughts.summaries import by_problem
from headlab.trials import charts
from headlab.trials.flow import NO_ANSWERS, Method, OnProblems
from headlab.trials.probes import (
    FOLDS,
    SAID,
    asked,
    at_places,
    cannot,
    cells,
    hub,
    near,
    needed,
    no_op,
    null,
    shuffled,
    token_fed,
)
from headlab.trials.sweeps import Seen

# -- tables, figures, words ---------------------------------------------------------------------------------


def layer_name(layer: int) -> str:
    return "as fed" if layer == INPUT else f"layer {layer}"


def probes(seen: Seen) -> pd.DataFrame:
    rows = []
    for a in asked(seen):
        classes = len(set(a.y.tolist()))
        for (name, place), found in seen.once(cells).items():
            if name != a.name:
                continue
            for at, e in enumerate(by_problem(found.astype(float), a.groups.tolist(), seen.case.seed)):
                row = {"target": name, "place": place, "layer": at + INPUT, "accuracy": e.value, "low": e.low}
                row |= {"high": e.high, "n": e.n, "unit": e.unit, "majority": a.majority, "classes": classes}
                mixed = float(seen.once(null)[place][:, at].mean()) if name == "answer" else None
                rows.append(row | {"shuffled": mixed})
    return pd.DataFrame(rows)


def heads_table(seen: Seen) -> pd.DataFrame:
    found = seen.once(needed)
    lost = found.lost or dict.fromkeys(found.heads)
    return pd.DataFrame(
        {"head": f"{h}", "layer": h.layer, "chosen": h in found.heads, "accuracy_lost": x} for h, x in lost.items()
    )


def maps(seen: Seen) -> Figure:
    data = tuple(
        {
            "panel": f"{a.name} (commonest: {rounded(a.majority)})",
            "y": layer_name(at + INPUT),
            "x": place,
            "value": float(share),
        }
        for a in asked(seen)
        for at, shares in enumerate(zip(*(seen.once(cells)[a.name, p].mean(0) for p in seen.once(null)), strict=True))
        for place, share in zip(seen.once(null), shares, strict=True)
    )
    caption = (
        "Share of problems read right by probes that saw no problem with the same chain of steps. Intervals stand in the table "
        "of probes."
    )
    axes = {"x_title": "place", "y_title": "layer", "value_title": "accuracy"}
    return Figure("heatmap", "probes", "What a linear probe reads, by layer and place", caption, data, axes)


def curves(seen: Seen) -> Figure:
    answer, rows = asked(seen)[0], []
    for place, label in ((f"thought {seen.once(hub)}", f"hub, thought {seen.once(hub)}"), ("eot", "eot")):
        series = {label: seen.once(cells)["answer", place], f"{label}, shuffled labels": seen.once(null)[place]}
        for name, found in series.items():
            each = by_problem(found.astype(float), answer.groups.tolist(), 0)
            rows += [charts.point(name, at + INPUT, e) for at, e in enumerate(each)]
    caption = (
        f"Bands are 95 % intervals over chains of steps; −1 is what is fed. The dashed line is the commonest answer. Critical "
        f"heads: {seen.once(needed)}."
    )
    title, limit = "Where the answer becomes readable", round(answer.majority, 4)
    return charts.curve("inflection", title, caption, rows, "layer", "accuracy", limit)


def notes(seen: Seen) -> Sequence[str]:
    out = []
    for a in asked(seen):
        own = {place: x.mean(0) for (name, place), x in seen.once(cells).items() if name == a.name}
        best = max(own, key=lambda place: float(own[place].max()))
        found, many = own[best], len(own) * len(own[best])
        out.append(
            f"{a.name}: read best at {best}, {layer_name(int(found.argmax()) + INPUT)}, {rounded(found.max())} of {len(a.y)} "
            f"problems (the best of {many} cells, so a little high; commonest {rounded(a.majority)}; {percent(a.covered)} of the "
            "problems have one of its classes)."
        )
    rise = seen.estimate("inflection:hub")
    at = f"At the hub (thought {seen.once(hub)}) accuracy rises most at layer {rise}"
    return [*out, f"{at}; critical heads {seen.once(needed)}."]


def settings(seen: Seen) -> dict[str, object]:
    return {
        "hub": seen.once(hub),
        "heads": str(seen.once(needed)),
        "folds": seen.scope.options["folds"],
        "covered": {a.name: a.covered for a in asked(seen)},
        "classes": {a.name: len(set(a.y.tolist())) for a in asked(seen)},
    }


EXPERIMENT = OnProblems(
    slug="layer-probes",
    question="At which layer and thought can the answer be read, and is that where the critical heads are?",
    statistics=(*(f"{kind}:*" for kind in SAID), "rank:distance", "shuffled"),
    controls=("no-op", "shuffled", "token-fed"),
    options={"heads": "", "k": 4, "position": "auto", "folds": FOLDS, "max_new_tokens": 12},
    cannot=cannot,
    eligibility=NO_ANSWERS,
    methods={
        "standard": Method(
            "linear discriminants on the residual stream, cross-fitted over chains of steps; the hub by the published rule on "
            "other problems",
            numbers=(at_places, near),
            controls=(no_op, shuffled, token_fed),
            figures=(maps, curves),
            tables={"probes": probes, "heads": heads_table},
            settings=settings,
            notes=notes,
        )
    },
    sections={
        "When this misleads": (
            "What a probe reads is there; that the model uses it is another question, which only an intervention answers. The "
            "answer "
            "can be read wherever the numbers of a short problem can be, if few combinations of them occur. In a model of two or "
            "three layers every head is within a layer or two of any other, so a small distance says little and its rank among "
            "random heads may be undecidable. The interval of the inflection holds the fitted probes fixed. The layer at which a "
            "probe rises most depends on the probe; another one may need more layers."
        )
    },
)

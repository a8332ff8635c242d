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

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts.needed_heads import Needed, needed_heads
from headlab.experiments.thoughts.probing import (
    INPUT,
    Array,
    Asked,
    Collected,
    ask,
    collect,
    distance,
    inflection,
    places,
    right,
    targets,
)
from headlab.experiments.thoughts.thought_causal import cannot_run, hub_of, point, without_thoughts
from headlab.experiments.thoughts.thought_rows import NO_ELIGIBILITY
from headlab.stats import Estimate, Rank, bootstrap_mean, rank
from headlab.stats.figures import percent, rounded
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import bootstrap_of_means
from headlab.store import Reading
from headlab.tasks.word_problems import Problem
from headlab.trials.thought_case import BASE, ThoughtBench

STATISTICS = ("gain:*", "accuracy:*", "inflection:*", "distance:*", "selectivity:*", "rank:distance", "shuffled")
FOUND = 0.95
"""Accuracy at which a probe has found what is surely there."""


def layer_probes(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 2):
        return cannot_run(bench, why)
    option = lambda name: bench.option(name, EXPERIMENT)  # noqa: E731
    hub, folds, seed = hub_of(bench, option("position")), option("folds"), bench.seed
    needed = needed_heads(bench, option("heads"), option("k"))
    seen, problems = collect(bench, bench.test), list(bench.test)
    asked = [a for name, values in targets(bench.test).items() if (a := ask(name, values, problems, folds, seed))]
    if not asked or asked[0].name != "answer":
        return cannot_run(bench, f"too few answers occur often enough among {len(problems)} problems to be probed for")
    cells = {(a.name, place): _layers(x, a, "true") for a in asked for place, x in seen.states.items()}
    null = {place: _layers(x, asked[0], "shuffled") for place, x in seen.states.items()}
    numbers = _numbers(bench, seen, asked[0], cells, null, needed, {"hub": f"thought {hub}", "eot": "eot"})
    place = _rank(bench, numbers["inflection:hub"], needed)
    checks = [_no_op(bench, seen), _shuffled(asked[0], null, seed), _token_fed(seen, problems, folds, seed)]
    findings: dict[str, Any] = numbers | ({"rank:distance": place} if place else {})
    estimates = [named(k, _label(k, hub), e, "") for k, e in numbers.items()]
    if place:
        estimates.append(named("rank:distance", "random sets of as many heads that lie as near", place.estimate, ""))
    verdict = decide(bench.claim, findings, checks)
    return Outcome(
        [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))],
        _figures(asked, cells, null, hub, needed),
        {"probes": _table(asked, cells, null, seed), "heads": _heads(needed)},
        NO_ELIGIBILITY,
        settings={"hub": hub, "heads": str(needed), "folds": folds, "covered": {a.name: a.covered for a in asked},
                  "classes": {a.name: len(set(a.y.tolist())) for a in asked}},
        sections=_SECTIONS,
        notes=_notes(asked, cells, numbers, needed, hub),
    )  # fmt: skip


def _layers(x: Array, asked: Asked, kind: str) -> Array:
    """By row and layer (what is fed first), whether the probe is right: [row, layer + 1]."""
    return np.stack([right(x[asked.rows, at], asked, kind) for at in range(x.shape[1])], 1)


def _numbers(
    bench: ThoughtBench, seen: Collected, answer: Asked, cells: Mapping[tuple[str, str], Array], null: Mapping[str, Array],
    needed: Needed, at: Mapping[str, str],
) -> dict[str, Estimate]:  # fmt: skip
    groups, out = answer.groups.tolist(), {}
    told: dict[str, Any] = {"unit": "problems", "seed": bench.seed}
    for key, place in at.items():
        curve = np.concatenate([answer.chance[:, None], cells["answer", place]], 1).astype(float)
        rises = bootstrap_of_means(curve, lambda m: inflection(m)[:, None].astype(float), groups, **told)
        out[f"gain:{key}"] = bootstrap_mean(curve[:, -1] - curve[:, 0], groups, **told)
        out[f"accuracy:{key}"] = bootstrap_mean(curve[:, -1], groups, **told)
        out[f"inflection:{key}"] = rises.estimate(0)
        out[f"distance:{key}"] = rises.of(lambda v: distance(needed.layers, v[..., 0]))
        some = answer.repeated
        last = seen.states[place][answer.rows, -1]
        gap = right(last, answer, "recurring").astype(float) - right(last, answer, "control").astype(float)
        out[f"selectivity:{key}"] = (
            bootstrap_mean(gap[some], answer.groups[some].tolist(), **told)
            if some.sum() > 1 else Estimate.undefined("problems", int(some.sum()), "no chain of steps occurs twice")
        )  # fmt: skip
    out["shuffled"] = bootstrap_mean(np.mean([v.mean(1) for v in null.values()], 0), groups, **told)
    return out


def _rank(bench: ThoughtBench, at: Estimate, needed: Needed) -> Rank | None:
    """The distance among those of random sets of as many heads of any layer."""
    if at.value is None:
        return None
    grid, k, n = bench.lab.grid, len(needed.heads), bench.claim.matched_sets
    layers = np.repeat(np.arange(grid.n_layers), grid.n_heads)
    whole = comb(len(layers), k) <= n
    if whole:
        sets = [list(s) for s in combinations(range(len(layers)), k)]
    else:
        rng = np.random.default_rng(bench.seed)
        sets = [rng.choice(len(layers), k, replace=False).tolist() for _ in range(n)]
    null = np.array([distance(layers[s].tolist(), at.value) for s in sets])
    own = float(distance(needed.layers, at.value))
    return rank(own, null, enumerated=whole, alpha=bench.claim.alpha, unit="sets of heads", tail="less")


# -- controls -----------------------------------------------------------------------------------------------


def _no_op(bench: ThoughtBench, seen: Collected) -> Control:
    """Reading changes nothing: the answers that were made while the probes' features were taken are the baseline's."""
    few = bench.test[: min(64, len(bench.test))]
    watched = collect(bench, few).logprob
    base = bench.think([BASE], "probes: baseline", problems=few).sort_values("problem")["logprob"].to_numpy(float)
    return judged_no_op(watched, base)


def judged_no_op(watched: Array, base: Array) -> Control:
    gap = float(np.abs(watched - base).max())
    return Control(
        name="no-op", kind="negative", passed=gap == 0, value=gap,
        words=f"reading the residual stream changes the log-probability of {len(base)} answers by at most {gap:.2g}",
    )  # fmt: skip


def _shuffled(answer: Asked, null: Mapping[str, Array], seed: int) -> Control:
    """Shuffled labels are read no better than the commonest class: the mean over all cells, its interval over chains."""
    return judged_shuffled(
        np.mean([v.mean(1) for v in null.values()], 0), answer.majority, answer.groups.tolist(), seed
    )


def judged_shuffled(each: Array, majority: float, groups: Sequence[str], seed: int) -> Control:
    found = bootstrap_mean(each, groups, unit="problems", seed=seed)
    return Control(
        name="shuffled", kind="negative", passed=found.above(majority) in ("no", "unsure"), value=found.value,
        words=f"probes for shuffled answers are right in {found}, mean over places and layers; the commonest {rounded(majority)}",
    )  # fmt: skip


def _token_fed(seen: Collected, problems: Sequence[Problem], folds: int, seed: int) -> Control:
    """What is surely there is found: the last token of the answer, after layer 0 where it is fed."""
    words = [str(t) if t >= 0 else None for t in seen.token.tolist()]
    asked = ask("token fed", words, problems, folds, seed)
    said = None if asked is None else right(seen.said[asked.rows], asked, "true")
    return judged_token(said, 0 if asked is None else len(set(asked.y.tolist())))


def judged_token(said: Array | None, classes: int) -> Control:
    share = None if said is None else float(said.mean())
    many = "" if said is None else f"{percent(share, FOUND)} of {len(said)} are read right"
    shown = many or "too few tokens occur often enough"
    return Control(
        name="token-fed", kind="positive", passed=share is not None and share >= FOUND, value=share,
        words=f"the last token of the answer, where it is fed ({classes} different ones): {shown} (at least {FOUND:.0%} needed)",
    )  # fmt: skip


# -- tables, figures, words ---------------------------------------------------------------------------------


def _at(layer: int) -> str:
    return "as fed" if layer == INPUT else f"layer {layer}"


def _table(asked: Sequence[Asked], cells: Mapping[tuple[str, str], Array], null: Mapping[str, Array], seed: int) -> Any:
    import pandas as pd

    rows = []
    for a in asked:
        for (name, place), found in cells.items():
            if name != a.name:
                continue
            for at, e in enumerate(bootstrap_means(found.astype(float), a.groups.tolist(), unit="problems", seed=seed)):
                rows.append(
                    {"target": name, "place": place, "layer": at + INPUT, "accuracy": e.value, "low": e.low, "high": e.high,
                     "n": e.n,
                     "unit": e.unit, "majority": a.majority, "classes": len(set(a.y.tolist())),
                     "shuffled": float(null[place][:, at].mean()) if name == "answer" else None}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _heads(needed: Needed) -> Any:
    import pandas as pd

    rows = [
        {"head": str(h), "layer": h.layer, "chosen": h in needed.heads, "accuracy_lost": lost}
        for h, lost in needed.lost.items()
    ]
    named_so = [{"head": str(h), "layer": h.layer, "chosen": True, "accuracy_lost": None} for h in needed.heads]
    return pd.DataFrame(rows or named_so)


def _figures(
    asked: Sequence[Asked], cells: Mapping[tuple[str, str], Array], null: Mapping[str, Array], hub: int, needed: Needed
) -> list[Figure]:
    order = places(len(null) - 2)
    maps = tuple(
        {"panel": f"{a.name} (commonest: {rounded(a.majority)})", "y": _at(at + INPUT), "x": place,
         "value": float(cells[a.name, place][:, at].mean())}
        for a in asked for at in range(cells[a.name, order[0]].shape[1]) for place in order
    )  # fmt: skip
    answer, data = asked[0], []
    for place, label in ((f"thought {hub}", f"hub, thought {hub}"), ("eot", "eot")):
        for series, found in ((label, cells["answer", place]), (f"{label}, shuffled labels", null[place])):
            each = bootstrap_means(found.astype(float), answer.groups.tolist(), unit="problems", seed=0)
            data += [point(series, at + INPUT, e) for at, e in enumerate(each)]
    layers = ", ".join(f"{h}" for h in needed.heads)
    return [
        Figure(
            "heatmap", "probes", "What a linear probe reads, by layer and place",
            "Share of problems read right by probes that saw no problem with the same chain of steps. Intervals stand in the table "
            "of probes.", maps, {"x_title": "place", "y_title": "layer", "value_title": "accuracy"},
        ),
        Figure(
            "curve", "inflection", "Where the answer becomes readable",
            f"Bands are 95 % intervals over chains of steps; −1 is what is fed. The dashed line is the commonest answer. Critical "
            f"heads: {layers}.", tuple(data), {"x_title": "layer", "y_title": "accuracy", "threshold": round(answer.majority, 4)},
        ),
    ]  # fmt: skip


_SAID = {
    "gain": "answer read after the last layer, above the commonest answer",
    "accuracy": "answer read after the last layer",
    "inflection": "layer at which accuracy rises most (−1: as fed)",
    "distance": "mean distance of the critical heads from that layer, in layers",
    "selectivity": "accuracy minus that of the control task, where chains recur",
}


def _label(name: str, hub: int) -> str:
    kind, _, key = name.partition(":")
    where = f"hub, thought {hub}" if key == "hub" else key
    return "shuffled answers read, mean over places and layers" if kind == "shuffled" else f"{where}: {_SAID[kind]}"


def _notes(
    asked: Sequence[Asked],
    cells: Mapping[tuple[str, str], Array],
    numbers: Mapping[str, Estimate],
    needed: Needed,
    hub: int,
) -> list[str]:
    out = []
    for a in asked:
        best = max(((n, p) for n, p in cells if n == a.name), key=lambda key: float(cells[key].mean(0).max()))
        found = cells[best].mean(0)
        out.append(
            f"{a.name}: read best at {best[1]}, {_at(int(found.argmax()) + INPUT)}, {rounded(found.max(), a.majority)} of "
            f"{len(a.y)} problems (the best of {len(cells) // len(asked) * len(found)} cells, so a little high; "
            f"commonest {rounded(a.majority)}; {percent(a.covered)} of the problems have one of its classes)."
        )  # fmt: skip
    out.append(
        f"At the hub (thought {hub}) accuracy rises most at layer {numbers['inflection:hub']}; critical heads {needed}."
    )
    return out


_WORDS = (
    "linear discriminants on the residual stream, cross-fitted over chains of steps; the hub by the published rule on other "
    "problems"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "What a probe reads is there; that the model uses it is another question, which only an intervention answers. The "
            "answer "
            "can be read wherever the numbers of a short problem can be, if few combinations of them occur. In a model of two or "
            "three layers every head is within a layer or two of any other, so a small distance says little and its rank among "
            "random heads may be undecidable. The interval of the inflection holds the fitted probes fixed. The layer at which a "
            "probe rises most depends on the probe; another one may need more layers."
        ),
    }
]

EXPERIMENT = Experiment(
    "layer-probes",
    "At which layer and thought can the answer be read, and is that where the critical heads are?",
    layer_probes,
    STATISTICS,
    controls=("no-op", "shuffled", "token-fed"),
    options={"heads": "", "k": 4, "position": "auto", "folds": 4, "max_new_tokens": 12},
)

"""A model in which nothing counts heads, read twice: as published, and honestly.

The additive margin has no parity, no threshold and no redundancy:

    margin(S, pair) = m0(pair) + dose · Σ_{h in S} w_h        success = margin > 0

The weights w are drawn alike for every head, the offsets m0 alike for every pair.  Read from one pair, by yes or no, on the
few sets that were published, it shows "any 8 of the even heads work", "exactly 8 are needed" and "a sharp threshold at 60 %".
Read from many pairs, at every size and dose, by the margin itself, it shows what it is: a straight line.

A *step* is found when one more head, or one more twentieth of the dose, raises the share of pairs repaired by more than .5,
or the mean margin by more than half of its distance from zero before any patch: the lower bound of a 95 % interval of the
largest rise must lie above .5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.organisms.additive_margin import DOSES, AdditiveMargin, chain_margins, dose_margins, sets_matrix
from headlab.stats import Estimate, clopper_pearson, clustered_rate
from headlab.stats.intervals import bootstrap_means
from headlab.store import NamedEstimate, Result, Store
from headlab.trials.pairs import named
from headlab.trials.record import versions
from headlab.trials.results import handed_on

EIGHTS = (tuple(range(0, 16, 2)), tuple(range(16, 32, 2)), tuple(range(0, 32, 4)))
"""The even 8-sets of the published package: the three on which "any 8 of 12,870" rests."""

FEWER = (
    (0,),
    (14,),
    (30,),
    (0, 2),
    (0, 30),
    (28, 30),
    (0, 2, 4, 6),
    (0, 8, 16, 24),
    (12, 14, 16, 18),
    (24, 26, 28, 30),
    (0, 2, 4, 6, 8, 10),
)
"""The smaller even sets whose outcomes were published."""

SEVEN = tuple(range(0, 14, 2))
"""One set of seven.  None was ever published; a reader of "exactly 8" would ask for it."""

GRID = (0.2, 0.4, 0.6, 0.8, 1.0)
SIXTY = (False, False, True, True, True)
"""The published blend of the whole layer's output: doses, and the outcomes read as "a sharp threshold at 60 %"."""

CLAIMS = {
    "any": "any 8 of the even heads work",
    "exactly": "exactly 8: the published smaller sets fail",
    "seven": "exactly 8, and a set of 7 fails too",
    "threshold": "a sharp threshold at 60 %",
    "all": "any 8, exactly 8 and 60 % in one layer",
}
STEP = 0.5


@dataclass(frozen=True)
class Simulation:
    """What was simulated: tables, every number by name, figures and the text of a page."""

    tables: dict[str, Any]
    estimates: tuple[NamedEstimate, ...]
    figures: list[Figure]
    sections: list[dict[str, str]]
    settings: dict[str, Any]

    def estimate(self, name: str) -> Estimate:
        """A number by its name.  Raises KeyError."""
        return {e.name: Estimate.from_dict(e.estimate) for e in self.estimates}[name]


def simulated(*, seed: int = 0, store: Store | Path | str | None = None) -> Result:
    """Simulate, and store the record with its page (no model is run, so there is no verdict)."""
    home = store if isinstance(store, Store) else Store(store)
    inputs = {"seed": seed, "model": asdict(AdditiveMargin())}
    draft = {
        "settings": inputs,
        "versions": versions(),
        "call": {
            "command": f"headlab simulate --seed {seed}",
            "python": f"headlab.experiments.subsets.simulator.simulated(seed={seed})",
        },
    }
    title = "What adding margins looks like when it is read as published"
    with home.open(kind="run", slug="simulator", title=title, inputs=inputs, draft=draft) as run:
        if run.finished is not None:
            return handed_on(home, run.finished)
        found = simulate(seed=seed)
        for name, frame in found.tables.items():
            run.table(name, frame)
        lines = [f"{e.label}: {Estimate.from_dict(e.estimate)}" for e in found.estimates]
        record = run.finish(
            figures=[f.plain() for f in found.figures],
            sections=found.sections,
            notes=lines,
            settings={**draft["settings"], **found.settings},
        )
    return handed_on(home, record, found.tables)


def published_readout(weights: Any, offset: Any) -> dict[str, Any]:
    """Which published claims one pair shows: ``weights`` [..., head] and ``offset`` [...] → a boolean [...] per claim.

    Yes or no on the published sets and doses only.
    """
    heads = weights.shape[-1]

    def works(sets: Sequence[Sequence[int]]) -> Any:
        return weights @ sets_matrix(sets, heads).T + offset[..., None] > 0

    eights = works(EIGHTS).all(-1)
    exactly = eights & ~works(FEWER).any(-1)
    blended = weights.sum(-1)[..., None] * np.array(GRID) + offset[..., None] > 0
    threshold = (blended == np.array(SIXTY)).all(-1)
    return {
        "any": eights,
        "exactly": exactly,
        "seven": exactly & ~works([SEVEN])[..., 0],
        "threshold": threshold,
        "all": exactly & threshold,
    }


def largest_rise(values: Any, *, unit: str, seed: int) -> Estimate:
    """The largest mean rise between neighbours of ``values`` [row, step], bootstrap over rows."""
    rises = bootstrap_means(np.diff(values, axis=1), unit=unit, seed=seed, draws=500)
    return max(rises, key=lambda e: -np.inf if e.value is None else e.value)


def honest_readout(by_size: Any, by_dose: Any, *, seed: int) -> dict[str, Estimate]:
    """The largest rise of each honest curve: ``by_size`` [chain, size, pair] and ``by_dose`` [pair, dose] margins.

    ``rate:…`` is a share of pairs, ``margin:…`` a share of the distance from zero before any patch.
    """
    away = abs(float(by_dose[:, 0].mean()))
    return {
        "rate:size": largest_rise((by_size > 0).mean(-1), unit="chains", seed=seed),
        "margin:size": largest_rise(by_size.mean(-1) / away, unit="chains", seed=seed),
        "rate:dose": largest_rise((by_dose > 0).astype(float), unit="pairs", seed=seed),
        "margin:dose": largest_rise(by_dose / away, unit="pairs", seed=seed),
    }


def finds_a_step(rises: dict[str, Estimate]) -> bool:
    """The criterion: some largest rise lies above one half with its whole interval."""
    return any(e.above(STEP) == "yes" for e in rises.values())


def simulate(
    model: AdditiveMargin | None = None,
    *,
    models: int = 400,
    layers: int = 32,
    honest_models: int = 100,
    pairs: int = 200,
    chains: int = 50,
    seed: int = 0,
) -> Simulation:
    """Draw models, read each as published (at one layer, and at the best of ``layers``, as the study searched), and the
    first ``honest_models`` of them honestly, at a layer that shows "exactly 8" wherever one does."""
    import pandas as pd

    chosen = model or AdditiveMargin()
    rng = np.random.default_rng(seed)
    weights, one_pair = chosen.weights(rng, models, layers), chosen.offsets(rng, models)
    shown = published_readout(weights, np.repeat(one_pair[:, None], layers, axis=1))
    honest_rows, curves = [], {}
    for m in range(min(honest_models, models)):
        at = int(shown["exactly"][m].argmax())
        offsets = chosen.offsets(rng, pairs)
        by_size = chain_margins(weights[m, at], offsets, chosen.pool, chains, rng)
        by_dose = dose_margins(weights[m, at], offsets)
        rises = honest_readout(by_size, by_dose, seed=seed)
        honest_rows.append(
            {"model": m, "layer": at, "step": finds_a_step(rises)}
            | {k: v for name, e in rises.items() for k, v in ((name, e.value), (f"{name} low", e.low))}
        )
        if not curves and bool(shown["seven"][m, at]):
            curves = {"model": m, "layer": at, "size": by_size}
    if not curves:
        curves = {"model": m, "layer": at, "size": by_size}
    sixty = np.argwhere(shown["threshold"])
    blended = tuple(map(int, sixty[0])) if len(sixty) else (curves["model"], curves["layer"])
    curves |= {"blended": blended, "dose": dose_margins(weights[blended], chosen.offsets(rng, pairs))}
    honest = pd.DataFrame(honest_rows)
    estimates = _estimates(shown, honest)
    frames = _curves(chosen, curves, weights, one_pair, seed)
    published: dict[str, Any] = {"model": range(models)}
    published |= {k: v[:, 0].astype(bool) for k, v in shown.items()}
    published |= {f"{k} on some layer": v.any(1) for k, v in shown.items()}
    return Simulation(
        tables={"published": pd.DataFrame(published), "honest": honest, "curves": frames},
        estimates=estimates,
        figures=_figures(frames, estimates, curves),
        sections=_sections(estimates, chosen),
        settings={
            "model": asdict(chosen),
            "models": models,
            "layers": layers,
            "honest_models": len(honest),
            "pairs": pairs,
            "chains": chains,
            "seed": seed,
            "step": STEP,
        },
    )


def _estimates(shown: dict[str, Any], honest: Any) -> tuple[NamedEstimate, ...]:
    out = []
    for key, words in CLAIMS.items():
        for name, label, hits in (
            (f"published:{key}", "at one layer named in advance", shown[key][:, 0]),
            (f"searched:{key}", f"on some of {shown[key].shape[1]} layers", shown[key].any(1)),
        ):
            e = clopper_pearson(int(hits.sum()), len(hits), unit="models")
            out.append(named(name, f"read as published, {words}, {label}", e, ""))
    steps = clopper_pearson(int(honest["step"].sum()), len(honest), unit="models")
    return (*out, named("honest:step", "read honestly, a step anywhere", steps, ""))


def _curves(model: AdditiveMargin, curves: dict[str, Any], weights: Any, one_pair: Any, seed: int) -> Any:
    """One layer's curves under both readouts, and the closed form over all models; the dose's from a layer that shows
    the published threshold."""
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def add(figure: str, series: str, xs: Sequence[float | int], points: Sequence[Estimate]) -> None:
        rows.extend(
            {
                "figure": figure,
                "series": series,
                "x": x,
                "y": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "unit": e.unit,
            }
            for x, e in zip(xs, points, strict=True)
        )

    def sure(value: float, unit: str) -> Estimate:
        return Estimate(value, value, value, 1, unit, "enumeration")

    sizes = list(range(len(model.pool) + 1))
    hits = curves["size"] > 0
    by_chain = np.repeat(np.arange(len(hits)), hits.shape[2])
    rates = [clustered_rate(hits[:, k].ravel(), by_chain, unit="chains × pairs") for k in sizes]
    margins = bootstrap_means(curves["size"].mean(-1), unit="chains", seed=seed)
    doses = [clustered_rate(column > 0, unit="pairs") for column in curves["dose"].T]
    many = "many pairs, many sets"
    add("size", many, sizes, rates)
    add("size", "expected over all models", sizes, [sure(model.expected(k), "models") for k in sizes])
    few = (*FEWER, SEVEN, *EIGHTS, model.pool)
    sums = sets_matrix(few, model.heads) @ weights[curves["model"], curves["layer"]] + one_pair[curves["model"]]
    by_size = {len(s): [v > 0 for t, v in zip(few, sums, strict=True) if len(t) == len(s)] for s in few}
    add(
        "size",
        "one pair, the published sets",
        list(by_size),
        [sure(float(np.mean(v)), "sets") for v in by_size.values()],
    )
    blended = curves["blended"]
    add("dose", "many pairs", DOSES, doses)
    add(
        "dose",
        "one pair, the published doses",
        GRID,
        [sure(float(v > 0), "pair") for v in one_pair[blended[0]] + np.array(GRID) * weights[blended].sum()],
    )
    add("margin", many, sizes, margins)
    return pd.DataFrame(rows)


def _figures(frame: Any, estimates: Sequence[NamedEstimate], curves: dict[str, Any]) -> list[Figure]:
    at = {"dose": curves["blended"]}
    honest = "Bands are 95 % intervals, over chains of sets or over pairs; the published points are single outcomes and have none."

    def curve(kind: str, title: str, caption: str, x: str, y: str, threshold: float) -> Figure:
        data = frame[frame["figure"] == kind][["x", "y", "low", "high", "series", "n"]].to_dict("records")
        options = {"threshold": threshold, "x_title": x, "y_title": y}
        where = "Model {}, layer {}: ".format(*at.get(kind, (curves["model"], curves["layer"])))
        return Figure(
            "curve", kind, title, where + caption, tuple({str(k): v for k, v in r.items()} for r in data), options
        )

    shares = tuple(
        {
            "label": CLAIMS[e.name.split(":")[1]],
            "group": "named layer" if e.name[0] == "p" else "searched layers",
            **{k: e.estimate[k] for k in ("value", "low", "high", "n")},
        }
        for e in estimates
        if not e.name.startswith("honest")
    )
    return [
        curve(
            "size",
            "A model by the number of heads patched, read twice",
            "the sets that were published, on one pair, look like a count; every size, on many pairs, is a smooth curve. "
            + honest,
            "heads patched",
            "share repaired",
            0.5,
        ),
        curve(
            "margin",
            "The margin itself",
            f"each head adds its weight, so the mean margin is a straight line. {honest}",
            "heads patched",
            "mean margin",
            0.0,
        ),
        curve(
            "dose",
            "A model by dose, read twice",
            f"one pair crosses zero once, which is a step whatever the model; over pairs the crossings spread. {honest}",
            "share of the whole layer's patch",
            "share repaired",
            0.5,
        ),
        Figure(
            "estimates",
            "claims",
            "How often a model without any of it shows each published claim",
            "Share of simulated models; Clopper-Pearson intervals, 95 %. One layer named in advance, or any of those searched.",
            shares,
            {"x_title": "share of models"},
        ),
    ]


def _sections(estimates: Sequence[NamedEstimate], model: AdditiveMargin) -> list[dict[str, str]]:
    found = {e.name: Estimate.from_dict(e.estimate) for e in estimates}
    shown = [
        f"{words}: {found['published:' + k]} at one layer, {found['searched:' + k]} searched"
        for k, words in CLAIMS.items()
    ]
    texts = {
        "The illusion": (
            "In this model each head adds a number to a margin and each pair starts somewhere below zero; success is a margin "
            "above zero. Nothing knows parity, counts heads, backs another head up or has a threshold. Read as published, at one "
            f"layer named in advance or at any of those searched, it still shows: {'; '.join(shown)}.\n\n"
            "Three habits make the claims. One pair: a margin that crosses zero once is a step, whatever carries it there. Yes or "
            "no: a set that falls short by a hair and one that adds nothing are both a failure. Few sets: between the sets of 4 or "
            "6 that were run and those of 8 the sum must pass zero somewhere, so 8 becomes the number that is needed. Searching "
            "layers does the rest."
        ),
        "Read honestly": (
            "With many pairs, every size and dose, and the margin itself, the mean margin is a straight line and the share of "
            "pairs repaired a smooth curve. A step would be one more head, or one more twentieth of the dose, that raises the "
            "share by more than .5, or the mean margin by more than half of its distance from zero before any patch, with the "
            f"whole 95 % interval of the largest rise. Found in {found['honest:step']}."
        ),
        "When this misleads": (
            f"Shares depend on the parameters (the whole layer adds {model.total:g} times what the average pair needs; weights "
            f"spread by {model.weight_sd:g}, offsets by {model.pair_sd:g}): they show that the claims can come from nothing, not "
            "how often they did. Where 8 heads suffice and all heads are alike, the whole layer suffices at a small dose, so the "
            "three claims together in one layer are rare; a table that shows all three asks for heads that differ more than these "
            "do, not for a count. Pairs that do not differ at all would make even the honest share of pairs a step in the dose; "
            "the margin would still be a straight line."
        ),
    }
    return [{"heading": heading, "text": text} for heading, text in texts.items()]

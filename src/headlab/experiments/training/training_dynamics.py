"""When in training do heads cluster, grow and take on their roles, and is the change a sudden one?

1. A series of checkpoints: the shipped run that the organism ends, or the folders or revisions that are listed.  They are
   loaded one at a time; what was measured of one is stored, so that an interrupted run goes on.
2. From the weights: block norms, and how clustered the heads of each layer are (best silhouette of W_QK and W_OV by
   cosine, norms removed) above random weights of the same norms; the same with norms left in.
3. From prompts: right answers by category, what patching each layer repairs, even against odd heads at the layer chosen on
   other pairs.
4. Each quantity of each series: is there one change in its level, between which looks, and does it jump there?  Holm over
   the quantities of a series.
5. Where a circuit was planted the change must bracket the recorded onset; where none was, nothing may change; looks in
   random order must show no change; a checkpoint measured twice must give the same numbers.
6. The same questions of the published blocks, cut and clustered as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab import organisms
from headlab.claims import Control, decide
from headlab.experiments.base import Bench, Experiment, Outcome, choose_layer, named
from headlab.experiments.training.series_looks import AGAIN, looks_of, prompts_of
from headlab.experiments.training.timelines import figures_of
from headlab.measures.changes import (
    change_rows,
    changes_of,
    label,
    place,
    planted_control,
    shuffled_control,
    trace,
    tracked,
    twice_control,
    unplanted_control,
)
from headlab.measures.checkpoints import WHOLE
from headlab.organisms.checkpoint_series import Series, of_organism, siblings
from headlab.prompts import encode
from headlab.stats import Estimate
from headlab.stats.change_point import ChangePoint, change_point
from headlab.store import Reading

PLANTED, CONTROL = "decimals-series-planted", "decimals-series-control"
OPTIONS = {"series": [], "behaviour": True, "draws": 19, "least": 0.1, "pairs_elsewhere": 40}
STATISTICS = ("p:*", "jump:*", "place:*", "excess:*", "gain:*")
CONTROLS = ("planted-onset", "never-planted", "shuffled", "loaded-twice")


def training_dynamics(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    given = bench.option("series", EXPERIMENT)
    own = [Series.from_plain(s) for s in given] or _shipped(bench.lab.name)
    if not own:
        return _nothing(bench)
    references = [s for name in (PLANTED, CONTROL) if (s := of_organism(name)) is not None]
    alone = own + [s for s in references if s.name not in {o.name for o in own}]
    settings = {k: bench.option(k, EXPERIMENT) for k in ("draws", "pairs_elsewhere")}
    prompts = prompts_of(bench, settings["pairs_elsewhere"]) if bench.option("behaviour", EXPERIMENT) else {}
    looks, same = looks_of(bench, alone, {s.name for s in own}, prompts, **settings)
    own, alone = ([s.without(same.get(s.name, {})) for s in some] for some in (own, alone))
    layer, scan = choose_layer(bench, [encode(p, bench.lab.tokenizer) for p in bench.selection]) if prompts else (0, [])
    first = next(iter(prompts)) if prompts else bench.claim.task.category
    asked = {
        s.name: tracked(looks, s.name, first if s in own else "conflict", _parity_layer(s.name, layer)) for s in alone
    }
    found = {name: _changes(bench, looks, name, wanted) for name, wanted in asked.items()}
    changes = pd.DataFrame([r for name, rows in found.items() for r in change_rows(name, rows, bench.claim.alpha)])
    controls = _controls(bench, looks, changes, own[0])
    standard = _standard(bench, looks, own, found, changes, controls)
    readings = [
        standard,
        *([_published(bench, looks, own[0], controls)] if "published" in bench.claim.readings else []),
    ]
    return Outcome(
        readings=readings,
        figures=figures_of(looks, changes, own, _parity_layer(own[0].name, layer), first),
        tables={"looks": looks, "changes": changes, "checkpoints": _checkpoint_table(alone)},
        eligibility={
            "ok": True,
            "reason": "weights need no behaviour; repairs are read where a checkpoint has the bug",
        },
        settings={
            "layer": layer,
            "layer_scan": scan,
            "series": [s.plain() for s in own],
            "fingerprints": looks.attrs["fingerprints"],
        },
        sections=[_looked(own), *_SECTIONS],
        notes=[*_order(own, same), *_notes(changes, own)],
    )


def _shipped(name: str) -> list[Series]:
    """The run that an organism ends, and its other branches."""
    own = of_organism(name)
    return [] if own is None else [own, *siblings(name)]


def _parity_layer(name: str, chosen: int) -> int:
    """Where even is held against odd: the planted layer of a run that has one (or whose other branch has), else the
    layer chosen on other pairs."""
    recipes = (organisms.RECIPES[s.name] for s in (of_organism(name), *siblings(name)) if s is not None)
    return next((r.plant.layer for r in recipes if r.plant is not None), chosen)


def _nothing(bench: Bench) -> Outcome:
    why = (
        f"{bench.lab.name} is one checkpoint; list several: headlab emergence MODEL --revisions step0,step1000,… or "
        f"headlab emergence FOLDER FOLDER …, or try {PLANTED}"
    )
    words = "a series of checkpoints"
    readings = [
        Reading(protocol=p, words=words, verdict=decide(bench.claim, {}, [], impossible=why))
        for p in bench.claim.readings
    ]
    return Outcome(readings, [], {}, {"ok": True, "reason": ""}, sections=[*_SECTIONS])


# -- reading --------------------------------------------------------------------------------------------------------


def _changes(bench: Bench, looks: Any, series: str, wanted: Sequence[tuple[str, int]]) -> Any:
    least = float(bench.option("least", EXPERIMENT))
    return changes_of(looks, series, wanted, seed=bench.seed, least=least, alpha=bench.claim.alpha)


def _controls(bench: Bench, looks: Any, changes: Any, main: Series) -> list[Control]:
    planted = of_organism(PLANTED)
    rows = trace(looks, main.name, "excess")
    twice = looks[looks["series"] == AGAIN].reset_index(drop=True)
    key = (looks["series"] == main.name) & (looks["step"] == main.steps[0])
    shipped = [] if planted is None or planted.onset is None else [planted_control(changes, PLANTED, planted.onset)]
    return [
        *shipped,
        *([unplanted_control(changes, CONTROL)] if shipped else []),
        shuffled_control(rows["value"], rows["step"], seed=bench.seed, alpha=bench.claim.alpha),
        twice_control(looks[key].reset_index(drop=True), twice),
    ]


def _about(bench: Bench, looks: Any, main: Series, quantity: str) -> tuple[dict[str, Estimate], ChangePoint]:
    """The statistics of one measure of clustering along a series: any change, a jump, and where."""
    rows = trace(looks, main.name, quantity)
    x, at, least = rows["value"].to_numpy(float), rows["step"].to_numpy(float), float(bench.option("least", EXPERIMENT))
    level = change_point(x, at, seed=bench.seed, least=least, alpha=bench.claim.alpha)
    jump = change_point(x, at, seed=bench.seed, kind="jump", least=least, alpha=bench.claim.alpha)
    last = float(main.last.step)
    reason = f"{level.n} looks cannot bring p under {bench.claim.alpha:g}, whatever they show"
    p = level.p if level.attainable < bench.claim.alpha else Estimate.undefined("looks", level.n, reason)
    return {"p:clustering": p, "jump:clustering": jump.p, "place:clustering": place(level, last)}, level


def _standard(
    bench: Bench, looks: Any, own: Sequence[Series], found: Mapping[str, Any], changes: Any, controls: Sequence[Control]
) -> Reading:
    main = own[0]
    findings, _ = _about(bench, looks, main, "excess")
    rows = trace(looks, main.name, "excess")
    if len(rows):
        ends = [_estimate(r) for r in (rows.iloc[0], rows.iloc[-1])]
        findings |= {"excess:first": ends[0], "excess:last": ends[1], "gain:clustering": _gain(*ends)}
    words = {
        "p:clustering": "clustering above its null: any change in level, p",
        "jump:clustering": "clustering above its null: a jump between two looks, p",
        "place:clustering": "first look after the change, as a share of training",
        "excess:first": f"clustering above random weights of the same norms, step {main.steps[0]}",
        "excess:last": f"clustering above random weights of the same norms, step {main.last.step}",
        "gain:clustering": "clustering above its null, last look minus first",
    }
    estimates = [named(k, words[k], e, "weights") for k, e in findings.items()]
    for s in own:
        for (quantity, layer), level, _, adjusted in found[s.name]:
            if level.found and adjusted < bench.claim.alpha:
                what = f"{s.name}: {label(quantity, layer)}, first look after its change"
                estimates.append(
                    named(
                        f"step:{s.name}:{quantity}:{layer}", what, level.estimate, "weights" if layer == WHOLE else "z"
                    )
                )
    return Reading(
        protocol="standard", verdict=decide(bench.claim, findings, controls), estimates=tuple(estimates),
        words="norms removed, W_QK and W_OV of each head as one thing, above random weights of equal norms, at every look",
    )  # fmt: skip


def _estimate(r: Any) -> Estimate:
    return Estimate(float(r["value"]), float(r["low"]), float(r["high"]), int(r["n"]), str(r["unit"]), str(r["method"]))


def _gain(first: Estimate, last: Estimate) -> Estimate:
    """Last minus first; the interval takes the worst ends of both."""
    if None in (first.value, first.low, first.high, last.value, last.low, last.high):
        return Estimate.undefined("draws", last.n, "one of the two looks is undefined")
    value, low, high = last.value - first.value, last.low - first.high, last.high - first.low  # type: ignore[operator]
    return Estimate(value, low, high, last.n, last.unit, "worst ends of both looks")


def _published(bench: Bench, looks: Any, main: Series, controls: Sequence[Control]) -> Reading:
    """The published blocks of the middle layer, two clusters, norms left in."""
    fused = bench.lab.geometry.q is not None and bench.lab.geometry.q == bench.lab.geometry.k
    same = bench.lab.geometry.q and bench.lab.geometry.k and bench.lab.geometry.q.path == bench.lab.geometry.k.path
    how = (
        "the fused matrix cut as published (for GPT-NeoX that mixes q, k and v of neighbouring heads)"
        if fused or same
        else "the published cut cannot run, because q, k and v are separate here; their own blocks instead"
    )
    findings, _ = _about(bench, looks, main, "published")
    if len(rows := trace(looks, main.name, "published")):
        gain = float(rows["value"].iloc[-1] - rows["value"].iloc[0])
        findings["gain:clustering"] = Estimate(gain, gain, gain, 3, "blocks", "all of them")
    kept = tuple(p for p in bench.claim.predictions if p.statistic in findings)
    nothing = "" if kept else "none of the predictions is about what was published"
    claim = bench.claim.model_copy(update={"predictions": kept or bench.claim.predictions})
    words = {
        "p:clustering": "published silhouettes, mean of q, k and v: any change in level, p",
        "jump:clustering": "published silhouettes: a jump between two looks, p",
        "place:clustering": "published silhouettes: first look after the change, as a share of training",
        "gain:clustering": "published silhouettes: last look minus first",
    }
    return Reading(
        protocol="published", verdict=decide(claim, findings, controls, impossible=nothing),
        estimates=tuple(named(k, words[k], e, "weights") for k, e in findings.items()),
        words=f"flattened blocks of the middle layer, k-means with two clusters, norms left in; {how}",
    )  # fmt: skip


def _checkpoint_table(series: Sequence[Series]) -> Any:
    import pandas as pd

    return pd.DataFrame(
        [{"series": s.name, "step": c.step, "model": c.model, "revision": c.revision or "", "onset": s.onset}
         for s in series for c in s.checkpoints]
    )  # fmt: skip


def _looked(own: Sequence[Series]) -> dict[str, str]:
    """Which steps were looked at, and how far apart they are."""
    lines = []
    for s in own:
        widest = max(zip(s.steps, s.steps[1:], strict=False), key=lambda gap: gap[1] - gap[0])
        steps = ", ".join(map(str, s.steps)) if len(s.steps) <= 24 else f"{s.steps[0]} to {s.steps[-1]}"
        begun = f" Something was switched on in training after step {s.onset}." if s.onset is not None else ""
        lines.append(
            f"{s.name}: {len(s.steps)} looks, at steps {steps}; the widest gap is {widest[0]} to {widest[1]}.{begun}"
        )
    return {
        "heading": "Which steps were looked at",
        "text": " ".join(lines)
        + " Nothing is known of the steps between: a change is placed between two looks, never at a step.",
    }


def _order(own: Sequence[Series], same: Mapping[str, Mapping[int, int]]) -> list[str]:
    """The order that was read from the names, and which of them were no further looks."""
    said = [f"{s.name}: looked at in the order {s.order}." for s in own if isinstance(s.plain(), list)]
    for name, steps in same.items():
        which = ", ".join(f"step {a} has those of step {b}" for a, b in steps.items())
        said.append(f"{name}: equal weights under different names are one look: {which}.")
    return said


def _notes(changes: Any, own: Sequence[Series]) -> list[str]:
    out = []
    for s in own:
        rows = changes[(changes["series"] == s.name) & changes["changed"]]
        said = "; ".join(
            f"{r['what']} ({r['size']:+.3g}) between {r['last_look_before']:g} and {r['first_look_after']:g}"
            for r in rows.to_dict("records")
        )
        total = int((changes["series"] == s.name).sum())
        out.append(f"{s.name}: {len(rows)} of {total} quantities change{': ' + said if said else ''}.")
    return out


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Checkpoints of one run are one run: an interval over its looks says nothing of other seeds, so overlay several. "
            "A quantity that drifts has a change in level wherever one looks; only a jump that stands out among the "
            "differences of neighbouring looks is sudden, and a change that takes three looks is no jump. On log-spaced "
            "looks a jump is one of scale. The silhouette of the best cut is above zero for any cloud of heads: read it "
            "above random weights of the same norms, never alone. The repair rate is read among the pairs that a "
            "checkpoint has the bug on, which differ from step to step."
        ),
    },
    {
        "heading": "The published timeline",
        "text": (
            "Eight of 154 checkpoints were looked at, none between steps 80,000 and 120,000, so a change between these two "
            "could not be called sudden. The fused matrix was cut as view(3, head, …), which for GPT-NeoX calls blocks of "
            "neighbouring heads query, key and value; the silhouettes of .6 are those of one block whose norm grew about "
            "fourfold. Step 0 was not looked at. 80,000 to 120,000 is 56 to 84 % of training, not its last 16 %."
        ),
    },
]

EXPERIMENT = Experiment(
    "training-dynamics",
    "When in training do heads cluster and take on their roles, and is it sudden?",
    training_dynamics,
    STATISTICS,
    controls=CONTROLS,
    options=OPTIONS,
)

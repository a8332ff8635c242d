"""At which layers does patching repair, and is it one layer alone?

1. Eligible pairs: right from the clean prompt, wrong from the corrupted one.
2. The layer is the claim's, or chosen by patching every head on pairs that the test never sees; how often resampled
   selection pairs choose the same one stands beside it.
3. At every layer all, even and odd heads are patched from the clean run (z).  The bounds for "no other layer" hold for
   all layers at once.
4. Even against odd at every layer, Holm over layers: sign flips by fraction pair, and the rank among matched halves.
5. The same under the published protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import Claim, Control, Protocol, decide
from headlab.effects import Figure, of_world, pivot, recovery, repair
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    choose_layer,
    named,
    no_op_control,
    patch_all_control,
    protocol_patch,
    with_texts,
)
from headlab.experiments.heads.patched_sets import Made, readings_of, unsliced, without_rank
from headlab.experiments.null import Null, matched_null, null_figure, null_worlds
from headlab.heads import Grid, even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.prompts import encode
from headlab.stats import Estimate, Rank, clopper_pearson, clustered_rate, holm, sign_flip
from headlab.store import NamedEstimate, Reading

SETS = {"all": "all heads", "even": "even heads", "odd": "odd heads"}
STATISTICS = (*(f"{what}:{s}" for what in ("repair", "recovery") for s in SETS), "repair:elsewhere",
              "repair:elsewhere-even", "rank:even")  # fmt: skip
RESAMPLES = 1000
NAIVE = 0.5


def layer_scan(bench: Bench) -> Outcome:
    """Run the experiment."""
    at, scan, chosen = _chosen(bench)

    def make(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> Made:
        return _reading(bench, protocol, able, at, chosen)

    return readings_of(bench, {"standard": make, "published": make}, (at, scan), _SECTIONS)


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """The matched halves of every layer, which are nearly all of the time."""
    return [
        World(f"L{n} {w.name}", w.interventions)
        for n in range(grid.n_layers)
        for w in null_worlds(grid, even(grid, n), claim.matched_sets, claim.seed)
    ]


def _layers(bench: Bench) -> list[int]:
    return [s.layer for s in bench.lab.slots]


def _chosen(bench: Bench) -> tuple[int, list[dict[str, Any]], list[NamedEstimate]]:
    """The layer, the scan that chose it, and how steady that choice is."""
    if bench.claim.layer != "auto":
        at, scan = choose_layer(bench, [])
        return at, scan, []
    pairs = [encode(p, bench.lab.tokenizer) for p in bench.selection]
    at, scan = choose_layer(bench, pairs)
    layers = _layers(bench)
    worlds = [World(f"L{n}", (Intervention(all_heads(bench.lab.grid, n)),)) for n in layers]
    table = bench.sweep(pairs, worlds, "choosing a layer")  # the rows are stored already
    hits = pivot(table, [w.name for w in worlds]) > 0
    names = table.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    wins = _wins(hits, names, bench.seed)[layers.index(at)]
    return at, scan, [
        named("selection:steady", f"resampled selection pairs that choose layer {at} too",
              clopper_pearson(int(wins), RESAMPLES, unit="resamples of selection pairs")),
    ]  # fmt: skip


def _wins(hits: Any, clusters: Any, seed: int) -> Any:
    """How often each layer repairs most when clusters are resampled; the lowest of equals.  [layer]"""
    kinds = np.unique(clusters)
    sums = np.stack([hits[:, clusters == c].sum(1) for c in kinds], axis=1)
    picks = np.random.default_rng(seed).integers(len(kinds), size=(RESAMPLES, len(kinds)))
    return np.bincount(sums[:, picks].sum(2).argmax(0), minlength=len(hits))


def _world_name(kind: str, at: int) -> str:
    return f"{kind} L{at}"


def _worlds(bench: Bench, protocol: Protocol) -> list[World]:
    """All, even and odd heads of each layer; all heads of all layers; two edits that write nothing."""
    grid, layers = bench.lab.grid, _layers(bench)
    sets = {"all": all_heads, "even": even, "odd": odd}
    out = [
        protocol_patch(protocol, _world_name(kind, n), made)
        for n in layers
        for kind, make in sets.items()
        if len(made := make(grid, n))
    ]

    def everywhere(name: str, **fields: Any) -> World:
        ones = [protocol_patch(protocol, name, all_heads(grid, n), **fields).interventions for n in layers]
        return World(name, tuple(one for (one,) in ones))

    own = World("noop") if protocol.when == "every_step" else everywhere("noop", write="noop")
    return [*out, everywhere("all"), everywhere("baseline", amount=0.0), own]


def _reading(bench: Bench, protocol: Protocol, able: Eligibility, at: int, chosen: Sequence[NamedEstimate]) -> Made:
    import pandas as pd

    standard, claim, seed = protocol.name == "standard", bench.claim, bench.seed
    words = _WORDS[protocol.name]
    if (nothing := unsliced(bench, without_rank(claim), protocol, words)) is not None:
        return nothing
    pairs, worlds, what = able.usable(bench), _worlds(bench, protocol), f"{protocol.name} layers"
    effects = with_texts(
        bench.sweep(pairs, worlds, what), bench.texts(pairs, worlds, protocol, what),
        protocol=protocol.name, arm=protocol.site,
    )  # fmt: skip
    scan = scan_table(effects, _layers(bench), seed)
    findings: dict[str, Estimate | Rank] = {
        **_findings(effects, at, seed),
        **elsewhere(effects, _layers(bench), at, claim),
    }
    estimates = [
        named(k, k.replace(":", ", "), v, protocol.site) for k, v in findings.items() if isinstance(v, Estimate)
    ]
    controls: list[Control] = [
        no_op_control(effects, bench.lab), patch_all_control(effects, seed, "every head of every layer")
    ]  # fmt: skip
    figures = [_scan_figure(scan, protocol, claim)]
    prefix = "" if standard else f"{protocol.name}_"
    tables: dict[str, Any] = {f"{prefix}scan": pd.DataFrame(scan)}
    parts = [effects]
    if standard:
        nulls = {n: matched_null(bench, pairs, even(bench.lab.grid, n), NAIVE) for n in _layers(bench)}
        findings["rank:even"] = nulls[at].rank
        tests = parity_tests(effects, nulls, seed)
        estimates += [named("rank:even", f"layer {at}: matched halves at least as extreme", nulls[at].rank.estimate)]
        estimates += [*_holm_estimates(tests), *chosen]
        figures.append(null_figure(nulls[at], at, "Even against odd", "the even heads", "even − odd"))
        tables |= {"tests": pd.DataFrame(tests), "matched": _matched(nulls)}
        parts += [n.effects.assign(protocol="standard", arm="z", world=lambda t, at=k: f"L{at} " + t["world"])
                  for k, n in nulls.items()]  # fmt: skip
    verdict = decide(claim if standard else without_rank(claim), findings, controls, ineligible=able.reason)
    reading = Reading(protocol=protocol.name, words=words, verdict=verdict, estimates=tuple(estimates))
    return {"reading": reading, "effects": parts, "figures": figures, "tables": tables}


def _findings(effects: Any, at: int, seed: int) -> dict[str, Estimate]:
    """Repair and recovery at the chosen layer."""
    there = [k for k in SETS if (effects["world"] == _world_name(k, at)).any()]
    out = {f"repair:{k}": repair(effects, _world_name(k, at)) for k in there}
    return out | {f"recovery:{k}": recovery(effects, _world_name(k, at), seed=seed) for k in there}


def elsewhere(effects: Any, layers: Sequence[int], at: int, claim: Claim) -> dict[str, Estimate]:
    """The most that any other layer repairs, patching all or even heads; bounds that hold for all layers at once."""
    others = [n for n in layers if n != at]
    out = {}
    for key, kind in (("repair:elsewhere", "all"), ("repair:elsewhere-even", "even")):
        level = 1 - claim.alpha / max(1, len(others))
        found = []
        for n in others:
            rows = of_world(effects, _world_name(kind, n))
            found.append(
                clustered_rate(
                    rows["right"].to_numpy(bool),
                    clusters=rows["cluster"].to_numpy(),
                    unit="pairs",
                    level=level,
                )
            )
        known = [e for e in found if e.value is not None and e.low is not None and e.high is not None]
        if not known:
            out[key] = Estimate.undefined("pairs", 0, "there is no other layer")
            continue
        value, low, high = (max(getattr(e, part) for e in known) for part in ("value", "low", "high"))
        best = others[[e.value for e in found].index(value)]
        out[key] = Estimate(
            value, low, high, known[0].n, "pairs", f"largest of {len(others)} layers, Bonferroni bounds",
            note=f"layer {best} repairs most of the others",
        )  # fmt: skip
    return out


def scan_table(effects: Any, layers: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """A row for each layer and set: pairs repaired, and logit difference recovered."""
    rows = []
    for n in layers:
        for kind in SETS:
            name = _world_name(kind, n)
            if not (effects["world"] == name).any():
                continue
            r, c = repair(effects, name), recovery(effects, name, seed=seed)
            rows.append(
                {
                    "layer": n, "set": kind, "repaired": r.value, "low": r.low, "high": r.high, "n": r.n,
                    "recovered": c.value, "recovered_low": c.low, "recovered_high": c.high, "unit": "pairs",
                }
            )  # fmt: skip
    return rows


def parity_tests(effects: Any, nulls: Mapping[int, Null], seed: int) -> list[dict[str, Any]]:
    """Even against odd at each layer: sign flips by fraction pair and rank among matched halves, Holm over layers."""
    rows = []
    for n, null in nulls.items():
        a, b = (of_world(effects, _world_name(k, n)).sort_values("pair") for k in ("even", "odd"))
        gap = a["right"].to_numpy(float) - b["right"].to_numpy(float)
        flips = sign_flip(gap, clusters=a["cluster"].to_numpy(), seed=seed)
        rows.append(
            {
                "layer": n, "contrast": float(gap.mean()), "n": len(gap), "p": flips.p, "rank_p": null.rank.p,
                "halves": null.rank.n_sets, "recovery_contrast": null.contrast.value,
            }
        )  # fmt: skip
    for key in ("p", "rank_p"):
        for row, p in zip(rows, holm([r[key] for r in rows]), strict=True):
            row[f"{key}_holm"] = float(p)
    return rows


def _holm_estimates(tests: Sequence[Mapping[str, Any]]) -> list[NamedEstimate]:
    out = []
    for row in tests:
        words = f"layer {row['layer']}: even against odd, sign flips, p after Holm over {len(tests)} layers"
        p = row["p_holm"]
        out.append(named(f"holm:L{row['layer']}", words, Estimate(p, p, p, row["n"], "pairs", "sign flips, Holm")))
    return out


def _matched(nulls: Mapping[int, Null]) -> Any:
    import pandas as pd

    return pd.concat([n.table.assign(layer=at) for at, n in nulls.items()], ignore_index=True)


def _scan_figure(scan: Sequence[Mapping[str, Any]], protocol: Protocol, claim: Claim) -> Figure:
    data = tuple(
        {"x": r["layer"], "y": r["repaired"], "low": r["low"], "high": r["high"], "series": SETS[r["set"]], "n": r["n"]}
        for r in scan
    )
    how = "chosen on other pairs" if claim.layer == "auto" else "named by the claim"
    return Figure(
        kind="curve", name=f"layers-{protocol.name}", title=f"Pairs repaired, by the layer patched ({protocol.name})",
        caption=(
            "All, even or odd heads of one layer take the clean run's values; bands are 95 % intervals over pairs. The layer "
            f"of the verdict was {how}, so its bar is not the best of many looks. A claim of one layer asks for one peak."
        ),
        data=data, options={"threshold": 0.5, "x_title": "layer patched", "y_title": "share of pairs repaired"},
    )  # fmt: skip


_WORDS = {
    "standard": "heads (z), same roles, every layer; the layer chosen on pairs that the test never sees",
    "published": "slices of the attention module's output, left-aligned, every step, any mention counted, every layer",
}

_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Patching a layer also carries what every layer below it has written into it, so a later layer can repair "
            "although the computation stands earlier, and two layers that repair need not both be needed. Even against odd "
            "differs at many layers of models in which parity means nothing, because one or two heads carry a layer: a "
            "small p of the sign flips speaks of these pairs, only the rank among matched halves speaks of parity. A layer "
            "chosen and tested on the same pairs looks better than it is."
        ),
    }
]

EXPERIMENT = Experiment(
    "layer-scan",
    "Does patching one layer alone repair the bug, its even heads and not its odd ones?",
    layer_scan,
    STATISTICS,
    design=design,
)

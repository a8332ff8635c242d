"""How many heads must be patched, and do more of them interfere?

1. Eligible pairs and the layer as in ``parity``.
2. Random subsets of every size from three pools (the claim's, even or odd, and any), patched from the clean run.  A
   pair counts as repaired when its logit difference is positive; greedy text of the whole pool checks that reading.
3. Nested chains: what one more head adds, at every size, with its sign ("interference" would be negative).
4. Three accounts of success compared on subsets they have not seen: which heads (additive), how many (count), which
   heads and which pairs of heads (pairwise).
5. Entropy of each head's pattern in bits, never summed over heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Claim, Protocol, decide
from headlab.designs import chains, membership, subsets
from headlab.effects import Figure, mean_recovery, pivot
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    choose_layer,
    eligibility,
    named,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
    with_texts,
)
from headlab.heads import Grid, Heads, pool
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, World
from headlab.measures.attention import entropy
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, bootstrap_mean, held_out_deviance
from headlab.stats.crossed import rate_over_sets
from headlab.store import NamedEstimate, Reading

STATISTICS = ("repair:quarter", "repair:fewer", "repair:more")
CHAINS = 20
PUBLISHED_SUBSETS = 10


def sizes(grid: Grid) -> dict[str, int]:
    """The sizes that the claim names, as shares of a layer: 8, 7 and 12 of 32 heads."""
    quarter = max(1, grid.n_heads // 4)
    return {"quarter": quarter, "fewer": quarter - 1, "more": max(quarter + 1, 3 * grid.n_heads // 8)}


def pools(grid: Grid, claim: Claim, at: int) -> dict[str, Heads]:
    """The claim's pool first, then even, odd and any."""
    names = dict.fromkeys([claim.pool, "even", "odd", "any"])
    return {name: pool(grid, at, name) for name in names}


def _world(heads: Heads) -> World:
    return World(f"set {heads}" if len(heads) else "set", (Intervention(heads),) if len(heads) else ())


def draws(grid: Grid, claim: Claim, at: int) -> list[tuple[str, int, Heads]]:
    """``(pool, size, subset)`` for every size of every pool."""
    return [
        (name, size, one)
        for name, members in pools(grid, claim, at).items()
        for size in range(len(members) + 1)
        for one in subsets(members, size, n=claim.subsets_per_size, seed=claim.seed)
    ]


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """Every subset once, and the chains."""
    nested = [h for chain in chains(all_heads(grid, at), n=CHAINS, seed=claim.seed) for h in chain]
    return [_world(h) for h in dict.fromkeys([*(h for _, _, h in draws(grid, claim, at)), *nested])]


def head_count(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    chosen = [encode(p, lab.tokenizer) for p in bench.selection] if claim.layer == "auto" else []
    at, scan = choose_layer(bench, chosen)
    readings: list[Reading] = []
    figures: list[Figure] = []
    tables: dict[str, Any] = {}
    suited, effects = {}, []
    for name in claim.readings:
        protocol = PROTOCOLS[name]
        able = eligibility(bench, protocol)
        suited[name] = able.plain()
        made = (_standard if name == "standard" else _published)(bench, protocol, able, at)
        readings.append(made["reading"])
        figures += made["figures"]
        tables |= made["tables"]
        effects.append(made["effects"])
    tables["effects"] = pd.concat(effects, ignore_index=True)
    return Outcome(
        readings, figures, tables, {**suited[claim.readings[0]], "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan, "sizes": sizes(lab.grid)}, sections=_SECTIONS,
    )  # fmt: skip


def _control_worlds(protocol: Protocol, whole: Heads) -> list[World]:
    return [
        protocol_patch(protocol, "all", whole),
        protocol_patch(protocol, "baseline", whole, amount=0.0),
        no_op_world(protocol, whole),
    ]


def _standard(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> dict[str, Any]:
    import pandas as pd

    claim, grid, seed = bench.claim, bench.lab.grid, bench.seed
    pairs = able.usable(bench)
    whole = all_heads(grid, at)
    special = _control_worlds(protocol, whole)
    checked = bench.sweep(pairs, special, f"controls L{at}")
    checked = with_texts(
        checked, bench.texts(pairs, special, protocol, f"controls L{at}"), protocol="standard", arm="z"
    )
    worlds = design(grid, claim, at)
    swept = bench.sweep(pairs, worlds, f"subsets L{at}")
    values = dict(zip([w.name for w in worlds], pivot(swept, [w.name for w in worlds]), strict=True))
    one = swept.drop_duplicates("pair").sort_values("pair")
    curve = _curve(draws(grid, claim, at), values, one["cluster"].to_numpy(), pools(grid, claim, at))
    chain = _chains(bench, at, values, one)
    models = _models(draws(grid, claim, at), values, whole, seed)
    entropy = _entropy(bench, pairs, at)
    findings = _findings(claim, grid, curve)
    estimates = [named(k, k.replace(":", ", "), v) for k, v in findings.items()]
    estimates += [
        named(f"threshold:{p}", f"heads from {p} until most pairs are repaired", e)
        for p, e in thresholds(curve).items()
    ]
    estimates += [*chain["estimates"], *models["estimates"], *entropy["estimates"]]
    controls = [no_op_control(checked, bench.lab), patch_all_control(checked, seed)]
    verdict = decide(claim, findings, controls, ineligible=able.reason)
    reading = Reading(
        protocol="standard",
        words="heads (z), same roles, random subsets of every size",
        verdict=verdict,
        estimates=tuple(estimates),
    )
    table = pd.DataFrame(
        [
            {"pool": p, "size": s, "heads": str(h), "world": _world(h).name, "arm": "z"}
            for p, s, h in draws(grid, claim, at)
        ]
    )
    return {
        "reading": reading,
        "figures": [_curve_figure(curve, at, claim), chain["figure"]],
        "tables": {
            "subsets": table,
            "curve": pd.DataFrame(curve),
            "chains": chain["table"],
            "models": models["table"],
            "entropy": entropy["table"],
        },
        "effects": pd.concat([checked, swept.assign(protocol="standard", arm="z")], ignore_index=True),
    }


def _curve(
    drawn: Sequence[tuple[str, int, Heads]],
    values: Mapping[str, Any],
    clusters: Any,
    members: Mapping[str, Heads],
) -> list[dict[str, Any]]:
    """Share of pair × subset rows repaired, by pool and size."""
    cells: dict[tuple[str, int], list[Heads]] = {}
    for name, size, heads in drawn:
        cells.setdefault((name, size), []).append(heads)
    out = []
    for (name, size), sets in cells.items():
        hits = np.stack([values[_world(h).name] > 0 for h in sets])
        whole = len(sets) == math.comb(len(members[name]), size)
        rate = rate_over_sets(hits, clusters, all_subsets=whole)
        row = {"pool": name, "size": size, "subsets": len(sets), "all_subsets": whole}
        out.append(
            row | {"repaired": rate.value, "low": rate.low, "high": rate.high, "n": rate.n, "method": rate.method}
        )
    return out


def _at(curve: Sequence[dict[str, Any]], name: str, size: int) -> Estimate | None:
    for row in curve:
        if row["pool"] == name and row["size"] == size:
            return Estimate(row["repaired"], row["low"], row["high"], row["n"], "pairs × subsets", row["method"])
    return None


def _findings(claim: Claim, grid: Grid, curve: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    wanted = sizes(grid)
    found = {
        "repair:quarter": _at(curve, claim.pool, wanted["quarter"]),
        "repair:fewer": _at(curve, claim.pool, wanted["fewer"]),
        "repair:more": _at(curve, "any", wanted["more"]),
    }
    return {k: v for k, v in found.items() if v is not None}


def thresholds(curve: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """The smallest size whose repair lower bound exceeds .5, by pool; its low end is the smallest size whose upper
    bound does.  Undefined where no size gets there."""
    out = {}
    for name in dict.fromkeys(row["pool"] for row in curve):
        rows = sorted((r for r in curve if r["pool"] == name), key=lambda r: r["size"])
        sure = [r["size"] for r in rows if r["low"] is not None and r["low"] > 0.5]
        may = [r["size"] for r in rows if r["high"] is not None and r["high"] > 0.5]
        method, unit = "first size with its lower (upper) bound above .5", "sizes"
        if sure:
            out[name] = Estimate(float(sure[0]), float(may[0]), float(sure[0]), len(rows), unit, method)
        else:
            out[name] = Estimate.undefined(unit, len(rows), "no size repairs most pairs")
    return out


def _chains(bench: Bench, at: int, values: Any, one: Any) -> dict[str, Any]:
    """What one more head adds to the recovery of the logit difference, along nested chains."""
    import pandas as pd

    grid, seed = bench.lab.grid, bench.seed
    clean, corrupted = one["clean"].to_numpy(), one["corrupted"].to_numpy()
    nested = chains(all_heads(grid, at), n=CHAINS, seed=seed)
    recovered = np.array(
        [[float(mean_recovery(values[_world(h).name], clean, corrupted)) for h in chain] for chain in nested]
    )
    gained = np.diff(recovered, axis=1)
    rows, estimates = [], []
    for size in range(gained.shape[1]):
        e = bootstrap_mean(gained[:, size], unit="chains", seed=seed)
        rows.append({"x": size + 1, "y": e.value, "low": e.low, "high": e.high, "series": "one more head"})
    last = bootstrap_mean(gained[:, grid.n_heads // 2 :].mean(1), unit="chains", seed=seed)
    estimates.append(named("gain:late", "recovery that one more head adds in the second half of a chain", last))
    figure = Figure(
        kind="curve", name="chains", title="What one more head adds",
        caption=f"Mean gain in recovered logit difference along {CHAINS} random nested chains of layer {at}, with 95 % intervals "
        "over chains. Interference would be below zero.",
        data=tuple(rows), options={"threshold": 0.0, "x_title": "heads patched", "y_title": "gain in recovery"},
    )  # fmt: skip
    table = pd.DataFrame(
        {
            "chain": np.repeat(np.arange(CHAINS), recovered.shape[1]),
            "size": np.tile(np.arange(recovered.shape[1]), CHAINS),
            "recovery": recovered.ravel(),
        }
    )
    return {"estimates": estimates, "figure": figure, "table": table}


def _models(drawn: Sequence[tuple[str, int, Heads]], values: Any, whole: Heads, seed: int) -> dict[str, Any]:
    """Held-out deviance of the three accounts of success."""
    import pandas as pd

    sets = list(dict.fromkeys(h for _, _, h in drawn))
    inside = np.array(list(membership(sets, whole)))
    share = np.array([(values[_world(h).name] > 0).mean() for h in sets])
    found = held_out_deviance(inside, share, trials=len(next(iter(values.values()))), seed=seed)
    estimates = [named(f"deviance:{k}", f"{k} account: deviance on unseen subsets", e) for k, e in found.items()]
    table = pd.DataFrame([{"account": k, **e.to_dict()} for k, e in found.items()])
    return {"estimates": estimates, "table": table}


def _entropy(bench: Bench, pairs: Sequence[EncodedPair], at: int) -> dict[str, Any]:
    """Entropy in bits of each head's pattern where the clean answer is decided."""
    found: Any = entropy(bench.lab, [p.clean for p in pairs], at="decision", layers=[at])
    clusters = [p.pair.cluster or p.pair.id for p in pairs]
    each = found.groupby("head")["bits"].mean()
    mean = bootstrap_mean(
        found.groupby("prompt")["bits"].mean().to_numpy(), clusters=clusters, unit="pairs", seed=bench.seed
    )
    return {
        "estimates": [named("entropy:head", "entropy of one head's pattern, bits, mean over heads", mean)],
        "table": each.rename(lambda h: f"L{at}H{h}").reset_index(),
    }


def _published(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> dict[str, Any]:
    import pandas as pd

    claim, grid, seed = bench.claim, bench.lab.grid, bench.seed
    pairs, whole = able.usable(bench), all_heads(grid, at)
    drawn = [
        (name, size, h)
        for name, size in (
            (claim.pool, sizes(grid)["fewer"]), (claim.pool, sizes(grid)["quarter"]), ("any", sizes(grid)["more"]),
            (claim.pool, len(pool(grid, at, claim.pool))),
        )
        for h in subsets(pool(grid, at, name), min(size, len(pool(grid, at, name))), n=PUBLISHED_SUBSETS, seed=seed)
    ]  # fmt: skip
    sets = list(dict.fromkeys(h for _, _, h in drawn if len(h)))
    worlds = [*_control_worlds(protocol, whole), *(protocol_patch(protocol, _world(h).name, h) for h in sets)]
    effects = bench.sweep(pairs, worlds, f"published subsets L{at}")
    texts = bench.texts(pairs, worlds, protocol, f"published subsets L{at}")
    effects = with_texts(effects, texts, protocol="published", arm="out_block")
    right = pivot(effects.assign(right=effects["right"].astype(float)), [w.name for w in worlds], "right")
    values = {w.name: r - 0.5 for w, r in zip(worlds, right, strict=True)}
    values.setdefault("set", values["baseline"])
    one = effects.drop_duplicates("pair").sort_values("pair")
    curve = _curve(drawn, values, one["cluster"].to_numpy(), pools(grid, claim, at))
    findings = _findings(claim, grid, curve)
    controls = [no_op_control(effects, bench.lab), patch_all_control(effects, seed, "every slice of the layer")]
    reading = Reading(
        protocol="published",
        words="slices of the attention module's output, left-aligned, every step, any mention counted",
        verdict=decide(claim, findings, controls, ineligible=able.reason),
        estimates=tuple(
            NamedEstimate(name=k, label=k.replace(":", ", "), arm="out_block", estimate=v.to_dict())
            for k, v in findings.items()
        ),
    )
    return {"reading": reading, "figures": [], "tables": {"published_curve": pd.DataFrame(curve)}, "effects": effects}


def _curve_figure(curve: Sequence[dict[str, Any]], at: int, claim: Claim) -> Figure:
    data = tuple(
        {
            "x": r["size"],
            "y": r["repaired"],
            "low": r["low"],
            "high": r["high"],
            "series": f"from {r['pool']}",
            "n": r["n"],
        }
        for r in curve
    )
    return Figure(
        kind="curve", name="dose", title=f"Pairs repaired, by the number of heads patched at layer {at}",
        caption=(
            f"Up to {claim.subsets_per_size} random subsets of each size and pool; bands are 95 % intervals over pairs or over "
            "subsets, whichever is wider. A claim of an exact number asks for a step; a claim of interference for a fall."
        ),
        data=data, options={"threshold": 0.5, "x_title": "heads patched", "y_title": "share of pairs repaired"},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Repaired or not is the sign of one margin. If each head simply adds to that margin, a random subset repairs once "
            "enough has been added: the curve then looks like a critical number with redundancy, although nothing in the "
            "model counts heads. Compare the accounts by their deviance on unseen subsets before reading a threshold."
        ),
    }
]

EXPERIMENT = Experiment(
    "head-count",
    "How many heads of a pool must be patched, and do more of them interfere?",
    head_count,
    STATISTICS,
    design=design,
)

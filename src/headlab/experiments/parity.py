"""Do the even heads of one layer repair the bug, and the odd ones not?

1. Eligible pairs: right from the clean prompt, wrong from the corrupted one.
2. The layer is the claim's, or chosen on other pairs by patching all heads.
3. All, even and odd heads are patched from the clean run at z (heads), at out_block (slices of the module's output,
   which the published scripts called heads) and at a random subspace of the same rank.
4. The null: every size- and KV-matched half that nobody named.  Statistic: recovery of the logit difference by a set
   minus that by its complement.
5. The same claim under the published protocol, and under the naive reading (a fixed threshold, no null).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headlab.claims import PROTOCOLS, Claim, Protocol, Verdict, decide
from headlab.effects import Figure, of_world
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    choose_layer,
    contrast,
    eligibility,
    named,
    no_op_control,
    no_op_world,
    patch_all_control,
    protocol_patch,
    standard_estimates,
    with_texts,
)
from headlab.experiments.dose import dose_curve
from headlab.experiments.null import matched_null, null_figure, null_worlds
from headlab.heads import Grid, Heads, even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import World
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, Rank, mcnemar
from headlab.store import NamedEstimate, Reading

NAMED = {"all": "all heads", "even": "even heads", "odd": "odd heads"}
ARMS = ("z", "out_block", "subspace")
STATISTICS = (*(f"{what}:{s}" for what in ("repair", "recovery") for s in NAMED), "rank:even",
              "contrast:repair", "contrast:recovery", "null:naive", "mcnemar:even-odd")  # fmt: skip
NAIVE = 0.5


def parity(bench: Bench) -> Outcome:
    """Run the experiment."""
    claim, lab = bench.claim, bench.lab
    chosen = [encode(p, lab.tokenizer) for p in bench.selection] if claim.layer == "auto" else []
    at, scan = choose_layer(bench, chosen)
    readings, tables, figures = [], {"effects": [], "worlds": []}, []
    suited: dict[str, Any] = {}
    for name in claim.readings:
        protocol = PROTOCOLS[name]
        able = eligibility(bench, protocol)
        suited[name] = able.plain()
        if name == "standard":
            made = _standard(bench, protocol, able, at)
            figures += made["figures"]
            tables["matched"] = [made["matched"]]
        else:
            made = _published(bench, protocol, able, at)
        readings += made["readings"]
        tables["effects"].append(made["effects"])
        tables["worlds"].append(made["worlds"])
    import pandas as pd

    joined = {
        name: pd.concat([p for p in parts if p is not None], ignore_index=True)
        for name, parts in tables.items()
        if any(p is not None for p in parts)
    }
    figures.append(_arms_figure(readings))
    first = suited[claim.readings[0]]
    return Outcome(
        readings=readings,
        figures=figures,
        tables=joined,
        eligibility={**first, "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan},
        sections=_SECTIONS,
    )


def _sets(grid: Grid, at: int) -> dict[str, Heads]:
    return {"all": all_heads(grid, at), "even": even(grid, at), "odd": odd(grid, at)}


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """The worlds of the null, which are nearly all of a trial's."""
    return null_worlds(grid, even(grid, at), claim.matched_sets, claim.seed)


def _named_worlds(bench: Bench, protocol: Protocol, at: int, arm: str) -> list[World]:
    grid = bench.lab.grid
    whole = all_heads(grid, at)
    make = [protocol_patch(protocol, name, heads, site=arm) for name, heads in _sets(grid, at).items()]
    make.append(protocol_patch(protocol, "baseline", whole, site=arm, amount=0.0))
    return [*make, no_op_world(protocol, whole, arm)]


def _measure(bench: Bench, protocol: Protocol, pairs: list[EncodedPair], at: int, arm: str) -> Any:
    worlds = _named_worlds(bench, protocol, at, arm)
    what = f"{protocol.name} {arm} L{at}"
    effects = bench.sweep(pairs, worlds, what)
    texts = bench.texts(pairs, worlds, protocol, what)
    return with_texts(effects, texts, protocol=protocol.name, arm=arm)


def _standard(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> dict[str, Any]:
    import pandas as pd

    claim, pairs, seed = bench.claim, able.usable(bench), bench.seed
    tables = {arm: _measure(bench, protocol, pairs, at, arm) for arm in ARMS if _has_arm(bench, arm)}
    z = tables["z"]
    estimates: list[NamedEstimate] = []
    for arm, table in tables.items():
        estimates += standard_estimates(table, NAMED, seed, arm).values()
    dosed, dose_figure = dose_curve(bench, pairs, at, _sets(bench.lab.grid, at), NAMED)
    null = matched_null(bench, pairs, even(bench.lab.grid, at), NAIVE)
    where: Rank = null.rank
    gap = contrast(z, "even", "odd", seed)
    estimates += [
        named("contrast:repair", "even minus odd: pairs repaired", gap),
        named("contrast:recovery", "even minus odd: logit difference recovered", null.contrast),
        named("rank:even", "matched halves at least as extreme", where.estimate),
        named("null:naive", "matched halves with a repair contrast of at least .5", null.naive),
    ]
    estimates.append(named("mcnemar:even-odd", "even against odd: exact McNemar p on discordant pairs", _mcnemar(z)))
    findings: dict[str, Estimate | Rank] = {
        e.name: Estimate.from_dict(e.estimate) for e in estimates if e.arm == "z" and e.name != "rank:even"
    }
    findings["rank:even"] = where
    controls = [no_op_control(z, bench.lab), patch_all_control(z, seed)]
    verdict = decide(claim, findings, controls, ineligible=able.reason)
    words = "heads (z), same roles, the prompt and the shared start of the answer patched; matched halves as null"
    standard = Reading(protocol="standard", words=words, verdict=verdict, estimates=tuple(estimates))
    return {
        "readings": [standard, _naive(claim, gap, controls)],
        "figures": [null_figure(null, at, "Even against odd", "the even heads", "even − odd"), dose_figure],
        "effects": pd.concat(
            [*tables.values(), *(t.assign(protocol="standard", arm="z") for t in (dosed, null.effects))],
            ignore_index=True,
        ),
        "worlds": _world_table(bench, at, "standard", list(tables), null.sets),
        "matched": null.table,
    }


def _mcnemar(z: Any) -> Estimate:
    even_, odd = (of_world(z, w).sort_values("pair") for w in ("even", "odd"))
    found = mcnemar(even_["right"].to_numpy(bool), odd["right"].to_numpy(bool), even_["cluster"].to_numpy())
    return Estimate(found.p, found.p, found.p, found.discordant, "discordant pairs", "exact McNemar")


def _has_arm(bench: Bench, arm: str) -> bool:
    return arm == "z" or bench.lab.d_model % bench.lab.grid.n_heads == 0


def _naive(claim: Claim, gap: Estimate, controls: Sequence[Any]) -> Reading:
    """A fixed threshold on one contrast, no null: what finds parity by chance."""
    assert gap.value is not None
    found = abs(gap.value) >= NAIVE
    side = "even" if gap.value > 0 else "odd"
    sentence = (
        f"Finds parity: {side} heads repair {abs(gap.value):.2f} more of the pairs ({gap}), past the fixed {NAIVE}."
        if found
        else f"Finds no parity: the contrast {gap} stays under the fixed {NAIVE}."
    )
    verdict = Verdict(
        outcome="upheld" if found else "refuted",
        sentence=sentence,
        rulings=(),
        controls=tuple(controls),
        would_change="It asks no null: a layer whose effect sits in one or two heads passes by a coin toss.",
    )
    estimates = (named("contrast:repair", "even minus odd: pairs repaired", gap),)
    return Reading(
        protocol="naive",
        words="the same measurement read without a null: parity is found when |even − odd| ≥ .5, whichever side wins",
        verdict=verdict,
        estimates=estimates,
    )


def _published(bench: Bench, protocol: Protocol, able: Eligibility, at: int) -> dict[str, Any]:
    if not _has_arm(bench, "out_block"):
        why = f"{bench.lab.d_model} residual channels do not divide into {bench.lab.grid.n_heads} slices"
        verdict = decide(_without_rank(bench.claim), {}, [], impossible=f"it cannot run: {why}")
        return {
            "readings": [Reading(protocol="published", words=_PUBLISHED, verdict=verdict)],
            "effects": None,
            "worlds": None,
        }
    effects = _measure(bench, protocol, able.usable(bench), at, "out_block")
    estimates = list(standard_estimates(effects, NAMED, bench.seed, "out_block").values())
    findings = {e.name: Estimate.from_dict(e.estimate) for e in estimates}
    controls = [no_op_control(effects, bench.lab), patch_all_control(effects, bench.seed, "every slice of the layer")]
    verdict = decide(_without_rank(bench.claim), findings, controls, ineligible=able.reason)
    return {
        "readings": [Reading(protocol="published", words=_PUBLISHED, verdict=verdict, estimates=tuple(estimates))],
        "effects": effects,
        "worlds": _world_table(bench, at, "published", ["out_block"], []),
    }


_PUBLISHED = (
    "slices of the attention module's output, first positions pasted over first positions, every decode step "
    "overwritten, any mention of the right number counted"
)


def _without_rank(claim: Claim) -> Claim:
    """The published protocol has no null, so no rank."""
    kept = tuple(p for p in claim.predictions if p.op != "rank<")
    return claim.model_copy(update={"predictions": kept or claim.predictions})


def _world_table(bench: Bench, at: int, protocol: str, arms: list[str], sets: Sequence[Heads]) -> Any:
    import pandas as pd

    grid = bench.lab.grid
    members = _sets(grid, at)
    rows = [
        {"world": w, "arm": arm, "layer": at, "heads": str(h), "size": len(h), "family": w}
        for arm in arms
        for w, h in {**members, "baseline": Heads(), "noop": all_heads(grid, at)}.items()
    ]
    rows += [
        {"world": f"set {s}", "arm": "z", "layer": at, "heads": str(s), "size": len(s), "family": "matched"}
        for s in sets
    ]
    return pd.DataFrame(rows).assign(protocol=protocol)


def _arms_figure(readings: Sequence[Reading]) -> Figure:
    rows = []
    for reading in readings:
        for e in reading.estimates:
            if e.name.startswith("repair:"):
                rows.append(
                    {
                        "label": NAMED[e.name.split(":")[1]],
                        "group": f"{reading.protocol}: {e.arm}",
                        **{k: e.estimate[k] for k in ("value", "low", "high", "n", "unit")},
                    }
                )
    return Figure(
        kind="estimates",
        name="arms",
        title="Pairs repaired, by what was patched",
        caption=(
            "z is the heads themselves. out_block is a slice of the attention module's output, which published scripts "
            "called heads; subspace is a random direction set of the same rank, the control for it. Bars are 95 % intervals "
            "by prompt pair."
        ),
        data=tuple(rows),
        options={"threshold": 0.5, "x_title": "share of pairs repaired"},
    )


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "One or two heads often carry a whole layer's effect. Whether they happen to be even is a coin toss, so a large "
            "even/odd contrast is common in models in which parity means nothing: only its rank among matched halves, and "
            "its return in models trained from other seeds, speak for parity. The rank is about this model; for a claim "
            "about models the unit is the training seed."
        ),
    },
    {
        "heading": "What the published protocol compares",
        "text": (
            "The published scripts overwrote 1/n slices of the attention module's output after the output projection, which "
            "are residual coordinates and not heads; aligned prompts of different length from the left, so that digits were "
            "overwritten by other words; and wrote the clean run's first position into every generated token."
        ),
    },
]

EXPERIMENT = Experiment(
    "parity",
    "Do the even heads of one layer repair the bug, and the odd ones not, more than halves nobody named?",
    parity,
    STATISTICS,
    design=design,
)

"""Weight moved between the keys of a layer's patterns, by dose: what bandwidth-dose, bandwidth-repair and
format-masking share.

1. Keys by token role: numeric, format, and the frame (what stands before and after the question).
2. Doses of one write in the even, the odd and some random halves of a layer; the same with as many other keys.
3. The place of a half among matched halves at one dose.
4. The reading under the published decoding and grading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headlab.claims import PROTOCOLS, Claim, Control, Protocol, decide
from headlab.designs import matched_sets
from headlab.effects import Figure, mean_recovery, of_world, pivot, repair
from headlab.experiments.base import (
    Bench,
    Eligibility,
    choose_layer,
    named,
    no_op_control,
    patch_all_control,
    protocol_patch,
    with_texts,
)
from headlab.experiments.null import rank_by_pair
from headlab.heads import Grid, Heads, even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import Intervention, InterventionError, Site, When, World, Write, key_positions
from headlab.prompts import EncodedPair, encode
from headlab.stats import Estimate, Rank, bootstrap_ratio, paired_difference
from headlab.stats.crossed import rate_over_sets
from headlab.store import NamedEstimate, Reading
from headlab.tasks.decimals import NUMERIC_ROLES

CLASSES: dict[str, tuple[str, ...]] = {
    "numeric": NUMERIC_ROLES,
    "format": ("marker", "ask", "word", "colon", "or", "question", "comma", "cue"),
    "frame": ("marker", "cue"),
}
"""Token roles by class; the frame is the part of the format that one template has and another lacks."""

EVERY_HALF = "random halves"


@dataclass(frozen=True)
class Arm:
    """One write between keys: ``name`` in tables, ``label`` in figures."""

    name: str
    label: str
    write: Write
    keys: tuple[str, ...]
    from_keys: tuple[str, ...] | None = None
    decoy: bool = False

    def edit(self, heads: Heads, amount: float, *, seed: int = 0, when: When = "prefill") -> Intervention:
        """The write in these heads, at every query."""
        return Intervention(
            heads, "pattern", self.write, amount=amount, keys=self.keys, from_keys=self.from_keys,
            decoy=self.decoy, seed=seed, when=when,
        )  # fmt: skip

    def fits(self, pairs: Sequence[EncodedPair]) -> bool:
        """Whether every prompt has enough keys for it."""
        one = self.edit(Heads(), 0.0)
        try:
            return all(key_positions(one, p.corrupted)[0] for p in pairs)
        except InterventionError:
            return False

    def against(self, pairs: Sequence[EncodedPair]) -> Arm | None:
        """The same write on as many other keys; None where a prompt has too few of them."""
        other = replace(self, name=f"{self.name}-decoy", label=f"{self.label}: as many other keys", decoy=True)
        return other if other.fits(pairs) else None


def roles_of(pairs: Sequence[EncodedPair], name: str) -> tuple[str, ...]:
    """The roles of a class that every prompt has."""
    return tuple(r for r in CLASSES[name] if all(r in p.corrupted.roles for p in pairs))


def lacking(pairs: Sequence[EncodedPair], *names: str) -> str:
    """Why the prompts cannot be dosed; empty when they can."""
    absent = [n for n in names if not roles_of(pairs, n)]
    return (
        f"the prompts name no {' and no '.join(absent)} tokens (roles such as {CLASSES[absent[0]][0]})"
        if absent
        else ""
    )


def halves(grid: Grid, at: int, n: int, seed: int) -> dict[str, Heads]:
    """Even, odd, and ``n`` halves that nobody named (fewer where there are fewer)."""
    drawn = matched_sets(grid, even(grid, at), n=max(n, 1), seed=seed).sets
    others = [s for s in drawn if s not in (even(grid, at), odd(grid, at))]
    order = np.random.default_rng(seed).permutation(len(others))[:n]
    return {"even": even(grid, at), "odd": odd(grid, at), **{f"half {i}": others[j] for i, j in enumerate(order)}}


def world_name(arm: Arm, members: str, dose: float) -> str:
    return f"{arm.name} | {members} × {dose:g}"


def members_of(arm: Arm, arms: Sequence[Arm], sets: Mapping[str, Heads]) -> dict[str, list[str]]:
    """The sets that an arm is run in, random halves together; they are run in the first arm only."""
    out: dict[str, list[str]] = {}
    for name in sets:
        if arm == arms[0] or not name.startswith("half "):
            out.setdefault(EVERY_HALF if name.startswith("half ") else name, []).append(name)
    return out


def dose_worlds(arms: Sequence[Arm], sets: Mapping[str, Heads], doses: Sequence[float], seed: int) -> list[World]:
    """Every arm × set × dose."""
    return [
        World(world_name(arm, name, dose), (arm.edit(sets[name], dose, seed=seed),))
        for arm in arms
        for names in members_of(arm, arms, sets).values()
        for name in names
        for dose in doses
    ]


@dataclass(frozen=True)
class Doses:
    """Effects of every arm × set × dose, and the share of pairs answered rightly by dose."""

    effects: Any
    curve: Any


def run_doses(
    bench: Bench, pairs: Sequence[EncodedPair], arms: Sequence[Arm], sets: Mapping[str, Heads],
    doses: Sequence[float], what: str,
) -> Doses:  # fmt: skip
    """Sweep the doses; a pair counts as right when its logit difference is positive."""
    import pandas as pd

    effects = bench.sweep(pairs, dose_worlds(arms, sets, doses, bench.seed), what)
    clusters = effects.drop_duplicates("pair").sort_values("pair")["cluster"].to_numpy()
    rows = []
    for arm in arms:
        for label, members in members_of(arm, arms, sets).items():
            for dose in doses:
                hits = pivot(effects, [world_name(arm, m, dose) for m in members]) > 0
                e = rate_over_sets(hits, clusters, all_subsets=len(members) == 1)
                rows.append({"arm": arm.name, "set": label, "dose": dose, "sets": len(members),
                             "right": e.value, "low": e.low, "high": e.high, "n": e.n, "method": e.method})  # fmt: skip
    return Doses(effects, pd.DataFrame(rows))


def dose_figure(
    doses: Doses, arms: Sequence[Arm], *, name: str, title: str, caption: str, x_title: str, y_title: str
) -> Figure:
    """Share of pairs by dose: a line for each arm and set."""
    labels = {a.name: a.label for a in arms}
    data = tuple(
        {"x": r["dose"], "y": r["right"], "low": r["low"], "high": r["high"], "n": r["n"],
         "series": f"{r['set']}, {labels[r['arm']]}"}
        for r in doses.curve.to_dict("records")
        if r["arm"] in labels
    )  # fmt: skip
    options = {"threshold": 0.5, "x_title": x_title, "y_title": y_title}
    return Figure(kind="curve", name=name, title=title, caption=caption, data=data, options=options)


def with_answers(
    bench: Bench, pairs: Sequence[EncodedPair], worlds: Sequence[World], protocol: Protocol, what: str
) -> Any:
    """Effects with greedy text graded beside them."""
    effects = bench.sweep(pairs, worlds, what)
    return with_texts(effects, bench.texts(pairs, worlds, protocol, what), protocol=protocol.name, arm="pattern")


def control_worlds(protocol: Protocol, whole: Heads, idle: Intervention | None = None) -> list[World]:
    """Every head patched; a write of nothing new (``idle``, or a patch by nothing); the own pattern written back."""
    site: Site = "pattern"
    nothing = idle or Intervention(whole, site, "patch", amount=0.0)
    noop = World("noop", (Intervention(whole, site, "noop"),)) if protocol.when == "prefill" else World("noop")
    return [protocol_patch(protocol, "all", whole), World("baseline", (nothing,)), noop]


@dataclass(frozen=True)
class Ranked:
    """A half among matched halves under one write: its recovery, its rank, a row for each half, the effects."""

    recovery: Estimate
    rank: Rank
    table: Any
    effects: Any
    figure: Figure


def ranked(bench: Bench, pairs: Sequence[EncodedPair], observed: Heads, arm: Arm, dose: float, words: str) -> Ranked:
    """Where ``observed`` stands among the size- and KV-matched halves, by recovery of the logit difference."""
    import pandas as pd

    claim, at = bench.claim, observed.layers[0]
    matched = matched_sets(bench.lab.grid, observed, n=claim.matched_sets, seed=claim.seed)
    sets = list(dict.fromkeys([observed, *matched.sets]))
    worlds = [World(f"{arm.name} | set {s} × {dose:g}", (arm.edit(s, dose, seed=claim.seed),)) for s in sets]
    effects = bench.sweep(pairs, worlds, f"matched halves, {arm.name}")
    edited = pivot(effects, [w.name for w in worlds])
    one = effects.drop_duplicates("pair").sort_values("pair")
    clean, corrupted = one["clean"].to_numpy(), one["corrupted"].to_numpy()
    found = dict(zip(sets, mean_recovery(edited, clean, corrupted), strict=True))
    null = np.array([found[s] for s in matched.sets])
    by_set = dict(zip(sets, edited, strict=True))
    shown = np.stack([by_set[s] for s in (observed, *matched.sets)]) - corrupted
    place = rank_by_pair(shown, one["cluster"].to_numpy(), claim, enumerated=matched.enumerated)
    band = bootstrap_ratio(
        edited[0] - corrupted, clean - corrupted, clusters=one["cluster"].to_numpy(), unit="pairs", seed=claim.seed
    )
    figure = Figure(
        kind="null", name="null", title=f"{words}, among {place.n_sets} halves of layer {at} that nobody named",
        caption=(
            "Each bar counts halves with as many heads in each KV group by how much of the logit difference the same "
            f"write recovers in them. The line is the half that the claim names, its band the 95 % interval over {band.n} "
            f"pairs. {place.at_least_as_extreme} of {place.n_sets} halves recover at least as much: p = {place.p:.3g}."
        ),
        data=tuple({"value": float(v)} for v in null),
        options={"observed": band.value, "low": band.low, "high": band.high, "label": "the named half", "p": place.p,
                 "x_title": "logit difference recovered"},
    )  # fmt: skip
    table = pd.DataFrame({"heads": [str(s) for s in matched.sets], "recovery": null})
    return Ranked(band, place, table, effects, figure)


def gain(effects: Any, world: str, other: str, seed: int) -> Estimate:
    """Pairs answered rightly in one world minus those in another, paired by prompt pair."""
    a, b = (of_world(effects, w).sort_values("pair") for w in (world, other))
    return paired_difference(
        a["right"].to_numpy(bool), b["right"].to_numpy(bool), clusters=a["cluster"].to_numpy(), unit="pairs", seed=seed
    )


def measured(claim: Claim, findings: Mapping[str, Any]) -> Claim:
    """The claim with the predictions that a reading without null and decoys can speak to."""
    kept = tuple(p for p in claim.predictions if p.statistic in findings)
    return claim.model_copy(update={"predictions": kept or claim.predictions})


def published_reading(
    bench: Bench, able: Eligibility, at: int, worlds: Mapping[str, World], idle: Intervention, words: str,
    more: Sequence[Control] = (),
) -> tuple[Reading, Any]:  # fmt: skip
    """Named worlds (statistic → world) under the published decoding and grading, without null and decoys."""
    protocol = PROTOCOLS["published"]
    pairs, whole = able.usable(bench), all_heads(bench.lab.grid, at)
    special = control_worlds(protocol, whole, idle)
    effects = with_answers(bench, pairs, [*special, *worlds.values()], protocol, f"published L{at}")
    findings = {s: repair(effects, w.name) for s, w in worlds.items()}
    shown = patch_all_control(effects, bench.seed, "every slice of the layer")
    controls = [no_op_control(effects, bench.lab), shown, *more]
    verdict = decide(measured(bench.claim, findings), findings, controls, ineligible=able.reason)
    estimates = tuple(named(s, f"{s}: pairs called right", e, "pattern") for s, e in findings.items())
    return Reading(protocol="published", words=words, verdict=verdict, estimates=estimates), effects


def impossible_reading(claim: Claim, protocol: str, words: str, why: str) -> Reading:
    """A reading that could not be measured, and why."""
    return Reading(protocol=protocol, words=words, verdict=decide(claim, {}, [], impossible=why))


def layer_of(bench: Bench) -> tuple[int, list[dict[str, Any]]]:
    """The claim's layer, or the one chosen on selection pairs."""
    chosen = [encode(p, bench.lab.tokenizer) for p in bench.selection] if bench.claim.layer == "auto" else []
    return choose_layer(bench, chosen)


def estimates_of(findings: Mapping[str, Estimate], labels: Mapping[str, str]) -> list[NamedEstimate]:
    """Findings with their labels, arm ``pattern``."""
    return [named(k, labels.get(k, k.replace(":", ", ")), e, "pattern") for k, e in findings.items()]

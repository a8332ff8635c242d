"""Does less attention on the numbers break even heads, and does more of it repair odd ones?

1. Eligible pairs and the layer as in ``parity``.
2. Corrupted prompt: the share of every query's attention that lies on the numbers is forced to 0, 0.1 … 1 in the even,
   the odd and random halves of the layer (the rest keeps its proportions).  Which doses repair?
3. Clean prompt: the same.  Which doses break the answer?
4. Both again with as many other keys of the prompt in the numbers' place.
5. The two doses that were claimed (a low one for even heads, a high one for odd heads): greedy text, the gain over other
   keys, and the rank of the odd heads among matched halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headlab.claims import PROTOCOLS, Claim, Control, decide
from headlab.effects import of_world, repair
from headlab.engine.captures import capture
from headlab.engine.selfcheck import TOLERANCE
from headlab.experiments.base import (
    Bench,
    Eligibility,
    Experiment,
    Outcome,
    eligibility,
    no_op_control,
    patch_all_control,
)
from headlab.experiments.doses.dosing import (
    Arm,
    control_worlds,
    dose_figure,
    dose_worlds,
    estimates_of,
    gain,
    halves,
    impossible_reading,
    lacking,
    layer_of,
    published_reading,
    ranked,
    roles_of,
    run_doses,
    with_answers,
)
from headlab.heads import Grid, Heads, even, odd
from headlab.heads import layer as all_heads
from headlab.interventions import World, key_positions
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, Rank, clustered_rate
from headlab.store import Reading
from headlab.tasks.decimals import NUMERIC_ROLES

STATISTICS = ("repair:even", "repair:odd", "break:even", "break:odd", "gain:odd", "gain:even-break", "rank:odd")
OPTIONS = {"low": 0.3, "high": 0.5, "steps": 10, "random_halves": 8}
CONTROLS = ("no-op", "own-share", "patch-all")
STANDARD = "share of attention forced at every query of the prompt and of the shared start, heads told apart"
OWN_SHARE_PAIRS = 24
PUBLISHED = (
    "odd heads forced to the high share at every query and every generated token, free decoding, any mention of the right "
    "number counted; the published factors (½ on numbers, 1¾ on format tokens) reach the share they aim at only where a "
    "head happens to start at 60 %, so the share itself is forced; the published code could not run"
)


def arm_of(pairs: Sequence[EncodedPair]) -> Arm:
    return Arm("numbers", "numbers", "force", roles_of(pairs, "numeric"))


def own_share(lab: Any, pair: EncodedPair, pattern: Any, arm: Arm) -> list[float]:
    """The share of each head's row at the last prompt token that lies on the arm's keys, [head]."""
    keys, _ = key_positions(arm.edit(Heads(), 0.0), pair.corrupted)
    row = pattern[pair.corrupted.roles["last"][0]].double()
    return (row[:, keys].sum(-1) / row.sum(-1)).clamp(0, 1).tolist()


def own_share_control(bench: Bench, pairs: Sequence[EncodedPair], at: int, arm: Arm, reading: str) -> Control:
    """Every head forced, at the last prompt token, to the share that it has there: no logit difference may move."""
    lab, some = bench.lab, list(pairs[:OWN_SHARE_PAIRS])
    seen = capture(lab, [p.corrupted for p in some], [(at, "pattern")])[at, "pattern"]
    worlds = []
    for n, (pair, pattern) in enumerate(zip(some, seen, strict=True)):
        shares = own_share(lab, pair, pattern, arm)
        edits = tuple(
            replace(arm.edit(Heads.of(at, [h]), share), roles=("last",)) for h, share in enumerate(shares)
        )  # fmt: skip
        worlds.append(World(f"own share of pair {n}", edits))
    effects = bench.sweep(some, worlds, f"own share, {reading} L{at}")
    own: Any = effects[effects["world"] == [f"own share of pair {n}" for n in effects["pair"]]]
    gap = float((own["edited"] - own["corrupted"]).abs().max())
    scale = max(1.0, float(own["corrupted"].abs().max()))
    words = (
        f"forcing each head to the share it has changes no logit difference by more than {gap:.2g} ({len(own)} pairs)"
    )
    return Control(
        name="own-share", kind="negative", passed=len(own) == len(some) and gap <= TOLERANCE[lab.dtype] * scale,
        words=words, value=gap,
    )  # fmt: skip


def wrong(effects: Any, world: str) -> Estimate:
    """Share of pairs answered wrongly in a world."""
    rows = of_world(effects, world)
    return clustered_rate(~rows["right"].to_numpy(bool), clusters=rows["cluster"].to_numpy(), unit="pairs")


def clean_side(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The same pairs with the clean prompt in the place of the corrupted one: what is edited is the clean run."""
    return [replace(p, corrupted=p.clean) for p in pairs]


def doses_of(bench: Bench) -> list[float]:
    steps = max(int(bench.option("steps", EXPERIMENT)), 1)
    return [n / steps for n in range(steps + 1)]


def design(grid: Grid, claim: Claim, at: int) -> list[World]:
    """The dose grid of one side, without decoys."""
    options = {**OPTIONS, **claim.options}
    sets, steps = halves(grid, at, options["random_halves"], claim.seed), options["steps"]
    return dose_worlds(
        [Arm("numbers", "numbers", "force", NUMERIC_ROLES)], sets, [n / steps for n in range(steps + 1)], claim.seed
    )


def bandwidth_dose(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim = bench.claim
    at, scan = layer_of(bench)
    readings: list[Reading] = []
    figures, tables, suited, effects, notes = [], {}, {}, [], []
    for name in claim.readings:
        able = eligibility(bench, PROTOCOLS[name])
        suited[name] = able.plain()
        if why := lacking(able.usable(bench), "numeric"):
            readings.append(impossible_reading(claim, name, STANDARD, why))
        elif name == "standard":
            made = _standard(bench, able, at)
            readings.append(made["reading"])
            figures, tables, notes = made["figures"], made["tables"], made["notes"]
            effects += made["effects"]
        else:
            reading, table = _published(bench, able, at)
            readings.append(reading)
            effects.append(table.assign(side="corrupted"))
    if effects:
        tables["effects"] = pd.concat(effects, ignore_index=True)
    return Outcome(
        readings, figures, tables, {**suited[claim.readings[0]], "by_protocol": suited},
        settings={"layer": at, "layer_scan": scan}, sections=_SECTIONS, notes=notes,
    )  # fmt: skip


def _standard(bench: Bench, able: Eligibility, at: int) -> dict[str, Any]:
    pairs = able.usable(bench)
    sides = {"corrupted": pairs, "clean": clean_side(pairs)}
    arm, grid = arm_of(pairs), bench.lab.grid
    arms = {side: [a for a in (arm, arm.against(ps)) if a is not None] for side, ps in sides.items()}
    protocol, doses = PROTOCOLS["standard"], doses_of(bench)
    special = control_worlds(protocol, all_heads(grid, at))
    checked = with_answers(bench, pairs, special, protocol, f"controls L{at}")
    sets = halves(grid, at, int(bench.option("random_halves", EXPERIMENT)), bench.seed)
    swept = {side: run_doses(bench, ps, arms[side], sets, doses, f"doses, {side} L{at}") for side, ps in sides.items()}
    told = {side: _at_claimed(bench, ps, arms[side], at, side) for side, ps in sides.items()}
    place = ranked(
        bench, pairs, odd(grid, at), arm, float(bench.option("high", EXPERIMENT)), "Odd heads given the high share"
    )
    findings: dict[str, Estimate | Rank] = dict(_findings(told, arms, bench.seed))
    findings["rank:odd"] = place.rank
    controls = [
        no_op_control(checked, bench.lab),
        own_share_control(bench, pairs, at, arm, "standard"),
        patch_all_control(checked, bench.seed),
    ]
    verdict = decide(bench.claim, findings, controls, ineligible=able.reason)
    shown = {k: v for k, v in findings.items() if isinstance(v, Estimate)}
    shown |= {"rank:odd": place.rank.estimate, "recovery:odd": place.recovery}
    reading = Reading(
        protocol="standard", words=STANDARD, verdict=verdict, estimates=tuple(estimates_of(shown, _LABELS))
    )
    tables = {"doses": _joined(swept), "matched": place.table}
    effects = [checked.assign(side="corrupted"), place.effects.assign(side="corrupted")]
    for side in sides:
        effects += [swept[side].effects.assign(side=side), told[side].assign(side=side)]
    figures = [_figure(swept[side], arms[side], side, at) for side in sides]
    notes = [
        f"The {side} prompts have too few other tokens for as many keys as the numbers are: their doses have no such control."
        for side in sides
        if len(arms[side]) == 1
    ]
    return {
        "reading": reading, "figures": [*figures, place.figure], "tables": tables, "effects": effects, "notes": notes
    }  # fmt: skip


def _at_claimed(bench: Bench, pairs: Sequence[EncodedPair], arms: Sequence[Arm], at: int, side: str) -> Any:
    """Greedy text of even and odd heads at the claimed dose of this side: high repairs, low breaks."""
    dose = float(bench.option("high" if side == "corrupted" else "low", EXPERIMENT))
    both = {"even": even(bench.lab.grid, at), "odd": odd(bench.lab.grid, at)}
    worlds = [World(f"{a.name} | {s}", (a.edit(h, dose, seed=bench.seed),)) for a in arms for s, h in both.items()]
    return with_answers(bench, pairs, worlds, PROTOCOLS["standard"], f"claimed dose, {side} L{at}")


def _findings(told: Mapping[str, Any], arms: Mapping[str, Sequence[Arm]], seed: int) -> dict[str, Estimate]:
    found = {f"repair:{s}": repair(told["corrupted"], f"numbers | {s}") for s in ("even", "odd")}
    found |= {f"break:{s}": wrong(told["clean"], f"numbers | {s}") for s in ("even", "odd")}
    if len(arms["corrupted"]) > 1:
        found["gain:odd"] = gain(told["corrupted"], "numbers | odd", "numbers-decoy | odd", seed)
    if len(arms["clean"]) > 1:  # broken by numbers minus broken by others
        found["gain:even-break"] = gain(told["clean"], "numbers-decoy | even", "numbers | even", seed)
    return found


def _published(bench: Bench, able: Eligibility, at: int) -> tuple[Reading, Any]:
    grid, pairs = bench.lab.grid, able.usable(bench)
    arm = arm_of(pairs)
    up = arm.edit(odd(grid, at), float(bench.option("high", EXPERIMENT)), when="every_step")
    idle = Arm("idle", "", "mask", arm.keys).edit(all_heads(grid, at), 0.0, when="every_step")
    own = own_share_control(bench, pairs, at, arm, "published")
    return published_reading(bench, able, at, {"repair:odd": World("odd up", (up,))}, idle, PUBLISHED, [own])


def _joined(swept: Mapping[str, Any]) -> Any:
    import pandas as pd

    return pd.concat([d.curve.assign(side=side) for side, d in swept.items()], ignore_index=True)


def _figure(doses: Any, arms: Sequence[Arm], side: str, at: int) -> Any:
    said = "repaired" if side == "corrupted" else "still answered rightly"
    return dose_figure(
        doses, arms, name=f"dose-{side}",
        title=f"Pairs {said} when the heads of layer {at} give a forced share of attention to the numbers",
        caption=(
            f"The {side} prompt is edited. Even, odd and random halves of the layer; the share is forced on the numbers, or "
            "on as many other keys of the prompt. Bands are 95 % intervals over pairs (random halves: over pairs or over "
            "halves, whichever is wider). A bandwidth account asks for a rise on the numbers alone, near 40 %."
        ),
        x_title="forced share of attention", y_title=f"share of pairs {said}",
    )  # fmt: skip


_LABELS = {
    "repair:even": "even heads at the high share: pairs repaired",
    "repair:odd": "odd heads at the high share: pairs repaired",
    "break:even": "even heads at the low share: clean answers broken",
    "break:odd": "odd heads at the low share: clean answers broken",
    "gain:odd": "odd heads at the high share: repaired by numbers minus by as many other keys",
    "gain:even-break": "even heads at the low share: broken by numbers minus by as many other keys",
    "rank:odd": "matched halves at least as extreme",
    "recovery:odd": "odd heads at the high share: logit difference recovered",
}

_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Forcing a share sets it at every query alike, also where a head had a reason to look elsewhere, and takes weight "
            "from every other key, the resting place of the head included. A break or a repair may come from what was taken "
            "as well as from what was given; the other keys show how much of it is about numbers. A row without any weight "
            "on the numbers stays as it is."
        ),
    }
]

EXPERIMENT = Experiment(
    "bandwidth-dose",
    "Does less attention on the numbers break even heads, and does more of it repair odd ones?",
    bandwidth_dose,
    STATISTICS,
    CONTROLS,
    OPTIONS,
    design,
)

"""Does less attention on the numbers break even heads, and does more of it repair odd ones?

1. Eligible pairs (the greedy answer is right from the clean prompt, wrong from the corrupted one) and the layer (the
   claim's, or the one whose heads, all patched from the clean run, repair most of other pairs) are those of ``parity``.
2. A dose: in every row of a head's attention pattern the weights on the tokens of both numbers are scaled so that they make
   up a given share of the row, 0, 0.1 … 1; its other weights keep their proportions.  In the even heads, the odd ones and
   some random halves of the layer.
3. On the corrupted prompt: which doses repair?  On the clean prompt: which break the answer?
4. Both again with as many other keys of the prompt in the numbers' place, in the even and the odd heads.
5. The two doses that were claimed, by greedy text, in even and in odd heads: ``high`` on the corrupted prompt (repair: the
   share of pairs now right) and ``low`` on the clean one (break: the share now wrong).  Gain: the share by the numbers minus
   the share by as many other keys, in the same pairs.
6. The null: halves that nobody named with as many heads of each KV group, given ``high`` on the numbers.  Ranked is how much
   of the logit difference a half recovers; p is the share of halves with at least as much.
7. Controls: an edit that writes nothing new, and every head forced to the share that it has, change nothing; all heads
   patched from the clean run repair surely more than half of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from headlab.claims import Control
from headlab.effects import Table, graded, repair
from headlab.engine.captures import capture
from headlab.engine.selfcheck import TOLERANCE
from headlab.heads import Heads, odd
from headlab.interventions import World, key_positions
from headlab.prompts import EncodedPair
from headlab.stats import Estimate, clustered_rate
from headlab.trials.checks import no_op, patch_all
from headlab.trials.dose_repair import called_right
from headlab.trials.doses import AmongHalves, Arm, Doses, checked, clean_side, gain, lacking, named_halves, roles_of
from headlab.trials.flow import Method, OnPairs, what_is_measured
from headlab.trials.sweeps import Scope, Seen, Sweep, Told

SIDES = ("corrupted", "clean")
OWN_SHARE_PAIRS = 24
LABELS = {
    "repair:even": "even heads at the high share: pairs repaired",
    "repair:odd": "odd heads at the high share: pairs repaired",
    "break:even": "even heads at the low share: clean answers broken",
    "break:odd": "odd heads at the low share: clean answers broken",
    "gain:odd": "odd heads at the high share: repaired by numbers minus by as many other keys",
    "gain:even-break": "even heads at the low share: broken by numbers minus by as many other keys",
}


def numbers_of(scope: Scope) -> Arm:
    """The write: the share of attention that lies on the numbers, forced."""
    return Arm("numbers", "numbers", "force", roles_of(scope.pairs, "numeric"))


def pairs_of(scope: Scope, side: str) -> list[EncodedPair]:
    """The eligible pairs as a side is edited: what is edited stands as ``corrupted``, also where it is the clean prompt."""
    return scope.pairs if side == "corrupted" else clean_side(scope.pairs)


def arms(scope: Scope, side: str) -> list[Arm]:
    """The write, and the same on as many other keys where the prompts of this side have so many."""
    arm = numbers_of(scope)
    return [a for a in (arm, arm.against(pairs_of(scope, side))) if a is not None]


def doses(scope: Scope) -> list[float]:
    steps = max(int(scope.options["steps"]), 1)
    return [n / steps for n in range(steps + 1)]


DOSED = {side: Doses(partial(arms, side=side), doses, f"doses, {side}") for side in SIDES}
ODD = AmongHalves(numbers_of, "high", "Odd heads given the high share")


def claimed(scope: Scope, side: str) -> list[World]:
    """Even and odd heads at the claimed dose of this side: high (said to repair) on the corrupted prompt, low (said to break)
    on the clean one."""
    dose = float(scope.options["high" if side == "corrupted" else "low"])
    return [
        World(f"{arm.name} | {s}", (arm.edit(heads, dose, seed=scope.seed),))
        for arm in arms(scope, side)
        for s, heads in named_halves(scope).items()
    ]


def standard(scope: Scope) -> dict[str, Sweep]:
    def swept(side: str, worlds: Sequence[World], texts: bool = False) -> Sweep:
        return Sweep(worlds, texts, "pattern", {"side": side}, pairs_of(scope, side))

    out = {"fixed": swept("corrupted", checked(scope), texts=True)}
    out["matched"] = replace(swept("corrupted", ()), among=ODD.among(scope))
    for side in SIDES:
        out[f"doses, {side}"] = swept(side, DOSED[side].worlds(scope))
        out[f"claimed, {side}"] = swept(side, claimed(scope, side), texts=True)
    return out


def published(scope: Scope) -> dict[str, Sweep]:
    up = numbers_of(scope).edit(odd(scope.grid, scope.layer), float(scope.options["high"]), when="every_step")
    idle = Arm("idle", "", "mask", numbers_of(scope).keys).edit(scope.whole, 0.0, when="every_step")
    worlds = (*checked(scope, idle), World("odd up", (up,)))
    return {"fixed": Sweep(worlds, texts=True, arm="pattern", labels={"side": "corrupted"})}


def told(seen: Seen) -> Iterator[Told]:
    corrupted, clean, seed = seen["claimed, corrupted"], seen["claimed, clean"], seen.scope.seed
    found = {f"repair:{s}": repair(corrupted, f"numbers | {s}") for s in ("even", "odd")}
    found |= {f"break:{s}": wrong(clean, f"numbers | {s}") for s in ("even", "odd")}
    if len(arms(seen.scope, "corrupted")) > 1:
        found["gain:odd"] = gain(corrupted, "numbers | odd", "numbers-decoy | odd", seed)
    if len(arms(seen.scope, "clean")) > 1:  # broken by numbers minus broken by others
        found["gain:even-break"] = gain(clean, "numbers-decoy | even", "numbers | even", seed)
    return (Told(name, LABELS[name], e, "pattern") for name, e in found.items())


def wrong(effects: Any, world: str) -> Estimate:
    """Share of pairs answered wrongly in a world."""
    rows = graded(effects, world)
    return clustered_rate(~rows["right"].to_numpy(bool), clusters=rows["cluster"].to_numpy(), unit="pairs")


def own_share(pair: EncodedPair, pattern: Any, arm: Arm) -> list[float]:
    """The share of each head's row at the last prompt token that lies on the arm's keys, [head]."""
    keys, _ = key_positions(arm.edit(Heads(), 0.0), pair.corrupted)
    row = pattern[pair.corrupted.roles["last"][0]].double()
    return (row[:, keys].sum(-1) / row.sum(-1)).clamp(0, 1).tolist()


def own_share_control(seen: Seen) -> Control:
    """Every head forced, at the last prompt token, to the share that it has there: no logit difference may move."""
    scope, at = seen.scope, seen.scope.layer
    arm, some = numbers_of(scope), scope.pairs[:OWN_SHARE_PAIRS]
    patterns = capture(scope.lab, [p.corrupted for p in some], [(at, "pattern")])[at, "pattern"]
    worlds = []
    for n, (pair, pattern) in enumerate(zip(some, patterns, strict=True)):
        shares = enumerate(own_share(pair, pattern, arm))
        edits = (replace(arm.edit(Heads.of(at, [h]), share), roles=("last",)) for h, share in shares)
        worlds.append(World(f"own share of pair {n}", tuple(edits)))
    effects = seen.case.sweep(some, worlds, f"own share, {scope.protocol.name} L{at}")
    own: Any = effects[effects["world"] == [f"own share of pair {n}" for n in effects["pair"]]]
    gap = float((own["edited"] - own["corrupted"]).abs().max())
    scale = max(1.0, float(own["corrupted"].abs().max()))
    words = (
        f"forcing each head to the share it has changes no logit difference by more than {gap:.2g} ({len(own)} pairs)"
    )
    passed = len(own) == len(some) and gap <= TOLERANCE[scope.lab.dtype] * scale
    return Control(name="own-share", kind="negative", passed=passed, words=words, value=gap)


def curves(seen: Seen) -> Table:
    return pd.concat([DOSED[side].curve(seen).assign(side=side) for side in SIDES], ignore_index=True)


def few_tokens(seen: Seen) -> list[str]:
    return [
        f"The {side} prompts have too few other tokens for as many keys as the numbers are: their doses have no such control."
        for side in SIDES
        if len(arms(seen.scope, side)) == 1
    ]


def by_dose(side: str) -> Any:
    said = "repaired" if side == "corrupted" else "still answered rightly"
    return DOSED[side].figure(
        f"dose-{side}",
        f"Pairs {said} when the heads of layer {{}} give a forced share of attention to the numbers",
        f"The {side} prompt is edited. Even, odd and random halves of the layer; the share is forced on the numbers, or on as "
        "many other keys of the prompt. Bands are 95 % intervals over pairs (random halves: over pairs or over halves, "
        "whichever is wider). A bandwidth account asks for a rise on the numbers alone, near 40 %.",
        "forced share of attention",
        f"share of pairs {said}",
    )


EXPERIMENT = OnPairs(
    slug="bandwidth-dose",
    question="Does less attention on the numbers break even heads, and does more of it repair odd ones?",
    statistics=(*LABELS, "rank:odd"),
    controls=("no-op", "own-share", "patch-all"),
    options={"low": 0.3, "high": 0.5, "steps": 10, "random_halves": 8},
    methods={
        "standard": Method(
            "share of attention forced at every query of the prompt and of the shared start, heads told apart",
            standard,
            numbers=(told, ODD.told("odd heads at the high share: logit difference recovered")),
            controls=(no_op("fixed"), own_share_control, patch_all("fixed")),
            figures=(by_dose("corrupted"), by_dose("clean"), ODD.figure),
            tables={"doses": curves, "matched": ODD.table},
            notes=few_tokens,
            impossible=lacking("numeric"),
        ),
        "published": Method(
            "odd heads forced to the high share at every query and every generated token, free decoding, any mention of the "
            "right number counted; the published code multiplied weights by fixed factors (numbers by ½, format tokens by 1¾), "
            "which reach the share they aim at only in a head that starts with 60 % on the numbers and the rest on format "
            "tokens, so the share itself is forced; it could not run as published",
            published,
            numbers=(called_right("fixed", {"odd up": "repair:odd"}),),
            controls=(no_op("fixed"), patch_all("fixed", "every slice of the layer"), own_share_control),
            impossible=lacking("numeric"),
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "Forcing a share sets it at every query alike, also where a head had a reason to look elsewhere, and takes weight "
            "from every other key, the resting place of the head included. A break or a repair may come from what was taken "
            "as well as from what was given; the other keys show how much of it is about numbers. A row without any weight "
            "on the numbers stays as it is."
        )
    },
)

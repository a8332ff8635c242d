"""Do the even heads of one layer repair the bug, and the odd ones not?

1. A pair asks about the same two numbers twice: in a format that the model answers rightly (clean) and in one that brings
   out the bug (corrupted).  Eligible pairs: the greedy answer is right from the clean prompt and wrong from the other.
2. The layer is the claim's, or the one whose heads, all patched, repair most of the selection pairs (by logit difference).
3. All, even and odd heads are patched: the run on the corrupted prompt goes on with what they gave in the clean one, token
   by token of the same role (first number, question mark …), up to the start that both answers share ("9." of 9.8 and
   9.11).  At z, the heads themselves; at out_block, slices of the attention module's output, which the published scripts
   called heads; and at subspace, such slices in a random basis, the control for out_block.
4. Repair: the share of eligible pairs whose greedy answer is now right.  Recovery: the share of the logit difference (the
   right answer's logit minus the wrong one's) between the clean and the corrupted run that comes back, over all pairs.
5. The null: halves that nobody named with as many heads of each KV group (heads that share keys and values); all of them
   where there are at most twice ``matched_sets``, else drawn at random until the rank is settled.  Ranked is recovery by a
   half minus recovery by the other heads of the layer; p is the share of halves with at least as much.
6. Controls: patched with what was there, nothing changes; all heads patched repair surely more than half of the pairs.
7. Beside it: the same heads moved to the clean run in ten steps; the claim by the published protocol; and the naive
   reading, in which a contrast of .5 in pairs repaired, whichever side wins, is parity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab.claims import Control, Verdict
from headlab.effects import Figure
from headlab.heads import Heads, even, odd
from headlab.stats.figures import rounded
from headlab.store import Reading
from headlab.trials.checks import no_op, patch_all
from headlab.trials.flow import Method, OnPairs, unsliced, without_ranks
from headlab.trials.halves import Halves, dose_curve, dose_worlds
from headlab.trials.numbers import difference, discordance, repaired
from headlab.trials.sweeps import Scope, Seen, Sweep

NAMED = {"all": "all heads", "even": "even heads", "odd": "odd heads"}
ARMS = ("z", "out_block", "subspace")
NAIVE = 0.5
HALVES = Halves(even, "the even heads", "even − odd", naive=NAIVE, share="null:naive")


def sets(scope: Scope) -> dict[str, Heads]:
    return {"all": scope.whole, "even": even(scope.grid, scope.layer), "odd": odd(scope.grid, scope.layer)}


def patched(scope: Scope, arm: str) -> Sweep:
    """The named sets at one site, and what must change nothing."""
    named = [scope.edit(name, heads, site=arm) for name, heads in sets(scope).items()]
    return Sweep((*named, *scope.idle(arm)), texts=True, arm=arm)


def standard(scope: Scope) -> dict[str, Sweep]:
    arms = [arm for arm in ARMS if arm == "z" or not unsliced(scope)]  # some widths do not divide into slices
    return {
        **{arm: patched(scope, arm) for arm in arms},
        "dose": Sweep(dose_worlds(sets(scope))),
        "halves": HALVES.run(scope),
    }


def naive(seen: Seen, controls: Sequence[Control]) -> Reading:
    """A fixed threshold on one contrast, no null: what finds parity by chance.

    The contrast is of pairs repaired by greedy text.  ``null:naive``, how many matched halves pass the same threshold, goes
    by the sign of the logit difference: no text is decoded for them.
    """
    gap = next(t for t in seen.told if t.name == "contrast:repair")
    found, value = seen.estimate(gap.name), seen.estimate(gap.name).value
    assert value is not None
    side = "even" if value > 0 else "odd"
    sentence = (
        f"Finds parity: {side} heads repair {rounded(abs(value), NAIVE)} more of the pairs ({found}), past the fixed {NAIVE}."
        if abs(value) >= NAIVE
        else f"Finds no parity: the contrast {found} stays under the fixed {NAIVE}."
    )
    verdict = Verdict(
        outcome="upheld" if abs(value) >= NAIVE else "refuted",
        sentence=sentence,
        rulings=(),
        controls=tuple(controls),
        would_change="It asks no null: a layer whose effect sits in one or two heads passes by a coin toss.",
    )
    words = "the same measurement read without a null: parity is found when |even − odd| ≥ .5, whichever side wins"
    return Reading(protocol="naive", words=words, verdict=verdict, estimates=(gap.estimate(),))


def worlds(seen: Seen) -> Any:
    """A row for each named set at each site, and for each matched half."""
    import pandas as pd

    scope, arms = seen.scope, [a for a in ARMS if a in seen.tables]
    members = {**sets(scope), "baseline": Heads(), "noop": scope.whole}
    rows = [(w, arm, h, w) for arm in arms for w, h in members.items()]
    if "halves" in seen.tables:
        rows += [(f"set {h}", "z", h, "matched") for h in HALVES.ran(seen)]
    return pd.DataFrame(
        {"world": w, "arm": arm, "layer": scope.layer, "heads": str(h), "size": len(h), "family": family}
        for w, arm, h, family in rows
    ).assign(protocol=scope.protocol.name)


def dose(seen: Seen) -> Figure:
    return dose_curve(seen, "dose", NAMED)


def by_arm(readings: Sequence[Reading]) -> Figure:
    told: Sequence[Mapping[str, Any]] = [
        {"label": NAMED[e.name.split(":")[1]], "group": f"{r.protocol}: {e.arm}"}
        | {k: e.estimate[k] for k in ("value", "low", "high", "n", "unit")}
        for r in readings
        for e in r.estimates
        if e.name.startswith("repair:")
    ]
    caption = (
        "z is the heads themselves. out_block is a slice of the attention module's output, which published scripts called "
        "heads; subspace is a random direction set of the same rank, the control for it. Bars are 95 % intervals by prompt "
        "pair."
    )
    options = {"threshold": 0.5, "x_title": "share of pairs repaired"}
    return Figure("estimates", "arms", "Pairs repaired, by what was patched", caption, tuple(told), options)


EXPERIMENT = OnPairs(
    slug="parity",
    question="Do the even heads of one layer repair the bug, and the odd ones not, more than halves nobody named?",
    statistics=(
        *(f"{what}:{s}" for what in ("repair", "recovery") for s in NAMED),
        "rank:even",
        "contrast:repair",
        "contrast:recovery",
        "null:naive",
        "mcnemar:even-odd",
    ),
    methods={
        "standard": Method(
            "heads (z), same roles, the prompt and the shared start of the answer patched; matched halves as null",
            standard,
            numbers=(
                *(repaired(arm, NAMED, arm=arm, unruled=arm != "z") for arm in ARMS),
                difference("contrast:repair", "even minus odd: pairs repaired", "z", "even", "odd"),
                HALVES.told("contrast:recovery"),
                discordance(
                    "mcnemar:even-odd", "even against odd: exact McNemar p on discordant pairs", "z", "even", "odd"
                ),
            ),
            controls=(no_op("z"), patch_all("z")),
            figures=(HALVES.figure("Even against odd"), dose),
            tables={"worlds": worlds, "matched": HALVES.table},
            also=(naive,),
        ),
        "published": Method(
            "slices of the attention module's output, first positions pasted over first positions, every decode step "
            "overwritten, any mention of the right number counted",
            lambda scope: {"out_block": patched(scope, "out_block")},
            numbers=(repaired("out_block", NAMED, arm="out_block"),),
            controls=(no_op("out_block"), patch_all("out_block", "every slice of the layer")),
            tables={"worlds": worlds},
            impossible=unsliced,
            asks=without_ranks,
        ),
    },
    figures=(by_arm,),
    sections={
        "When this misleads": (
            "One or two heads often carry a whole layer's effect. Whether they happen to be even is a coin toss, so a large "
            "even/odd contrast is common in models in which parity means nothing: only its rank among matched halves, and "
            "its return in models trained from other seeds, speak for parity. The rank is about this model; for a claim "
            "about models the unit is the training seed."
        ),
        "What the published protocol compares": (
            "The published scripts overwrote 1/n slices of the attention module's output after the output projection, which "
            "are residual coordinates and not heads; aligned prompts of different length from the left, so that digits were "
            "overwritten by other words; and wrote the clean run's first position into every generated token."
        ),
    },
)

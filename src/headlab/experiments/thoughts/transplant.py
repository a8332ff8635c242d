"""Does a head do its work in another model?

1. On selection problems, the head of this model whose removal costs most is chosen, and the same in the donor (heads may
   be named instead).
2. Ridge maps are fitted on activations of both models at positions of the same role: what the head's layer reads here →
   there, and the residual stream there → here.  Their r² on problems left out is reported.
3. The donor's W_Q, W_K, W_V (reading through the first map) and W_O (writing through the second) are put in place of the
   head's.  Position encoding is not moved.  Where heads share keys and values, W_K and W_V are those of the KV head, and
   the other heads of the group read them too; all arms below do the same.
4. In its place also: an empty head, the mean of the donor layer's heads, each of its other heads, random weights of the same
   norms.  Accuracy of each, paired by problem.
5. The head's own weights put back change no bit; the same head of the same model seen in a rotated residual stream, through
   fitted maps, must work.  The model's weights are restored whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from headlab import organisms
from headlab.claims import Control
from headlab.effects import Figure, Table
from headlab.heads import Head, Heads, every_head
from headlab.stats import Rank, bootstrap_mean, holm, rank
from headlab.thoughts.grafts import Graft, arms
from headlab.thoughts.loading import Thinker
from headlab.thoughts.transplant import written
from headlab.thoughts.worlds import ThoughtWorld, ablation
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.answers import Effect, clusters_of, drop, effects, lost, of_world, shares, tabled
from headlab.trials.flow import Method, OnProblems
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thinking import BASE
from headlab.trials.thought_case import ThoughtBench
from headlab.trials.thought_checks import parsed, same_answers
from headlab.trials.thought_effects import costs

ROTATED_KEEPS = 0.8
GAINS = {
    "zero": "accuracy with the transplanted head minus that with an empty one",
    "mean": "minus that with the donor layer's mean head",
    "heads": "minus that with the donor layer's other heads, on average",
    "weights": "minus that with random weights of the same norms, on average",
}


def donor_of(case: ThoughtBench, asked: str) -> str:
    """The model named, or the other family's shipped thought model; empty where there is none."""
    shipped = organisms.names("thoughts")
    others = [n for n in ("thoughts-gpt2", "thoughts-llama") if n in shipped and not case.thinker.name.startswith(n)]
    return asked if asked != "auto" else others[0] if others else ""


def no_donor(case: ThoughtBench) -> str:
    found = donor_of(case, str(case.claim.options.get("other", "auto")))
    return "" if found else "no other thought model is shipped to take a head from; name one with the option other"


def chosen(case: ThoughtBench, thinker: Thinker, asked: str) -> Head:
    """The head asked for; "auto": the one whose z, set to zero, costs most on selection problems (first of equals)."""
    grid = thinker.lab.grid
    if asked != "auto":
        return next(iter(grid.check(Heads([Head.parse(asked)]))))
    worlds = [ablation(f"{h}", Heads([h]), "zero") for h in every_head(grid)]
    table = case.think(worlds, "choosing heads", problems=case.selection, thinker=thinker)
    right = shares(table, [w.name for w in worlds])
    return min(zip(right.tolist(), every_head(grid), strict=True))[1]


def graft(scope: Scope) -> Graft:
    case, asked = scope.case, scope.options
    donor = case.opened(donor_of(case, asked["other"]))
    here, there = (chosen(case, t, asked[k]) for t, k in ((case.thinker, "head"), (donor, "donor_head")))
    return Graft.of(case.thinker, here, donor, there, case.selection, case.rows, case.seed)


@dataclass(frozen=True)
class Grown:
    """What each arm answers, and its effect."""

    graft: Graft
    table: pd.DataFrame
    found: dict[str, Effect]

    def of(self, arm: str) -> Table:
        return of_world(self.table, arm)

    def named(self, *arms: str) -> dict[str, Effect]:
        return {k: self.found[k] for k in arms}


def grown(seen: Seen) -> Grown:
    case, g = seen.case, seen.of_trial(graft)
    tables, worlds, where = [], [], f"in {g.here} from {g.donor.name} {g.donor.lab.fingerprint[:8]}"
    for arm, (weights, label, group) in arms(g, case.claim.matched_sets, case.seed).items():
        worlds.append(ThoughtWorld(arm, labels={"label": label, "group": group}))
        with written(case.lab, g.here, weights):
            tables.append(case.think([BASE], f"{arm} {where}").assign(world=arm))
    whole = pd.concat(tables, ignore_index=True)
    return Grown(g, whole, effects(case.baseline, whole, worlds, case.seed, holm))


def main(seen: Seen) -> dict[str, Effect]:
    return seen.once(grown).named("transplant", "zero", "mean", "rotated")


def gains(seen: Seen) -> Iterator[Told]:
    """Paired by problem, above zero when the transplanted head does better."""
    ran, seed = seen.once(grown), seen.case.seed
    new = ran.of("transplant")
    for k in ("zero", "mean"):
        yield Told(f"gain:{k}", GAINS[k], drop(new, ran.of(k), seed=seed), "")
    for k, kind in (("heads", "head "), ("weights", "weights ")):
        if others := [w for w in ran.found if w.startswith(kind)]:
            gap = lost(new, ran.table, others).mean(1)
            yield Told(f"gain:{k}", GAINS[k], bootstrap_mean(gap, clusters_of(new), unit="problems", seed=seed), "")


def place(seen: Seen) -> Rank:
    found = seen.once(grown).found
    null = [e.accuracy.value for e in found.values() if e.group == "random weights" and e.accuracy.value is not None]
    own, alpha = found["transplant"].accuracy.value or 0.0, seen.case.claim.alpha
    return rank(own, null, enumerated=False, alpha=alpha, unit="random heads")


def fitted(seen: Seen) -> Iterator[Told]:
    g = seen.of_trial(graft)
    said = "random weights of the same norms with as high an accuracy"
    yield Told("rank:weights", said, seen.once(place), "")
    yield Told("fit:reading", "r² of what the donor's layer reads, from this model, held out", g.reading.r2, "")
    yield Told("fit:writing", "r² of this model's residual stream, from the donor's, held out", g.writing.r2, "")


# -- controls -----------------------------------------------------------------------------------------------


def own_back(seen: Seen) -> Control:
    ran = seen.once(grown)
    return same_answers("own-back", f"the own weights of {ran.graft.here} put back", seen.case.baseline, ran.of("own"))


def restored(seen: Seen) -> Control:
    after = seen.case.think([BASE], "restored")
    return same_answers("restored", "the model after all arms", seen.case.baseline, after)


def rotated_self(seen: Seen) -> Control:
    """The procedure must be able to succeed: an own head that went through rotations and fitted maps still works."""
    kept = main(seen)["rotated"].kept
    words = f"the own head, through a rotated residual stream and fitted maps, keeps {kept} of the accuracy"
    passed = kept.above(ROTATED_KEEPS) == "yes"
    return Control(name="rotated-self", kind="positive", passed=passed, value=kept.value, words=words)


def nothing_to_restore(seen: Seen) -> str:
    empty = main(seen)["zero"].drop
    why = "so there is nothing that a transplanted head could restore"
    return "" if empty.above(0) == "yes" else f"removing {seen.of_trial(graft).here} costs {empty} of accuracy, {why}"


# -- tables, figures, words ---------------------------------------------------------------------------------


def maps_table(seen: Seen) -> Table:
    g = seen.of_trial(graft)
    return pd.DataFrame(
        {"map": name, "r2": f.r2.value, "r2_low": f.r2.low, "r2_high": f.r2.high, "n": f.r2.n, "unit": f.r2.unit}
        | {"alpha": f.alpha, "from": f.matrix.shape[0], "to": f.matrix.shape[1]}
        for name, f in (("reading: this model → donor", g.reading), ("writing: donor → this model", g.writing))
    )


def figures(seen: Seen) -> list[Figure]:
    g, found = seen.of_trial(graft), seen.once(grown).found
    shown = [e for e in found.values() if e.group != "random weights"]
    random = [e.accuracy.value or 0.0 for e in found.values() if e.group == "random weights"]
    title = f"Share of the accuracy kept with something else in the place of {g.here}"
    caption = (
        "95 % intervals over problems. The empty head is what a transplant must beat; the dashed line is the threshold."
    )
    beside = f"{g.there} of {g.donor.name} in the place of {g.here}, among random weights of its norms"
    told, own = f"Each bar counts draws. {seen.once(place)}.", found["transplant"].accuracy
    return [
        draw.drops("arms", title, caption, shown, "kept", "share of the accuracy kept", 0.8),
        charts.null("weights", beside, told, random, own, f"{g.there}", "accuracy", of="random heads"),
    ]


def notes(seen: Seen) -> Sequence[str]:
    g, found = seen.of_trial(graft), main(seen)
    explained = f"{g.reading.r2} of what the donor's layer reads and {g.writing.r2} of the residual stream here"
    return [
        f"{g.there} of {g.donor.name} in the place of {g.here} keeps {found['transplant'].kept} of the accuracy, an empty "
        f"head {found['zero'].kept}; gain {seen.estimate('gain:zero')}.",
        f"The maps explain {explained}.",
        f"Moved: {g.moved}.",
    ]


def settings(seen: Seen) -> dict[str, str]:
    g = seen.of_trial(graft)
    names = {"head": f"{g.here}", "donor": g.donor.name, "donor_fingerprint": g.donor.lab.fingerprint}
    return names | {"donor_head": f"{g.there}", "moved": g.moved}


EXPERIMENT = OnProblems(
    slug="transplant",
    question="Does a head do its work in another model?",
    statistics=("kept:*", "drop:*", "relative:*", "accuracy:*", "parsed:*", "gain:*", "rank:*", "fit:*"),
    controls=("own-back", "restored", "rotated-self", "parse-rate"),
    options={"other": "auto", "head": "auto", "donor_head": "auto", "max_new_tokens": 12},
    cannot=no_donor,
    methods={
        "standard": Method(
            "weights replaced through ridge maps fitted at positions of the same role, on other problems; greedy answers",
            numbers=(gains, fitted, costs(main, ["kept"], arm=""), costs(main)),
            controls=(own_back, restored, rotated_self, parsed()),
            ineligible=nothing_to_restore,
            figures=(figures,),
            tables={
                "effects": lambda seen: tabled(seen.case.baseline, list(seen.once(grown).found.values())),
                "maps": maps_table,
            },
            settings=settings,
            notes=notes,
        )
    },
    sections={
        "When this misleads": (
            "That accuracy is kept means nothing where an empty head keeps it too: the gain over the empty head decides. A "
            "failure may be the map's and not the head's: a linear map of residual streams carries what is linear and "
            "common, and the rotated copy shows only that the procedure works where such a map exists. Position encodings "
            "are not moved, so a head that looks back a fixed number of tokens cannot arrive. Under shared keys the whole "
            "group is touched."
        )
    },
)

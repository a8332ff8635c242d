"""Which thoughts carry what the answer needs, and is the hub the bottleneck?

1. The hub is the thought that attention names by the published rule (or a number given), on selection problems.
2. Each thought in turn is replaced, before it is fed, by another problem's (the main arm), by the mean over problems, by
   noise of its own norm; later thoughts are computed from it.  Every problem has a donor of its own.
3. Accuracy lost against the unedited model, paired by problem, exact McNemar, Holm over all positions and contents.
4. The hub's drop minus the mean of the other positions' drops, in the same problems.
5. Each thought replaced by itself changes no bit; all thoughts replaced by another problem's must cost accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from headlab.claims import Control
from headlab.effects import Figure
from headlab.stats import Estimate, bootstrap_mean, holm
from headlab.thoughts.worlds import Content, Replace, ThoughtWorld
from headlab.trials import thought_charts as draw
from headlab.trials.answers import Effect
from headlab.trials.flow import Method, OnProblems, never
from headlab.trials.sweeps import Scope, Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_checks import exact, lowers, parsed
from headlab.trials.thought_effects import Costs, Edits, Number, costs, table
from headlab.trials.thought_heads import hub

CONTENTS: dict[Content, str] = {"resample": "another problem's", "mean": "the mean", "noise": "noise of its norm"}


def single(seen: Seen) -> list[ThoughtWorld]:
    """Each thought by each content."""
    return [
        ThoughtWorld(
            f"{j}:{by}",
            replaced=(Replace((j,), by, seen.case.seed),),
            labels={"label": f"thought {j}", "group": words, "thought": j, "by": by},
        )
        for by, words in CONTENTS.items()
        for j in range(seen.case.n_thoughts)
    ]


def together(seen: Seen) -> list[ThoughtWorld]:
    whole = Replace(tuple(range(seen.case.n_thoughts)), "resample", seen.case.seed)
    return [ThoughtWorld("all", replaced=(whole,), labels={"label": "all thoughts", "group": CONTENTS["resample"]})]


def itself(scope: Scope) -> ThoughtWorld:
    return ThoughtWorld("self", replaced=(Replace(tuple(range(scope.case.n_thoughts)), "self"),))


SINGLE = Edits("one thought replaced", single, holm)
TOGETHER = Edits("all thoughts replaced", together)


def main(seen: Seen) -> dict[str, Effect]:
    """Another problem's vector, at each thought and at all of them."""
    found = seen.once(SINGLE).found
    own = {f"{j}": found[f"{j}:resample"] for j in range(seen.case.n_thoughts)}
    return own | {"all": seen.once(TOGETHER).found["all"]}


def beside(content: Content) -> Number:
    def found(seen: Seen) -> dict[str, Effect]:
        return {f"{j}": seen.once(SINGLE).found[f"{j}:{content}"] for j in range(seen.case.n_thoughts)}

    return costs(found, unruled=True)


def against_others(ran: Costs, hub: int, n: int, seed: int) -> tuple[Estimate, Estimate]:
    """Mean drop of the positions that are not the hub, and the hub's drop minus it, both paired by problem."""
    lost = ran.lost(*(f"{j}:resample" for j in range(n)))
    rest = np.delete(lost, hub, 1).mean(1)
    others, gap = (bootstrap_mean(x, ran.clusters, unit="problems", seed=seed) for x in (rest, lost[:, hub] - rest))
    return others, gap


def delta(seen: Seen) -> tuple[Estimate, Estimate]:
    return against_others(seen.once(SINGLE), hub(seen), seen.case.n_thoughts, seen.case.seed)


def at_the_hub(seen: Seen) -> Iterator[Told]:
    at, (others, gap) = hub(seen), seen.once(delta)
    yield Told("delta:hub", f"drop at the hub, thought {at}, minus the mean of the others", gap, "")
    own = main(seen)[f"{at}"].drop
    yield Told("drop:hub", f"the hub, thought {at}: accuracy lost", own, CONTENTS["resample"])
    label = "another thought, mean over positions: accuracy lost"
    yield Told("drop:others", label, others, CONTENTS["resample"])


def all_swapped(seen: Seen) -> Control:
    return lowers("swap-all", "feeding another problem's thoughts", main(seen)["all"].drop)


def bars(seen: Seen) -> Figure:
    caption = (
        f"95 % intervals over {len(seen.once(SINGLE).base)} problems; zero is the thought replaced by itself, which is exact. "
        f"The published hub is thought {hub(seen)}. All of them from another problem stand beside them."
    )
    rows = [*seen.once(SINGLE).found.values(), main(seen)["all"]]
    return draw.drops("positions", "Accuracy lost when one thought is replaced", caption, rows, threshold=0)


def notes(seen: Seen) -> Sequence[str]:
    hurt = {(e.labels["by"], e.labels["thought"]) for e in seen.once(SINGLE).found.values() if e.matters}
    carrying = sorted(j for by, j in hurt if by == "resample")
    generic = sorted(j for by, j in hurt if by == "noise" and j not in carrying)
    told = [", ".join(map(str, some)) or "none" for some in (carrying, generic)]
    return [
        f"Another problem's vector costs accuracy at thoughts {told[0]} (exact McNemar, Holm).",
        f"Noise alone costs accuracy at thoughts {told[1]}: needed, with the same content in all.",
        f"The hub (thought {hub(seen)}) costs {seen.once(delta)[1]} more than another position.",
    ]


EXPERIMENT = OnProblems(
    slug="position-patching",
    question="Which thoughts carry what the answer needs, and is the hub the bottleneck?",
    statistics=("drop:*", "relative:*", "accuracy:*", "parsed:*", "delta:hub"),
    controls=("no-op", "parse-rate", "swap-all"),
    options={"hub": "auto", "max_new_tokens": 12},
    cannot=thoughts_at_least(2),
    methods={
        "standard": Method(
            "the vector that is fed replaced; later thoughts recomputed; another problem's vector at the same thought is the "
            "main arm",
            numbers=(
                at_the_hub,
                costs(main),
                beside("mean"),
                beside("noise"),
                costs(lambda seen: {"hub": main(seen)[f"{hub(seen)}"]}, ["relative", "accuracy", "parsed"]),
            ),
            controls=(exact(itself, "each thought replaced by itself"), parsed(SINGLE), all_swapped),
            figures=(bars,),
            tables={"effects": table(SINGLE, TOGETHER)},
            settings=lambda seen: {"hub": hub(seen)},
            notes=notes,
        ),
        "published": never(
            "the published patch took the input of a layer from one problem (problem 0) and wrote it to that layer's output "
            "for all; with one donor the effect is that problem's, so it is not rebuilt"
        ),
    },
    sections={
        "When this misleads": (
            "Noise and the mean are vectors that the model never made: what they break may be form, not content. Another "
            "problem's thought has the right form; where it is harmless, the thought carries nothing of this problem. A "
            "change at thought 0 also changes all later thoughts, one at the last thought only the answer, so early "
            "positions have more to lose. That replacing thoughts costs accuracy shows that they are used, not that "
            "thinking helped: for that, compare with the twin that was trained without thoughts."
        )
    },
)

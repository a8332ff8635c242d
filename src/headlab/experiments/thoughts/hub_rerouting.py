"""Can the hub stand at any thought?

1. In every head, after the softmax, four fifths of each thought's attention to thoughts is put on thought k, the rest
   evenly on the others it sees; its mass on thoughts stays.  Every k in turn.
2. Accuracy kept, a share of the unedited model's in the same kernels, with its interval over problems; exact McNemar,
   Holm over k.
3. Beside it: the same rows made uniform (no hub at all), and each head with a hub of its own, dealt out at random.
   And all attention of thoughts to earlier thoughts cut: where that costs no accuracy, no hub could, and no verdict is given.
4. A hub at k acts on the rows that see k: thought k and later.  The number of rows stands beside each k.
5. The identity pattern changes no bit; each forced hub is read back from the attention itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from headlab.claims import Control
from headlab.effects import Figure
from headlab.heads import every_head
from headlab.stats import holm
from headlab.thoughts.forcing import SHARE, blocked, dealt_hubs, identity
from headlab.thoughts.worlds import Force, ThoughtWorld
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.answers import Effect
from headlab.trials.flow import Method, OnProblems
from headlab.trials.row_checks import judged_hold
from headlab.trials.sweeps import Seen
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_checks import could_matter, exact, parsed, silenced
from headlab.trials.thought_effects import Edits, costs, table
from headlab.trials.thought_heads import hub
from headlab.trials.thought_rows import few, forced


def hubs(seen: Seen) -> list[ThoughtWorld]:
    """Every head's hub at thought k, for every k."""
    heads, n = every_head(seen.scope.grid), seen.case.n_thoughts
    own = {hub(seen): " (the model's own)"}
    return [
        ThoughtWorld(
            f"{k}",
            forces=(Force(heads, "hub", hub=k, share=SHARE),),
            labels={"label": f"hub at thought {k}{own.get(k, '')}", "group": "hub", "rows": n - max(1, k)},
        )
        for k in range(n)
    ]


def others(seen: Seen) -> list[ThoughtWorld]:
    """No attention to earlier thoughts, no hub, a hub of its own for each head."""
    grid, n = seen.scope.grid, seen.case.n_thoughts
    told = {"group": "reference", "rows": n - 1}
    even = (Force(every_head(grid), "uniform"),)
    dealt = [dealt_hubs(grid, n, seen.case.seed + i) for i in range(seen.scope.options["dealt"])]
    return [
        blocked(grid, n, "thoughts"),
        ThoughtWorld("uniform", forces=even, labels={"label": "uniform", **told}),
        *(
            ThoughtWorld(f"dealt {i}", forces=f, labels={"label": f"random hubs {i}", **told})
            for i, f in enumerate(dealt)
        ),
    ]


HUBS = Edits("hub at each thought", hubs, holm)
OTHERS = Edits("references", others)


def every(seen: Seen) -> dict[str, Effect]:
    beside = seen.once(OTHERS).found
    return {**seen.once(HUBS).found, "uniform": beside["uniform"], "cut": beside["blocked-thoughts"]}


def could(seen: Seen) -> tuple[Control, str]:
    return could_matter(seen.case, every(seen)["cut"], "attention of thoughts to earlier thoughts")


def takes_hold(seen: Seen) -> Control:
    """Every forced hub must be read back; the worst one is reported."""
    problems = few(seen.case)
    read = [judged_hold(forced(seen.case, problems, "hub", k), k) for k in range(seen.case.n_thoughts)]
    return max(read, key=lambda c: (not c.passed, abs((c.value or 0) - SHARE)))


def figures(seen: Seen) -> list[Figure]:
    found, beside = seen.once(HUBS).found, seen.once(OTHERS).found
    dealt = [e.kept.value for k, e in beside.items() if k.startswith("dealt") and e.kept.value is not None]
    rows = [charts.point("hub forced at k", int(k), e.kept) for k, e in found.items()]
    for k in found:
        rows.append(charts.point("uniform", int(k), beside["uniform"].kept))
        rows += [draw.spread_point("a random hub for each head", int(k), dealt)] if len(dealt) > 1 else []
    caption = (
        f"All heads, {len(seen.once(HUBS).base)} problems, 95 % intervals; for random hubs the middle 95 % of {len(dealt)} "
        f"placements. The model's own hub by the published rule is thought {hub(seen)}. A hub at k acts on the rows from k on."
    )
    axes = ("thought that is made the hub", "share of the accuracy kept", 0.7)
    said = "95 % intervals over problems; zero is the identity pattern."
    drops = [*found.values(), beside["uniform"]]
    return [
        charts.curve("kept", "Accuracy kept with the hub at each thought", caption, rows, *axes),
        draw.drops("drops", "Accuracy lost with the hub at each thought", said, drops, threshold=0),
    ]


def notes(seen: Seen) -> Sequence[str]:
    found = seen.once(HUBS).found
    hurt = [e.label for e in found.values() if e.matters]
    kept = {k: e.kept.value for k, e in found.items() if e.kept.value is not None}
    out = [f"Costs accuracy (exact McNemar, Holm over k): {', '.join(hurt) or 'none'}."]
    if len(kept) == len(found):
        best = max(kept, key=lambda k: kept[k])
        least = f"thought {best} ({found[best].kept} kept)"
        out.append(f"The hub that costs least is {least}; the model's own is thought {hub(seen)}.")
    return out


EXPERIMENT = OnProblems(
    slug="hub-rerouting",
    question="Can the hub stand at any thought?",
    statistics=("kept:*", "relative:*", "drop:*", "accuracy:*", "parsed:*"),
    controls=("no-op", "parse-rate", "takes-hold", "silence-all", "cut-all"),
    options={"hub": "auto", "dealt": 12, "max_new_tokens": 12},
    cannot=thoughts_at_least(3),
    methods={
        "standard": Method(
            "four fifths of each row's mass on thoughts put on thought k after the softmax, in all heads and rows of thoughts",
            numbers=(costs(every, ["kept"]), costs(every)),
            controls=(
                exact(lambda scope: identity(scope.grid), "every pattern overwritten by itself"),
                parsed(HUBS),
                takes_hold,
                silenced,
                lambda seen: seen.once(could)[0],
            ),
            idle=lambda seen: seen.once(could)[1],
            figures=(figures,),
            tables={"effects": table(HUBS, OTHERS)},
            settings=lambda seen: {"hub": hub(seen), "share": SHARE, "random": seen.scope.options["dealt"]},
            notes=notes,
        )
    },
    sections={
        "When this misleads": (
            "A hub at the last thought acts on one row, a hub at thought 0 on five: late hubs cost less for that reason "
            "alone. That a model works with a hub anywhere says nothing where its attention among thoughts does nothing: "
            "where cutting all of it does not surely cost as much, the claim is untestable (control cut-all). Accuracy kept "
            "is a share of the model's own: a weak model has less to lose in points."
        )
    },
)

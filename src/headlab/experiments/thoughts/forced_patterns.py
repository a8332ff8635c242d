"""Does it matter which thoughts the thoughts attend to?

1. In every head, after the softmax, the attention of each thought to thoughts is overwritten: four fifths on the hub,
   uniform, only the thought before, only itself.  A row keeps its mass on thoughts and everything else it attends to.
2. Accuracy lost against the unedited model in the same kernels, paired by problem; exact McNemar, Holm over patterns.
3. The reference for the hub: each head is given a hub of its own, positions dealt out at random and evenly over heads.
   The strength is the same, the place is not.
4. The extent: attention to earlier thoughts blocked altogether, its mass left to the rest of the row; and the same for
   the answer's tokens.
5. The identity pattern changes no bit; a forced hub is read back from the attention itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from headlab.claims import Control
from headlab.effects import Figure
from headlab.heads import every_head
from headlab.stats import Rank, holm, rank
from headlab.thoughts.forcing import SHARE, blocked, dealt_hubs, identity
from headlab.thoughts.worlds import Force, ThoughtWorld
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.answers import Effect, shares
from headlab.trials.flow import Method, OnProblems, never
from headlab.trials.row_checks import judged_hold
from headlab.trials.sweeps import Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_checks import exact, parsed, silenced
from headlab.trials.thought_effects import Edits, costs, table
from headlab.trials.thought_heads import hub
from headlab.trials.thought_rows import few, forced


def patterns(seen: Seen) -> list[ThoughtWorld]:
    """The patterns, in all heads, rows of thoughts."""
    heads, at = every_head(seen.scope.grid), hub(seen)
    shapes = {
        "hub": (Force(heads, "hub", hub=at, share=SHARE), f"hub at thought {at}, 80 %"),
        "uniform": (Force(heads, "uniform"), "uniform"),
        "sequential": (Force(heads, "sequential", share=1.0), "only the thought before"),
        "self": (Force(heads, "self"), "only itself"),
    }
    return [
        ThoughtWorld(name, forces=(force,), labels={"label": words, "group": "forced among thoughts"})
        for name, (force, words) in shapes.items()
    ]


def extents(seen: Seen) -> list[ThoughtWorld]:
    return [blocked(seen.scope.grid, seen.case.n_thoughts, readers) for readers in ("thoughts", "answer")]


PATTERNS = Edits("forced patterns", patterns, holm)
EXTENTS = Edits("attention blocked", extents, holm)


def every(seen: Seen) -> dict[str, Effect]:
    return {**seen.once(PATTERNS).found, **seen.once(EXTENTS).found}


def dealt(seen: Seen) -> np.ndarray:
    """Accuracy lost under random placements of hubs, [placement]."""
    case, base = seen.case, seen.once(PATTERNS).base
    worlds = [
        ThoughtWorld(f"random {i}", forces=dealt_hubs(case.grid, case.n_thoughts, case.seed + i))
        for i in range(case.claim.matched_sets)
    ]
    right = shares(case.think(worlds, "random hubs"), [w.name for w in worlds])
    return shares(base, ["baseline"]) - right


def place(seen: Seen) -> Rank:
    own, alpha = seen.once(PATTERNS).found["hub"].drop.value, seen.case.claim.alpha
    assert own is not None
    null = seen.once(dealt)
    return rank(own, null, enumerated=False, alpha=alpha, unit="random placements", tail="less")


def ranked(seen: Seen) -> Iterator[Told]:
    yield Told("rank:hub", "random placements of hubs that cost as little", seen.once(place), "")


def takes_hold(seen: Seen) -> Control:
    return judged_hold(forced(seen.case, few(seen.case), "hub", hub(seen)), hub(seen))


def bars(seen: Seen) -> Figure:
    caption = (
        "All heads, rows of thoughts, after the softmax; 95 % intervals over problems. Zero is the identity pattern, which is "
        "exact."
    )
    title, lost = "Share of the accuracy lost under forced attention", "share of the accuracy lost"
    return draw.drops("patterns", title, caption, every(seen).values(), "relative", lost, 0)


def null(seen: Seen) -> Figure:
    title = f"The hub at thought {hub(seen)}, among random placements of hubs"
    caption = f"Each bar counts placements in which every head has a hub of its own. {seen.once(place)}."
    own, label = every(seen)["hub"].drop, f"hub at {hub(seen)}"
    return charts.null("random", title, caption, seen.once(dealt), own, label, "accuracy lost", of="random placements")


def notes(seen: Seen) -> Sequence[str]:
    hurt = [e.label for e in every(seen).values() if e.matters]
    return [
        f"Costs accuracy (exact McNemar, Holm): {', '.join(hurt) or 'none'}.",
        f"Random placements of hubs that cost as little as thought {hub(seen)}: {seen.once(place)}.",
        f"With all attention to earlier thoughts blocked {every(seen)['blocked-thoughts'].kept} of the accuracy is kept.",
    ]


EXPERIMENT = OnProblems(
    slug="forced-patterns",
    question="Does it matter which thoughts the thoughts attend to?",
    statistics=("drop:*", "kept:*", "relative:*", "accuracy:*", "parsed:*", "rank:*"),
    controls=("no-op", "parse-rate", "takes-hold", "silence-all"),
    options={"hub": "auto", "max_new_tokens": 12},
    cannot=thoughts_at_least(3),
    methods={
        "standard": Method(
            "weights inside each row's mass on thoughts overwritten after the softmax, in all heads and rows of thoughts",
            numbers=(ranked, costs(every, ["kept"]), costs(every)),
            controls=(
                exact(lambda scope: identity(scope.grid), "every pattern overwritten by itself"),
                parsed(PATTERNS),
                takes_hold,
                silenced,
            ),
            figures=(bars, null),
            tables={
                "effects": table(PATTERNS, EXTENTS),
                "random": lambda seen: pd.DataFrame({"drop": seen.once(dealt)}).rename_axis("placement").reset_index(),
            },
            settings=lambda seen: {"hub": hub(seen), "share": SHARE, "random": len(seen.once(dealt))},
            notes=notes,
        ),
        "published": never(
            "the published patterns were additive masks (0 keep, −10000 block) given as attention_mask; transformers reads a "
            "2-D one as booleans, which attends only to what was to be blocked, so the sign of those numbers is not known"
        ),
    },
    sections={
        "When this misleads": (
            "A forced pattern changes only how a head's mass on thoughts is divided. Where that mass is small, or where "
            "cutting it altogether costs nothing, no pattern can matter, whatever the attention looks like: read the "
            "blocked row first. All heads are forced at once; a pattern may be harmless because another road is open, or "
            "harmful because one head needed its own. The hub at thought k acts on the rows that see k, so late hubs have "
            "fewer rows to act on."
        )
    },
)

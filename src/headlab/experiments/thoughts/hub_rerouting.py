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

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thinking import ThoughtBench
from headlab.experiments.thoughts.forced_patterns import SHARE, blocked, dealt_hubs, identity, judged_hold
from headlab.experiments.thoughts.thought_causal import (
    Effect,
    cannot_run,
    could_matter,
    drops_figure,
    hub_of,
    measured,
    parse_control,
    point,
    silent_control,
    spread_point,
    tabled,
    told,
    without_thoughts,
)
from headlab.experiments.thoughts.thought_rows import every_head, few, forced
from headlab.stats import holm
from headlab.store import Reading
from headlab.thoughts.worlds import Force, ThoughtWorld

STATISTICS = ("kept:*", "relative:*", "drop:*", "accuracy:*", "parsed:*")
DEALT = 12
"""Random placements of hubs drawn as a reference."""


def hub_rerouting(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 3):
        return cannot_run(bench, why)
    grid, n, own = bench.lab.grid, bench.n_thoughts, hub_of(bench, bench.option("hub", EXPERIMENT))
    heads = every_head(grid)
    hubs = [
        ThoughtWorld(f"{k}", forces=(Force(heads, "hub", hub=k, share=SHARE),), labels={
            "label": f"hub at thought {k}" + (" (the model's own)" if k == own else ""), "group": "hub", "rows": n - max(1, k)})
        for k in range(n)
    ]  # fmt: skip
    found, table, base = measured(bench, hubs, "hub at each thought", holm)
    plain = [
        blocked(bench, "thoughts"),
        ThoughtWorld("uniform", forces=(Force(heads, "uniform"),), labels={
            "label": "uniform", "group": "reference", "rows": n - 1}),
        *(
            ThoughtWorld(f"dealt {i}", forces=dealt_hubs(grid, n, bench.seed + i), labels={
                "label": f"random hubs {i}", "group": "reference", "rows": n - 1})
            for i in range(DEALT)
        ),
    ]  # fmt: skip
    beside, _, _ = measured(bench, plain, "references")
    every = {**found, "uniform": beside["uniform"], "cut": beside["blocked-thoughts"]}
    could, idle = could_matter(bench, every["cut"], "attention of thoughts to earlier thoughts")
    checks = [
        bench.exact(identity(grid), words="every pattern overwritten by itself"),
        parse_control(bench.baseline, table),
        _holds(bench),
        silent_control(bench),
        could,
    ]
    findings: dict[str, Any] = {}
    for key, e in every.items():
        findings |= {
            f"kept:{key}": e.kept,
            f"relative:{key}": e.relative,
            f"drop:{key}": e.drop,
            f"accuracy:{key}": e.accuracy,
        }
        findings[f"parsed:{key}"] = e.parsed
    estimates = [
        *(named(f"kept:{k}", f"{e.label}: share of the accuracy kept", e.kept, e.group) for k, e in every.items()),
        *(x for k, e in every.items() for x in told(e, k)),
    ]
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason, idle=idle)
    return Outcome(
        [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))],
        _figures(found, beside, own, len(base)),
        {"effects": tabled(base, [*found.values(), *beside.values()], bench.seed)},
        bench.able.plain(),
        settings={"hub": own, "share": SHARE, "random": DEALT},
        sections=_SECTIONS,
        notes=_notes(found, own),
    )


def _holds(bench: ThoughtBench) -> Control:
    """Every forced hub must be read back; the worst one is reported."""
    problems = few(bench)
    read = [judged_hold(forced(bench, problems, "hub", k), k) for k in range(bench.n_thoughts)]
    return max(read, key=lambda c: (not c.passed, abs((c.value or 0) - SHARE)))


def _figures(found: Mapping[str, Effect], beside: Mapping[str, Effect], own: int, n: int) -> list[Figure]:
    dealt = [e.kept.value for k, e in beside.items() if k.startswith("dealt") and e.kept.value is not None]
    data = [point("hub forced at k", int(k), e.kept) for k, e in found.items()]
    for k in found:
        data.append(point("uniform", int(k), beside["uniform"].kept))
        if len(dealt) > 1:
            data.append(spread_point("a random hub for each head", int(k), dealt))
    return [
        Figure(
            "curve", "kept", "Accuracy kept with the hub at each thought",
            f"All heads, {n} problems, 95 % intervals; for random hubs the middle 95 % of {len(dealt)} placements. The model's own "
            f"hub by the published rule is thought {own}. A hub at k acts on the rows from k on.", tuple(data),
            {"x_title": "thought that is made the hub", "y_title": "share of the accuracy kept", "threshold": 0.7},
        ),
        drops_figure(
            "drops", "Accuracy lost with the hub at each thought", "95 % intervals over problems; zero is the identity pattern.",
            [*found.values(), beside["uniform"]], threshold=0,
        ),
    ]  # fmt: skip


def _notes(found: Mapping[str, Effect], own: int) -> list[str]:
    hurt = [e.label for e in found.values() if e.matters]
    kept = np.array([e.kept.value if e.kept.value is not None else np.nan for e in found.values()])
    out = [f"Costs accuracy (exact McNemar, Holm over k): {', '.join(hurt) or 'none'}."]
    if not np.isnan(kept).any():
        best = list(found)[int(kept.argmax())]
        out.append(
            f"The hub that costs least is thought {best} ({found[best].kept} kept); the model's own is thought {own}."
        )
    return out


_WORDS = (
    "four fifths of each row's mass on thoughts put on thought k after the softmax, in all heads and rows of thoughts"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A hub at the last thought acts on one row, a hub at thought 0 on five: late hubs cost less for that reason "
            "alone. That a model works with a hub anywhere says nothing where its attention among thoughts does nothing: "
            "where cutting all of it does not surely cost as much, the claim is untestable (control cut-all). Accuracy kept "
            "is a share of the model's own: a weak model has less to lose in points."
        ),
    }
]

EXPERIMENT = Experiment(
    "hub-rerouting",
    "Can the hub stand at any thought?",
    hub_rerouting,
    STATISTICS,
    controls=("no-op", "parse-rate", "takes-hold", "silence-all", "cut-all"),
    options={"hub": "auto", "max_new_tokens": 12},
)

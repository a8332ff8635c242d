"""Which thoughts carry what the answer needs, and is the hub the bottleneck?

1. The hub is the thought that attention names by the published rule (or a number given), on selection problems.
2. Each thought in turn is replaced, before it is fed, by another problem's (the main arm), by the mean over problems, by
   noise of its own norm; later thoughts are computed from it.  Every problem has a donor of its own.
3. Accuracy lost against the unedited model, paired by problem, exact McNemar, Holm over all positions and contents.
4. The hub's drop minus the mean of the other positions' drops, in the same problems.
5. Each thought replaced by itself changes no bit; all thoughts replaced by another problem's must cost accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headlab.claims import decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thinking import ThoughtBench, of_world
from headlab.experiments.thoughts.thought_causal import (
    Effect,
    cannot_run,
    drops_figure,
    hub_of,
    lowers,
    measured,
    not_rebuilt,
    parse_control,
    tabled,
    told,
    without_thoughts,
)
from headlab.stats import Estimate, bootstrap_mean, holm
from headlab.store import Reading
from headlab.thoughts.worlds import Content, Replace, ThoughtWorld

STATISTICS = ("drop:*", "relative:*", "accuracy:*", "parsed:*", "delta:hub")
CONTENTS: dict[Content, str] = {"resample": "another problem's", "mean": "the mean", "noise": "noise of its norm"}


def position_patching(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench):
        return cannot_run(bench, why)
    n, hub = bench.n_thoughts, hub_of(bench, bench.option("hub", EXPERIMENT))
    whole = tuple(range(n))
    worlds = [
        ThoughtWorld(f"{j}:{by}", replaced=(Replace((j,), by, bench.seed),), labels={
            "label": f"thought {j}", "group": words, "thought": j, "by": by})
        for by, words in CONTENTS.items() for j in whole
    ]  # fmt: skip
    found, table, base = measured(bench, worlds, "one thought replaced", holm)
    swapped = ThoughtWorld(
        "all",
        replaced=(Replace(whole, "resample", bench.seed),),
        labels={"label": "all thoughts", "group": "another problem's"},
    )
    every, _, _ = measured(bench, [swapped], "all thoughts replaced")
    checks = [
        bench.exact(ThoughtWorld("self", replaced=(Replace(whole, "self"),)), words="each thought replaced by itself"),
        parse_control(bench.baseline, table),
        lowers("swap-all", "feeding another problem's thoughts", every["all"].drop),
    ]
    main = {f"{j}": found[f"{j}:resample"] for j in whole}
    others, delta = _against_others(base, table, hub, n, bench.seed)
    findings: dict[str, Any] = {f"drop:{k}": e.drop for k, e in main.items()} | {
        "drop:hub": main[str(hub)].drop, "drop:all": every["all"].drop, "drop:others": others, "delta:hub": delta,
    }  # fmt: skip
    for key, e in {**main, "hub": main[str(hub)], "all": every["all"]}.items():
        findings |= {f"relative:{key}": e.relative, f"accuracy:{key}": e.accuracy, f"parsed:{key}": e.parsed}
    estimates = [
        named("delta:hub", f"drop at the hub, thought {hub}, minus the mean of the others", delta, ""),
        named("drop:hub", f"the hub, thought {hub}: accuracy lost", main[str(hub)].drop, CONTENTS["resample"]),
        named("drop:others", "another thought, mean over positions: accuracy lost", others, CONTENTS["resample"]),
        *(x for k, e in {**main, "all": every["all"]}.items() for x in told(e, k)),
        *(x for name, e in found.items() if not name.endswith("resample") for x in told(e, name.split(":")[0])),
    ]
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason)
    readings = [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))]
    if "published" in bench.claim.readings:
        readings.append(not_rebuilt(bench, _NOT_REBUILT))
    return Outcome(
        readings,
        _figures(found, every["all"], hub, len(base)),
        {"effects": tabled(base, [*found.values(), *every.values()], bench.seed)},
        bench.able.plain(),
        settings={"hub": hub},
        sections=_SECTIONS,
        notes=_notes(found, hub, delta),
    )


def _against_others(base: Any, table: Any, hub: int, n: int, seed: int) -> tuple[Estimate, Estimate]:
    """Mean drop of the positions that are not the hub, and the hub's drop minus it, both paired by problem."""
    rows = base.sort_values("problem")
    right = rows["right"].to_numpy(float)
    lost = np.stack([right - of_world(table, f"{j}:resample")["right"].to_numpy(float) for j in range(n)], 1)
    rest = np.delete(lost, hub, 1).mean(1)
    clusters = rows["cluster"].tolist()
    return (
        bootstrap_mean(rest, clusters, unit="problems", seed=seed),
        bootstrap_mean(lost[:, hub] - rest, clusters, unit="problems", seed=seed),
    )


def _figures(found: Mapping[str, Effect], every: Effect, hub: int, n: int) -> list[Figure]:
    return [
        drops_figure(
            "positions", "Accuracy lost when one thought is replaced",
            f"95 % intervals over {n} problems; zero is the thought replaced by itself, which is exact. The published hub is "
            f"thought {hub}. All of them from another problem stand beside them.", [*found.values(), every], threshold=0,
        )
    ]  # fmt: skip


def _notes(found: Mapping[str, Effect], hub: int, delta: Estimate) -> list[str]:
    carrying = [e.labels["thought"] for e in found.values() if e.labels["by"] == "resample" and e.matters]
    generic = [
        e.labels["thought"] for e in found.values()
        if e.labels["by"] == "noise" and e.matters and e.labels["thought"] not in carrying
    ]  # fmt: skip
    return [
        f"Another problem's vector costs accuracy at thoughts {', '.join(map(str, carrying)) or 'none'} (exact McNemar, Holm).",
        f"Noise alone costs accuracy at thoughts {', '.join(map(str, generic)) or 'none'}: needed, with the same content in all.",
        f"The hub (thought {hub}) costs {delta} more than another position.",
    ]


_WORDS = "the vector that is fed replaced; later thoughts recomputed; another problem's vector at the same thought is the main arm"
_NOT_REBUILT = (
    "the published patch took the input of a layer from one problem (problem 0) and wrote it to that layer's output for all; "
    "with one donor the effect is that problem's, so it is not rebuilt"
)
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Noise and the mean are vectors that the model never made: what they break may be form, not content. Another "
            "problem's thought has the right form; where it is harmless, the thought carries nothing of this problem. A "
            "change at thought 0 also changes all later thoughts, one at the last thought only the answer, so early "
            "positions have more to lose. That replacing thoughts costs accuracy shows that they are used, not that "
            "thinking helped: for that, compare with the twin that was trained without thoughts."
        ),
    }
]

EXPERIMENT = Experiment(
    "position-patching",
    "Which thoughts carry what the answer needs, and is the hub the bottleneck?",
    position_patching,
    STATISTICS,
    controls=("no-op", "parse-rate", "swap-all"),
    options={"hub": "auto", "max_new_tokens": 12},
)

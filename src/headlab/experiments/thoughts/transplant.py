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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab import organisms
from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thinking import BASE, ThoughtBench, drop
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_causal import (
    Effect,
    cannot_run,
    complement,
    drops_figure,
    effects,
    parse_control,
    same_answers,
    tabled,
    told,
)
from headlab.experiments.thoughts.thought_rows import every_head, opened
from headlab.heads import Head, Heads
from headlab.stats import Estimate, Rank, bootstrap_mean, holm, rank
from headlab.store import Reading
from headlab.thoughts.loading import Thinker
from headlab.thoughts.transplant import (
    Fitted,
    HeadWeights,
    Streams,
    fit,
    has_bias,
    head_weights,
    mean_of,
    paired,
    random_like,
    rotated,
    streams,
    through,
    written,
    zero_like,
)
from headlab.thoughts.worlds import ThoughtWorld, ablation

STATISTICS = ("kept:*", "drop:*", "relative:*", "accuracy:*", "parsed:*", "gain:*", "rank:*", "fit:*")
ROTATED_KEEPS = 0.8


@dataclass(frozen=True)
class Fit:
    """The two maps between this model and a donor."""

    reading: Fitted
    writing: Fitted


def transplant(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    other = bench.option("other", EXPERIMENT)
    name = default_donor(bench.thinker.name) if other == "auto" else other
    if not name:
        return cannot_run(
            bench, "no other thought model is shipped to take a head from; name one with the option other"
        )
    donor = opened(name)
    here, there = (
        _head(bench, t, bench.option(k, EXPERIMENT)) for t, k in ((bench.thinker, "head"), (donor, "donor_head"))
    )
    own = head_weights(bench.lab, here)
    mine = streams(bench.thinker, bench.selection, here.layer, bench.rows)
    maps = _fit(bench, mine, streams(donor, bench.selection, there.layer, bench.rows), here)
    arms = _arms(bench, donor, there, own, maps, mine, here)
    tables = {k: _run(bench, here, w, k, donor) for k, (w, _, _) in arms.items()}
    base = bench.baseline
    found = _effects(bench, base, tables, arms)
    gains = _gains(tables, bench.seed)
    place = _place(bench, found)
    checks = [
        same_answers("own-back", f"the own weights of {here} put back", base, tables["own"]),
        same_answers("restored", "the model after all arms", base, bench.think([BASE], "restored")),
        _works(found["rotated"]),
        parse_control(base),
    ]
    main = {k: found[k] for k in ("transplant", "zero", "mean", "rotated")}
    findings: dict[str, Any] = {
        **gains,
        "rank:weights": place,
        "fit:reading": maps.reading.r2,
        "fit:writing": maps.writing.r2,
    }
    for key, e in main.items():
        findings |= {
            f"kept:{key}": e.kept,
            f"drop:{key}": e.drop,
            f"relative:{key}": e.relative,
            f"accuracy:{key}": e.accuracy,
        }
    nothing = (
        "" if found["zero"].drop.above(0) == "yes"
        else f"removing {here} costs {found['zero'].drop} of accuracy, so there is nothing that a transplanted head could restore"
    )  # fmt: skip
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason or nothing)
    estimates = _estimates(main, gains, place, maps)
    return Outcome(
        [Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))],
        _figures(found, place, here, there, donor),
        {"effects": tabled(base, list(found.values()), bench.seed), "maps": _maps_table(maps)},
        bench.able.plain(),
        settings={"head": str(here), "donor": donor.name, "donor_fingerprint": donor.lab.fingerprint, "donor_head": str(there),
                  "moved": moved(bench, here, donor)},
        sections=_SECTIONS,
        notes=_notes(found, gains, maps, here, there, donor, moved(bench, here, donor)),
    )  # fmt: skip


def _estimates(main: Mapping[str, Effect], gains: Mapping[str, Estimate], place: Rank, maps: Fit) -> list[Any]:
    return [
        *(named(k, _GAINS[k], v, "") for k, v in gains.items()),
        named("rank:weights", "random weights of the same norms with as high an accuracy", place.estimate, ""),
        named("fit:reading", "r² of what the donor's layer reads, from this model, held out", maps.reading.r2, ""),
        named("fit:writing", "r² of this model's residual stream, from the donor's, held out", maps.writing.r2, ""),
        *(named(f"kept:{k}", f"{e.label}: share of the accuracy kept", e.kept, "") for k, e in main.items()),
        *(x for k, e in main.items() for x in told(e, k)),
    ]


def default_donor(name: str) -> str:
    """The other family's shipped thought model; empty where there is none."""
    shipped = organisms.names("thoughts")
    others = [n for n in ("thoughts-gpt2", "thoughts-llama") if n in shipped and not name.startswith(n)]
    return others[0] if others else ""


def moved(bench: ThoughtBench, here: Head, donor: Thinker) -> str:
    """What of a head is moved, in words."""
    grid, size = bench.lab.grid, donor.lab.head_dim
    parts = ["W_Q, W_K, W_V and W_O"]
    if grid.group_size > 1:
        group = [
            f"L{here.layer}H{i}" for i in range(grid.n_heads) if grid.kv_group_of(i) == grid.kv_group_of(here.index)
        ]
        parts.append(f"W_K and W_V of the KV head that {', '.join(group)} share")
    parts.append("biases of q, k, v" if has_bias(bench.lab, here.layer) else "no biases (this model has none)")
    if size != bench.lab.head_dim:
        how = "zeros added" if size < bench.lab.head_dim else "the best product of lower rank"
        parts.append(f"{size} channels into {bench.lab.head_dim} ({how})")
    return "; ".join(parts)


def _head(bench: ThoughtBench, thinker: Thinker, asked: str) -> Head:
    """The head asked for; "auto": the one whose z, set to zero, costs most on selection problems (first of equals)."""
    grid = thinker.lab.grid
    if asked != "auto":
        return next(iter(grid.check(Heads([Head.parse(asked)]))))
    worlds = [ablation(str(h), Heads([h]), "zero") for h in every_head(grid)]
    table = bench.think(worlds, "choosing heads", problems=bench.selection, thinker=thinker)
    right: dict[str, Any] = table.groupby("world")["right"].mean().to_dict()  # type: ignore[assignment]
    return min(every_head(grid), key=lambda h: (float(right[str(h)]), h))


def _fit(bench: ThoughtBench, mine: Streams, theirs: Streams, here: Head) -> Fit:
    x, y, problem = paired(mine.read, theirs.read)
    reading = fit(x, y, problem, offset=has_bias(bench.lab, here.layer), seed=bench.seed)
    x, y, problem = paired(theirs.resid, mine.resid)
    return Fit(reading, fit(x, y, problem, offset=True, seed=bench.seed))


def _arms(
    bench: ThoughtBench, donor: Thinker, there: Head, own: HeadWeights, maps: Fit, mine: Streams, here: Head
) -> dict[str, tuple[HeadWeights, str, str]]:
    """What is put in the head's place: weights, label, group."""
    same = Heads(h for h in every_head(donor.lab.grid) if h.layer == there.layer)
    carried = {h: through(head_weights(donor.lab, h), maps.reading, maps.writing, own) for h in same}
    mean = through(mean_of([head_weights(donor.lab, h) for h in same]), maps.reading, maps.writing, own)
    turned, seen = rotated(own, mine, bench.seed)
    again = _fit(bench, mine, seen, here)
    return {
        "own": (own, f"its own weights ({here})", "control"),
        "rotated": (through(turned, again.reading, again.writing, own), "its own, through a rotated stream", "control"),
        "transplant": (carried[there], f"{there} of {donor.name}", "transplant"),
        "zero": (zero_like(own), "an empty head", "reference"),
        "mean": (mean, "the mean head of the donor's layer", "reference"),
        **{f"head {h}": (w, f"{h} of {donor.name}", "another head") for h, w in carried.items() if h != there},
        **{
            f"weights {i}": (random_like(carried[there], bench.seed + i), f"random weights {i}", "random weights")
            for i in range(bench.claim.matched_sets)
        },
    }  # fmt: skip


def _run(bench: ThoughtBench, here: Head, new: HeadWeights, arm: str, donor: Thinker) -> Any:
    with written(bench.lab, here, new):
        return bench.think([BASE], f"{arm} in {here} from {donor.name} {donor.lab.fingerprint[:8]}")


def _effects(bench: ThoughtBench, base: Any, tables: Mapping[str, Any], arms: Mapping[str, Any]) -> dict[str, Effect]:
    import pandas as pd

    whole = pd.concat([t.assign(world=k) for k, t in tables.items()], ignore_index=True)
    worlds = [ThoughtWorld(k, labels={"label": label, "group": group}) for k, (_, label, group) in arms.items()]
    return effects(base, whole, worlds, bench.seed, holm)


_GAINS = {
    "gain:zero": "accuracy with the transplanted head minus that with an empty one",
    "gain:mean": "minus that with the donor layer's mean head",
    "gain:heads": "minus that with the donor layer's other heads, on average",
    "gain:weights": "minus that with random weights of the same norms, on average",
}


def _gains(tables: Mapping[str, Any], seed: int) -> dict[str, Estimate]:
    """Paired by problem, above zero when the transplanted head does better."""
    out = {f"gain:{k}": drop(tables["transplant"], tables[k], seed=seed) for k in ("zero", "mean")}
    rows = tables["transplant"].sort_values("problem")
    for name, kind in (("gain:heads", "head "), ("gain:weights", "weights ")):
        others = [t.sort_values("problem")["right"].to_numpy(float) for k, t in tables.items() if k.startswith(kind)]
        if others:
            gap = rows["right"].to_numpy(float) - np.mean(others, 0)
            out[name] = bootstrap_mean(gap, rows["cluster"].tolist(), unit="problems", seed=seed)
    return out


def _place(bench: ThoughtBench, found: Mapping[str, Effect]) -> Rank:
    null = [e.accuracy.value for k, e in found.items() if k.startswith("weights ")]
    return rank(
        found["transplant"].accuracy.value or 0.0, null, enumerated=False, alpha=bench.claim.alpha, unit="random heads"
    )  # type: ignore[arg-type]


def _works(e: Effect) -> Control:
    """The procedure must be able to succeed: an own head that went through rotations and fitted maps still works."""
    kept = complement(e.relative)
    return Control(
        name="rotated-self", kind="positive", passed=kept.above(ROTATED_KEEPS) == "yes", value=kept.value,
        words=f"the own head, through a rotated residual stream and fitted maps, keeps {kept} of the accuracy",
    )  # fmt: skip


def _maps_table(maps: Fit) -> Any:
    import pandas as pd

    rows = [
        {"map": name, "r2": f.r2.value, "r2_low": f.r2.low, "r2_high": f.r2.high, "n": f.r2.n, "unit": f.r2.unit, "alpha": f.alpha,
         "from": f.matrix.shape[0], "to": f.matrix.shape[1]}
        for name, f in (("reading: this model → donor", maps.reading), ("writing: donor → this model", maps.writing))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _figures(found: Mapping[str, Effect], place: Rank, here: Head, there: Head, donor: Thinker) -> list[Figure]:
    shown = [e for e in found.values() if e.group != "random weights"]
    null = [e.accuracy.value for e in found.values() if e.group == "random weights" and e.accuracy.value is not None]
    return [
        drops_figure(
            "arms", f"Share of the accuracy kept with something else in the place of {here}",
            "95 % intervals over problems. The empty head is what a transplant must beat; the dashed line is the threshold.",
            shown, by="kept", threshold=0.8, x_title="share of the accuracy kept",
        ),
        draw.null(
            "weights", f"{there} of {donor.name} in the place of {here}, among random weights of its norms",
            f"Each bar counts draws. {place}.", null, found["transplant"].accuracy, str(there), "accuracy", "random heads",
        ),
    ]  # fmt: skip


def _notes(
    found: Mapping[str, Effect],
    gains: Mapping[str, Estimate],
    maps: Fit,
    here: Head,
    there: Head,
    donor: Thinker,
    what: str,
) -> list[str]:
    return [
        f"{there} of {donor.name} in the place of {here} keeps {found['transplant'].kept} of the accuracy, an empty head "
        f"{found['zero'].kept}; gain {gains['gain:zero']}.",
        f"The maps explain {maps.reading.r2} of what the donor's layer reads and {maps.writing.r2} of the residual stream here.",
        f"Moved: {what}.",
    ]


_WORDS = "weights replaced through ridge maps fitted at positions of the same role, on other problems; greedy answers"
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "That accuracy is kept means nothing where an empty head keeps it too: the gain over the empty head decides. A "
            "failure may be the map's and not the head's: a linear map of residual streams carries what is linear and "
            "common, and the rotated copy shows only that the procedure works where such a map exists. Position encodings "
            "are not moved, so a head that looks back a fixed number of tokens cannot arrive. Under shared keys the whole "
            "group is touched."
        ),
    }
]

EXPERIMENT = Experiment(
    "transplant",
    "Does a head do its work in another model?",
    transplant,
    STATISTICS,
    controls=("own-back", "restored", "rotated-self", "parse-rate"),
    options={"other": "auto", "head": "auto", "donor_head": "auto", "max_new_tokens": 12},
)

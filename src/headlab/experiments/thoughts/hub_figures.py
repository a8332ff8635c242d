"""Figures of the hub experiment: ratios beside their nulls and references, counts of hubs, recency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.effects import Figure
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_rows import Reference, head_names, lengths
from headlab.stats import Rank
from headlab.stats.intervals import bootstrap_means
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.hubs import Hubs
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
HEADS_SHOWN = 48


@dataclass(frozen=True)
class Seen:
    """One model's attention among thoughts, read both ways: the ``thought`` in question, numbers by name."""

    thought: int
    numbers: dict[str, Any]
    found: Hubs
    where: Rank
    null: Array


def figures(
    bench: ThoughtBench, seen: Seen, among: Array, clusters: Sequence[str],
    others: Sequence[Reference], ruled: Mapping[str, Hubs],
) -> list[Figure]:  # fmt: skip
    n, names = among.shape[-1], head_names(bench.lab.grid)
    shown = np.argsort(-np.nanmax(seen.found.shuffled.observed, 1), kind="stable")[:HEADS_SHOWN]
    out = [
        draw.null(
            "null", f"What thought {seen.thought} receives, among shuffles of the thoughts",
            "Each bar counts shuffles: in every row of each of ten sets of problems the visible thoughts change places. The line "
            "is this model (all heads), its band the 95 % interval over problems. One is what exposure explains.",
            seen.null[:5000], seen.numbers["hub:ratio"], f"thought {seen.thought}", "times uniform", "shuffles",
        ),
        _by_thought(seen, others, n, bench.seed, corrected=True, flat=None),
        _by_thought(seen, others, n, bench.seed, corrected=False, flat=_flat(bench)),
        _counts(bench, seen, among, others, ruled),
        draw.cells(
            "heads", "Attention received by each thought, corrected for exposure, by head",
            f"The {len(shown)} heads with the largest ratio; 1 = uniform. Intervals and p stand in the table.",
            {names[h]: seen.found.shuffled.observed[h] for h in shown}, y_title="head", value_title="times uniform",
        ),
        _recency(among, clusters, bench.seed),
    ]  # fmt: skip
    rows = [
        (f"thought {j}", f"rows of {name}", seen.numbers[f"{name}:{j}"])
        for j in range(n) for name in ("eot", "answer") if f"{name}:{j}" in seen.numbers
    ]  # fmt: skip
    if rows:
        out.append(
            draw.estimates(
                "answers", "What eot and the answer read among thoughts",
                "These rows see all thoughts, so an even share is the right reference (1). Means over heads, 95 % intervals over "
                "problems.", rows, "times an even share", measure.ABOVE,
            )
        )  # fmt: skip
    return out


def _flat(bench: ThoughtBench) -> Array:
    """Published ratio by thought when every visible key, the question's too, gets the same attention."""
    n = bench.n_thoughts
    keys = np.array(lengths(bench.thinker, bench.test))[:, None] + 2 + np.arange(n)[None]
    return metrics.published_ratio(metrics.published_view((1 / keys)[..., None] * np.tri(n)).mean(0))


def _by_thought(
    seen: Seen, others: Sequence[Reference], n: int, seed: int, *, corrected: bool, flat: Array | None
) -> Figure:
    """This model's ratio by thought, beside uniform attention, untrained models and siblings."""
    kind = "ratio" if corrected else "published"

    def of(o: Reference) -> Array:
        if corrected:
            return np.nanmean(measure.corrected(o.matrices), 1)
        return metrics.published_ratio(metrics.published_view(o.matrices).mean(1))

    plain = [of(o).mean(0) for o in others if o.kind == "untrained"]
    beside = {
        o.name: bootstrap_means(of(o), o.clusters, unit="problems", seed=seed) for o in others if o.kind == "other"
    }
    rows = []
    for j in range(n):
        label = f"thought {j}"
        rows.append((label, "this model", seen.numbers[f"{kind}:{j}"]))
        even = 1.0 if flat is None else float(flat[j])
        rows.append((label, "uniform attention", draw.exactly(even, seen.numbers["hub:ratio"].n, "problems")))
        if len(plain) > 1:
            rows.append((label, "untrained models", draw.over_models([float(p[j]) for p in plain], seed)))
        rows += [(label, name, got[j]) for name, got in beside.items()]
    told = (
        "Rows normalised inside the thoughts, column sums over what uniform rows give them."
        if corrected
        else "Column sums of the published matrix over 1/6, the published ratio. Uniform attention over all keys, without any "
        "preference, falls from thought to thought in the same way."
    )
    return draw.estimates(
        "corrected" if corrected else "published",
        "What each thought receives, corrected for exposure" if corrected else "What each thought receives, as published",
        f"{told} Means over heads, 95 % intervals over problems (over models, for untrained ones).",
        rows, "times uniform" if corrected else "times 1/6", measure.ABOVE if corrected else None,
    )  # fmt: skip


def _counts(
    bench: ThoughtBench, seen: Seen, among: Array, others: Sequence[Reference], ruled: Mapping[str, Hubs]
) -> Figure:
    """Share of heads whose hub is thought j, by either rule, here and in untrained models."""
    n = among.shape[-1]

    def published(x: Array) -> Array:
        return metrics.incoming(metrics.published_view(x).mean(0)).argmax(-1)

    def shares(places: Array) -> list[float]:
        return [float((places == j).mean()) for j in range(n)]

    rows = {
        "published rule, this model": shares(published(among)),
        "corrected rule, this model": shares(seen.found.hub),
    }
    plain = [o for o in others if o.kind == "untrained"]
    if plain:
        rows["published rule, untrained"] = shares(np.concatenate([published(o.matrices) for o in plain]))
        rows["corrected rule, untrained"] = shares(np.concatenate([ruled[o.name].hub for o in plain]))
    total = f"{among.shape[1]} heads here" + (f", {among.shape[1] * len(plain)} in untrained models" if plain else "")
    return draw.cells(
        "counts", "Where heads have their hub, by either rule",
        f"Share of heads ({total}). The published rule names a hub in every head; the corrected one only where the interval "
        "lies above 1.25 and the adjusted p under .05.", rows, y_title="rule", value_title="share of heads",
    )  # fmt: skip


def _recency(among: Array, clusters: Sequence[str], seed: int) -> Figure:
    got = bootstrap_means(np.nanmean(measure.by_offset(among), 1), clusters, unit="problems", seed=seed)
    rows = [(f"{d} back" if d else "itself", "this model", e) for d, e in enumerate(got)]
    return draw.estimates(
        "recency", "Attention among thoughts by distance",
        "Over what uniform rows give. A head that reads what is near imitates a hub at late thoughts; one that reads itself does "
        "so most.", rows, "times uniform", 1.0,
    )  # fmt: skip

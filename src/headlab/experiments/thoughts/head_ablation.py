"""Are the heads that look most critical the ones that the answer needs?

1. On selection problems the published composite (hub variance, flow, skip) ranks all heads; norms of what each head
   writes are measured there too.
2. On test problems every head is ablated alone: z replaced by its mean over problems, at every position.  Exact McNemar
   against the unedited model, Benjamini-Hochberg over heads, parse rate beside every accuracy.
3. The top 1, 2, 3 … heads (and heads given by name) are ablated together: mean, zero and resample.
4. The reference: random sets of heads of the same layers, nearest in norm.  A set matters more than chance when fewer
   than α of them cost as much.
5. Spearman correlation of score and effect over all heads, against scores exchanged within layers.
6. The published reading zeroes a slice of the attention module's output, which is no head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.null import rank_by_pair
from headlab.experiments.thinking import ThoughtBench, of_world
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_causal import (
    Array,
    Effect,
    MatchedSets,
    Scores,
    cannot_run,
    drops_figure,
    matched_by_layer,
    measured,
    not_rebuilt,
    output_norms,
    parse_control,
    point,
    published_scores,
    rank_correlation,
    silent_control,
    spearman,
    spread_point,
    tabled,
    told,
    without_thoughts,
)
from headlab.experiments.thoughts.thought_rows import every_head, only
from headlab.heads import Head, Heads
from headlab.interventions import Intervention
from headlab.stats import Rank, benjamini_hochberg, rank
from headlab.store import Reading
from headlab.thoughts.worlds import ThoughtWorld, ablation

STATISTICS = ("drop:*", "relative:*", "accuracy:*", "parsed:*", "rank:*", "spearman")
WRITES = ("mean", "zero", "resample")
PERMUTATIONS = 1999


def head_ablation(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := without_thoughts(bench, 4):
        return cannot_run(bench, why)
    grid, option = bench.lab.grid, lambda name: bench.option(name, EXPERIMENT)
    scores, norms, write = published_scores(bench), output_norms(bench), option("write")
    if write not in WRITES:
        raise ValueError(f"write is {write!r}; expected one of {', '.join(WRITES)}")
    chosen = {f"top{k}": Heads(scores.ranked[:k]) for k in range(1, min(option("k"), len(scores.ranked)) + 1)}
    if option("heads"):
        chosen["named"] = grid.check(Heads.parse(option("heads")))
    singles = [ablation(str(h), Heads([h]), write, label=str(h), group=f"layer {h.layer}") for h in every_head(grid)]
    alone, table, base = measured(bench, singles, "one head at a time", benjamini_hochberg)
    together, several, _ = measured(bench, _sets(chosen), "heads together")
    ranked = {k: v for k, v in chosen.items() if k in ("top1", "top3", "named")}
    matched = {k: matched_by_layer(grid, v, norms, bench.claim.matched_sets, bench.seed) for k, v in ranked.items()}
    by_problem = _reference(bench, matched, table, base, write)
    reference = {k: x.mean(0) for k, x in by_problem.items()}
    checks = [
        bench.exact(ablation("no-op", every_head(grid), "noop"), words="writing every head's own z back"),
        parse_control(bench.baseline, _both(table, several)),
        silent_control(bench),
    ]
    ranks = {
        k: _ranked(bench, _lost(base, several, [ThoughtWorld(f"{k}:{write}")]), by_problem[k], base, matched[k])
        for k in ranked
    }
    lost = _lost(base, table, singles)
    rho = rank_correlation(lost, scores.composite.score, base["cluster"].tolist(), bench.seed)
    order = _order(bench, scores, lost)
    main = {k: together[f"{k}:{write}"] for k in chosen}
    readings = [_standard(bench, main, ranks | order, rho, checks)]
    if "published" in bench.claim.readings:
        readings.append(_published(bench, chosen, checks))
    return Outcome(
        readings,
        _figures(bench, alone, together, main, scores, reference, ranks | order, write),
        {
            "effects": tabled(base, [*together.values(), *alone.values()], bench.seed),
            "heads": _heads(alone, scores, norms),
            "matched": _matched_table(matched, reference),
        },
        bench.able.plain(),
        settings={"write": write, "sets": {k: str(v) for k, v in chosen.items()}, "matched": {
            k: {"n": len(m.sets), "enumerated": m.enumerated, "norms_within_factor": m.within} for k, m in matched.items()}},
        sections=_SECTIONS,
        notes=_notes(alone, rho, scores),
    )  # fmt: skip


def _sets(chosen: Mapping[str, Heads]) -> list[ThoughtWorld]:
    return [
        ablation(f"{name}:{write}", heads, write, label=f"{_said(name)} ({heads})" if len(heads) < 4 else _said(name), group=write)
        for name, heads in chosen.items()
        for write in WRITES
    ]  # fmt: skip


def _said(name: str) -> str:
    return "heads named" if name == "named" else f"top {name.removeprefix('top')} by composite"


def _both(*tables: Any) -> Any:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def _lost(base: Any, table: Any, worlds: Sequence[ThoughtWorld]) -> Array:
    """Accuracy lost, [problem, world]."""
    right = base.sort_values("problem")["right"].to_numpy(float)
    return np.stack([right - of_world(table, w.name)["right"].to_numpy(float) for w in worlds], 1)


def _reference(
    bench: ThoughtBench, matched: Mapping[str, MatchedSets], singles: Any, base: Any, write: str
) -> dict[str, Array]:
    """Accuracy lost by each matched set, [problem, set]; sets of one head were run already."""
    wanted = dict.fromkeys(s for m in matched.values() for s in m.sets if len(s) > 1)
    worlds = {s: ablation(f"matched {s}", s, write) for s in wanted}
    table = _both(singles, bench.think(list(worlds.values()), "matched sets")) if worlds else singles
    alone = {s: ThoughtWorld(str(s)) for m in matched.values() for s in m.sets if len(s) == 1}
    named_so = worlds | alone
    return {k: _lost(base, table, [named_so[s] for s in m.sets]) for k, m in matched.items()}


def _ranked(bench: ThoughtBench, own: Array, others: Array, base: Any, matched: MatchedSets) -> Rank:
    """The place of ``own`` [problem, 1] among ``others`` [problem, set]."""
    clusters = base.sort_values("problem")["cluster"].to_numpy()
    lost = np.hstack([own, others]).T
    return rank_by_pair(lost, clusters, bench.claim, enumerated=matched.enumerated, unit="matched sets")


def _order(bench: ThoughtBench, scores: Scores, lost: Array) -> dict[str, Rank]:
    """Spearman's ρ among scores exchanged between the heads of a layer."""
    effect, own = lost.mean(0), scores.composite.score
    seen = spearman(own, effect)
    if not np.isfinite(seen):
        return {}
    rng, layers = np.random.default_rng(bench.seed), np.array([h.layer for h in scores.heads])
    null = np.empty(PERMUTATIONS)
    for i in range(PERMUTATIONS):
        moved = own.copy()
        for at in np.unique(layers):
            moved[layers == at] = rng.permutation(own[layers == at])
        null[i] = spearman(moved, effect)
    unit = "exchanges of scores within layers"
    return {"spearman": rank(seen, null, enumerated=False, alpha=bench.claim.alpha, unit=unit)}


def _standard(
    bench: ThoughtBench, main: Mapping[str, Effect], ranks: Mapping[str, Rank], rho: Any, checks: list[Control]
) -> Reading:
    findings: dict[str, Any] = {f"rank:{k}": r for k, r in ranks.items()} | {"spearman": rho}
    estimates = [
        named(f"rank:{k}", f"{k}: matched references at least as extreme", r.estimate, "") for k, r in ranks.items()
    ]
    estimates.append(named("spearman", "rank correlation of composite and accuracy lost, over heads", rho, ""))
    for key, e in main.items():
        findings |= {
            f"drop:{key}": e.drop,
            f"relative:{key}": e.relative,
            f"accuracy:{key}": e.accuracy,
            f"parsed:{key}": e.parsed,
        }
        estimates += told(e, key)
    verdict = decide(bench.claim, findings, checks, ineligible=bench.able.reason)
    return Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates))


def _published(bench: ThoughtBench, chosen: Mapping[str, Heads], checks: list[Control]) -> Reading:
    """A slice of the attention module's output zeroed at every position; no reference, no test."""
    lab = bench.lab
    if lab.d_model % lab.grid.n_heads:
        return not_rebuilt(bench, f"{lab.d_model} residual channels do not divide into {lab.grid.n_heads} slices")
    worlds = [
        ThoughtWorld(k, sliced(heads), labels={"label": _said(k), "group": "slice of the output"})
        for k, heads in chosen.items()
    ]
    found, _, _ = measured(bench, worlds, "slices of the output")
    verdict = decide(only(bench.claim, *(f"drop:{k}" for k in chosen)), {f"drop:{k}": e.drop for k, e in found.items()}, checks,
                     ineligible=bench.able.reason)  # fmt: skip
    estimates = [x for k, e in found.items() for x in told(e, k)]
    return Reading(protocol="published", words=_PUBLISHED, verdict=verdict, estimates=tuple(estimates))


def sliced(heads: Heads) -> tuple[Intervention, ...]:
    """What the published scripts zeroed as heads: slices of the attention module's output."""
    return tuple(Intervention(Heads.of(at, heads.at(at)), "out_block", "zero") for at in heads.layers)


# -- tables and figures -------------------------------------------------------------------------------------


def _heads(alone: Mapping[str, Effect], scores: Scores, norms: Mapping[Head, float]) -> Any:
    import pandas as pd

    composite = scores.composite
    rows = [
        {"layer": h.layer, "head": h.index, "composite": float(composite.score[i]), "place": scores.ranked.index(h) + 1,
         "type": composite.types[i], "norm": norms[h], **alone[str(h)].row()}
        for i, h in enumerate(scores.heads)
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values("place", ignore_index=True)


def _matched_table(matched: Mapping[str, MatchedSets], reference: Mapping[str, Array]) -> Any:
    import pandas as pd

    rows = [
        {"for": key, "heads": str(s), "drop": float(d)}
        for key, m in matched.items()
        for s, d in zip(m.sets, reference[key], strict=True)
    ]
    return pd.DataFrame(rows, columns=["for", "heads", "drop"])


def _figures(
    bench: ThoughtBench, alone: Mapping[str, Effect], together: Mapping[str, Effect], main: Mapping[str, Effect],
    scores: Scores, reference: Mapping[str, Array], ranks: Mapping[str, Rank], write: str,
) -> list[Figure]:  # fmt: skip
    out = [
        draw.null(
            f"null-{key}", f"Accuracy lost without {_said(key)}, among random heads of the same layers",
            f"Each bar counts matched sets of as many heads, {write} ablation. {ranks[key]}.", reference[key], main[key].drop,
            _said(key), "accuracy lost", "matched sets",
        )
        for key in ("named", "top3", "top1") if key in reference
    ]  # fmt: skip
    whole = bench.able.accuracy.value or 0.0
    data = [
        point(w, k, together[f"top{k}:{w}"].accuracy) for w in WRITES for k in range(1, 99) if f"top{k}:{w}" in together
    ]
    data += [
        spread_point("matched random heads", k, whole - reference[f"top{k}"]) for k in (1, 3) if f"top{k}" in reference
    ]
    shown = sorted(alone.values(), key=lambda e: -(e.drop.value or 0))[:15]
    dots = tuple(
        {
            "x": float(scores.composite.score[i]),
            "y": alone[str(h)].drop.value,
            "label": str(h),
            "group": f"layer {h.layer}",
        }
        for i, h in enumerate(scores.heads)
    )
    return [
        *out,
        Figure(
            "curve", "cumulative", "Accuracy as the highest-scored heads are ablated together",
            "Bands are 95 % intervals over problems; for matched random heads the middle 95 % of sets. The dashed line is the "
            "unedited model.", tuple(data),
            {"x_title": "heads ablated", "y_title": "accuracy", "threshold": round(whole, 4)},
        ),
        drops_figure(
            "heads", "The fifteen heads whose ablation alone costs most",
            f"{write.capitalize()} ablation at every position, 95 % intervals over problems. "
            f"{sum(e.matters for e in alone.values())} of {len(alone)} heads pass Benjamini-Hochberg.", shown,
        ),
        Figure(
            "scatter", "score-effect", "The score of each head and what its ablation costs",
            f"Spearman: {ranks.get('spearman', 'undefined, no head differs')}.", dots,
            {"x_title": "published composite, on selection problems", "y_title": "accuracy lost", "named": [
                d["label"] for d in sorted(dots, key=lambda d: -(d["y"] or 0))[:6]]},
        ),
    ]  # fmt: skip


def _notes(alone: Mapping[str, Effect], rho: Any, scores: Scores) -> list[str]:
    found = [e for e in alone.values() if e.matters]
    worst = sorted(found, key=lambda e: -(e.drop.value or 0))[:5]
    told_so = ", ".join(f"{e.label} {e.drop}" for e in worst) or "none"
    unread = [e for e in alone.values() if (e.parsed.value or 0) < 0.5]
    out = [
        f"{len(found)} of {len(alone)} heads cost accuracy alone (exact McNemar, Benjamini-Hochberg): {told_so}.",
        f"Rank correlation of composite and accuracy lost over heads: {rho}.",
    ]
    if scores.composite.warning:
        out.append(f"{scores.composite.warning}.")
    if unread:
        out.append(f"Less than half of the answers hold a number without {', '.join(e.label for e in unread)}.")
    return out


_WORDS = "z of whole heads replaced at every position, by its mean over problems unless named otherwise; ranked on other problems"
_PUBLISHED = "a slice of the attention module's output set to zero (residual coordinates, not a head); one contrast, no reference"
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "A head that costs nothing alone may have a stand-in: single ablations find what is irreplaceable, not what "
            "works. Zero is a value that no head ever takes, so zero ablation also breaks what merely expected the mean. "
            "The interval of the rank correlation is over problems, for these heads; whether an order of so few heads is more "
            "than chance is its rank. "
            "With twelve heads in a layer a single head has too few matched heads for a rank to decide; its McNemar test "
            "and interval stand. An accuracy of zero is read only beside its parse rate: where no number is found, the "
            "text or the parser broke, and neither is arithmetic."
        ),
    }
]

EXPERIMENT = Experiment(
    "head-ablation",
    "Are the heads that look most critical the ones that the answer needs?",
    head_ablation,
    STATISTICS,
    controls=("no-op", "parse-rate", "silence-all"),
    options={"k": 6, "heads": "", "write": "mean", "max_new_tokens": 12},
)

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

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from headlab.effects import Figure, Table
from headlab.heads import Heads, every_head
from headlab.interventions import Intervention
from headlab.reading import expected_one_of
from headlab.stats import Estimate, Rank, benjamini_hochberg, rank
from headlab.stats.correlation import spearman
from headlab.thoughts.worlds import ThoughtWorld, ablation
from headlab.trials import charts
from headlab.trials import thought_charts as draw
from headlab.trials.answers import Effect
from headlab.trials.flow import Method, OnProblems, unsliced, what_is_measured
from headlab.trials.sweeps import Seen, Told
from headlab.trials.thought_case import thoughts_at_least
from headlab.trials.thought_checks import parsed, silenced, written_back
from headlab.trials.thought_effects import Edits, costs, table
from headlab.trials.thought_heads import output_norms, rank_correlation, scores
from headlab.trials.thought_sets import Beside

Array = np.ndarray
WRITES = ("mean", "zero", "resample")
RANKED = ("named", "top3", "top1")
PERMUTATIONS = 1999


def write(seen: Seen) -> str:
    asked = str(seen.scope.options["write"])
    if asked not in WRITES:
        raise ValueError(f"write is {asked!r}; {expected_one_of(asked, WRITES)}")
    return asked


def chosen(seen: Seen) -> dict[str, Heads]:
    """The heads that are ablated together: the highest scored, and those named."""
    ranked, options = scores(seen).ranked, seen.scope.options
    tops = {f"top{k}": Heads(ranked[:k]) for k in range(1, min(options["k"], len(ranked)) + 1)}
    return tops | ({"named": seen.scope.grid.check(Heads.parse(options["heads"]))} if options["heads"] else {})


def label(name: str) -> str:
    return "heads named" if name == "named" else f"top {name.removeprefix('top')} by composite"


def alone(seen: Seen) -> list[ThoughtWorld]:
    heads = every_head(seen.scope.grid)
    return [ablation(f"{h}", Heads([h]), write(seen), label=f"{h}", group=f"layer {h.layer}") for h in heads]


def together(seen: Seen) -> list[ThoughtWorld]:
    return [
        ablation(f"{name}:{by}", heads, by, label=label(name) + (f" ({heads})" if len(heads) < 4 else ""), group=by)
        for name, heads in seen.once(chosen).items()
        for by in WRITES
    ]


def slices(seen: Seen) -> list[ThoughtWorld]:
    """What the published scripts zeroed as heads: slices of the attention module's output."""
    return [
        ThoughtWorld(
            name,
            tuple(Intervention(Heads.of(at, heads.at(at)), "out_block", "zero") for at in heads.layers),
            labels={"label": label(name), "group": "slice of the output"},
        )
        for name, heads in seen.once(chosen).items()
    ]


ALONE = Edits("one head at a time", alone, benjamini_hochberg)
TOGETHER = Edits("heads together", together)
SLICES = Edits("slices of the output", slices)


def main(seen: Seen) -> dict[str, Effect]:
    return {k: seen.once(TOGETHER).found[f"{k}:{write(seen)}"] for k in seen.once(chosen)}


BESIDE = Beside(lambda seen: {k: v for k, v in seen.once(chosen).items() if k in RANKED}, write, ALONE)


def reference(seen: Seen) -> dict[str, Array]:
    """Accuracy lost by matched sets of each ranked set, [problem, set]."""
    return BESIDE.lost(seen, seen.once(ALONE).base)


def ranks(seen: Seen) -> dict[str, Rank]:
    ran = seen.once(TOGETHER)
    return {
        k: BESIDE.rank(seen, k, ran.lost(f"{k}:{write(seen)}"), others, np.array(ran.clusters))
        for k, others in seen.once(reference).items()
    } | seen.once(order)


def single_losses(seen: Seen) -> Array:
    """Accuracy lost without each head, [problem, head]."""
    return seen.once(ALONE).lost(*seen.once(ALONE).found)


def order(seen: Seen) -> dict[str, Rank]:
    """Spearman's ρ among scores exchanged between the heads of a layer."""
    own, effect = scores(seen).composite.score, seen.once(single_losses).mean(0)
    if not np.isfinite(spearman(own, effect)):
        return {}
    rng, layers = np.random.default_rng(seen.case.seed), np.array([h.layer for h in scores(seen).heads])
    moved = np.tile(own, (PERMUTATIONS, 1))
    for one in moved:
        for at in np.unique(layers):
            one[layers == at] = rng.permutation(own[layers == at])
    unit, alpha = "exchanges of scores within layers", seen.case.claim.alpha
    found = float(spearman(own, effect))
    return {"spearman": rank(found, spearman(effect, moved), enumerated=False, alpha=alpha, unit=unit)}


def correlation(seen: Seen) -> Estimate:
    clusters, own = seen.once(ALONE).clusters, scores(seen).composite.score
    return rank_correlation(seen.once(single_losses), own, clusters, seen.case.seed)


def ranked(seen: Seen) -> Iterator[Told]:
    for k, r in seen.once(ranks).items():
        yield Told(f"rank:{k}", f"{k}: matched references at least as extreme", r, "")
    said = "rank correlation of composite and accuracy lost, over heads"
    yield Told("spearman", said, seen.once(correlation), "")


# -- tables, figures, words ---------------------------------------------------------------------------------


def heads_table(seen: Seen) -> Table:
    found, own, norms = seen.once(ALONE).found, scores(seen), seen.of_case(output_norms)
    place = {h: n for n, h in enumerate(own.ranked, start=1)}
    rows = [
        {
            "layer": h.layer,
            "head": h.index,
            "composite": float(score),
            "place": place[h],
            "type": kind,
            "norm": norms[h],
        }
        | found[f"{h}"].row()
        for h, score, kind in zip(own.heads, own.composite.score, own.composite.types, strict=True)
    ]
    return pd.DataFrame(rows).sort_values("place", ignore_index=True)


def matched_table(seen: Seen) -> Table:
    lost = {k: x.mean(0) for k, x in seen.once(reference).items()}
    rows = [(k, str(s), d) for k, m in seen.once(BESIDE.sets).items() for s, d in zip(m.sets, lost[k], strict=True)]
    return pd.DataFrame(rows, columns=["for", "heads", "drop"])


def nulls(seen: Seen) -> list[Figure]:
    return [
        charts.null(
            f"null-{k}",
            f"Accuracy lost without {label(k)}, among random heads of the same layers",
            f"Each bar counts matched sets of as many heads, {write(seen)} ablation. {seen.once(ranks)[k]}.",
            seen.once(reference)[k].mean(0),
            main(seen)[k].drop,
            label(k),
            "accuracy lost",
            named=seen.once(chosen)[k],
            of=charts.Column("matched", "drop", {"for": k}),
        )
        for k in RANKED
        if k in seen.once(reference)
    ]


def cumulative(seen: Seen) -> Figure:
    whole, tops = seen.case.able.accuracy.value or 0.0, [k for k in seen.once(chosen) if k != "named"]
    found, lost = seen.once(TOGETHER).found, seen.once(reference)
    rows = [charts.point(by, int(k[3:]), found[f"{k}:{by}"].accuracy) for by in WRITES for k in tops]
    beside = [k for k in ("top1", "top3") if k in lost]
    rows += [draw.spread_point("matched random heads", int(k[3:]), whole - lost[k].mean(0)) for k in beside]
    caption = (
        "Bands are 95 % intervals over problems; for matched random heads the middle 95 % of sets. The dashed line is the "
        "unedited model."
    )
    title, axes = "Accuracy as the highest-scored heads are ablated together", ("heads ablated", "accuracy")
    return charts.curve("cumulative", title, caption, rows, *axes, round(whole, 4))


def bars(seen: Seen) -> Figure:
    found = seen.once(ALONE).found
    passing = f"{sum(e.matters for e in found.values())} of {len(found)} heads pass Benjamini-Hochberg."
    caption = f"{write(seen).capitalize()} ablation at every position, 95 % intervals over problems. {passing}"
    shown = sorted(found.values(), key=lambda e: -(e.drop.value or 0))[:15]
    return draw.drops("heads", "The fifteen heads whose ablation alone costs most", caption, shown)


def scatter(seen: Seen) -> Figure:
    found, own = seen.once(ALONE).found, scores(seen)
    dots: list[Mapping[str, object]] = [
        {"x": float(x), "y": found[f"{h}"].drop.value, "label": f"{h}", "group": f"layer {h.layer}"}
        for h, x in zip(own.heads, own.composite.score, strict=True)
    ]
    worst = sorted(found.values(), key=lambda e: -(e.drop.value or 0))[:6]
    axes = {"x_title": "published composite, on selection problems", "y_title": "accuracy lost"}
    caption = f"Spearman: {seen.once(ranks).get('spearman', 'undefined, no head differs')}."
    title = "The score of each head and what its ablation costs"
    return Figure("scatter", "score-effect", title, caption, tuple(dots), axes | {"named": [e.label for e in worst]})


def notes(seen: Seen) -> Sequence[str]:
    found, warning = seen.once(ALONE).found, scores(seen).composite.warning
    hurt = sorted((e for e in found.values() if e.matters), key=lambda e: -(e.drop.value or 0))
    worst = ", ".join(f"{e.label} {e.drop}" for e in hurt[:5]) or "none"
    unread = ", ".join(e.label for e in found.values() if (e.parsed.value or 0) < 0.5)
    return [
        f"{len(hurt)} of {len(found)} heads cost accuracy alone (exact McNemar, Benjamini-Hochberg): {worst}.",
        f"Rank correlation of composite and accuracy lost over heads: {seen.once(correlation)}.",
        *([f"{warning}."] if warning else []),
        *([f"Less than half of the answers hold a number without {unread}."] if unread else []),
    ]


def settings(seen: Seen) -> dict[str, object]:
    sets = {k: str(v) for k, v in seen.once(chosen).items()}
    return {"write": write(seen), "sets": sets, "matched": BESIDE.settings(seen)}


EXPERIMENT = OnProblems(
    slug="head-ablation",
    question="Are the heads that look most critical the ones that the answer needs?",
    statistics=("drop:*", "relative:*", "accuracy:*", "parsed:*", "rank:*", "spearman"),
    controls=("no-op", "parse-rate", "silence-all"),
    options={"k": 6, "heads": "", "write": "mean", "max_new_tokens": 12},
    cannot=thoughts_at_least(4),
    methods={
        "standard": Method(
            "z of whole heads replaced at every position, by its mean over problems unless named otherwise; ranked on other "
            "problems",
            numbers=(ranked, costs(main)),
            controls=(written_back, parsed(ALONE, TOGETHER), silenced),
            figures=(nulls, cumulative, bars, scatter),
            tables={"effects": table(TOGETHER, ALONE), "heads": heads_table, "matched": matched_table},
            settings=settings,
            notes=notes,
        ),
        "published": Method(
            "a slice of the attention module's output set to zero (residual coordinates, not a head); one contrast, no "
            "reference",
            numbers=(costs(lambda seen: seen.once(SLICES).found),),
            controls=(written_back, parsed(SLICES), silenced),
            impossible=unsliced,
            asks=what_is_measured,
        ),
    },
    sections={
        "When this misleads": (
            "A head that costs nothing alone may have a stand-in: single ablations find what is irreplaceable, not what "
            "works. Zero is a value that no head ever takes, so zero ablation also breaks what merely expected the mean. "
            "The interval of the rank correlation is over problems, for these heads; whether an order of so few heads is more "
            "than chance is its rank. "
            "With twelve heads in a layer a single head has too few matched heads for a rank to decide; its McNemar test "
            "and interval stand. An accuracy of zero is read only beside its parse rate: where no number is found, the "
            "text or the parser broke, and neither is arithmetic."
        )
    },
)

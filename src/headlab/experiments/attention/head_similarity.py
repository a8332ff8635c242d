"""Are heads of one parity more alike than heads of different parity?

1. For every prompt (both formats): the correlation of every two heads' attention patterns, and of what they write.
2. Mean similarity within the even heads, within the odd heads and between them, with intervals over pairs.
3. The null: exchange which heads are called even, within KV groups (heads that share keys are alike for that reason).
   Two heads share a row of the table with many others, so no entry is ever tested as if it stood alone.
4. The same in every layer, Holm-adjusted; similarity within KV groups beside it.
5. The published reading (a t-test over pairs of heads) and the naive one (no null).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.engine.model import Lab, ModelError
from headlab.experiments.attention.watched import (
    Array,
    chosen_layer,
    clusters_of,
    estimates_figure,
    even_side,
    matched_sides,
    naive,
    no_halves,
    untestable,
    without_ranks,
)
from headlab.experiments.base import Bench, Experiment, Outcome, named
from headlab.heads import Grid
from headlab.measures import moments
from headlab.measures.edited import copying, edited, of_one_length, two_patterns
from headlab.prompts import Encoded
from headlab.stats import Estimate, Rank, holm, rank
from headlab.stats.distances import LabelContrast, label_contrast
from headlab.stats.figures import rounded
from headlab.store import Reading

STATISTICS = ("within:even", "within:odd", "between", "contrast:parity", "rank:parity", "contrast:kv")
EXACT = 1e-6
WRITTEN = "what heads write"
_WORDS = "correlation of patterns in each prompt, both formats; labels exchanged within KV groups"


def head_similarity(bench: Bench) -> Outcome:
    """Run the experiment."""
    import pandas as pd

    claim, lab = bench.claim, bench.lab
    if why := no_halves(lab):
        return untestable(bench, why)
    if lab.grid.n_heads < 4:
        return untestable(
            bench, f"{lab.name} has {lab.grid.n_heads} heads in each layer: no two of one parity to compare"
        )
    at, scan = chosen_layer(bench)
    encoded = [e for p in bench.encoded for e in (p.clean, p.corrupted)]
    clusters = [c for c in clusters_of(bench.encoded) for _ in (0, 1)]
    settings = {"queries": bench.option("queries", EXPERIMENT), "sink": bench.option("sink", EXPERIMENT)}
    tables = {layer: _tables(lab, encoded, layer, **settings) for layer in sorted(lab.attentions)}
    found, where, null = _tested(tables[at], clusters, bench, at)
    kv = _by_kv(tables[at], clusters, bench)
    checks = _controls(bench, encoded, at, settings)
    ruled: dict[str, Any] = {**_findings(found), "rank:parity": where, "contrast:kv": kv.contrast if kv else None}
    ruled = {k: v for k, v in ruled.items() if v is not None}
    estimates = _estimates(found, "")
    estimates.append(named("rank:parity", "matched halves with a contrast at least as large", where.estimate, ""))
    if kv:
        estimates.append(named("contrast:kv", "within minus between KV groups", kv.contrast, ""))
    if (written := _written(bench, encoded, clusters, at)) is not None:
        estimates += _estimates(written, WRITTEN)
    verdict = decide(claim, ruled, checks)
    readings = [
        Reading(protocol="standard", words=_WORDS, verdict=verdict, estimates=tuple(estimates)),
        naive(found.contrast, "parity", checks),
    ]
    if "published" in claim.readings:
        readings.append(_published(bench, encoded, clusters, at, checks))
    return Outcome(
        readings,
        [_figure(found, kv, at), _null_figure(found, where, null, at)],
        {"similarity": _pairs(tables, lab.grid), "layers": pd.DataFrame(_layers(tables, clusters, bench))},
        {"ok": True, "reason": "", "rule": "none: what heads attend to is measured, not whether answers are right"},
        settings={"layer": at, "layer_scan": scan, **settings},
        sections=_SECTIONS,
    )


def _tables(lab: Lab, encoded: Sequence[Encoded], layer: int, **settings: Any) -> Array:
    """Correlation of every two heads in each prompt, [prompt, head, head]; NaN where a head's pattern is constant."""
    return moments(lab, encoded, layer, **settings).each()


def _kept(tables: Array, clusters: Sequence[str]) -> tuple[Array, list[str]]:
    """The prompts in which every correlation is defined."""
    whole: Any = ~np.isnan(tables).any(axis=(1, 2))
    return tables[whole], [c for c, keep in zip(clusters, whole.tolist(), strict=True) if keep]


def _parity(grid: Grid) -> list[str]:
    return ["odd" if h % 2 else "even" for h in range(grid.n_heads)]


def _groups(grid: Grid) -> list[int] | None:
    return None if grid.group_size == 1 else [grid.kv_group_of(h) for h in range(grid.n_heads)]


def _contrasted(
    tables: Array, clusters: Sequence[str], bench: Bench, labels: Sequence[Any], groups: Any
) -> LabelContrast:
    rows, kept = _kept(tables, clusters)
    return label_contrast(
        rows, labels, groups, kept, seed=bench.seed, permutations=max(100, bench.claim.matched_sets), unit="prompts",
        alpha=bench.claim.alpha,
    )  # fmt: skip


def contrasts(mean: Array, sides: Array) -> Array:
    """Mean similarity over pairs of heads on one side minus mean over pairs across, for each row of ``sides``
    [half, head]: 1 on one side, 0 on the other."""
    left, right = np.triu_indices(len(mean), 1)
    same = (sides[:, left] == sides[:, right]).astype(float)
    entries = mean[left, right]
    return same @ entries / same.sum(1) - (1 - same) @ entries / (1 - same).sum(1)


def _tested(tables: Array, clusters: Sequence[str], bench: Bench, at: int) -> tuple[LabelContrast, Rank, Array]:
    """Within and between parity; the contrast's rank among KV-matched halves; the contrasts of those halves."""
    grid, claim = bench.lab.grid, bench.claim
    found = _contrasted(tables, clusters, bench, _parity(grid), _groups(grid))
    rows, _ = _kept(tables, clusters)
    mean = rows.mean(0) if len(rows) else np.zeros((grid.n_heads, grid.n_heads))
    matched, sides = matched_sides(grid, at, claim.matched_sets, claim.seed)
    null = contrasts(mean, sides)
    mirrored = bool((sides == 1 - even_side(grid)).all(1).any())  # a half and its complement are one division
    where = rank(
        float(contrasts(mean, even_side(grid)[None])[0]), null, enumerated=matched.enumerated, alpha=claim.alpha,
        unit="matched halves", least_ties=2 if mirrored else 1,
    )  # fmt: skip
    return found, where, null


def _by_kv(tables: Array, clusters: Sequence[str], bench: Bench) -> LabelContrast | None:
    groups = _groups(bench.lab.grid)
    return None if groups is None else _contrasted(tables, clusters, bench, groups, None)


def _written(bench: Bench, encoded: Sequence[Encoded], clusters: Sequence[str], at: int) -> LabelContrast | None:
    """The same for what heads write to the residual stream; None where no projection takes z itself."""
    try:
        tables = moments(bench.lab, encoded, at, kind="output", queries="last").each()
    except ModelError:
        return None
    return _contrasted(tables, clusters, bench, _parity(bench.lab.grid), _groups(bench.lab.grid))


def _findings(found: LabelContrast) -> dict[str, Estimate]:
    return {
        "within:even": found.within["even"],
        "within:odd": found.within["odd"],
        "between": found.between,
        "contrast:parity": found.contrast,
    }


_LABELS = {
    "within:even": "similarity of two even heads",
    "within:odd": "similarity of two odd heads",
    "between": "similarity of an even and an odd head",
    "contrast:parity": "within minus between parity",
}


def _estimates(found: LabelContrast, arm: str) -> list[Any]:
    return [named(k, _LABELS[k], v, arm) for k, v in _findings(found).items()]


def _published(bench: Bench, encoded: Sequence[Encoded], clusters: Sequence[str], at: int, checks: Any) -> Reading:
    """All queries and keys, and a t-test that takes pairs of heads for independent rows."""
    from scipy.stats import ttest_ind

    tables = _tables(bench.lab, encoded, at, queries="all", sink="in")
    found = _contrasted(tables, clusters, bench, _parity(bench.lab.grid), _groups(bench.lab.grid))
    mean = np.nanmean(tables, 0)
    left, right = np.triu_indices(len(mean), 1)
    evens = (left % 2 == 0) & (right % 2 == 0)
    across = left % 2 != right % 2
    estimates = _estimates(found, "")
    if evens.sum() > 1:
        compared: Any = ttest_ind(mean[left, right][evens], mean[left, right][across])
        p = float(compared[1])
        n = int(evens.sum() + across.sum())
        test = Estimate(
            p, p, p, n, "pairs of heads", "t-test", note="pairs share heads, so its rows are not independent"
        )
        estimates.append(named("ttest:even-between", "p of the published t-test", test, ""))
    return Reading(
        protocol="published",
        words="whole patterns, the sink counted, pairs of heads taken for independent rows of a t-test; masked entries left out",
        verdict=decide(without_ranks(bench.claim), _findings(found), checks),
        estimates=tuple(estimates),
    )


def _controls(bench: Bench, encoded: Sequence[Encoded], at: int, settings: Mapping[str, Any]) -> list[Control]:
    lab, some = bench.lab, of_one_length(encoded)
    own = _tables(lab, some, at, **settings)

    def under(edits: Mapping[tuple[int, str], Callable[[Tensor], Tensor]]) -> Array:
        return _tables(edited(lab, edits), some, at, **settings)

    again = under({(at, "pattern"): torch.clone})
    same = bool(np.array_equal(again, own, equal_nan=True))
    first, second = least_alike(np.nanmean(own, 0), lab.grid)
    copied = under(copying(lab.grid, at, first, second)).mean(0)
    likest = float(copied[first, second])
    np.fill_diagonal(copied, -np.inf)
    top = likest >= float(np.nanmax(copied)) - EXACT and likest > 1 - EXACT
    planted = under({(at, "pattern"): two_patterns})
    _, where, _ = _tested(planted, [str(i) for i in range(len(planted))], bench, at)
    fires = where.most_extreme and float(planted.mean(0)[0, 2]) > 1 - EXACT
    return [
        Control(
            name="no-op",
            kind="negative",
            passed=same,
            words=f"writing every pattern back changes {'no' if same else 'a'} correlation of {len(some)} prompts",
            value=0.0 if same else float(np.nanmax(np.abs(again - own))),
        ),
        Control(
            name="duplicate",
            kind="positive",
            passed=top,
            words=f"a head given another's queries (heads {first} and {second}, the least alike of a group) is the most like it: "
            f"{rounded(likest)}",
            value=likest,
        ),
        Control(
            name="planted-parity",
            kind="positive",
            passed=fires,
            words=f"one pattern for all even heads and one for all odd heads stands out among matched halves: {where}",
            value=where.p,
        ),
    ]


def least_alike(mean: Array, grid: Grid) -> tuple[int, int]:
    """The two heads that share keys (any two, where no heads do) whose patterns are least alike."""
    left, right = np.triu_indices(len(mean), 1)
    together = (left // grid.group_size == right // grid.group_size) | (grid.group_size == 1)
    values = np.where(together, np.nan_to_num(mean[left, right], nan=2.0), np.inf)
    best = int(values.argmin())
    return int(left[best]), int(right[best])


def _layers(tables: Mapping[int, Array], clusters: Sequence[str], bench: Bench) -> list[dict[str, Any]]:
    found = {at: _tested(t, clusters, bench, at)[:2] for at, t in tables.items()}
    adjusted = holm([where.high for _, where in found.values()]).tolist()
    return [
        {"layer": at, **{k: v.value for k, v in _findings(one).items()}, "low": one.contrast.low,
         "high": one.contrast.high, "n": one.contrast.n, "p": where.p, "p_holm": p}
        for (at, (one, where)), p in zip(found.items(), adjusted, strict=True)
    ]  # fmt: skip


def _pairs(tables: Mapping[int, Array], grid: Grid) -> Any:
    import pandas as pd

    left, right = np.triu_indices(grid.n_heads, 1)
    kinds = {"head": left, "other": right, "same_parity": left % 2 == right % 2}
    kinds["same_kv"] = left // grid.group_size == right // grid.group_size
    return pd.concat(
        [
            pd.DataFrame({**kinds, "layer": at, "similarity": np.nanmean(t, 0)[left, right], "prompts": len(t)})
            for at, t in tables.items()
        ],
        ignore_index=True,
    )


def _figure(found: LabelContrast, kv: LabelContrast | None, at: int) -> Figure:
    rows = [
        ("two even heads", "parity", found.within["even"]),
        ("two odd heads", "parity", found.within["odd"]),
        ("an even and an odd head", "parity", found.between),
    ]
    if kv:
        rows.append(("two heads of different KV groups", "KV group", kv.between))
    return estimates_figure(
        "similarity",
        f"How alike the attention of two heads of layer {at} is",
        "Mean correlation of patterns with 95 % intervals over pairs of prompts. The claim asks for high values within and low "
        "ones between; whether the difference is more than that of any two halves is the other figure.",
        rows,
        "correlation",
    )


def _null_figure(found: LabelContrast, where: Rank, null: Array, at: int) -> Figure:
    gap = found.contrast
    return Figure(
        kind="null",
        name="null",
        title=f"Within minus between parity, among {where.n_sets:,} ways to halve layer {at}",
        caption=(
            "Each bar counts halves with as many heads in each KV group by how much more alike their heads are within than "
            f"between. The line is parity, its band the 95 % interval over {gap.n} {gap.unit}. "
            f"{where.at_least_as_extreme} of {where.n_sets:,} are at least as large: p = {where.p:.3g}."
        ),
        data=tuple({"value": float(g)} for g in null),
        options={"observed": gap.value, "low": gap.low, "high": gap.high, "label": "parity", "p": where.p,
                 "x_title": "similarity within minus similarity between"},
    )  # fmt: skip


_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Heads that rest on the first token are alike for that reason alone, so it is left out. Under grouped queries, "
            "heads of one group share keys and are alike before anything else; labels are exchanged inside groups only. "
            "A t-test over pairs of heads takes each head many times and finds differences everywhere. Alike in attention is "
            "not alike in effect: two heads may look at one token and write different things."
        ),
    }
]

EXPERIMENT = Experiment(
    "head-similarity",
    "Are heads of one parity more alike than heads of different parity?",
    head_similarity,
    STATISTICS,
    controls=("no-op", "duplicate", "planted-parity"),
    options={"queries": "all", "sink": "out"},
)

"""Is one thought a hub that the others read?

1. The thought that receives most is named on selection problems (raw column sums, as published); it is tested on others.
2. Rows are normalised inside the thoughts and column sums divided by what uniform rows give them: an early thought is seen
   by more rows, and that alone makes it look like a hub.  1 = as exposure explains.
3. The null: in every row the visible thoughts change places, independently in ten sets of problems.  A thought is the hub
   of a head when its ratio's interval lies above 1.25 and its p, Holm-adjusted over all heads and thoughts, under .05.
4. Untrained models of the same config and siblings are read in the same way; so are the rows of eot and answer, which see
   all thoughts.
5. The published reading: column sums of the mean matrix (bot and five thoughts, keys off by one) against 1/6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts.hub_figures import Seen, figures
from headlab.experiments.thoughts.thought_attention import summary
from headlab.experiments.thoughts.thought_rows import (
    NO_ELIGIBILITY,
    Reference,
    batch_control,
    cannot,
    clusters_of,
    head_names,
    matrices,
    only,
    planted_control,
    read,
    references,
    rows_control,
    uniform_control,
    untestable,
    untrained_control,
)
from headlab.stats import clopper_pearson, rank
from headlab.stats.figures import percent
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import bootstrap_of_means
from headlab.store import Reading
from headlab.thoughts import hubs as measure
from headlab.thoughts import metrics
from headlab.thoughts.attention import ThoughtAttention
from headlab.thoughts.hubs import Hubs, find_hubs
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
STATISTICS = (
    "hub:ratio", "rank:hub", "hub:published", "hub:strict", "heads:hub", "heads:first", "answer:ratio", "eot:ratio",
    "ratio:*", "published:*",
)  # fmt: skip
_LABELS = {
    "hub:ratio": "attention received by the thought in question, over what its exposure explains",
    "hub:strict": "the same from later thoughts only, its own row left out",
    "hub:published": "its column sum over 1/6",
    "heads:hub": "heads that have a hub by the rule",
    "heads:first": "heads whose largest raw column sum is thought 0",
    "answer:ratio": "attention of the answer to it, over an even share of six",
    "eot:ratio": "attention of eot to it, over an even share of six",
    "rank:hub": "shuffles of thoughts inside rows that give it at least as much",
}


def hubs(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := cannot(bench):
        return untestable(bench, why)
    found, clusters = read(bench, "attention"), clusters_of(bench.test)
    among = matrices(found)
    thought = _thought(bench)
    seen = look(among, found, clusters, thought, bench.seed, bench.claim.alpha)
    others = references(bench, bench.option("untrained", EXPERIMENT), bench.option("references", EXPERIMENT))
    ruled = {o.name: find_hubs(o.matrices, o.clusters, seed=bench.seed) for o in others}
    checks = [
        rows_control(found, bench.lab.dtype), batch_control(bench), uniform_control(bench), planted_control(bench),
        untrained_control([ruled[o.name] for o in others if o.kind == "untrained"]),
    ]  # fmt: skip
    return Outcome(
        _readings(bench, seen, checks),
        figures(bench, seen, among, clusters, others, ruled),
        {"hubs": _table(bench, seen, among), "models": _models(bench, seen, among, others, ruled)},
        NO_ELIGIBILITY,
        settings={"thought": thought, "hubs_and_flow": _plain(seen, among, clusters, bench.seed)},
        sections=_SECTIONS,
        notes=_notes(bench, seen, others, ruled),
    )


def _thought(bench: ThoughtBench) -> int:
    """The thought in question: the one named, or the one with the largest raw column sum on the selection problems."""
    asked = bench.option("thought", EXPERIMENT)
    if asked >= 0:
        return min(asked, bench.n_thoughts - 1)
    chosen = matrices(read(bench, "choosing", problems=bench.selection))
    return int(metrics.incoming(metrics.published_view(chosen)).mean((0, 1)).argmax())


def look(
    among: Array, found: ThoughtAttention, clusters: Sequence[str], thought: int, seed: int, alpha: float
) -> Seen:  # fmt: skip
    """Every number of the experiment for one model."""
    n, told = among.shape[-1], {"unit": "problems", "seed": seed}
    numbers: dict[str, Any] = {}
    ratio = bootstrap_means(np.nanmean(measure.corrected(among), 1), clusters, **told)
    strict = bootstrap_means(np.nanmean(measure.corrected(among, True)[..., :-1], 1), clusters, **told)
    view = metrics.published_view(among).mean(1)
    raw = bootstrap_of_means(
        view.reshape(len(view), -1), lambda m: metrics.published_ratio(m.reshape(-1, n, n)), clusters, **told
    )
    numbers |= {f"ratio:{j}": ratio[j] for j in range(n)} | {f"published:{j}": raw.estimate(j) for j in range(n)}
    numbers |= {"hub:ratio": ratio[thought], "hub:published": raw.estimate(thought)}
    if thought < n - 1:
        numbers["hub:strict"] = strict[thought]
    answers = measure.answer_ratio(found.answers).reshape(len(among), -1, 2, n)
    for k, name in enumerate(("eot", "answer")):
        each = answers[:, :, k].mean(1)
        kept = ~np.isnan(each).any(1)  # an answer that ended at once has no row
        if kept.sum() > 1:
            where = [c for c, keep in zip(clusters, kept, strict=True) if keep]
            every = bootstrap_means(each[kept], where, **told)
            numbers |= {f"{name}:{j}": every[j] for j in range(n)} | {f"{name}:ratio": every[thought]}
    ruled = find_hubs(among, clusters, seed=seed)
    first = metrics.incoming(metrics.published_view(among).mean(0)).argmax(-1) == 0
    heads = among.shape[1]
    numbers["heads:hub"] = clopper_pearson(int((ruled.hub >= 0).sum()), heads, unit="heads")
    numbers["heads:first"] = clopper_pearson(int(first.sum()), heads, unit="heads")
    whole = np.nan_to_num(np.nanmean(measure.within(among)[..., 1:, :], 1, keepdims=True))
    whole = np.concatenate([np.zeros_like(whole[..., :1, :]), whole], -2)
    mixed = measure.shuffled_thoughts(whole, clusters, seed=seed, draws=9999, keep=True)
    assert mixed.kept is not None
    null = mixed.kept[:, 0, thought]
    where_ = rank(float(mixed.observed[0, thought]), null, enumerated=False, alpha=alpha, unit="shuffles")
    return Seen(thought, numbers, ruled, where_, null)


def _readings(bench: ThoughtBench, seen: Seen, checks: list[Control]) -> list[Reading]:
    claim = bench.claim
    findings: dict[str, Any] = {**seen.numbers, "rank:hub": seen.where}
    raw = ("hub:published", "heads:first", *(k for k in seen.numbers if k.startswith("published:")))
    estimates = [named(k, _label(k), v, "") for k, v in seen.numbers.items()]
    estimates.append(named("rank:hub", _LABELS["rank:hub"], seen.where.estimate, ""))
    honest = [k for k in findings if k not in raw]
    out = [
        Reading(
            protocol="standard", words=_WORDS.format(seen.thought), verdict=decide(only(claim, *honest), findings, checks),
            estimates=tuple(e for e in estimates if e.name in honest),
        )
    ]  # fmt: skip
    if "published" in claim.readings:
        out.append(
            Reading(
                protocol="published", words=_PUBLISHED.format(seen.thought),
                verdict=decide(only(claim, *raw), findings, checks),
                estimates=tuple(e for e in estimates if e.name in raw),
            )
        )  # fmt: skip
    return out


def _label(name: str) -> str:
    kind, _, j = name.partition(":")
    more = {
        "ratio": "exposure-corrected attention to", "published": "column sum over 1/6 of", "eot": "attention of eot to",
        "answer": "attention of the answer to",
    }  # fmt: skip
    return _LABELS.get(name) or f"{more[kind]} thought {j}"


# -- tables, JSON and findings ------------------------------------------------------------------------------


def _table(bench: ThoughtBench, seen: Seen, among: Array) -> Any:
    """One row for each head and thought."""
    import pandas as pd

    names, n = head_names(bench.lab.grid), among.shape[-1]
    strict = np.nanmean(measure.corrected(among, True)[..., :-1], 0)
    per_row, mass = measure.per_available_row(among.mean(0)), among[..., 1:, :].sum(-1).mean((0, 2))
    raw = metrics.incoming(metrics.published_view(among).mean(0))
    rows = []
    for h, name in enumerate(names):
        for j in range(n):
            e = seen.found.estimate(h, j)
            rows.append(
                {"head": name, "thought": j, "ratio": e.value, "low": e.low, "high": e.high, "n": e.n, "unit": e.unit,
                 "p": float(seen.found.shuffled.p[h, j]), "p_holm": float(seen.found.p_holm[h, j]),
                 "p_any": float(seen.found.shuffled.any[h]), "is_hub": bool(seen.found.hub[h] == j),
                 "strict": float(strict[h, j]) if j < n - 1 else np.nan, "per_available_row": float(per_row[h, j]),
                 "published_column_sum": float(raw[h, j]), "published_hub": bool(raw[h].argmax() == j),
                 "mass_on_thoughts": float(mass[h])}
            )  # fmt: skip
    return pd.DataFrame(rows)


def _models(
    bench: ThoughtBench, seen: Seen, among: Array, others: Sequence[Reference], ruled: Mapping[str, Hubs]
) -> Any:
    """One row for each model: how many heads have a hub by either rule."""
    import pandas as pd

    models = [(bench.thinker.name, "this model", among, seen.found)]
    models += [(o.name, o.kind, o.matrices, ruled[o.name]) for o in others]
    rows = []
    for name, kind, x, found in models:
        view = metrics.published_view(x).mean(0)
        share = clopper_pearson(int((found.hub >= 0).sum()), len(found.hub), unit="heads")
        rows.append(
            {"model": name, "kind": kind, "problems": len(x), "heads": len(found.hub), "with_hub": share.value,
             "low": share.low, "high": share.high,
             "published_at_0": float((metrics.incoming(view).argmax(-1) == 0).mean()),
             "published_ratio": float(metrics.published_ratio(view.mean(0)).max()),
             **{f"ratio_{j}": float(r) for j, r in enumerate(np.nanmean(measure.corrected(x), (0, 1)))}}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _plain(seen: Seen, among: Array, clusters: Sequence[str], seed: int) -> dict[str, Any]:
    """Hub and flow of both readings as data, each number with its interval."""
    n = among.shape[-1]
    out: dict[str, Any] = {}
    for name, kind, x in (("standard", "ratio", among), ("published", "published", metrics.published_view(among))):
        ratios = [seen.numbers[f"{kind}:{j}"] for j in range(n)]
        out[name] = {
            "hub_position": int(np.argmax([e.value for e in ratios])),
            "ratios": [e.to_dict() for e in ratios],
            **{k: e.to_dict() for k, e in summary(x, clusters, seed).items()},
        }
    return out


def _notes(bench: ThoughtBench, seen: Seen, others: Sequence[Reference], ruled: Mapping[str, Hubs]) -> list[str]:
    names, found = head_names(bench.lab.grid), seen.found
    with_hub = [f"{names[h]} (thought {j})" for h, j in enumerate(found.hub) if j >= 0]
    listed = ", ".join(with_hub[:12]) + (" …" if len(with_hub) > 12 else "")
    plain = [o for o in others if o.kind == "untrained"]
    at_0 = [float((metrics.incoming(metrics.published_view(o.matrices).mean(0)).argmax(-1) == 0).mean()) for o in plain]
    out = [
        f"Thought {seen.thought} receives most on the selection problems; corrected for exposure it receives "
        f"{seen.numbers['hub:ratio']} times its share, as published {seen.numbers['hub:published']} times 1/6.",
        f"{len(with_hub)} of {len(names)} heads have a hub{': ' + listed if with_hub else ''}.",
    ]
    if plain:
        shares = [ruled[o.name].share for o in plain]
        out.append(
            f"In {len(plain)} untrained models of the same config the published rule finds its hub at thought 0 in "
            f"{percent(np.mean(at_0))} of heads; the corrected rule finds one in {percent(np.mean(shares))}."
        )
    return out


_WORDS = "thought {}: six thoughts fed, rows normalised inside the thoughts, column sums over what uniform rows give"
_PUBLISHED = "thought {}: column sums of the mean matrix over 1/6; bot and five thoughts fed, keys off by one"
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Corrected for exposure, a thought that only its own row reads can still be a hub: look at the ratio from later "
            "thoughts (strict) and at attention by distance. Normalising inside the thoughts lets a head with a sliver of its "
            "attention on thoughts count like one that reads nothing else; the mass stands in the table. p says that a "
            "preference is no accident of the problems, not that it matters: what a hub causes is asked by forced patterns."
        ),
    }
]

EXPERIMENT = Experiment(
    "hubs",
    "Is one thought a hub that the others read?",
    hubs,
    STATISTICS,
    controls=("rows-sum", "batch", "uniform", "planted-hub", "untrained"),
    options={"thought": -1, "untrained": 6, "references": "auto", "max_new_tokens": 12},
)

"""What does each thought read, and does thinking go from thought to thought?

1. For every head and problem: the attention of the query of each thought to the question, ``bot``, earlier thoughts and
   itself, and of ``eot`` and the answer to all thoughts.  Every row sums to one, or the run stops.
2. Mean masses with intervals over chains of steps; attention to the thought before (i → i−1), from the last thought to
   the first three (skip), the share that goes to earlier thoughts (flow), the spread over problems.
3. Beside them what the same rows give without any preference: uniform over all visible keys, and thoughts shuffled inside
   each row (mass kept); and what untrained models and siblings give.
4. The published reading: ``bot`` and five thoughts fed, keys off by one, strict lower triangle.  There i → i−1 is the
   attention of a thought to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Experiment, Outcome, named
from headlab.experiments.thoughts import thought_figures as draw
from headlab.experiments.thoughts.thought_rows import (
    NO_ELIGIBILITY,
    Reference,
    batch_control,
    cannot,
    clusters_of,
    few,
    forced,
    head_names,
    lengths,
    matrices,
    read,
    references,
    rows_control,
    untestable,
)
from headlab.stats import Estimate
from headlab.stats.figures import rounded
from headlab.stats.intervals import bootstrap_means
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.store import Reading
from headlab.thoughts import metrics
from headlab.thoughts.attention import ThoughtAttention
from headlab.trials.thought_case import ThoughtBench

Array = np.ndarray
KEYS = ("question", "bot", "thoughts", "self")
FOUND = ("sequential", "skip", "flow", "std")
STATISTICS = (*FOUND, *(f"mass:{k}" for k in KEYS), "answer:thoughts", "eot:thoughts", "sequential:uniform")
SHARE, EXACT = 0.8, 1e-4
_LABELS = {
    "sequential": "attention of thought i to thought i−1",
    "skip": "attention of the last thought to the first three",
    "flow": "share of attention among thoughts that goes to earlier ones",
    "std": "standard deviation over problems, mean over the cells of the matrix",
    "mass:question": "attention of thoughts to the question",
    "mass:bot": "attention of thoughts to bot",
    "mass:thoughts": "attention of thoughts to thoughts, themselves included",
    "mass:self": "attention of thoughts to themselves",
    "answer:thoughts": "attention of the answer's tokens to thoughts",
    "eot:thoughts": "attention of eot to thoughts",
    "sequential:uniform": "i to i−1, over what shuffled thoughts give",
}


def thought_attention(bench: ThoughtBench) -> Outcome:
    """Run the experiment."""
    if why := cannot(bench):
        return untestable(bench, why)
    claim, seed = bench.claim, bench.seed
    found, clusters = read(bench, "attention"), clusters_of(bench.test)
    among = matrices(found)
    others = references(bench, bench.option("untrained", EXPERIMENT), bench.option("references", EXPERIMENT))
    checks = [rows_control(found, bench.lab.dtype), batch_control(bench), _sequential_control(bench)]
    seen = {**summary(among, clusters, seed), **_masses(found, clusters, seed)}
    readings = [_reading(bench, "standard", _WORDS, seen, checks)]
    if "published" in claim.readings:
        view = summary(metrics.published_view(among), clusters, seed)
        readings.append(_reading(bench, "published", _PUBLISHED, view, checks))
    return Outcome(
        readings,
        _figures(bench, found, among, clusters, others),
        {"attention": _table(found, clusters, seed), "references": _references(others)},
        NO_ELIGIBILITY,
        settings={"untrained": sum(o.kind == "untrained" for o in others), "references": [o.name for o in others]},
        sections=_SECTIONS,
        notes=_notes(seen, others),
    )


def summary(among: Array, clusters: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Sequential, skip, flow and std of [problem, head, thought, key]: means over heads of each head's mean matrix."""
    heads, n = among.shape[1], among.shape[-1]
    table = np.concatenate([among.reshape(len(among), -1), among.reshape(len(among), -1) ** 2], 1)

    def numbers(means: Array) -> Array:
        x, square = (y.reshape(-1, heads, n, n) for y in np.split(means, 2, -1))
        spread = np.sqrt(np.maximum(square - x**2, 0)).mean((-3, -2, -1))
        each = (metrics.sequential(x), metrics.skip(x), metrics.flow(x))
        return np.stack([*(y.mean(-1) for y in each), spread], -1)

    got: OfMeans = bootstrap_of_means(table, numbers, clusters, unit="problems", seed=seed)
    return {name: got.estimate(k) for k, name in enumerate(FOUND)}


def _masses(found: ThoughtAttention, clusters: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Masses of the rows with a choice (thought 1 and later), and of the readers of the answer, means over heads."""
    n = found.n_thoughts
    inside = found.among[..., 1:, :]
    own = np.diagonal(found.among, 0, -2, -1)[..., 1:]
    parts = {
        "mass:question": found.question[..., 1:n], "mass:bot": found.bot[..., 1:n], "mass:thoughts": inside.sum(-1),
        "mass:self": own, "eot:thoughts": found.answers[..., :1, :].sum(-1),
        "answer:thoughts": found.answers[..., 1:, :].sum(-1),
    }  # fmt: skip
    out = {}
    for name, values in parts.items():
        each = values.mean((1, 2, 3))
        kept: Any = ~np.isnan(each)
        out[name] = bootstrap_means(
            each[kept][:, None], [c for c, k in zip(clusters, kept, strict=True) if k], unit="problems", seed=seed
        )[0]
    out["sequential:uniform"] = _against_shuffled(found, clusters, seed)
    return out


def shuffled_rows(among: Array) -> Array:
    """What each row gives on average when the visible thoughts change places in it: its mass, spread evenly."""
    n = among.shape[-1]
    return among.sum(-1, keepdims=True) * np.tri(n) / np.arange(1, n + 1)[:, None]


def _against_shuffled(found: ThoughtAttention, clusters: Sequence[str], seed: int) -> Estimate:
    among = matrices(found)
    both = np.stack([metrics.sequential(x).mean(1) for x in (among, shuffled_rows(among))], 1)
    got = bootstrap_of_means(both, lambda m: m[:, :1] / m[:, 1:], clusters, unit="problems", seed=seed)
    return got.estimate(0)


def _reading(bench: ThoughtBench, name: str, words: str, seen: dict[str, Estimate], checks: list[Control]) -> Reading:
    return Reading(
        protocol=name,
        words=words,
        verdict=decide(bench.claim, seen, checks),
        estimates=tuple(named(k, _LABELS[k], v, "") for k, v in seen.items()),
    )


def _sequential_control(bench: ThoughtBench) -> Control:
    return judged_sequential(forced(bench, few(bench), "sequential"))


def judged_sequential(seen: Array) -> Control:
    """A pattern forced onto the thought before must be read as such: .8 of the mass on thoughts."""
    mass = seen[..., 1:, :].sum(-1)
    share = float((np.diagonal(seen, -1, -2, -1) / mass).mean())
    return Control(
        name="planted-chain",
        kind="positive",
        passed=abs(share - SHARE) <= EXACT,
        words=f"four fifths forced onto the thought before are read as {rounded(share)} of the attention among thoughts",
        value=share,
    )


# -- tables and figures -------------------------------------------------------------------------------------


def _table(found: ThoughtAttention, clusters: Sequence[str], seed: int) -> Any:
    """Mean attention of each row of each head to each key, with intervals."""
    import pandas as pd

    n, keys = found.n_thoughts, ["question", "bot", *map(str, range(found.n_thoughts)), "later"]
    parts = []
    for layer in range(found.thoughts.shape[1]):
        whole = np.concatenate(
            [x[:, layer, ..., None] for x in (found.question, found.bot)]
            + [found.thoughts[:, layer], found.later[:, layer, ..., None]], -1,
        )  # fmt: skip
        kept: Any = ~np.isnan(whole).any((1, 2, 3))
        values = whole[kept].reshape(int(kept.sum()), -1)
        where = [c for c, k in zip(clusters, kept, strict=True) if k]
        means = bootstrap_means(values, where, unit="problems", seed=seed, draws=1000)
        head, row, key = (x.ravel() for x in np.indices(whole.shape[1:]))
        visible = np.array(
            [not (k.isdigit() and r < n and int(k) > r) for r, k in zip(row, np.array(keys)[key], strict=True)]
        )
        frame = pd.DataFrame(
            {"layer": layer, "head": head, "row": np.array(found.rows)[row], "key": np.array(keys)[key],
             "attention": [e.value for e in means], "low": [e.low for e in means], "high": [e.high for e in means],
             "n": int(kept.sum()), "unit": "problems"}
        )  # fmt: skip
        parts.append(frame[visible])
    return pd.concat(parts, ignore_index=True)


def _references(others: Sequence[Reference]) -> Any:
    import pandas as pd

    rows = [
        {"model": o.name, "kind": o.kind, "problems": len(o.matrices),
         "sequential": float(metrics.sequential(o.matrices).mean()), "skip": float(metrics.skip(o.matrices).mean()),
         "mass_on_thoughts": float(o.matrices[..., 1:, :].sum(-1).mean())}
        for o in others
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "kind", "problems", "sequential", "skip", "mass_on_thoughts"])


def _figures(
    bench: ThoughtBench, found: ThoughtAttention, among: Array, clusters: Sequence[str], others: Sequence[Reference]
) -> list[Figure]:
    names, mean, n = head_names(bench.lab.grid), among.mean(0), found.n_thoughts
    order = np.argsort(-mean.max((-2, -1)), kind="stable")
    told = f"Mean over {len(among)} problems; intervals stand in the table."
    plain = [o.matrices.mean((0, 1)) for o in others if o.kind == "untrained"]
    beside = {"uniform among all keys": _uniform(bench)}
    if plain:
        beside["untrained models"] = np.mean(plain, 0)
    panels = {names[h]: mean[h] for h in order}
    layers = {f"layer {at}": found.among[:, at].mean((0, 1)) for at in range(bench.lab.grid.n_layers)}
    return [
        _before(bench, among, clusters, others),
        draw.heatmap(
            "top3", "The three heads with the highest attention, beside what no preference gives",
            f"{told} Row i is the query of thought i; what a row lacks to one is on the question and bot.",
            dict(list(panels.items())[:3]) | beside, "attention",
        ),
        draw.heatmap(
            "top10", "The ten heads with the highest attention to a thought", f"{told} Chosen by their largest cell.",
            dict(list(panels.items())[:10]), "attention",
        ),
        draw.heatmap("layers", "Attention among thoughts by layer", f"{told} Means over heads.", layers | beside, "attention"),
        _kinds(found, clusters, bench.seed, n),
    ]  # fmt: skip


def _uniform(bench: ThoughtBench) -> Array:
    """Attention among thoughts when every visible key, the question's too, gets the same."""
    n = bench.n_thoughts
    seen = np.array(lengths(bench.thinker, bench.test))[:, None] + 2 + np.arange(n)[None]
    return (1 / seen).mean(0)[:, None] * np.tri(n)


def _before(bench: ThoughtBench, among: Array, clusters: Sequence[str], others: Sequence[Reference]) -> Figure:
    """Attention i → i−1 by i, beside four ways of having no preference."""
    seed, n = bench.seed, among.shape[-1]

    def diagonal(x: Array) -> Array:
        return np.diagonal(x, -1, -2, -1).mean(1)

    rows: list[tuple[str, str, Estimate]] = []
    own, mixed = (
        bootstrap_means(diagonal(x), clusters, unit="problems", seed=seed) for x in (among, shuffled_rows(among))
    )
    flat = np.diagonal(_uniform(bench), -1)
    plain = [diagonal(o.matrices).mean(0) for o in others if o.kind == "untrained"]
    for i in range(1, n):
        label = f"{i} → {i - 1}"
        rows += [(label, "this model", own[i - 1]), (label, "thoughts shuffled in each row", mixed[i - 1])]
        rows.append((label, "uniform over all keys", draw.exactly(float(flat[i - 1]), len(among), "problems")))
        if len(plain) > 1:
            rows.append((label, "untrained models", draw.over_models([float(p[i - 1]) for p in plain], seed)))
        for o in others:
            if o.kind == "other":
                rows.append(
                    (
                        label,
                        o.name,
                        bootstrap_means(diagonal(o.matrices), o.clusters, unit="problems", seed=seed)[i - 1],
                    )
                )
    return draw.estimates(
        "before", "Attention of each thought to the one before it",
        "Means over heads with 95 % intervals over problems (over models, for untrained ones). Shuffled: the row's own mass on "
        "thoughts, spread evenly over those it sees. The published matrix had attention to itself in these cells.",
        rows, "attention",
    )  # fmt: skip


def _kinds(found: ThoughtAttention, clusters: Sequence[str], seed: int, n: int) -> Figure:
    """Where each layer's thoughts look."""
    rows = []
    for at in range(found.thoughts.shape[1]):
        among = found.among[:, at, :, 1:]
        own = np.diagonal(found.among[:, at], 0, -2, -1)[..., 1:]
        parts = {
            "question": found.question[:, at, :, 1:n], "bot": found.bot[:, at, :, 1:n],
            "earlier thoughts": among.sum(-1) - own, "itself": own,
        }  # fmt: skip
        for name, x in parts.items():
            e = bootstrap_means(x.mean((1, 2))[:, None], clusters, unit="problems", seed=seed)[0]
            rows.append((f"layer {at}", name, e))
    return draw.estimates(
        "masses", "What thoughts attend to", "Thoughts 1 and later, means over heads, with 95 % intervals over problems. The four "
        "kinds sum to one.", rows, "share of attention",
    )  # fmt: skip


def _notes(seen: dict[str, Estimate], others: Sequence[Reference]) -> list[str]:
    """Findings in sentences, from the numbers."""
    plain = [o for o in others if o.kind == "untrained"]
    out = [
        f"Thoughts spend {seen['mass:thoughts']} of their attention on thoughts, {seen['mass:self']} on themselves.",
        f"Attention to the thought before is {seen['sequential']}, {seen['sequential:uniform']} times what shuffled thoughts give.",
    ]
    if plain:
        values = [float(metrics.sequential(o.matrices).mean()) for o in plain]
        out.append(
            f"{len(plain)} untrained models of the same config give {rounded(min(values))} to {rounded(max(values))}."
        )
    return out


_WORDS = "six thoughts fed, each query with the keys before it and its own; row i is the query of thought i"
_PUBLISHED = "bot and five thoughts fed, the query of thought i−1 stored as row i, strict lower triangle, mean matrix"
_SECTIONS = [
    {
        "heading": "When this misleads",
        "text": (
            "Attention is not use: a head may read a thought and write nothing of it. Most of a row lies on the question, so "
            "small numbers among thoughts are first of all small masses; compare with the shuffled thoughts, which keep the "
            "mass. A low attention to the thought before does not say that nothing passes between thoughts: what a thought is "
            "fed with is the last hidden state of the one before, which is a path that no attention shows."
        ),
    }
]

EXPERIMENT = Experiment(
    "thought-attention",
    "What does each thought read, and does thinking go from thought to thought?",
    thought_attention,
    STATISTICS,
    controls=("rows-sum", "batch", "planted-chain"),
    options={"untrained": 6, "references": "auto", "max_new_tokens": 12},
)

"""Is some thought a hub?  Attention received, corrected for how many rows can see it, against shuffled thoughts.

1. Rows are normalised inside the thoughts, so that only the choice among thoughts counts; rows with one visible thought
   have no choice and are dropped.
2. What a thought receives is divided by what it would receive if every row were uniform: 1 = as its exposure explains.
3. The null: inside each row of each set of problems the visible thoughts change places (mass and mask stay).
4. A hub is a thought whose ratio has an interval wholly above 1.25 and a Holm-adjusted permutation p < .05.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headlab.stats import Estimate, holm
from headlab.stats.of_means import OfMeans, bootstrap_of_means

Array = np.ndarray
ABOVE, ALPHA, SETS = 1.25, 0.05, 10


def within(among: Float[Array, "*batch thought key"], strict: bool = False) -> Float[Array, "*batch thought key"]:
    """Rows normalised inside the visible thoughts; NaN in rows with fewer than two, and in rows without mass there.

    ``strict``: only earlier thoughts are counted (j < i), not the own.
    """
    kept = among * np.tri(among.shape[-1], k=-1 if strict else 0)
    total = kept.sum(-1, keepdims=True)
    choice = np.arange(among.shape[-1]) >= (2 if strict else 1)
    return np.divide(kept, total, out=np.full_like(kept, np.nan), where=(total > 0) & choice[:, None])


def even(n: int, strict: bool = False) -> Float[Array, "thought key"]:
    """:func:`within` of uniform attention to the visible thoughts."""
    return within(np.tri(n), strict)


def even_rows(n: int) -> Float[Array, "thought key"]:
    """Rows that are uniform over the visible thoughts, the first one too."""
    return np.tri(n) / np.arange(1, n + 1)[:, None]


def corrected(among: Float[Array, "*batch thought key"], strict: bool = False) -> Float[Array, "*batch key"]:
    """Attention received, over what uniform rows would give: the exposure-corrected hub ratio.

    Definition: ratio_j = Σ_i w[i, j] / Σ_i u[i, j] over rows i ≥ 1 that have mass among the thoughts, with
        w[i, j] = A[i, j] / Σ_{k≤i} A[i, k] and u[i, j] = 1/(i+1) for j ≤ i.  ``strict``: j < i only, rows i ≥ 2.
    Shapes: [..., thought, key] → [..., key].  Units: times uniform.
    Range: 0 up to 1/mean(u); 1 = uniform, more = read more than its exposure explains.  NaN where no row can see the
        thought (the last one, when strict).
    Mean over: rows, weighted by what each could give.  Raises ValueError unless the last two axes are equal.
    Source: docket of this laboratory (hubs); the published ratio divides column sums by 1/n instead.
    When it misleads: attention to itself makes a late hub (one row sees the last thought: its own), so compare with
        ``strict`` and with :func:`by_offset`; a row with little mass on thoughts counts as much as one with all of it.
    """
    w, u = within(among, strict), even(among.shape[-1], strict)
    got, could = np.nansum(w, -2), (~np.isnan(w) * np.nan_to_num(u)).sum(-2)
    return np.divide(got, could, out=np.full_like(got, np.nan), where=could > 0)


def per_available_row(among: Float[Array, "*batch thought key"]) -> Float[Array, "*batch key"]:
    """Attention received by a thought per row that can see it: Σ_i A[i, j] / (n − j).  Units: attention weight.

    Range: 0 to 1.  Mean over: the rows that see it, its own among them.  Uniform attention over question and thoughts
    falls with i, so late thoughts come out a little lower than early ones.
    """
    n = among.shape[-1]
    return among.sum(-2) / (n - np.arange(n))


def by_offset(among: Float[Array, "*batch thought key"]) -> Float[Array, "*batch offset"]:
    """Attention inside the thoughts by distance i − j = 0 … n−1, over what uniform rows would give: recency.

    Units: times uniform.  A head that reads what is near has more than 1 at small offsets, and therefore in late columns
    of :func:`corrected`, without any thought being special.
    """
    n = among.shape[-1]
    w, u = within(among), even(n)
    out = []
    for d in range(n):
        got, could = np.diagonal(w, -d, -2, -1), np.diagonal(u, -d)
        known = ~np.isnan(got)
        total = (known * np.nan_to_num(could)).sum(-1)
        out.append(np.divide(np.nansum(got, -1), total, out=np.full_like(total, np.nan), where=total > 0))
    return np.stack(out, -1)


def answer_ratio(answers: Float[Array, "*batch thought"]) -> Float[Array, "*batch thought"]:
    """Attention of a reader that sees all thoughts, normalised inside them, times n: 1 = uniform.

    Shapes: [..., thought] → the same.  Units: times uniform.  NaN for a reader without mass on thoughts.  Here, and only
    here, 1/n is the right reference.
    """
    total = answers.sum(-1, keepdims=True)
    return np.divide(
        answers * answers.shape[-1], total, out=np.full(answers.shape, np.nan), where=np.nan_to_num(total) > 0
    )


def problem_sets(clusters: Sequence[Any], sets: int, seed: int) -> Array:
    """The set (0 … sets−1) of each problem: whole clusters, in random order, dealt out in turn.

    Raises ValueError when there are fewer clusters than sets.
    """
    labels = list(dict.fromkeys(clusters))
    if len(labels) < sets:
        raise ValueError(f"{sets} sets of problems need at least as many chains of steps, given {len(labels)}")
    place = dict(
        zip([labels[i] for i in np.random.default_rng(seed).permutation(len(labels))], range(len(labels)), strict=True)
    )
    return np.array([place[c] % sets for c in clusters])


@dataclass(frozen=True)
class Shuffled:
    """The null of shuffled thoughts: ``observed``, ``p`` and ``sd`` (of the null) [head, thought]; ``any`` [head], p that
    *some* thought stands out (largest standardised ratio); ``kept`` [draw, head, thought], the ratios of the draws, where
    they were asked for."""

    observed: Array
    p: Array
    sd: Array
    any: Array
    draws: int
    sets: int
    kept: Array | None = None


def shuffled_thoughts(
    among: Float[Array, "problem head thought key"],
    clusters: Sequence[Any],
    *,
    seed: int,
    sets: int = SETS,
    draws: int | None = None,
    strict: bool = False,
    keep: bool = False,
    block: int = 500,
) -> Shuffled:
    """Permutation test of each head and thought: does it receive more than its place in the rows explains?

    Definition: rows w (:func:`within`) are averaged inside each of ``sets`` sets of problems; ratio_j is their mean over
        sets over the uniform one.  A draw permutes, in every set and row, the visible thoughts; p_j = (1 + #{draws with
        ratio_j at least as large}) / (1 + draws), per thought, and for the largest (ratio_j − 1) / sd_j of a head.  All
        heads share the draws: each p is valid by itself, and Holm's correction needs no independence.
    Shapes: [problem, head, thought, key]; p [head, thought].  Units: probability.
    Range: 1/(1 + draws) to 1.  ``draws``: by default 2.2 × heads × thoughts / .05, so that every test can pass Holm.
    Mean over: problems of a set, then sets.  A row without mass on thoughts is left out of its set's mean.
    Raises: ValueError for fewer clusters than sets, or a set in which some row is never defined.
    Source: within-row permutation (Good 2005); sets because six rows of one matrix cannot decide.
    When it misleads: p says that a preference is no accident of the problems, not that it is large: hence 1.25 beside it.
        Sets of problems are independent, rows of one model are not: n = 1 for a claim about models.
    """
    n_heads, n = among.shape[1], among.shape[-1]
    which = problem_sets(clusters, sets, seed)
    w = within(among, strict)
    first = 2 if strict else 1
    rows = list(range(first, n))
    means = np.stack([_mean_row(w[which == s]) for s in range(sets)])
    if np.isnan(means[:, :, first:]).any():
        raise ValueError("a head puts no mass on thoughts in any problem of a set; it has no pattern to shuffle")
    unit = np.nansum(even(n, strict), 0) * sets
    columns = [j for j in range(n) if unit[j] > 0]
    observed = np.full((n_heads, n), np.nan)
    observed[:, columns] = means[:, :, first:].sum((0, 2))[:, columns] / unit[columns]
    if draws is None:
        draws = int(np.ceil(2.2 * n_heads * len(columns) / ALPHA))
    rng = np.random.default_rng(seed + 1)
    flat = {i: means[:, :, i, : i + (0 if strict else 1)] for i in rows}  # [set, head, visible]
    # a permuted row puts in each column a value of its own, drawn evenly: variances add up
    spread = np.stack([sum(flat[i].var(-1).sum(0) for i in rows if j < flat[i].shape[-1]) for j in columns], -1)
    sd = np.maximum(np.sqrt(spread) / unit[columns], 1e-9)
    seen = observed[:, columns] - 1e-9
    most = ((seen - 1) / sd).max(-1)
    each, some, kept = np.zeros(seen.shape), np.zeros(n_heads), []
    for start in range(0, draws, block):
        null = _drawn(flat, columns, unit, rng, min(block, draws - start), n_heads)
        each += (null >= seen).sum(0)
        some += (((null - 1) / sd).max(-1) >= most).sum(0)
        kept += [null] if keep else []
    p, wide = np.full((n_heads, n), np.nan), np.full((n_heads, n), np.nan)
    p[:, columns], wide[:, columns] = (1 + each) / (1 + draws), sd
    full = None
    if keep:
        full = np.full((draws, n_heads, n), np.nan)
        full[..., columns] = np.concatenate(kept)
    return Shuffled(observed, p, wide, (1 + some) / (1 + draws), draws, sets, full)


def _mean_row(rows: Array) -> Array:
    """Mean over the problems in which a row has mass among the thoughts; NaN where none has."""
    count = (~np.isnan(rows)).sum(0)
    return np.divide(np.nansum(rows, 0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _drawn(flat: dict[int, Array], columns: list[int], unit: Array, rng: Any, draws: int, n_heads: int) -> Array:
    """Ratios of permuted rows, [draw, head, column]: which visible key lands in each column, as a one-hot product."""
    total = np.zeros((draws, n_heads, len(columns)))
    for rows in flat.values():
        sets, _, visible = rows.shape
        order = np.argsort(
            rng.random((draws, sets, visible)), axis=-1
        )  # order[d, s, column] = the key that lands there
        lent = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(sets * visible, n_heads)
        base = (np.arange(sets) * visible)[None, :]
        for place, j in enumerate(columns):
            if j < visible:
                picked = np.zeros((draws, sets * visible), dtype=np.float64)
                np.put_along_axis(picked, order[:, :, j] + base, 1.0, axis=1)
                total[:, :, place] += picked @ lent
    return total / unit[columns]


def shuffled_matrices(
    among: Float[Array, "problem head thought key"],
    clusters: Sequence[Any],
    *,
    seed: int,
    draws: int = 999,
    sets: int = SETS,
    block: int = 50,
) -> Iterator[Float[Array, "draw head thought key"]]:
    """Mean matrices in which the visible thoughts of each row changed places, in each set of problems for itself.

    Definition: the mean over ``sets`` sets of each set's mean matrix with its rows permuted; mass of a row and mask stay,
        all heads share the permutations.  What a measure of the mean matrix gives on these is its null.
    Shapes: [problem, head, thought, key] → blocks of [draw, head, thought, key].  Units: attention weight.
    Raises: ValueError for fewer clusters than sets.
    When it misleads: a measure that grows with the mass on thoughts keeps that part in its null.
    """
    which, n = problem_sets(clusters, sets, seed), among.shape[-1]
    means = np.stack([among[which == s].mean(0) for s in range(sets)])
    rng = np.random.default_rng(seed + 2)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        out = np.zeros((size, *among.shape[1:]))
        for i in range(n):
            order = np.argsort(rng.random((size, sets, i + 1)), axis=-1)
            for s in range(sets):
                out[:, :, i, : i + 1] += means[s][:, i, order[:, s]].swapaxes(0, 1) / sets
        yield out


@dataclass(frozen=True)
class Hubs:
    """Ratios with intervals, tests, and the thought that each head has for a hub (−1: none).

    ``ratio`` holds [head × thought] numbers in that order (:meth:`estimate`); ``p_holm`` [head, thought] is adjusted over
    all tests of the model.
    """

    ratio: OfMeans
    shuffled: Shuffled
    p_holm: Array
    hub: Array

    def estimate(self, head: int, thought: int) -> Estimate:
        """The ratio of a thought in a head (by its place)."""
        return self.ratio.estimate(head * self.p_holm.shape[1] + thought)

    @property
    def share(self) -> float:
        """Share of heads that have a hub."""
        return float((self.hub >= 0).mean())


def find_hubs(
    among: Float[Array, "problem head thought key"],
    clusters: Sequence[Any],
    *,
    seed: int,
    sets: int = SETS,
    draws: int | None = None,
    strict: bool = False,
) -> Hubs:
    """The hub of each head by the rule: interval of the corrected ratio above 1.25, Holm-adjusted permutation p < .05.

    Definition: ratio as :func:`corrected`, of the rows averaged over problems; interval: bootstrap over chains of steps;
        p: :func:`shuffled_thoughts`, adjusted over all heads and thoughts of the model.  Of several, the largest.
    Shapes: [problem, head, thought, key] → :class:`Hubs`.
    Range: a thought, or −1.  Mean over: problems.
    Raises: ValueError as :func:`shuffled_thoughts`.
    Source: docket of this laboratory (hubs).
    When it misleads: as :func:`corrected`; and a head with a sliver of its mass on thoughts may have a hub that carries
        nothing (the mass stands beside it in the tables; what a hub causes is asked by other experiments).
    """
    _, heads, n, _ = among.shape
    shuffled = shuffled_thoughts(among, clusters, seed=seed, sets=sets, draws=draws, strict=strict)
    w = within(among, strict)
    first = 2 if strict else 1
    if np.isnan(w[:, :, first:]).any():  # rows without mass: their mean over the other problems
        means = np.nanmean(w, 0, keepdims=True)
        w = np.where(np.isnan(w), means, w)
    unit = np.nansum(even(n, strict), 0)

    def ratios(means: Array) -> Array:
        rows = means.reshape(-1, heads, n - first, n).sum(2)
        return np.divide(rows, unit, out=np.full_like(rows, np.nan), where=unit > 0).reshape(-1, heads * n)

    table = w[:, :, first:].reshape(len(w), -1)
    found = bootstrap_of_means(table, ratios, clusters, unit="problems", seed=seed)
    adjusted = holm(shuffled.p.ravel()).reshape(heads, n)
    low = np.full((heads, n), -np.inf)
    for h in range(heads):
        for j in range(n):
            low[h, j] = found.estimate(h * n + j).low or -np.inf
    passing = (low > ABOVE) & (adjusted < ALPHA)
    best = np.where(passing, np.nan_to_num(shuffled.observed), -np.inf).argmax(1)
    return Hubs(found, shuffled, adjusted, np.where(passing.any(1), best, -1))

"""The numbers a document predicts: expressions over measured worlds, with intervals, and ranks among redrawn sets.

1. Every term becomes columns [pair] and a function of their means; so does a sum, a ratio, a family.
2. One bootstrap over whole clusters gives the interval of the whole expression; a single term is estimated by the
   function of :mod:`headlab.stats` that has its name, to the same digits as anywhere else in headlab.
3. A rank evaluates the whole expression for every redrawn document, on the data and on every resample of prompts:
   how sure the set is among sets, and how sure that is over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from headlab.heads import Head
from headlab.stats import Estimate, Rank, bootstrap_mean, bootstrap_ratio, clustered_rate, paired_difference
from headlab.stats.corrections import holm
from headlab.stats.crossed import rate_over_sets, wider_over_sets
from headlab.stats.dose import crossing as crossing_of
from headlab.stats.linear_null import against_linear
from headlab.stats.of_means import OfMeans, bootstrap_of_means
from headlab.stats.psychometric import psychometric
from headlab.stats.rates import over_ends
from headlab.stats.sequential import Looks, rank_at
from headlab.trials.consistency import NUMERIC, axes_of
from headlab.trials.document import Document
from headlab.trials.expressions import CURVES, DOSED, RATIOS, Expression, Term
from headlab.trials.measured import Array, Measured, harm, kind_of, name_of, right
from headlab.trials.worlds import Arm

Arms = Mapping[str, Sequence[Arm]]
DENOMINATOR = "the difference between the two unedited runs"


@dataclass(frozen=True)
class Part:
    """Columns [pair, column] and what their means [..., column] come to, [..., member]."""

    columns: Array
    of: Callable[[Array], Array]
    members: int = 1


class Statistics:
    """Evaluates expressions on what was measured; ``scores`` [head] by name are those of ``spearman``."""

    def __init__(
        self, doc: Document, measured: Measured, scores: Callable[[str], Mapping[Head, float]] | None = None
    ) -> None:
        self.doc, self.seen, self.scores = doc, measured, scores

    @property
    def told(self) -> dict[str, Any]:
        return {"clusters": self.seen.clusters, "unit": self.seen.unit, "seed": self.doc.seed}

    # -- estimates --------------------------------------------------------------------------------------------

    def estimate(self, read: Expression, arms: Arms, where: str = "") -> Estimate:
        """The value of an expression without a rank, with its interval."""
        undefined = self._unbounded(read, arms)
        if undefined is not None:
            return undefined
        term = read.single
        if term is not None and term.word in CURVES:
            return self._fitted(term, arms)
        if term is not None and not read.family and term.word not in {"slope", "dose50", "spearman"}:
            return self._alone(term, arms)
        if term is not None and read.family == "mean" and term.word == "repair":
            return self._repaired_by(term, arms)
        if (two := self._two_rates(read, arms)) is not None:
            return paired_difference(*two, unit=self.seen.unit, seed=self.doc.seed)
        part = self._whole(read, arms)
        found = bootstrap_of_means(part.columns, part.of, **self.told)
        if not read.family:
            return self._with_width(found.estimate(0), read, arms)
        made = _family(read.family, found, where)
        share = read.family == "share"
        if (share or read.family == "mean") and any(a.sampled for t in read.terms for a in arms[t.world]):
            return wider_over_sets(
                made, _held(where)(found.value) if share else found.value, seed=self.doc.seed, rate=share
            )
        return made

    def members(self, read: Expression, arms: Arms, threshold: float, op: str) -> dict[str, Array]:
        """Of a family's members [member]: ``value``; ``p``, the one-sided bootstrap p that it does not lie beyond the
        threshold; ``holm``, p as adjusted for all of them (Holm)."""
        part = self._whole(read, arms)
        found = bootstrap_of_means(part.columns, part.of, **self.told)
        missed = (found.draws <= threshold) if op == ">" else (found.draws >= threshold)
        p = (1 + missed.sum(0)) / (1 + len(missed))
        return {"value": found.value, "p": p, "holm": holm(p)}

    def each(self, read: Expression, arms: Arms) -> Array:
        """[member]: an expression's value for each member of its family."""
        part = self._whole(read, arms)
        return part.of(part.columns.mean(0, keepdims=True))[0]

    def paired(self, readout: str = "") -> bool:
        """Whether the two unedited runs differ in a readout."""
        name = name_of(self.doc, readout)
        return bool(self.seen.other) and bool((self.seen.other[name] != self.seen.base[name]).any())

    def _alone(self, term: Term, arms: Arms) -> Estimate:
        """One term of one world, by the function of its name."""
        readout = name_of(self.doc, term.readout)
        edited = self.seen.arm(self._arms(term, arms)[0][0], readout)
        base, kind = self.seen.base[readout], kind_of(self.doc, term.readout)
        rate = kind in {"accuracy", "text"}
        if term.word in RATIOS:
            return bootstrap_ratio(edited - base, self.seen.other[readout] - base, **self.told)
        if term.word == "repair":
            return self._repair(right(self.doc, term.readout, edited))
        if (weigh := self.seen.tokens.get(readout)) is not None:
            shown = edited if term.word == "value" else harm(self.doc, term.readout) * (base - edited)
            return bootstrap_ratio(shown * weigh, weigh, **self.told)
        if term.word == "value":
            return (
                clustered_rate(edited > 0.5, self.seen.clusters, unit=self.seen.unit)
                if rate and _binary(edited)
                else bootstrap_mean(edited, **self.told)
            )
        if rate and _binary(edited):
            return paired_difference(base > 0.5, edited > 0.5, **self.told)
        return bootstrap_mean(harm(self.doc, term.readout) * (base - edited), **self.told)

    def _fitted(self, term: Term, arms: Arms) -> Estimate:
        """A word of all doses: of the logistic curve through the share of pairs right, or of each pair's crossing."""
        from headlab.trials.worlds import doses

        at = np.asarray(doses(self.doc, term.world))
        readout = name_of(self.doc, term.readout)
        margins = np.stack([self.seen.arm(a, readout) for a in self._arms(term, arms)[0]], 1)  # [pair, dose]
        clusters, seed = np.asarray(self.seen.clusters), self.doc.seed
        if term.word == "steepness":
            found = against_linear(crossing_of(at, margins), margins[:, -1], margins[:, 0], clusters, seed=seed)
            return found.steepness
        fit = psychometric(
            np.tile(at, len(margins)),
            (margins > 0).ravel(),
            np.repeat(clusters, len(at)),
            unit="pairs × doses",
            seed=seed,
        )
        return fit.location if term.word == "location" else fit.width

    def _repaired_by(self, term: Term, arms: Arms) -> Estimate:
        """The share of pairs × sets that a family makes right."""
        readout, found = name_of(self.doc, term.readout), self._arms(term, arms)
        hits = np.stack([right(self.doc, term.readout, self.seen.arm(a[0], readout)) for a in found]) > 0.5
        keep = np.ones(self.seen.n, bool) if self.seen.eligible is None else self.seen.eligible
        if not keep.any():
            return Estimate.undefined(self.seen.unit, 0, "no pair is right clean and wrong corrupted")
        clusters = np.asarray(self.seen.clusters)[keep]
        return rate_over_sets(hits[:, keep], clusters, all_subsets=not found[0][0].sampled)

    def _repair(self, hits: Array) -> Estimate:
        keep = self.seen.eligible
        told = self.told
        if keep is not None and not keep.all():
            if not keep.any():
                return Estimate.undefined(self.seen.unit, 0, "no pair is right clean and wrong corrupted")
            hits, told["clusters"] = hits[keep], [c for c, k in zip(self.seen.clusters, keep, strict=True) if k]
        if _binary(hits):
            return clustered_rate(hits > 0.5, told["clusters"], unit=told["unit"])
        return bootstrap_mean(hits, **told)

    def _unbounded(self, read: Expression, arms: Arms) -> Estimate | None:
        """Undefined, where a denominator's interval holds zero."""
        for term in read.terms:
            if term.word in RATIOS:
                readout = name_of(self.doc, term.readout)
                gap = self.seen.other[readout] - self.seen.base[readout]
                found = bootstrap_mean(gap, **self.told)
                if not found.defined or found.above(0) == found.below(0) == "unsure" or (gap == 0).all():
                    note = f"{DENOMINATOR} is not clear of zero, so a share of it is unbounded ({readout})"
                    return Estimate.undefined(self.seen.unit, self.seen.n, note)
        if read.bottom:
            below = self.estimate(replace(read, top=read.bottom, bottom=(), rank=False), arms)
            if not below.defined or below.above(0) == below.below(0) == "unsure":
                return Estimate.undefined(self.seen.unit, self.seen.n, f"the denominator {below} is not clear of zero")
        return None

    # -- ranks ------------------------------------------------------------------------------------------------

    def rank(
        self,
        read: Expression,
        named: Arms,
        others: Sequence[Arms],
        *,
        plan: Looks,
        look: int,
        alpha: float,
        tests: int,
        tail: str,
    ) -> tuple[Rank | Estimate, bool, Array]:
        """The place of an expression among redrawn documents at a look, whether it is settled, and [1 + other] the values
        (the named one first).

        ``others``: the redrawn ones so far; a walk through all sets holds the named one too.  Undefined where the expression
        is.
        """
        bare = replace(read, rank=False)
        undefined = self._unbounded(bare, named)
        if undefined is not None:
            return undefined, True, np.array([])
        found = self.together(bare, (named, *others))
        values = found.value
        if not np.isfinite(values).all():
            return Estimate.undefined(self.seen.unit, self.seen.n, "undefined for some of the sets"), True, values
        if not np.isfinite(found.draws).all():
            why = "undefined in some resamples of the prompts"
            return Estimate.undefined(self.seen.unit, self.seen.n, why), True, values
        unit = "exchanges of labels" if self.doc.reference is not None and self.doc.reference.labels else "matched sets"
        ranked = rank_at(found, plan, look, alpha=alpha, tests=tests, unit=unit, tail=tail)  # type: ignore[arg-type]
        return *ranked, values

    def together(self, read: Expression, several: Sequence[Arms]) -> OfMeans:
        """[arms]: an expression without its rank, each time of other arms, on the same resamples."""
        read = replace(read, rank=False)
        return self._together(read, [self._whole(read, arms) for arms in several])

    def _together(self, read: Expression, parts: Sequence[Part]) -> OfMeans:
        """All parts on the same resamples: one number each."""
        fold = _FOLDS[read.family] if read.family else None
        alike = len({(p.columns.shape[1], p.members) for p in parts}) == 1
        width = parts[0].columns.shape[1]

        def of(means: Array) -> Array:
            if alike:
                got = parts[0].of(means.reshape(*means.shape[:-1], len(parts), width))
                return got[..., 0] if fold is None else fold(got)
            out, start = [], 0
            for p in parts:
                got = p.of(means[..., start : start + p.columns.shape[1]])
                out.append(got[..., 0] if fold is None else fold(got))
                start += p.columns.shape[1]
            return np.stack(out, -1)

        columns = np.concatenate([p.columns for p in parts], axis=1)
        return bootstrap_of_means(columns, of, **self.told)

    # -- columns ----------------------------------------------------------------------------------------------

    def _with_width(self, found: Estimate, read: Expression, arms: Arms) -> Estimate:
        """``found``; where it is made of several rates and no resample differs, its ends over all ends of theirs."""
        rates = all(t.word == "repair" or kind_of(self.doc, t.readout) in {"accuracy", "text"} for t in read.terms)
        if not (found.defined and found.low == found.high and rates and len(read.terms) > 1):
            return found
        ones = [self.estimate(Expression((replace(t, sign=1),)), arms) for t in read.terms]
        if not all(e.defined for e in ones):
            return found
        return over_ends(found, ones, [t.sign for t in read.terms], len(read.top))

    def _two_rates(self, read: Expression, arms: Arms) -> tuple[Array, Array, list[str]] | None:
        """[pair] the successes of both, and the pairs' clusters, where an expression is one rate less another: resampled, two
        rates that never fail or never succeed would have an interval of no width."""
        words, readouts = {t.word for t in read.top}, {name_of(self.doc, t.readout) for t in read.top}
        if read.bottom or read.family or sorted(t.sign for t in read.top) != [-1, 1] or len(words) > 1:
            return None
        repaired, keep = words == {"repair"}, np.ones(self.seen.n, bool)
        if repaired:
            keep = keep if self.seen.eligible is None else self.seen.eligible
        elif not {kind_of(self.doc, r) for r in readouts} <= {"accuracy", "text"} or not (
            words == {"value"} or (words == {"drop"} and len(readouts) == 1)
        ):
            return None
        hits = []
        for term in sorted(read.top, key=lambda t: t.sign if words == {"drop"} else -t.sign):
            edited = self.seen.arm(self._arms(term, arms)[0][0], name_of(self.doc, term.readout))
            hits.append((right(self.doc, term.readout, edited) if repaired else edited)[keep])
        if not keep.any() or not all(map(_binary, hits)):
            return None
        return hits[0] > 0.5, hits[1] > 0.5, [c for c, k in zip(self.seen.clusters, keep, strict=True) if k]

    def _whole(self, read: Expression, arms: Arms) -> Part:
        top = self._sum(read.top, arms)
        if not read.bottom:
            return top
        bottom = self._sum(read.bottom, arms)
        cut = top.columns.shape[1]

        def of(means: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                return top.of(means[..., :cut]) / bottom.of(means[..., cut:])

        return Part(np.concatenate([top.columns, bottom.columns], axis=1), of, max(top.members, bottom.members))

    def _sum(self, terms: Sequence[Term], arms: Arms) -> Part:
        parts = [(t.sign, self._part(t, arms)) for t in terms]
        sizes = {p.members for _, p in parts if p.members > 1}
        if len(sizes) > 1:
            raise ValueError(f"families of {' and '.join(map(str, sorted(sizes)))} members cannot be summed one by one")
        cuts = np.cumsum([0, *(p.columns.shape[1] for _, p in parts)])

        def of(means: Array) -> Array:
            return sum(s * p.of(means[..., a:b]) for (s, p), a, b in zip(parts, cuts, cuts[1:], strict=False))  # type: ignore[return-value]

        return Part(np.concatenate([p.columns for _, p in parts], axis=1), of, max(sizes, default=1))

    def _part(self, term: Term, arms: Arms) -> Part:
        readout = name_of(self.doc, term.readout)
        chosen = self._arms(term, arms)
        x = np.stack([[self.seen.arm(a, readout) for a in doses] for doses in chosen])  # [member, dose, pair]
        base, n = self.seen.base[readout], self.seen.n
        weigh = self.seen.tokens.get(readout)
        one = np.ones(n) if weigh is None else weigh
        members = len(chosen)
        if term.word == "dose50":
            return self._dose50(term, x)
        if term.word == "spearman":
            return self._spearman(term, chosen, harm(self.doc, term.readout) * (base - x[:, 0]))
        if term.word in RATIOS:
            top, bottom = x[:, 0] - base, self.seen.other[readout] - base
        elif term.word == "repair":
            bottom = np.ones(n) if self.seen.eligible is None else self.seen.eligible.astype(float)
            top = right(self.doc, term.readout, x[:, 0]) * bottom
        elif term.word == "slope":
            from headlab.trials.worlds import doses

            at = np.asarray(doses(self.doc, term.world))
            centred = at - at.mean()
            top, bottom = np.einsum("d,mdp->mp", centred, x) / (centred**2).sum() * one, one
        else:
            shown = x[:, 0] if term.word == "value" else harm(self.doc, term.readout) * (base - x[:, 0])
            top, bottom = shown * one, one
        columns = np.concatenate([top, bottom[None]]).T

        def of(means: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                return means[..., :-1] / means[..., -1:]

        return Part(columns, of, members)

    def _dose50(self, term: Term, x: Array) -> Part:
        from headlab.trials.worlds import doses

        at = np.asarray(doses(self.doc, term.world))
        hits = right(self.doc, term.readout, x)
        members, k = x.shape[:2]

        def of(means: Array) -> Array:
            rates = means.reshape(*means.shape[:-1], members, k)
            return crossing(at, rates)

        return Part(hits.reshape(members * k, -1).T, of, members)

    def _spearman(self, term: Term, chosen: Sequence[Sequence[Arm]], effects: Array) -> Part:
        assert self.scores is not None
        known = self.scores(term.score)
        heads = [_head_of(doses[0]) for doses in chosen]
        order = np.array([known[h] for h in heads])

        def of(means: Array) -> Array:
            return _spearman(means, order)[..., None]

        return Part(effects.T, of, 1)

    def _arms(self, term: Term, arms: Arms) -> list[list[Arm]]:
        """The arms of a term, [member][dose]: its cell pinned, the doses of a dosed word in order."""
        found: dict[int, list[Arm]] = {}
        for arm in arms[term.world]:
            nominal = tuple(str(v) for a, v in arm.cell if not (a in NUMERIC and term.word in DOSED))
            if nominal == term.cell:
                found.setdefault(arm.member, []).append(arm)
        if not found:
            raise ValueError(f"{term.world} has no cell {'/'.join(term.cell) or '(none)'}")
        return [found[m] for m in sorted(found)]


def _binary(x: Array) -> bool:
    """Whether a rate is made of hits and misses (a mean over draws is not)."""
    return bool(np.isin(x, (0.0, 1.0)).all())


def _head_of(arm: Arm) -> Head:
    if len(arm.heads) != 1:
        raise ValueError("spearman compares single heads: its world runs over {singles: …}")
    return next(iter(arm.heads))


_FOLDS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda x: x.mean(-1),
    "least": lambda x: x.min(-1),
    "most": lambda x: x.max(-1),
}


def _family(word: str, found: OfMeans, where: str) -> Estimate:
    """One number of a family.  ``least`` is above t when every member is, and below it when some member is: its lower
    bound is the least of the members' own bounds, its upper one is Bonferroni's; ``most`` mirrors it."""
    if word == "mean":
        return found.of(lambda x: x.mean(-1))
    if word == "share":
        return found.of(lambda x: _held(where)(x).mean(-1))
    outer = found.of(_FOLDS[word])
    if not outer.defined:
        return outer
    m, tail = found.draws.shape[1], (1 - found.level) / 2
    low = np.quantile(found.draws, tail if word == "least" else tail / m, axis=0)
    high = np.quantile(found.draws, 1 - tail / m if word == "least" else 1 - tail, axis=0)
    bounds = (low.min(), high.min()) if word == "least" else (low.max(), high.max())
    value = float(_FOLDS[word](found.value))
    note = f"{outer.note}; {m} members, each with its own interval (the far side by Bonferroni)"
    return replace(outer, low=min(float(bounds[0]), value), high=max(float(bounds[1]), value), note=note)


def _held(where: str) -> Callable[[Array], Array]:
    """1 where numbers lie where ``where``, such as ``"> 0"``, says, else 0."""
    above, t = where.strip()[0] == ">", float(where.strip()[1:])
    return lambda x: np.asarray((x > t) if above else (x < t), float)


def crossing(at: Array, rates: Array) -> Array:
    """The first dose, interpolated, at which ``rates`` [..., dose] reach one half; NaN where they never do."""
    up = rates >= 0.5
    first = up.argmax(-1)
    some = up.any(-1)
    before = np.maximum(first - 1, 0)
    here, there = (np.take_along_axis(rates, i[..., None], -1)[..., 0] for i in (before, first))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(there > here, (0.5 - here) / (there - here), 0.0)
    found = np.where(first == 0, at[0], at[before] + share * (at[first] - at[before]))
    return np.where(some, found, np.nan)


def _spearman(values: Array, order: Array) -> Array:
    from scipy.stats import rankdata

    a, b = rankdata(values, axis=-1), rankdata(order)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum())


def cells(doc: Document, read: Expression) -> list[Expression]:
    """An expression for every cell of its bare worlds' nominal axes, each term pinned."""
    free: dict[str, tuple[Any, ...]] = {}
    for term in read.terms:
        for axis, values in axes_of(doc, term.world).items():
            if not _stays(axis, term) and not set(term.cell) & set(map(str, values)):
                free[axis] = values

    def pinned(term: Term, cell: Mapping[str, str]) -> Term:
        out = []
        for axis, values in axes_of(doc, term.world).items():
            if _stays(axis, term):
                continue
            own = [c for c in term.cell if c in set(map(str, values))]
            out.append(own[0] if own else cell[axis])
        return replace(term, cell=tuple(out))

    combined = [dict(zip(free, map(str, values), strict=True)) for values in product(*free.values())]
    return [read.mapped(partial(pinned, cell=cell)) for cell in combined]


def _stays(axis: str, term: Term) -> bool:
    """Whether an axis is not pinned: the doses of a slope."""
    return axis in NUMERIC and term.word in DOSED

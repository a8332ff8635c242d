"""How often a document is upheld about sets that nobody named, and what it could uphold: from worlds already run.

1. Each drawn set stands in for the named one: its predictions are estimated by the same statistics, it is ranked among the
   other drawn sets, and the same rule decides.  The claim says nothing of it, so "upheld" is false, unless the drawn set
   shares heads that matter: the rate is what a careless choice of heads would have got.
2. What a stand-in's worlds do not tell (only worlds that ranks read are run for drawn sets) is left out, and said: the rate
   is then of the rest of the rule, and no lower than that of the whole.
3. Attainable: the named set's effects moved to so many times their thresholds, with the scatter that resampled prompts give
   them; the share of resamples in which every prediction would be upheld.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headlab.claims import Control, Prediction, Ruled, decide
from headlab.stats import Estimate, Rank, clopper_pearson
from headlab.stats.figures import interval, percent
from headlab.stats.of_means import OfMeans, rank_over_draws
from headlab.stats.tails import tail_of
from headlab.trials.expressions import CURVES, Expression
from headlab.trials.measured import name_of
from headlab.trials.statistics import Arms, Statistics

MOST = 40
"""Stand-ins decided in a trial, which costs no pass; ``headlab calibrate`` decides all of them."""
LEAST = 20
TIMES = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
POWER = 0.9
TAIL = 0.025
Asked = tuple[Prediction, Expression]


@dataclass
class StandIns:
    """A document's predictions with the arms of the named set (``own``) and of drawn ones (``others``; an enumeration
    holds the named one too)."""

    stats: Statistics
    asked: Sequence[Asked]
    own: Arms
    others: Sequence[Arms]
    enumerated: bool
    most: int | None = MOST

    def __post_init__(self) -> None:
        if not self.enumerated:  # a walk through all sets begins with the named one
            self.others = [arms for arms in self.others if not self._is_own(arms)]
        self.read = [a for a in self.asked if self.others and self._told(a[1], self.others[0])]
        self._ranked: dict[str, OfMeans] = {}

    def _told(self, read: Expression, arms: Arms) -> bool:
        """Whether every term of an expression was measured for a drawn set."""
        try:
            return all(
                self.stats.seen.has(arm, name_of(self.stats.doc, t.readout))
                for t in read.terms
                for doses in self.stats._arms(t, arms)
                for arm in doses
            )
        except (KeyError, ValueError):
            return False

    def _draws(self, p: Prediction, read: Expression) -> OfMeans:
        """[1 + other]: an expression for the named set and each drawn one, on the same resamples."""
        if p.statistic not in self._ranked:
            self._ranked[p.statistic] = self.stats.together(read, [self.own, *self.others])
        return self._ranked[p.statistic]

    def decided(self, controls: Sequence[Control], binding: Sequence[str]) -> Counter[str]:
        """Outcomes of stand-ins."""
        out: Counter[str] = Counter()
        ruled = Ruled(predictions=tuple(p for p, _ in self.read), controls=tuple(binding))
        drawn = [i for i, arms in enumerate(self.others) if not self._is_own(arms)]
        for i in drawn[: self.most]:
            out[decide(ruled, self._findings(i), controls).outcome] += 1
        return out

    def _is_own(self, drawn: Arms) -> bool:
        """Whether a drawn set is the named one: its worlds write the same."""

        def written(arms: Arms, world: str) -> dict[Any, Any]:
            return {(a.cell, a.member): [w.name for w in a.draws] for a in arms[world]}

        return all(written(drawn, w).items() <= written(self.own, w).items() for w in drawn)

    def _findings(self, i: int) -> dict[str, Estimate | Rank]:
        found: dict[str, Estimate | Rank] = {}
        for p, read in self.read:
            if not read.rank:
                found[p.statistic] = self.stats.estimate(read, self.others[i], p.where)
                continue
            every = self._draws(p, read)
            rest = [j for j in range(len(self.others)) if self.enumerated or j != i]
            at = [1 + i, *(1 + j for j in rest)]
            if not (np.isfinite(every.value).all() and np.isfinite(every.draws).all()):
                found[p.statistic] = Estimate.undefined("sets", len(rest), "undefined for some of the sets")
                continue
            here = replace(every, value=every.value[at], draws=every.draws[:, at])
            found[p.statistic] = rank_over_draws(
                here, enumerated=self.enumerated, alpha=p.limit, unit="drawn sets", tail=p.tail
            )
        return found

    # -- what could be upheld -----------------------------------------------------------------------------------

    def attainable(self) -> dict[str, float]:
        """``times`` → the share of resamples in which every prediction would be upheld; empty where one cannot be moved."""
        passes = [self._passes(p, read) for p, read in self.asked]
        if not passes or any(one is None for one in passes):
            return {}
        kept = [one for one in passes if one is not None]
        together = np.logical_and.reduce(kept)  # [times, draw]
        return {f"{t:g}": float(x) for t, x in zip(TIMES, together.mean(1), strict=True)}

    def _passes(self, p: Prediction, read: Expression) -> Any:
        """[times, draw]: whether a prediction would be upheld; None for what is no function of means."""
        if any(t.word in CURVES or t.word == "spearman" for t in read.terms) or read.family == "share":
            return None
        if read.rank and not self._told(read, self.others[0]):
            return None
        every = self._draws(p, read) if read.rank else self.stats.together(read, [self.own])
        if not (np.isfinite(every.value).all() and np.isfinite(every.draws).all()) or every.clusters < 2:
            return None
        return self._ranks(p, every) if read.rank else self._lies(p, every)

    def _lies(self, p: Prediction, found: OfMeans) -> Any:
        scatter = found.draws[:, 0] - found.value[0]
        low, high = np.quantile(scatter, [0.025, 0.975])
        one = scatter.std() * np.sqrt(found.clusters)  # of a cluster, where the threshold is 0
        if isinstance(p.threshold, tuple):
            a, b = p.threshold
            at = np.array([(a + b) / 2 + (b - a) / 2 / t for t in TIMES])[:, None] + scatter
            return (at + low > a) & (at + high < b)
        far = (np.array(TIMES) - 1) * (abs(p.limit) or one)
        at = (p.limit + (far if p.op == ">" else -far))[:, None] + scatter
        return at + low > p.limit if p.op == ">" else at + high < p.limit

    def _ranks(self, p: Prediction, found: OfMeans) -> Any:
        sign = 1.0 if p.tail == "greater" else -1.0
        values, draws = sign * found.value, sign * found.draws
        n = len(values) - 1
        fits = _fits(p, n, self.enumerated)
        if not len(fits):
            return np.zeros((len(TIMES), len(draws)), bool)
        bar = np.sort(values[1:])[::-1][fits[-1]]  # so many may lie above, and this one not
        middle = float(np.median(values[1:]))
        scatter = draws[:, 0] - values[0] - (np.sort(draws[:, 1:], 1)[:, n - 1 - fits[-1]] - bar)
        slack = np.quantile(scatter, 0.05)  # 95 % of resamples must agree
        at = middle + np.array(TIMES) * (bar - middle)
        return at[:, None] + scatter + slack > bar


def _fits(p: Prediction, n: int, enumerated: bool) -> NDArray[np.int64]:
    """How many of ``n`` sets may be as extreme beside one that is upheld: every such count."""
    counts = np.arange(n)
    under = (counts + 1) / n < p.limit if enumerated else tail_of(counts, n, p.limit, above=False) < TAIL
    return np.flatnonzero(under)


def judged(some: StandIns, controls: Sequence[Control], binding: Sequence[str]) -> dict[str, Any] | None:
    """What the record keeps: outcomes of stand-ins, the share upheld with its interval, what is attainable, in words.

    None where too few sets were drawn to say anything, or no prediction can be read of them: a walk that stopped early leaves
    so few that none of them, ranked among the others, could be upheld.
    """
    if len(some.others) < LEAST or not some.read:
        return None
    n = len(some.others) - 1
    if not some.enumerated and any(r.rank and not len(_fits(p, n, False)) for p, r in some.read):
        return None
    outcomes = some.decided(controls, binding)
    decided = sum(outcomes[o] for o in ("upheld", "refuted", "undecided"))
    if not decided:
        return None
    upheld = clopper_pearson(outcomes["upheld"], decided, unit="drawn sets")
    power = some.attainable()
    left = [p.statistic for p, _ in some.asked if p not in [q for q, _ in some.read]]
    return {
        "outcomes": dict(outcomes),
        "upheld": upheld.to_dict(),
        "undecided": outcomes["undecided"] / decided,
        "power": power,
        "left_out": left,
        "words": sentence(upheld, outcomes["undecided"] / decided, power, left),
    }


def sentence(upheld: Estimate, undecided: float, power: Mapping[str, float], left: Sequence[str]) -> str:
    """The rate and the attainable power in one line."""
    assert upheld.value is not None and upheld.low is not None and upheld.high is not None
    share = interval(100 * upheld.value, 100 * upheld.low, 100 * upheld.high)
    said = (
        f"Of {upheld.n} sets that nobody named this rule upholds {share} %, and leaves {percent(undecided)} undecided"
    )
    if left:
        said += f" ({', '.join(left)} not asked of them)"
    if power:
        least = next((t for t, s in power.items() if s >= POWER), None)
        said += f"; an effect of 1.25 × the thresholds would be upheld in {percent(power['1.25'])} of trials"
        shown = least or list(power)[-1]
        said += f", one of {shown} × in {percent(power[shown])}" if shown != "1.25" else ""
    return f"{said}."

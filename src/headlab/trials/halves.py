"""A half of a layer among the halves that nobody named: as many heads of the same KV groups, and what is ranked.

The statistic is a contrast: recovery of the logit difference by a half, minus that by the layer's other heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headlab.designs import Matched, complement
from headlab.effects import Figure, Table, mean_recovery
from headlab.heads import Grid, Heads
from headlab.interventions import Intervention, World
from headlab.stats import Estimate, Rank, bootstrap_ratio, clopper_pearson, clustered_rate
from headlab.trials import charts
from headlab.trials.alternatives import matched_halves
from headlab.trials.sweeps import Alternatives, Placed, Scope, Seen, Sweep, Told


@dataclass(frozen=True)
class Half:
    """What was found of one half.  ``contrast``: its own, with the interval over pairs; ``rank``: its place among ``gaps``
    [matched half]; ``naive``: the share of matched halves whose repair contrast reaches the naive threshold; ``rows`` has one
    for each matched half."""

    contrast: Estimate
    rank: Rank
    naive: Estimate
    gaps: Any
    matched: Matched
    rows: Any


@dataclass(frozen=True)
class Halves:
    """``pool(grid, layer)``, a half or any other set of a layer, among the sets that match it; ``words`` name it and ``label``
    the contrast in figures.  ``sweep`` is the name under which :meth:`run` stands in a method's sweeps, ``layer`` a layer that
    is named whatever the claim's is (its worlds then bear its name); ``rank`` what its place among them is called, ``share``
    what the share of those past the naive threshold is (empty: not told)."""

    pool: Callable[[Grid, int], Heads]
    words: str
    label: str
    naive: float = 0.5
    sweep: str = "halves"
    layer: int | None = None
    rank: str = "rank:even"
    share: str = ""

    def at(self, scope: Scope) -> int:
        return scope.layer if self.layer is None else self.layer

    def matched(self, scope: Scope) -> Matched:
        """The matched halves, in the order in which they are walked."""
        own, claim = self.pool(scope.grid, self.at(scope)), scope.claim
        return matched_halves(claim, claim.matched_sets, scope.grid, own, self.name(scope), scope.seed)

    def name(self, scope: Scope) -> str:
        """What its place is called: no claim predicts that of another layer than its own."""
        return self.rank if self.at(scope) == scope.layer else f"{self.rank} {self.sweep}"

    def run(self, scope: Scope) -> Sweep:
        """The half and its complement, then its matched halves and theirs."""
        matched, placed = self.matched(scope), {self.name(scope): Placed(self._gaps, "matched halves")}
        own, *others = [
            [self._world(s), self._world(complement(scope.grid, s))]
            for s in (self.pool(scope.grid, self.at(scope)), *matched.sets)
        ]
        return Sweep((), among=Alternatives(others, placed, matched.enumerated, (self.share,), own))

    def ran(self, seen: Seen) -> list[Heads]:
        """The half, the matched halves that were run, and the complement of each."""
        sets = list(dict.fromkeys([self.pool(seen.scope.grid, self.at(seen.scope)), *self.walked(seen).sets]))
        return list(dict.fromkeys([*sets, *(complement(seen.scope.grid, s) for s in sets)]))

    def walked(self, seen: Seen) -> Matched:
        """The matched halves that were run."""
        matched = self.matched(seen.scope)
        return replace(matched, sets=matched.sets[: seen.walks[self.sweep].drawn])

    def _world(self, heads: Heads) -> World:
        one = patched_set(heads)
        return one if self.layer is None else World(f"L{self.layer} {one.name}", one.interventions)

    def found(self, seen: Seen) -> Half:
        return seen.once(self._found)

    def _found(self, seen: Seen) -> Half:
        import pandas as pd

        scope, every = seen.scope, self.ran(seen)
        grid, matched, observed = scope.grid, self.walked(seen), every[0]
        edited = seen.values(self.sweep, [self._world(s) for s in every])
        one = seen.pairs(self.sweep)
        clean, corrupted = one["clean"].to_numpy(), one["corrupted"].to_numpy()
        recovered = dict(zip(every, mean_recovery(edited, clean, corrupted), strict=True))
        repaired = dict(zip(every, (edited > 0).mean(1), strict=True))
        rows = dict(zip(every, edited, strict=True))
        clusters = one["cluster"].to_numpy()

        def gap(of: Mapping[Heads, Any], heads: Heads) -> Any:
            return of[heads] - of[complement(grid, heads)]

        gaps = np.array([float(gap(recovered, s)) for s in matched.sets])
        return Half(
            bootstrap_ratio(gap(rows, observed), clean - corrupted, clusters=clusters, unit="pairs", seed=scope.seed),
            seen.place(self.name(scope)),
            _share(
                [abs(gap(repaired, s)) >= self.naive for s in matched.sets],
                matched.enumerated and len(matched.sets) == matched.total,
            ),
            gaps,
            matched,
            pd.DataFrame(
                {
                    "heads": [str(s) for s in matched.sets],
                    "contrast": gaps,
                    "recovery": [recovered[s] for s in matched.sets],
                    "repaired": [repaired[s] for s in matched.sets],
                }
            ),
        )

    def _gaps(self, seen: Seen, n: int) -> Table:
        """The contrast of the half and of the first n matched ones [1 + n, pair]."""
        scope = seen.scope
        sets = [self.pool(scope.grid, self.at(scope)), *self.matched(scope).sets[:n]]
        sides = [[self._world(s) for s in some] for some in (sets, [complement(scope.grid, s) for s in sets])]
        return seen.values(self.sweep, sides[0]) - seen.values(self.sweep, sides[1])

    def told(self, contrast: str) -> Callable[[Seen], Iterator[Told]]:
        """The numbers, the contrast under this name."""

        def numbers(seen: Seen) -> Iterator[Told]:
            found = self.found(seen)
            yield Told(contrast, f"{self.label.replace('−', 'minus')}: logit difference recovered", found.contrast)
            yield Told(self.rank, "matched halves at least as extreme", found.rank)
            words = (
                f"matched halves whose pairs repaired (by logit difference) differ by {self.naive:g} or more".replace(
                    "0.", "."
                )
            )
            if self.share:
                yield Told(self.share, words, found.naive)

        return numbers

    def table(self, seen: Seen) -> Any:
        return self.found(seen).rows

    def figure(self, title: str, **where: int) -> Callable[[Seen], Figure]:
        """The matched halves as a histogram, the named one as a line with its interval.  :meth:`table` is kept as ``matched``;
        ``where``: in which of its rows, where it has others too."""
        of = charts.Column("matched", "contrast", where)

        def draw(seen: Seen) -> Figure:
            half, at = self.found(seen), self.at(seen.scope)
            found, band = half.rank, half.contrast
            how = "all" if found.enumerated else "a random sample of"
            caption = (
                f"Each bar counts matched halves ({how} {half.matched.total:,} with as many heads in each KV group) by how "
                f"much more of the logit difference they recover than their complement. The line is {self.words}, its band "
                f"the 95 % interval over {band.n} pairs. {found.at_least_as_extreme} of {found.n_sets:,} halves are at least "
                f"as extreme: p = {found.p:.3g}."
            )
            whole = f"{title}, among {found.n_sets:,} halves of layer {at} that nobody named"
            line = (band, self.label, "recovery by the half minus recovery by its complement", found.p)
            own = self.pool(seen.scope.grid, at)
            return charts.null("null", whole, caption, half.gaps, *line, of=of, named=own)

        return draw


def patched_set(heads: Heads) -> World:
    """z of these heads patched from the clean run."""
    return World(f"set {heads}", (Intervention(heads),)) if len(heads) else World("set")


def _share(hits: Sequence[Any], enumerated: bool) -> Estimate:
    """Share of sets: exact when they are all there, else with a Clopper-Pearson interval."""
    if not enumerated:
        return clopper_pearson(int(sum(hits)), len(hits), unit="matched halves")
    value = float(sum(hits) / len(hits))
    return Estimate(value, value, value, len(hits), "matched halves", "enumeration")


def dose_worlds(sets: Mapping[str, Heads]) -> list[World]:
    """z of each set moved toward the clean run in ten steps."""
    return [
        World(f"{name} × {step / 10:g}", (Intervention(heads, amount=step / 10),))
        for name, heads in sets.items()
        for step in range(11)
    ]


def dose_curve(seen: Seen, sweep: str, labels: Mapping[str, str]) -> Figure:
    """Repair against dose: how far activations are moved from the corrupted to the clean run."""
    rows = []
    for name, label in labels.items():
        for step in range(11):
            hit = seen.values(sweep, [f"{name} × {step / 10:g}"])[0] > 0
            e = clustered_rate(hit, clusters=seen.clusters(sweep), unit="pairs")
            rows.append({"x": step / 10, "y": e.value, "low": e.low, "high": e.high, "series": label, "n": e.n})
    caption = (
        "0 leaves z as it is, 1 replaces it by the clean run's. A pair counts as repaired when its logit difference is "
        "positive. Each pair's margin moves about linearly, so a steep curve is what many margins crossing zero at about the "
        "same dose look like. Bands are 95 % intervals over pairs."
    )
    options = {"threshold": 0.5, "x_title": "share of the clean z", "y_title": "share of pairs repaired"}
    title = f"Pairs repaired, by how far the heads of layer {seen.scope.layer} are moved to the clean run"
    return Figure("curve", "dose", title, caption, tuple(rows), options)

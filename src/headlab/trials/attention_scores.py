"""Even against odd heads by what is read of them in every pair, among halves of the layer that nobody named.

1. ``sides``: even minus odd heads, with an interval over pairs, and its rank among KV-matched halves.
2. ``by_layer``: the same in every layer, Holm-adjusted.
3. ``naive``: the same contrast read without a null.
4. ``Watched``: a reading of every layer, with the numbers, the table and the figures that are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from headlab.claims import Control, Verdict
from headlab.designs import Matched, matched_sets
from headlab.effects import Figure, Table
from headlab.engine.model import Lab, ModelError
from headlab.heads import Grid, even
from headlab.measures import DECIMALS, bandwidth, output_bandwidth
from headlab.prompts import Encoded
from headlab.stats import Estimate, Rank, bootstrap_mean, holm
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.store import Reading
from headlab.trials import charts
from headlab.trials.pairs import clusters_of, named
from headlab.trials.sweeps import Scope, Seen, Told

Array = np.ndarray


@dataclass(frozen=True)
class Sides:
    """Even and odd heads: their means, even minus odd, its rank among ``gaps`` [matched half]."""

    even: Estimate
    odd: Estimate
    gap: Estimate
    rank: Rank
    gaps: Array
    matched: Matched

    def told(
        self, name: str, label: str, arm: str = "", *, unruled: bool = False, ranked: bool = True
    ) -> Iterator[Told]:
        """``NAME:even``, ``NAME:odd``, ``contrast:NAME`` and ``rank:NAME``."""
        yield Told(f"{name}:even", f"{label}: even heads", self.even, arm, unruled)
        yield Told(f"{name}:odd", f"{label}: odd heads", self.odd, arm, unruled)
        yield Told(f"contrast:{name}", f"{label}: even minus odd", self.gap, arm, unruled)
        if ranked:
            yield Told(f"rank:{name}", f"{label}: matched halves at least as far apart", self.rank, arm, unruled)


def no_halves(case: Any) -> str:
    """Why a model has no even and odd heads to compare, or nothing."""
    n = case.lab.grid.n_heads
    return "" if n > 1 else f"{case.lab.name} has {n} head in each layer, so there is no half to compare"


def grids(table: Any, column: str) -> dict[int, Array]:
    """Rows ``prompt, layer, head, column`` as [prompt, head] by layer."""
    return {
        int(at): part.pivot(index="prompt", columns="head", values=column).to_numpy()
        for at, part in table.groupby("layer")
    }


def to_numbers(lab: Lab, encoded: Sequence[Encoded], classes: Any = DECIMALS, **settings: Any) -> Any:
    """``measures.bandwidth`` of tokens of class "numeric" alone."""
    table = bandwidth(lab, encoded, classes, **settings)
    return table[table["token_class"] == "numeric"].reset_index(drop=True)


def written(scope: Scope, encoded: Sequence[Encoded], classes: Any = DECIMALS, **settings: Any) -> Any:
    """Shares of α·v·W_O at the layer that come from numbers; None where no projection takes z itself."""
    try:
        table = output_bandwidth(scope.lab, encoded, classes, layers=[scope.layer], **settings)
    except ModelError:
        return None
    return table[table["token_class"] == "numeric"]


def share_of(at: int, classes: Any = DECIMALS) -> Callable[[Lab, Sequence[Encoded], int], Array]:
    """What the controls of ``measures.edited`` read: the share of a layer's attention on the numbers, [prompt, head]."""

    def share(lab: Lab, encoded: Sequence[Encoded], tokens: int) -> Array:
        table = to_numbers(lab, encoded, classes, sink="out", relative=False, layers=[at], tokens=tokens)
        return grids(table, "share")[at]

    return share


def sides(scope: Scope, values: Array, *, at: int | None = None, low: bool = False, unit: str = "pairs") -> Sides:
    """``values`` [pair, head] of a layer.  ``low``: a smaller value is what the claim says of even heads.

    Rows with an undefined value are left out and not counted.
    """
    grid, claim, seed = scope.grid, scope.claim, scope.seed
    whole: Any = ~np.isnan(values).any(axis=1)
    rows = values[whole]
    labels = [c for c, keep in zip(clusters_of(scope.pairs), whole.tolist(), strict=True) if keep]
    matched, inside = matched_sides(grid, scope.layer if at is None else at, claim.matched_sets, seed)

    def gap(inside: Array, mean: Array) -> Any:
        """[…, half] of means [..., head]."""
        return mean @ inside.T / inside.sum(-1) - mean @ (1 - inside).T / (1 - inside).sum(-1)

    def over(x: Array) -> Estimate:
        return bootstrap_mean(x, labels, unit=unit, seed=seed)

    first, second = rows[:, 0::2].mean(1), rows[:, 1::2].mean(1)
    gaps = gap(inside, rows.mean(0)) if len(rows) else np.zeros(len(inside))
    every = np.vstack([even_side(grid), inside])
    given = (rows, labels) if len(rows) else (np.zeros((1, grid.n_heads)), ["none"])
    by_head = bootstrap_of_means(given[0], lambda m: gap(every, m), given[1], unit=unit, seed=seed)
    where = rank_over_draws(
        by_head,
        enumerated=matched.enumerated,
        alpha=claim.alpha,
        unit="matched halves",
        tail="less" if low else "greater",
        tolerance=1e-6,
    )
    return Sides(over(first), over(second), over(first - second), where, gaps, matched)


def even_side(grid: Grid) -> Array:
    """1 for even heads, 0 for odd ones."""
    return 1.0 - np.arange(grid.n_heads) % 2


@cache
def matched_sides(grid: Grid, at: int, n: int, seed: int) -> tuple[Matched, Array]:
    """Halves with as many heads of each KV group as the even heads, and which heads are in each, [half, head]."""
    matched = matched_sets(grid, even(grid, at), n=n, seed=seed)
    inside = np.zeros((len(matched.sets), grid.n_heads))
    for row, heads in zip(inside, matched.sets, strict=True):
        row[list(heads.at(at))] = 1
    return matched, inside


def by_layer(scope: Scope, values: Mapping[int, Array], *, low: bool = False) -> list[dict[str, Any]]:
    """``sides`` of every layer; p Holm-adjusted over them."""
    found = {at: sides(scope, x, at=at, low=low) for at, x in sorted(values.items())}
    adjusted = holm([one.rank.high for one in found.values()])
    return [
        {"layer": at, "even": one.even.value, "odd": one.odd.value, "gap": one.gap.value}
        | {"low": one.gap.low, "high": one.gap.high, "n": one.gap.n, "p": one.rank.p, "p_holm": float(p)}
        for (at, one), p in zip(found.items(), adjusted, strict=True)
    ]


def naive(name: str, *, low: bool = False) -> Callable[[Seen, Sequence[Control]], Reading]:
    """``contrast:NAME`` read without a null: parity is found as soon as its interval over pairs leaves zero."""

    def read(seen: Seen, controls: Sequence[Control]) -> Reading:
        gap = seen.estimate(f"contrast:{name}")
        wanted = gap.below(0.0) if low else gap.above(0.0)
        outcome: Any = {"yes": "upheld", "no": "refuted", "unsure": "undecided", "undefined": "untestable"}[wanted]
        says = f"the contrast is {gap}, read without asking what halves give that nobody named"
        verdict = Verdict(
            outcome=outcome,
            sentence=f"{outcome.capitalize()}: {says}.",
            rulings=(),
            controls=tuple(controls),
            would_change="Any two halves of a layer differ; with enough prompts the interval always leaves zero.",
        )
        words = "the same contrast against zero, no null: the side that wins is a coin toss"
        told = (named(f"contrast:{name}", "the contrast of parity", gap, ""),)
        return Reading(protocol="naive", words=words, verdict=verdict, estimates=told)

    return read


@dataclass(frozen=True)
class Watched:
    """A reading of every head in every pair: ``values(seen)`` gives [pair, head] by layer; ``what`` names it in figures.

    ``low``: a smaller value is what the claim says of even heads.
    """

    values: Callable[[Seen], Mapping[int, Array]]
    what: str | Callable[[Seen], str]
    low: bool = False

    def sides(self, seen: Seen) -> Sides:
        """Even against odd at the layer."""
        return seen.once(self._sides)

    def _sides(self, seen: Seen) -> Sides:
        return sides(seen.scope, seen.once(self.values)[seen.scope.layer], low=self.low)

    def told(self, name: str, label: str) -> Callable[[Seen], Iterator[Told]]:
        return lambda seen: self.sides(seen).told(name, label)

    def _rows(self, seen: Seen) -> list[dict[str, Any]]:
        return by_layer(seen.scope, seen.once(self.values), low=self.low)

    def layers(self, seen: Seen) -> Table:
        """Even minus odd in every layer."""
        return pd.DataFrame(seen.once(self._rows))

    def _named(self, seen: Seen) -> str:
        return self.what if isinstance(self.what, str) else self.what(seen)

    def null(self, seen: Seen) -> Figure:
        """Matched halves as a histogram, the even heads as a line with its interval."""
        found, at = self.sides(seen), seen.scope.layer
        place, gap = found.rank, found.gap
        drawn = "all" if found.matched.enumerated else "a random sample of"
        caption = (
            f"Each bar counts matched halves ({drawn} {found.matched.total:,} with as many heads in each KV group) by their "
            f"mean minus that of the layer's other heads. The line is the even heads, its band the 95 % interval over "
            f"{gap.n} {gap.unit}. {place.at_least_as_extreme} of {place.n_sets:,} halves are at least as far: p = {place.p:.3g}."
        )
        title = f"{self._named(seen)}: even minus odd, among {place.n_sets:,} halves of layer {at} that nobody named"
        x_title = "mean of the half minus mean of the other heads"
        own, sets = even(seen.scope.grid, at), found.matched.sets
        return charts.null("null", title, caption, found.gaps, gap, "even − odd", x_title, place.p, of=sets, named=own)

    def curve(self, seen: Seen) -> Figure:
        """Even minus odd in every layer."""
        rows = seen.once(self._rows)
        beyond = ", ".join(str(r["layer"]) for r in rows if r["p_holm"] < 0.05) or "none"
        caption = (
            "Bands are 95 % intervals over pairs: they say that the difference is no accident of the prompts, not that "
            "parity makes it. Layers whose even heads stand out among matched halves after Holm's correction: "
            f"{beyond}."
        )
        drawn = [
            {"x": r["layer"], "y": r["gap"], "series": "even − odd"} | {k: r[k] for k in ("low", "high", "n")}
            for r in rows
        ]
        title = f"{self._named(seen)}: even minus odd heads, by layer"
        return charts.curve("layers", title, caption, drawn, "layer", "even minus odd", 0.0)

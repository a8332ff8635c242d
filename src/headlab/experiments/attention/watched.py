"""What the experiments share that only watch attention: prompts in other formats, a layer's halves compared, figures.

1. ``halves``: even minus odd heads, with an interval over pairs, and its rank among KV-matched halves nobody named.
2. ``by_layer``: the same in every layer, Holm-adjusted; ``flips``: one paired test for each of many heads.
3. ``naive``: the same contrast read without a null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from headlab.claims import Claim, Control, Verdict, decide
from headlab.designs import Matched, matched_sets
from headlab.effects import Figure
from headlab.engine.model import Lab
from headlab.experiments.base import Bench, Outcome, choose_layer, named
from headlab.heads import Grid, even
from headlab.prompts import Encoded, EncodedPair, encode, encode_prompt
from headlab.stats import Estimate, Rank, bootstrap_mean, holm
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.store import NamedEstimate, Reading
from headlab.tasks.decimals import fill, get_format, numbers

Array = np.ndarray


# -- prompts ------------------------------------------------------------------------------------------------


def in_format(pair: EncodedPair, name: str, tokenizer: Any) -> Encoded:
    """The comparison of a pair asked in another format ("bigger")."""
    prompt = fill(get_format(name), *numbers(pair.pair.clean), "bigger", tokenizer)
    return encode_prompt(prompt, pair.pair.answer, pair.pair.wrong, tokenizer)


def clusters_of(pairs: Sequence[EncodedPair]) -> list[str]:
    return [p.pair.cluster or p.pair.id for p in pairs]


def chosen_layer(bench: Bench) -> tuple[int, list[dict[str, Any]]]:
    """The claim's layer, or the one its rule picks on the selection pairs."""
    auto = bench.claim.layer == "auto"
    return choose_layer(bench, [encode(p, bench.lab.tokenizer) for p in bench.selection] if auto else [])


def grids(table: Any, column: str) -> dict[int, Array]:
    """Rows ``prompt, layer, head, column`` as [prompt, head] by layer."""
    return {
        int(at): part.pivot(index="prompt", columns="head", values=column).to_numpy()
        for at, part in table.groupby("layer")
    }


# -- halves of a layer --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halves:
    """Even and odd heads: their means, even minus odd, its rank among ``gaps`` [matched half]."""

    even: Estimate
    odd: Estimate
    gap: Estimate
    rank: Rank
    gaps: Array
    matched: Matched

    def estimates(self, name: str, label: str, arm: str = "") -> list[NamedEstimate]:
        return [
            named(f"{name}:even", f"{label}: even heads", self.even, arm),
            named(f"{name}:odd", f"{label}: odd heads", self.odd, arm),
            named(f"contrast:{name}", f"{label}: even minus odd", self.gap, arm),
            named(f"rank:{name}", f"{label}: matched halves at least as far apart", self.rank.estimate, arm),
        ]

    def findings(self, name: str) -> dict[str, Estimate | Rank]:
        return {
            f"{name}:even": self.even,
            f"{name}:odd": self.odd,
            f"contrast:{name}": self.gap,
            f"rank:{name}": self.rank,
        }


def no_halves(lab: Lab) -> str:
    """Why this model has no even and odd heads to compare, or nothing."""
    n = lab.grid.n_heads
    return "" if n > 1 else f"{lab.name} has {n} head in each layer, so there is no half to compare"


def untestable(bench: Bench, why: str) -> Outcome:
    """The outcome of a claim that this model gives no way to measure."""
    verdict = decide(bench.claim, {}, [], impossible=why)
    return Outcome([Reading(protocol="standard", words=why, verdict=verdict)], [], {}, {"reason": why})


def halves(
    values: Array,
    clusters: Sequence[str],
    grid: Grid,
    at: int,
    claim: Claim,
    *,
    low: bool = False,
    pairs: str = "pairs",
) -> Halves:
    """``values`` [pair, head] of a layer.  ``low``: a smaller value is what the claim says of even heads.

    Rows with an undefined value are left out and not counted.
    """
    whole: Any = ~np.isnan(values).any(axis=1)
    rows, labels = values[whole], [c for c, keep in zip(clusters, whole.tolist(), strict=True) if keep]
    matched, sides = matched_sides(grid, at, claim.matched_sets, claim.seed)

    def gap(inside: Array, mean: Array) -> Any:
        """[…, half] of means [..., head]."""
        return mean @ inside.T / inside.sum(-1) - mean @ (1 - inside).T / (1 - inside).sum(-1)

    def over(x: Array) -> Estimate:
        return bootstrap_mean(x, labels, unit=pairs, seed=claim.seed)

    first, second = rows[:, 0::2].mean(1), rows[:, 1::2].mean(1)
    gaps = gap(sides, rows.mean(0)) if len(rows) else np.zeros(len(sides))
    named = np.vstack([even_side(grid), sides])
    given = (rows, labels) if len(rows) else (np.zeros((1, grid.n_heads)), ["none"])
    by_head = bootstrap_of_means(given[0], lambda m: gap(named, m), given[1], unit=pairs, seed=claim.seed)
    where = rank_over_draws(
        by_head, enumerated=matched.enumerated, alpha=claim.alpha, unit="matched halves",
        tail="less" if low else "greater", tolerance=1e-6,
    )  # fmt: skip
    return Halves(over(first), over(second), over(first - second), where, gaps, matched)


def even_side(grid: Grid) -> Array:
    """1 for even heads, 0 for odd ones."""
    return 1.0 - np.arange(grid.n_heads) % 2


@cache
def matched_sides(grid: Grid, at: int, n: int, seed: int) -> tuple[Matched, Array]:
    """Halves with as many heads of each KV group as the even heads, and which heads are in each, [half, head]."""
    matched = matched_sets(grid, even(grid, at), n=n, seed=seed)
    sides = np.zeros((len(matched.sets), grid.n_heads))
    for row, heads in zip(sides, matched.sets, strict=True):
        row[list(heads.at(at))] = 1
    return matched, sides


def by_layer(
    values: Mapping[int, Array], clusters: Sequence[str], grid: Grid, claim: Claim, *, low: bool = False
) -> list[dict[str, Any]]:
    """``halves`` of every layer; p Holm-adjusted over them."""
    found = {at: halves(x, clusters, grid, at, claim, low=low) for at, x in sorted(values.items())}
    adjusted = holm([h.rank.high for h in found.values()])
    return [
        {
            "layer": at,
            "even": h.even.value,
            "odd": h.odd.value,
            "gap": h.gap.value,
            "low": h.gap.low,
            "high": h.gap.high,
            "n": h.gap.n,
            "p": h.rank.p,
            "p_holm": float(p),
        }
        for (at, h), p in zip(found.items(), adjusted, strict=True)
    ]


def flips(differences: Array, clusters: Sequence[str], seed: int) -> Array:
    """Two-sided p of a mean difference of zero for each column of [pair, test]: whole clusters change sign together.

    As many flips are drawn as Holm over all columns needs to be able to find anything.
    """
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sums = np.zeros((codes.max() + 1, differences.shape[1]))
    np.add.at(sums, codes, differences)
    draws = max(9999, 40 * differences.shape[1])
    rng, seen = np.random.default_rng(seed), np.zeros(differences.shape[1])
    observed = np.abs(sums.sum(0))
    slack = 1e-9 * np.abs(sums).sum(0)
    for start in range(0, draws, 2000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(min(2000, draws - start), len(sums)))
        seen += (np.abs(signs @ sums) >= observed - slack).sum(0)
    return (1 + seen) / (1 + draws)


def naive(gap: Estimate, name: str, controls: Sequence[Control], *, low: bool = False) -> Reading:
    """A contrast read without a null: parity is found as soon as its interval over pairs leaves zero."""
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
    return Reading(
        protocol="naive",
        words="the same contrast against zero, no null: the side that wins is a coin toss",
        verdict=verdict,
        estimates=(named(f"contrast:{name}", "the contrast of parity", gap, ""),),
    )


def without_ranks(claim: Claim) -> Claim:
    """A reading without a null has no ranks to predict."""
    kept = tuple(p for p in claim.predictions if p.op != "rank<")
    return claim.model_copy(update={"predictions": kept or claim.predictions})


# -- figures ------------------------------------------------------------------------------------------------


def null_figure(found: Halves, at: int, what: str) -> Figure:
    """Matched halves as a histogram, the even heads as a line with its interval."""
    place, gap = found.rank, found.gap
    drawn = "all" if found.matched.enumerated else "a random sample of"
    return Figure(
        kind="null",
        name="null",
        title=f"{what}: even minus odd, among {place.n_sets:,} halves of layer {at} that nobody named",
        caption=(
            f"Each bar counts matched halves ({drawn} {found.matched.total:,} with as many heads in each KV group) by their "
            f"mean minus that of the layer's other heads. The line is the even heads, its band the 95 % interval over "
            f"{gap.n} {gap.unit}. {place.at_least_as_extreme} of {place.n_sets:,} halves are at least as far: p = {place.p:.3g}."
        ),
        data=tuple({"value": float(g)} for g in found.gaps),
        options={
            "observed": gap.value,
            "low": gap.low,
            "high": gap.high,
            "label": "even − odd",
            "x_title": "mean of the half minus mean of the other heads",
            "p": place.p,
        },
    )


def layers_figure(rows: Sequence[Mapping[str, Any]], what: str) -> Figure:
    """Even minus odd in every layer."""
    return Figure(
        kind="curve",
        name="layers",
        title=f"{what}: even minus odd heads, by layer",
        caption=(
            "Bands are 95 % intervals over pairs: they say that the difference is no accident of the prompts, not that "
            "parity makes it. Layers whose even heads stand out among matched halves after Holm's correction: "
            + (", ".join(str(r["layer"]) for r in rows if r["p_holm"] < 0.05) or "none")
            + "."
        ),
        data=tuple(
            {"x": r["layer"], "y": r["gap"], "low": r["low"], "high": r["high"], "series": "even − odd", "n": r["n"]}
            for r in rows
        ),
        options={"threshold": 0.0, "x_title": "layer", "y_title": "even minus odd"},
    )


def estimates_figure(
    name: str, title: str, caption: str, rows: Sequence[tuple[str, str, Estimate]], x_title: str, threshold: Any = None
) -> Figure:
    """``rows``: label, group, estimate."""
    return Figure(
        kind="estimates",
        name=name,
        title=title,
        caption=caption,
        data=tuple(
            {"label": label, "group": group, **{k: e.to_dict()[k] for k in ("value", "low", "high", "n", "unit")}}
            for label, group, e in rows
        ),
        options={"x_title": x_title} | ({} if threshold is None else {"threshold": threshold}),
    )

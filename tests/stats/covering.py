"""How often the intervals of headlab.stats hold the truth, and how often its tests fire where nothing is: by simulation.

``python tests/stats/covering.py`` runs every cell and writes docs/coverage.md (``… covering.py 'tost*'`` those
alone). A cell is a function, a situation whose truth is known by construction, and what is asked of it. Each draw of
a cell has a seed of its own, so that a sample of the draws is the beginning of all of them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from headlab import stats as s
from headlab.stats.agreement import cluster_test
from headlab.stats.change_point import change_point
from headlab.stats.coalitions import fisher
from headlab.stats.crossed import rate_over_sets
from headlab.stats.dip import dip
from headlab.stats.distances import label_contrast, mantel
from headlab.stats.dose import crossing, crossing_quantile
from headlab.stats.factorial import factorial_regression
from headlab.stats.groups import groups_differ
from headlab.stats.heterogeneity import heterogeneity
from headlab.stats.intervals import bootstrap_means
from headlab.stats.linear_null import against_linear, linear_margin_null
from headlab.stats.members import member_tests
from headlab.stats.of_means import bootstrap_of_means, rank_over_draws
from headlab.stats.power import detectable_mean, detectable_rate
from headlab.stats.psychometric import psychometric
from headlab.stats.rates import crossed_rate
from headlab.stats.spacing import rank_correlation

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
Rng = np.random.Generator
U: dict[str, Any] = {"unit": "rows"}
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """``tried`` gives 1 where the interval held the truth (asked: at least), or the test fired (asked: at most)."""

    function: str
    situation: str
    tried: Callable[[Rng], float]
    draws: int
    asked: str = "covers .95"

    @property
    def name(self) -> str:
        return f"{self.function}: {self.situation}"

    def runs(self, draws: int) -> list[float]:
        key = [ord(c) for c in self.name]
        return [float(self.tried(np.random.default_rng([i, *key]))) for i in range(draws)]


def held(found: s.Estimate, truth: float) -> float:
    """Undefined holds nothing: NaN, left out and counted."""
    return float("nan") if found.low is None or found.high is None else float(found.low <= truth <= found.high)


def fired(p: float | None) -> float:
    return float("nan") if p is None else float(p <= ALPHA)


def alike(rng: Rng, p: float, clusters: int, rows: int, icc: float) -> tuple[Any, Any]:
    """Rows of clusters with a rate: each row its cluster's own draw with probability root(icc), else a draw of its own."""
    own, shared = rng.random((clusters, rows)) < p, rng.random((clusters, 1)) < p
    return np.where(rng.random((clusters, rows)) < icc**0.5, shared, own).ravel(), np.repeat(np.arange(clusters), rows)


def values(rng: Rng, kind: str, k: int, rows: int = 1) -> tuple[Any, Any, float]:
    """Rows of clusters, half of the variance shared; labels; the mean."""
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "exponential": lambda n: rng.exponential(size=n) - 1,
        "t on 3": lambda n: rng.standard_t(3, n),
    }[kind]
    codes = np.repeat(np.arange(k), rows)
    return draw(k)[codes] + (draw(k * rows) if rows > 1 else 0.0) + 3.0, codes, 3.0


# -- rates ---------------------------------------------------------------------------------------------------------------


def rates() -> Iterator[Cell]:
    for n, p in ((20, 0.5), (20, 0.95), (100, 0.95), (100, 0.98)):
        for f in (s.wilson, s.clopper_pearson):
            name = f"{f.__name__}"
            yield Cell(
                name, f"{n} trials at {p}", lambda r, f=f, n=n, p=p: held(f(int(r.binomial(n, p)), n, **U), p), 2000
            )
    for k, rows, icc in ((20, 8, 0.3), (46, 4, 0.5), (100, 8, 1.0)):
        for p in (0.5, 0.95, 0.98):

            def clustered(r: Rng, k: int = k, rows: int = rows, icc: float = icc, p: float = p) -> float:
                return held(s.clustered_rate(*alike(r, p, k, rows, icc), **U), p)

            yield Cell("clustered_rate", f"{k} clusters of {rows}, ICC {icc}, at {p}", clustered, 800)
    for p in (0.5, 0.95):

        def crossed(r: Rng, p: float = p, sets: bool = False) -> float:
            first, second = np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30)
            shared = np.stack([r.random(30)[first] < p, r.random(20)[second] < p, r.random(600) < p])
            hits = shared[r.choice(3, 600, p=[0.3, 0.3, 0.4]), np.arange(600)]
            if sets:
                return held(rate_over_sets(hits.reshape(30, 20), np.arange(20), all_subsets=False), p)
            return held(crossed_rate(hits, first, second, **U), p)

        yield Cell("crossed_rate", f"30 × 20, rows alike both ways, at {p}", crossed, 500)
        yield Cell("rate_over_sets", f"30 sets × 20 prompts, at {p}", lambda r, c=crossed: c(r, sets=True), 500)


# -- means, ratios, differences ------------------------------------------------------------------------------------------


def means() -> Iterator[Cell]:
    for k in (10, 20, 46, 100):
        for kind in ("normal", "exponential"):
            for grown in (False, True):
                how = f"{k} clusters of 3, {kind}{', expanded' if grown else ''}"

                def mean(r: Rng, k: int = k, kind: str = kind, grown: bool = grown) -> float:
                    x, codes, truth = values(r, kind, k, 3)
                    return held(s.bootstrap_mean(x, codes, seed=1, draws=999, expanded=grown, **U), truth)

                def ratio(r: Rng, k: int = k, kind: str = kind, grown: bool = grown) -> float:
                    x, y = (r.chisquare(5 if kind == "normal" else 2, k) for _ in range(2))
                    return held(s.bootstrap_ratio(x, y, seed=1, draws=999, expanded=grown, **U), 1.0)

                yield Cell("bootstrap_mean", how, mean, 500)
                if k in (20, 46):
                    law = "chi-squared on " + ("5" if kind == "normal" else "2")
                    grew = ", expanded" if grown else ""
                    yield Cell("bootstrap_ratio", f"{k} clusters, two variances ({law}){grew}", ratio, 800)

    def columns(r: Rng) -> float:
        x, codes, truth = values(r, "normal", 46, 3)
        return held(bootstrap_means(np.column_stack([x, -x]), codes, seed=1, draws=999, **U)[1], -truth)

    def paired(r: Rng) -> float:
        x, codes, truth = values(r, "normal", 46, 3)
        return held(s.bootstrap_paired_difference(x + 1, np.ones(len(x)), codes, seed=1, draws=999, **U), truth)

    def function_of(r: Rng) -> float:
        x, codes, truth = values(r, "normal", 46, 3)
        table = np.column_stack([x, np.ones(len(x))])
        return held(
            bootstrap_of_means(table, lambda m: m[..., :1] - m[..., 1:], codes, seed=1, **U).estimate(0), truth - 1
        )

    yield Cell("bootstrap_means", "46 clusters of 3, normal, the second column", columns, 500)
    yield Cell("bootstrap_paired_difference", "46 clusters of 3, normal", paired, 500)
    yield Cell("bootstrap_of_means", "46 clusters of 3, normal, a difference of two means", function_of, 500)
    for k in (20, 46):

        def left_out(r: Rng, k: int = k) -> float:
            full = r.normal(size=k) + 2
            return held(s.leave_one_out(full, np.column_stack([full - r.normal(1, 1, k)] * 2), seed=1, **U)[0], 1.0)

        yield Cell("leave_one_out", f"{k} prompts, normal", left_out, 400)
    for k, rows in ((20, 4), (46, 4), (100, 1)):
        for gap in (0.0, 0.2):

            def difference(r: Rng, k: int = k, rows: int = rows, gap: float = gap) -> float:
                a, b, codes = two_worlds(r, k, rows, gap)
                return held(s.paired_difference(a, b, codes, seed=1, **U), gap)

            yield Cell("paired_difference", f"{k} clusters of {rows}, true difference {gap}", difference, 400)


def two_worlds(r: Rng, k: int, rows: int, gap: float, base: float = 0.6) -> tuple[Any, Any, Any]:
    """The same prompts in two worlds: half of the rows of a cluster have its own draws."""
    codes = np.repeat(np.arange(k), rows)
    u = np.where(r.random(k * rows) < 0.5, r.random(k)[codes], r.random(k * rows))
    v = np.where(
        r.random(k * rows) < 0.7, u, np.where(r.random(k * rows) < 0.5, r.random(k)[codes], r.random(k * rows))
    )
    return u < base + gap, v < base, codes


# -- models of effects ---------------------------------------------------------------------------------------------------


def models() -> Iterator[Cell]:
    for k in (20, 46):
        for kind in ("ols", "logit"):
            for between in (False, True):

                def slope(r: Rng, k: int = k, kind: Any = kind, between: bool = between) -> float:
                    sizes = r.integers(2, 9, k)
                    codes = np.repeat(np.arange(k), sizes)
                    f = (r.random(k) < 0.3)[codes] if between else r.random(len(codes)) < 0.5
                    x = (f - 0.5) * 0.8
                    if kind == "ols":
                        y = x + r.normal(size=k)[codes] * (1 + 0.5 * (f - 0.5)) + r.normal(size=len(codes))
                    else:
                        y = x > r.logistic(size=k)[codes]  # one draw a cluster: the marginal model holds, rows depend
                    told = {"f": np.where(f, "b", "a")}
                    if len(set(told["f"])) < 2:
                        return float("nan")
                    return held(factorial_regression(y, told, codes, kind=kind, **U)["f"], 0.8)

                where = "three in ten clusters carry the factor" if between else "a factor that varies within clusters"
                yield Cell("factorial_regression", f"{kind}, {k} clusters, {where}", slope, 300)
    for n in (40, 120):

        def effect(r: Rng, n: int = n) -> float:
            x = r.random((n, 6)) < 0.5
            y = x @ np.arange(6) * 0.2 + r.normal(size=n) * (0.5 + x[:, 0])
            return held(s.additive(x, y).effects[0], 0.0)

        def value(r: Rng, n: int = n) -> float:
            x = r.random((n, 6)) < 0.5
            return held(s.banzhaf(x, x @ np.arange(6) * 0.2 + r.normal(size=n))[2], 0.4)

        yield Cell("additive", f"{n} subsets of 6, noise that differs with a member", effect, 500)
        yield Cell("banzhaf", f"{n} subsets of 6, normal noise", value, 500)

    def game(x: Any) -> Any:
        return x @ np.arange(5) * 0.1 + (x[:, 0] & x[:, 1]) * 1.0

    yield Cell(
        "shapley", "5 members, two that need each other, 20 orders",
        lambda r: held(s.shapley(game, 5, permutations=20, seed=int(r.integers(1 << 30)))[0], 0.5), 500,
    )  # fmt: skip

    def chains(r: Rng) -> float:
        plan = s.shapley_plan(5, 20, int(r.integers(1 << 30)))
        return held(s.shapley_from_chains(plan, game(plan.coalitions))[1], 0.6)

    yield Cell("shapley_from_chains", "the same from its chains", chains, 500)
    for n in (20, 60):

        def area(r: Rng, n: int = n) -> float:
            truth = np.arange(n) < n // 3
            return held(s.auroc(r.normal(size=n) + truth, truth), 0.7602)

        yield Cell("auroc", f"{n} members, a third true, one sd apart", area, 800)
    for k in (4, 10):

        def pooled(r: Rng, k: int = k, which: str = "pooled") -> float:
            x = 0.5 + r.normal(0, 0.2, k)
            each = [
                s.Estimate(v, v - 0.3, v + 0.3, 50, "pairs", "t") for v in (x + r.normal(0, 0.3 / 1.96, k)).tolist()
            ]
            found = getattr(heterogeneity(each), which)
            return held(found, {"pooled": 0.5, "tau_squared": 0.04}.get(which, 0.5 + r.normal(0, 0.2)))

        for which in ("pooled", "tau_squared", "expected"):
            yield Cell(
                "heterogeneity", f"{k} models that differ: {which}", lambda r, p=pooled, w=which: p(r, which=w), 800
            )


# -- doses ---------------------------------------------------------------------------------------------------------------

DOSES = np.linspace(0, 1, 11)


def doses() -> Iterator[Cell]:
    for k in (20, 46):

        def curve(r: Rng, k: int = k, which: str = "location") -> float:
            threshold = r.logistic(0.5, 0.08, k)
            hits = (DOSES[None] > threshold[:, None]).ravel()
            fit = psychometric(np.tile(DOSES, k), hits, np.repeat(np.arange(k), 11), seed=1, draws=300, **U)
            return held(getattr(fit, which), {"location": 0.5, "width": 2 * np.log(9) * 0.08}[which])

        for which in ("location", "width"):
            yield Cell(
                "psychometric", f"{k} pairs that flip once: {which}", lambda r, c=curve, w=which: c(r, which=w), 60
            )

        def median(r: Rng, k: int = k) -> float:
            margins = DOSES[None] - r.normal(0.5, 0.15, k)[:, None]
            return held(crossing_quantile(crossing(DOSES, margins), 0.5, seed=1, draws=999), 0.5)

        yield Cell("crossing_quantile", f"{k} pairs: the median", median, 300)

        def linear(r: Rng, k: int = k, which: str = "earlier") -> float:
            high, low = r.uniform(0.5, 2, k), -r.uniform(0.5, 2, k)
            at = -low / (high - low) - 0.1 + r.normal(0, 0.02, k)
            margins = (DOSES[None] - at[:, None]) * ((high - low) * 2 * np.exp(r.normal(0, 0.3, k)))[:, None]
            found = against_linear(crossing(DOSES, margins), high, low, seed=1, draws=999)
            return held(getattr(found, which), {"earlier": -0.1, "steepness": 2.0}[which])

        for which in ("earlier", "steepness"):
            yield Cell("against_linear", f"{k} pairs: {which}", lambda r, c=linear, w=which: c(r, which=w), 200)

    def null(r: Rng) -> float:
        high, low = r.normal(1, 1, 46), r.normal(-1, 1, 46)
        found = linear_margin_null(high, low, np.array([0.0, 0.5, 1.0]), seed=1, draws=100).curve[1]
        return held(found, 0.5)

    yield Cell("linear_margin_null", "46 pairs: the share at half the dose", null, 60)


# -- tests where nothing is ----------------------------------------------------------------------------------------------


def tests() -> Iterator[Cell]:
    never = "fires ≤ .05"
    for k, rows in ((20, 4), (46, 4), (46, 1)):

        def change(r: Rng, k: int = k, rows: int = rows) -> float:
            codes = np.repeat(np.arange(k), rows)
            a, b = (
                np.where(r.random(k * rows) < 0.8, (r.random(k) < 0.6)[codes], r.random(k * rows) < 0.6) for _ in "ab"
            )
            return fired(s.mcnemar(a, b, codes).p)

        yield Cell("mcnemar", f"{k} clusters of {rows}, ICC .64", change, 800, never)
    for k, rows in ((20, 3), (46, 3), (46, 1)):
        for kind in ("normal", "exponential", "rates"):

            def equal(r: Rng, k: int = k, rows: int = rows, kind: str = kind) -> float:
                if kind == "rates":
                    a, b, codes = two_worlds(r, k, rows, 0.15)
                    return float(s.tost_paired(a, b, codes, margin=0.15, seed=1, **U).outcome == "equivalent")
                x, codes, truth = values(r, kind, k, rows)
                found = s.tost_paired(x, np.full(len(x), truth - 1), codes, margin=1, seed=1, **U)
                return float(found.outcome == "equivalent")

            yield Cell(
                "tost_paired", f"{k} clusters of {rows}, {kind}, a true difference of the margin", equal, 500, never
            )
    for kind in ("normal", "t on 3", "exponential"):

        def flip(r: Rng, kind: str = kind) -> float:
            x, codes, truth = values(r, kind, 20, 3)
            return fired(s.sign_flip(x - truth, codes, seed=1, draws=499).p)

        yield Cell(
            "sign_flip", f"20 clusters of 3, {kind}{' (not symmetric)' if kind[0] == 'e' else ''}", flip, 500, never
        )
    for n, whole in ((99, False), (999, False), (70, True)):

        def place(r: Rng, n: int = n, whole: bool = whole) -> float:
            x = r.normal(size=n + (not whole))
            null = x if whole else x[1:]
            return float(s.rank(float(x[0]), null, enumerated=whole).outcome == "upheld")

        yield Cell("rank", f"{n} sets, {'all' if whole else 'drawn'}, one like the others: upheld", place, 2000, never)

    def over(r: Rng, enumerated: bool) -> float:
        x = r.normal(size=(30, 1)) + r.normal(size=40) * 0.5 + r.normal(size=(30, 40))
        table = x if not enumerated else np.column_stack([x[:, :1], x])
        found = bootstrap_of_means(table, lambda m: m, seed=1, draws=200, **U)
        return float(rank_over_draws(found, enumerated=enumerated, alpha=0.05).outcome == "upheld")

    yield Cell("rank_over_draws", "40 sets, all, 30 prompts: upheld", lambda r: over(r, True), 300, never)
    adjust = {"holm": (s.holm, 0), "benjamini_hochberg": (s.benjamini_hochberg, 5)}
    for name, (f, real) in adjust.items():

        def family(r: Rng, f: Any = f, real: int = real) -> float:
            p = np.concatenate([r.random(15), r.random(real) * 0.001])
            found = f(p) <= ALPHA
            return float(found[:15].sum() / max(1, found.sum())) if real else float(found.any())

        said = "share of false among found, 5 of 20 real" if real else "any of 15 false"
        yield Cell(name, said, family, 2000, never)
    yield Cell(
        "dip", "40 values of a uniform", lambda r: fired(p_of(dip(r.random(40), seed=1, draws=200).test)), 150, never
    )
    yield Cell(
        "dip", "40 normal values", lambda r: fired(p_of(dip(r.normal(size=40), seed=1, draws=200).test)), 100, never
    )

    def table(r: Rng, n: int = 12) -> Any:
        x = r.normal(size=(n, 3))
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    def sides(r: Rng) -> float:
        like = np.stack([-table(r) for _ in range(8)])
        return fired(p_of(label_contrast(like, [0, 1] * 6, seed=1, permutations=199, draws=100).test))

    def between(r: Rng) -> float:
        like = -table(r)[None] * np.ones((30, 1, 1)) + np.array([w + w.T for w in r.normal(size=(30, 12, 12))])
        return held(label_contrast(like - like.mean(0), [0, 1] * 6, seed=1, permutations=100, draws=500).between, 0.0)

    yield Cell(
        "mantel",
        "two tables of 12 items",
        lambda r: fired(p_of(mantel(table(r), table(r), 199, seed=1).test)),
        400,
        never,
    )
    yield Cell("label_contrast", "12 items, labels that mean nothing", sides, 300, never)
    known: Any = {"labels": [0, 1] * 6, "permutations": 199}
    yield Cell(
        "cluster_test",
        "12 items, labels dealt out",
        lambda r: fired(p_of(cluster_test(table(r), **known).test)),
        300,
        never,
    )

    def groups(r: Rng) -> float:
        return fired(p_of(groups_differ(r.standard_t(3, (12, 4)), [0, 1, 2] * 4, permutations=199).test))

    yield Cell("groups_differ", "12 items, 4 properties, three groups: any", groups, 400, never)

    def member(r: Rng, exact: bool) -> float:
        x, won = r.random((40, 5)) < 0.5, r.random(40) < 0.4
        return fired(float(fisher(x, won)[0].min() * 5) if exact else min(t.holm or 1.0 for t in member_tests(x, won)))

    yield Cell(
        "member_tests", "40 subsets, 5 members that do nothing: any after Holm", lambda r: member(r, False), 300, never
    )
    yield Cell("fisher", "the same, five times the least p", lambda r: member(r, True), 300, never)

    def goes_with(r: Rng) -> float:
        return fired(p_of(rank_correlation(r.normal(size=40), r.random(40) < 0.4, seed=1, shuffles=199, **U).rank))

    yield Cell("rank_correlation", "40 sets, values that mean nothing", goes_with, 400, never)

    walks = {"normal walks": lambda r: r.normal(size=12), "t on 3 walks": lambda r: r.standard_t(3, 12)}
    walks["a drift"] = lambda r: 1 + 0.3 * r.normal(size=12)
    for kind in ("level", "jump"):
        for what, draw in walks.items():

            def wander(r: Rng, kind: Any = kind, draw: Any = draw) -> float:
                return float(change_point(np.cumsum(draw(r)), range(12), seed=1, kind=kind, draws=199).found)

            yield Cell("change_point", f"12 looks, {what}: a {kind} found", wander, 200, never)

    def inside(r: Rng) -> float:
        at = int(r.integers(3, 9))
        x = r.normal(size=12) + 2 * (np.arange(12) >= at)
        kept = {a: p for a, _, p in change_point(x, range(12), seed=1, draws=199, drift=False).kept}
        return float(kept[at - 1] > ALPHA)

    yield Cell("change_point", "12 looks, a step of two sd: its gap in the set", inside, 300)
    least, rate = detectable_mean(40), detectable_rate(60, 0.5)
    assert least is not None and rate is not None

    def seen(r: Rng) -> float:
        return float((s.bootstrap_mean(r.normal(least, 1, 40), seed=1, draws=999, **U).low or 0.0) > 0)

    def told(r: Rng) -> float:
        return float((s.clopper_pearson(int(r.binomial(60, rate)), 60, **U).low or 0.0) > 0.5)

    yield Cell("detectable_mean", "40 normal prompts", seen, 500, "power .8")
    yield Cell("detectable_rate", "60 prompts against .5", told, 2000, "power .8")


def p_of(test: s.Rank | None) -> float | None:
    return None if test is None else test.p


CELLS = tuple(replace(c, draws=2 * c.draws) for c in (*rates(), *means(), *models(), *doses(), *tests()))
EXEMPT = {
    "predict_left_out": "its accuracy is of these very subsets; what it decides by is mcnemar",
    "separable_by_chance": "clopper_pearson of shuffles",
    "chance_of_pattern": "exact; its interval is that of the p it is given",
    "held_out_deviance": "bootstrap_mean of deviances that share their folds' fits: no interval for another sample",
    "linear_separability": "a linear programme, no statistic",
}


def measured(cell: Cell, draws: int) -> tuple[float, float, int]:
    """The share, its standard error, and how many draws were defined."""
    with np.errstate(all="ignore"):
        found = np.array(cell.runs(draws))
    kept = found[~np.isnan(found)]
    share = float(kept.mean()) if len(kept) else float("nan")
    return share, float((kept.std() or 1 / max(1, len(kept))) / max(1, len(kept)) ** 0.5), len(kept)


HEAD = """# Coverage of intervals, rates of false alarms

Generated by `python tests/stats/covering.py`, never edited by hand: {date}, commit {commit};
one function's rows may have been measured anew alone since (about 4 minutes of processor time for all).
Each row is a function of `headlab.stats` in a situation whose truth is known by construction. *covers* rows say how often a 95 %
interval held the truth, *fires* rows how often a test said yes where nothing is (p ≤ .05, or "found", "equivalent", "upheld"),
*power* rows how often what is promised was seen. The standard error is that of the number of draws; rows in bold are further
than three of them on the wrong side.

| function | situation | asked | measured | s.e. | draws |
|---|---|---|---|---|---|
"""


def wrong(asked: str, share: float, error: float) -> bool:
    kind, target = asked.split()[0], float(asked.split()[-1])
    return share > target + 3 * error if kind == "fires" else share < target - 3 * error


def page(patterns: list[str]) -> str:
    """Cells whose function matches a pattern (or all) measured, the others as they stand."""
    rows = []
    kept = (
        dict(re.findall(r"^(\| `\w+` \| .+ \| (?:covers|fires|power).*?) \| (.*)$", PAGE.read_text(), re.M))
        if patterns
        else {}
    )
    for cell in CELLS:
        begun = f"| `{cell.function}` | {cell.situation} | {cell.asked}"
        if begun in kept and not any(fnmatchcase(cell.function, p) for p in patterns):
            rows.append(f"{begun} | {kept[begun]}")
            continue
        share, error, n = measured(cell, cell.draws)
        print(f"{cell.name}: {share:.3f}", file=sys.stderr, flush=True)
        shown = f"**{share:.3f}**" if wrong(cell.asked, share, error) else f"{share:.3f}"
        rows.append(f"{begun} | {shown} | {error:.3f} | {n:,} |")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    facts = {"date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip()}
    left = "".join(f"- `{name}`: {why}\n" for name, why in EXEMPT.items())
    return f"{HEAD.format(**facts)}" + "\n".join(rows) + f"\n\nNot here:\n\n{left}"


if __name__ == "__main__":
    PAGE.write_text(page(sys.argv[1:]))

"""What the causal experiments on thinking models share: worlds against a baseline, matched sets, controls, figures."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headlab.claims import Control, decide
from headlab.effects import Figure
from headlab.experiments.base import Outcome, named
from headlab.experiments.thoughts.thought_rows import every_head, matrices, read
from headlab.heads import Grid, Head, Heads
from headlab.stats import Estimate, bootstrap_ratio
from headlab.stats.figures import percent
from headlab.stats.of_means import bootstrap_of_means
from headlab.stats.paired import McNemar
from headlab.store import Reading
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts import metrics
from headlab.thoughts.loop import touched_by
from headlab.thoughts.scores import norms
from headlab.thoughts.worlds import ThoughtWorld, ablation
from headlab.trials.answers import accuracy, drop, exact_mcnemar, of_world, parse_rate
from headlab.trials.thought_case import BASE, PARSED_AT_LEAST, ThoughtBench

Array = np.ndarray
Adjust = Callable[[Any], Any]


@dataclass(frozen=True)
class Effect:
    """One counterfactual against the unedited model on the same problems."""

    world: str
    label: str
    group: str
    accuracy: Estimate
    parsed: Estimate
    drop: Estimate
    relative: Estimate
    test: McNemar
    p_adjusted: float | None
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> Estimate:
        """Share of the unedited accuracy that is left: 1 − relative drop."""
        return complement(self.relative)

    @property
    def matters(self) -> bool:
        """Whether accuracy surely fell: adjusted exact McNemar p under .05, and the drop's interval above zero."""
        return self.p_adjusted is not None and self.p_adjusted < 0.05 and self.drop.above(0) == "yes"

    def row(self) -> dict[str, Any]:
        out: dict[str, Any] = {"world": self.world, "label": self.label, "group": self.group, **self.labels}
        for name in ("accuracy", "parsed", "drop", "relative"):
            e: Estimate = getattr(self, name)
            out |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        lost = {"broken": self.test.only_a, "fixed": self.test.only_b}
        return out | lost | {
            "p": self.test.p, "p_adjusted": self.p_adjusted, "matters": self.matters, "n": self.drop.n, "unit": self.drop.unit,
        }  # fmt: skip


def complement(e: Estimate) -> Estimate:
    """1 − e."""
    if e.value is None or e.low is None or e.high is None:
        return e
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low, e.n, e.unit, e.method, e.level, e.seed, e.note)


def relative(base: Any, edited: Any, seed: int) -> Estimate:
    """Share of the baseline's accuracy that is lost, resampled with it; where no resample differs, the interval of the
    drop over the accuracy."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    right = a["right"].to_numpy(float)
    lost = right - b["right"].to_numpy(float)
    found = bootstrap_ratio(lost, right, a["cluster"].tolist(), unit="problems", seed=seed)
    if found.low is None or found.high is None or found.low < found.high:
        return found
    plain, whole = drop(base, edited, seed=seed), float(right.mean())
    assert plain.value is not None and plain.low is not None and plain.high is not None
    ends = (plain.value / whole, plain.low / whole, plain.high / whole)
    return Estimate(
        *ends, plain.n, plain.unit, f"{plain.method}, over the accuracy", plain.level, plain.seed, plain.note
    )


def measured(
    bench: ThoughtBench, worlds: Sequence[ThoughtWorld], what: str, adjust: Adjust | None = None,
    problems: ProblemSet | None = None,
) -> tuple[dict[str, Effect], Any, Any]:  # fmt: skip
    """Every world against a baseline that runs through the same kernels: effects by world, the graded answers, the baseline.

    ``labels`` of a world: ``label``, ``group``, and columns of the table.  ``adjust`` (Holm, Benjamini-Hochberg) takes the
    exact McNemar p of all of them.
    """
    touched = touched_by(worlds)
    base = bench.think([BASE], f"{what}: baseline", problems=problems, touched=touched)
    table = bench.think(worlds, what, problems=problems)
    return effects(base, table, worlds, bench.seed, adjust), table, base


def effects(
    base: Any, table: Any, worlds: Sequence[ThoughtWorld], seed: int, adjust: Adjust | None = None
) -> dict[str, Effect]:
    """Worlds of a graded table against the graded baseline."""
    parts = {w.name: of_world(table, w.name) for w in worlds}
    tests = {name: exact_mcnemar(base, t) for name, t in parts.items()}
    p = [t.p for t in tests.values()]
    adjusted = dict(zip(tests, adjust(p).tolist(), strict=True)) if adjust else {k: t.p for k, t in tests.items()}
    out = {}
    for w in worlds:
        t, told = parts[w.name], dict(w.labels)
        out[w.name] = Effect(
            w.name, str(told.pop("label", w.name)), str(told.pop("group", "")),
            accuracy(t, w.name), parse_rate(t, w.name), drop(base, t, seed=seed),
            relative(base, t, seed), tests[w.name], adjusted[w.name], told,
        )  # fmt: skip
    return out


def tabled(base: Any, found: Sequence[Effect], seed: int) -> Any:
    """One row for each world, the baseline first; parse rate beside every accuracy."""
    import pandas as pd

    own = {"world": "baseline", "label": "unedited", "group": ""}
    for name, e in (
        ("accuracy", accuracy(base, "baseline")),
        ("parsed", parse_rate(base, "baseline")),
    ):
        own |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}  # type: ignore[dict-item]
    return pd.DataFrame([own | {"n": len(base), "unit": "problems"}, *(e.row() for e in found)])


def told(e: Effect, key: str) -> list[Any]:
    """An effect's numbers for a reading: drop, relative drop, accuracy, parse rate."""
    return [
        named(f"drop:{key}", f"{e.label}: accuracy lost", e.drop, e.group),
        named(f"relative:{key}", f"{e.label}: share of the accuracy lost", e.relative, e.group),
        named(f"accuracy:{key}", f"{e.label}: accuracy", e.accuracy, e.group),
        named(f"parsed:{key}", f"{e.label}: answers in which a number was found", e.parsed, e.group),
    ]


# -- which heads, which hub ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The published composite of every head, on selection problems, and the hub of the published ratio."""

    composite: metrics.Composite
    heads: tuple[Head, ...]
    hub: int

    @property
    def ranked(self) -> tuple[Head, ...]:
        """Highest composite first; the earlier of equals first."""
        return tuple(self.heads[i] for i in np.argsort(-self.composite.score, kind="stable"))


def published_scores(bench: ThoughtBench, thinker: Any = None) -> Scores:
    """Composite and hub as published: on the mean matrix of the published view, of problems that the test never sees."""
    seen = matrices(read(bench, "scores", problems=bench.selection, thinker=thinker)).mean(0)
    view = metrics.published_view(seen)
    score = metrics.composite_of(view)
    hub = int(metrics.published_ratio(view.mean(0)).argmax())
    return Scores(score, tuple(every_head((thinker or bench.thinker).lab.grid)), hub)


def hub_of(bench: ThoughtBench, asked: str) -> int:
    """The thought that is called the hub: a number, or "auto", the published rule on selection problems.

    Raises ValueError for a thought that the model does not have.
    """
    if asked == "auto":
        return published_scores(bench).hub
    if not asked.isdigit() or int(asked) >= bench.n_thoughts:
        raise ValueError(f"hub is {asked!r}; expected auto or a thought from 0 to {bench.n_thoughts - 1}")
    return int(asked)


def output_norms(bench: ThoughtBench) -> dict[Head, float]:
    """Mean norm of what each head writes to the residual stream, ‖z·W_O‖ over all positions of selection problems."""
    return dict(norms(bench.thinker, bench.selection, bench.rows, bench.progress))


@dataclass(frozen=True)
class MatchedSets:
    """Sets of heads with as many members in each layer as an observed one.  ``enumerated``: all of them, the observed one
    too; else those of a sample that come nearest in norm, within a factor of ``within``."""

    sets: tuple[Heads, ...]
    enumerated: bool
    within: float | None


def matched_by_layer(grid: Grid, observed: Heads, norms: Mapping[Head, float], n: int, seed: int) -> MatchedSets:
    """All sets of the observed layer composition where there are at most ``n``; else ``n`` of them, drawn at random and
    then chosen nearest in the summed norm of what their heads write."""
    counts = Counter(h.layer for h in grid.check(observed))
    total = math.prod(math.comb(grid.n_heads, k) for k in counts.values())
    if total <= n:
        from itertools import combinations, product

        parts = [combinations([Head(at, i) for i in range(grid.n_heads)], k) for at, k in sorted(counts.items())]
        return MatchedSets(tuple(Heads(h for p in chosen for h in p) for chosen in product(*parts)), True, None)
    rng, seen = random.Random(f"matched by layer {seed}"), {}
    for _ in range(40 * n):
        one = Heads(Head(at, i) for at, k in sorted(counts.items()) for i in rng.sample(range(grid.n_heads), k))
        if one != observed:
            seen[one] = None
    own = sum(norms[h] for h in observed)

    def far(one: Heads) -> float:
        other = sum(norms[h] for h in one)
        return abs(math.log(other / own)) if own > 0 and other > 0 else (0.0 if own == other else math.inf)

    nearest = sorted(seen, key=far)[:n]
    worst = far(nearest[-1])
    return MatchedSets(tuple(nearest), False, math.exp(worst) if worst < 700 else None)


def rank_correlation(lost: Array, scores: Array, clusters: Sequence[str], seed: int) -> Estimate:
    """Spearman's ρ of fixed ``scores`` [head] with the mean accuracy lost, ``lost`` [problem, head], resampled by problem."""

    def rho(means: Array) -> Array:
        return np.array([[spearman(scores, row)] for row in means])

    return bootstrap_of_means(lost, rho, clusters, unit="problems", seed=seed).estimate(0)


def spearman(a: Array, b: Array) -> float:
    """Spearman's ρ, ties at their mean rank; NaN where all values of one are equal."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


# -- controls -----------------------------------------------------------------------------------------------


def parse_control(base: Any, others: Any = None) -> Control:
    """A number must be found in the unedited answers: an accuracy of zero by a parser that reads nothing says nothing."""
    share = float(base["parsed"].mean())
    found = percent(share, PARSED_AT_LEAST)
    words = f"a number is found in {found} of {len(base)} unedited answers (at least {PARSED_AT_LEAST:.0%} needed)"
    if others is not None and len(others):
        least = others.groupby("world")["parsed"].mean()
        words += f"; in the edited worlds in {percent(least.min(), PARSED_AT_LEAST)} ({least.idxmin()}) or more"
    return Control(name="parse-rate", kind="positive", passed=share >= PARSED_AT_LEAST, words=words, value=share)


def same_answers(name: str, words: str, base: Any, seen: Any) -> Control:
    """A negative control: every answer the same, every log-probability bit for bit."""
    a, b = (t.sort_values("problem") for t in (base, seen))
    texts = int((a["text"].to_numpy() != b["text"].to_numpy()).sum())
    gap = float(np.abs(a["logprob"].to_numpy() - b["logprob"].to_numpy()).max())
    return Control(
        name=name, kind="negative", passed=texts == 0 and gap == 0, value=gap,
        words=f"{words} changes {texts} of {len(a)} answers; largest change of an answer's log-probability {gap:.2g}",
    )  # fmt: skip


def silent_world(grid: Grid) -> ThoughtWorld:
    return ablation("every head", every_head(grid), "mean", label="every head of every layer, mean")


def lowers(name: str, words: str, e: Estimate) -> Control:
    """A positive control: accuracy must fall, the whole interval of the drop above zero."""
    return Control(
        name=name, kind="positive", passed=e.above(0) == "yes", words=f"{words} costs {e} of accuracy", value=e.value
    )


def silent_control(bench: ThoughtBench) -> Control:
    """Every head's z replaced by its mean, everywhere: accuracy must fall."""
    world = silent_world(bench.lab.grid)
    found, _, _ = measured(bench, [world], "silenced")
    return lowers("silence-all", "replacing what every head says by its mean", found[world.name].drop)


def could_matter(bench: ThoughtBench, cut: Effect, what: str) -> tuple[Control, str]:
    """That something matters could have been seen: with all of it cut, surely less is kept than each ``kept:`` asks for.

    The control is shown and voids nothing; the second value says why the claim is untestable where it fails.
    """
    least = min(p.limit for p in bench.claim.predictions if p.statistic.startswith("kept:"))
    passed = cut.kept.below(least) == "yes"
    words = f"with all {what} cut, {cut.kept} of the accuracy is kept (surely less than {least:g} asked)"
    value = cut.kept.value
    control = Control(name="cut-all", kind="positive", passed=passed, words=words, value=value)
    return control, "" if passed else f"nothing could have mattered: {words}"


# -- figures and readings -----------------------------------------------------------------------------------


def drops_figure(
    name: str, title: str, caption: str, rows: Sequence[Effect], *, by: str = "drop", threshold: float | int | None = None,
    x_title: str = "accuracy lost",
) -> Figure:  # fmt: skip
    """Effects with intervals; ``by`` is drop, relative, kept or accuracy."""
    data = []
    for e in rows:
        x: Estimate = getattr(e, by)
        data.append(
            {"label": e.label, "group": e.group, **{k: x.to_dict()[k] for k in ("value", "low", "high", "n", "unit")}}
        )
    options: dict[str, Any] = {"x_title": x_title} | ({} if threshold is None else {"threshold": threshold})
    return Figure("estimates", name, title, caption, tuple(data), options)


def point(series: str, x: float | int, e: Estimate) -> dict[str, Any]:
    """A point of a curve."""
    return {"series": series, "x": x, "y": e.value, "low": e.low, "high": e.high}


def spread_point(series: str, x: float | int, values: Sequence[float] | Array) -> dict[str, Any]:
    """A point of a reference: mean and middle 95 % of its values."""
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return {"series": series, "x": x, "y": float(np.mean(values)), "low": float(low), "high": float(high)}


def not_rebuilt(bench: ThoughtBench, why: str) -> Reading:
    """The published reading where it cannot be run."""
    return Reading(protocol="published", words="not run", verdict=decide(bench.claim, {}, [], impossible=why))


def without_thoughts(bench: ThoughtBench, least: int = 2) -> str:
    """Why a model has too few thoughts for this; empty when it has enough."""
    n = bench.n_thoughts
    return "" if n >= least else f"{bench.thinker.name} is fed {n} thoughts; at least {least} are needed"


def cannot_run(bench: ThoughtBench, why: str) -> Outcome:
    """The outcome where nothing can be measured."""
    verdict = decide(bench.claim, {}, [], impossible=why)
    return Outcome([Reading(protocol="standard", words=why, verdict=verdict)], [], {}, {"ok": False, "reason": why})

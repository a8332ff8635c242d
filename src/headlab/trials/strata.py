"""Problems by difficulty: strata that are fixed before the test, effects within them, and what wrong answers are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headlab.claims import Control
from headlab.stats import Estimate, clopper_pearson, holm
from headlab.stats.of_means import bootstrap_of_means
from headlab.tasks.word_problems import Problem, ProblemSet, parse_answer
from headlab.trials.answers import accuracy, drop, exact_mcnemar, relative

Array = np.ndarray
EASY, MEDIUM, HARD, NONE = "easy", "medium", "hard", "none"
STEPS = {EASY: "1 or 2 steps", MEDIUM: "3 steps", HARD: "4 and more steps"}
SURE, UNSURE = 0.9, 0.6
"""The published tiers of confidence."""
KINDS = ("unparsed", "an intermediate result", "a neighbour", "a number of the question", "other")
"""Kinds of wrong answers; the first that fits, in this order."""
SHUFFLES, EXCHANGES = 1999, 200


def by_steps(problems: ProblemSet) -> Array:
    """Easy, medium or hard by the number of annotated steps, which no model's answer can change; none without steps."""
    return np.array(
        [NONE if n < 1 else EASY if n < 3 else MEDIUM if n == 3 else HARD for n in (p.n_steps for p in problems)]
    )


def confidence(table: Any) -> Array:
    """Probability of the generated answer, by problem: exp of the sum of its tokens' log-probabilities, in (0, 1]."""
    return np.exp(table.sort_values("problem")["logprob"].to_numpy(float))


@dataclass(frozen=True)
class Tiers:
    """Confidence in three tiers by two edges: ``sure`` above the upper one, ``unsure`` at or below the lower one."""

    low: float
    high: float

    @classmethod
    def of(cls, chosen: Any) -> Tiers:
        """Thirds of the confidence on selection problems.  It depends on how right the model is, so edges taken from the
        test's own answers would sort problems by their outcome's noise."""
        low, high = np.quantile(confidence(chosen), [1 / 3, 2 / 3])
        return cls(float(low), float(high))

    def labels(self, table: Any) -> Array:
        seen = confidence(table)
        return np.where(seen > self.high, "sure", np.where(seen > self.low, "middling", "unsure"))


def published_tiers(problems: ProblemSet, table: Any) -> Array:
    """The seed's tiers: easy, confidence > .9 and one step; medium, .6 to .9 and two or three; hard, < .6 and more than
    one step.  Whatever is neither falls out (none)."""
    seen, steps = confidence(table), np.array([p.n_steps for p in problems])
    easy = (seen > SURE) & (steps == 1)
    medium = (seen >= UNSURE) & (seen <= SURE) & (steps >= 2) & (steps <= 3)
    hard = (seen < UNSURE) & (steps > 1)
    return np.select([easy, medium, hard], [EASY, MEDIUM, HARD], NONE)


@dataclass(frozen=True)
class Within:
    """One arm's effect in one stratum."""

    family: str
    level: str
    arm: str
    base: Estimate
    edited: Estimate
    drop: Estimate
    relative: Estimate
    p: float | None
    broken: int
    fixed: int

    def row(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "family": self.family,
            "level": self.level,
            "arm": self.arm,
            "n": self.drop.n,
            "unit": "problems",
        }
        for name, e in (
            ("unedited", self.base),
            ("accuracy", self.edited),
            ("drop", self.drop),
            ("relative", self.relative),
        ):
            out |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
        return out | {"broken": self.broken, "fixed": self.fixed, "p": self.p}


def within(
    base: Any, edited: Any, world: str, labels: Array, levels: Sequence[str], family: str, arm: str, seed: int
) -> list[Within]:
    """Effects in each level of a family of strata; undefined where a level holds no problem."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    out = []
    for level in levels:
        inside = labels == level
        if not inside.any():
            none = Estimate.undefined("problems", 0, f"no problem is {level}")
            out.append(Within(family, level, arm, none, none, none, none, None, 0, 0))
            continue
        x, y = a[inside], b[inside]
        test = exact_mcnemar(x, y)
        out.append(
            Within(
                family,
                level,
                arm,
                accuracy(x, "baseline"),
                accuracy(y, world),
                drop(x, y, seed=seed),
                relative(x, y, seed),
                test.p,
                test.only_a,
                test.only_b,
            )
        )
    return out


def table_of(found: Sequence[Within]) -> Any:
    """A row for each stratum and arm; exact McNemar p adjusted by Holm over all of them."""
    import pandas as pd

    table = pd.DataFrame([w.row() for w in found])
    known = table["p"].notna()
    table["p_adjusted"] = None
    if bool(known.to_numpy().any()):
        table.loc[known, "p_adjusted"] = holm(table.loc[known, "p"].astype(float).to_numpy())
    return table.astype({"p": float, "p_adjusted": float})


def lost(base: Any, edited: Any) -> Array:
    """Accuracy lost by problem: 1 broken, −1 repaired, 0 the same."""
    a, b = (t.sort_values("problem")["right"].to_numpy(float) for t in (base, edited))
    return a - b


def gap(values: Array, labels: Array, clusters: Sequence[str], high: str, low: str, seed: int) -> Estimate:
    """Mean of ``values`` in level ``high`` minus that in level ``low``; interval by resampling chains of steps."""
    marks = np.stack([labels == high, labels == low], 1).astype(float)
    if not marks.any(0).all():
        missing = high if not marks[:, 0].any() else low
        return Estimate.undefined("problems", len(values), f"no problem is {missing}")

    def difference(m: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (m[:, 0] / m[:, 2] - m[:, 1] / m[:, 3])[:, None]

    columns = np.concatenate([marks * values[:, None], marks], 1)
    return bootstrap_of_means(columns, difference, clusters, unit="problems", seed=seed).estimate(0)


def shuffled_gaps(
    values: Array, labels: Array, clusters: Sequence[str], high: str, low: str, seed: int, draws: int = SHUFFLES
) -> Array:
    """The gap when levels are dealt out anew to whole chains of steps."""
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    level = np.empty(len(names), dtype=labels.dtype)
    level[place] = labels
    sums, sizes = np.bincount(place, values, len(names)), np.bincount(place, minlength=len(names))
    rng, out = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        now = level[rng.permutation(len(names))]
        top, bottom = now == high, now == low
        out[i] = sums[top].sum() / sizes[top].sum() - sums[bottom].sum() / sizes[bottom].sum()
    return out


def planted_control(base: Any, labels: Array, clusters: Sequence[str], seed: int) -> Control:
    """The instrument sees a difference that is there: half of the right answers to hard problems marked wrong."""
    rows = base.sort_values("problem")
    right = rows["right"].to_numpy(bool)
    chosen = np.zeros(len(right))
    chosen[np.random.default_rng(seed).permutation(np.flatnonzero((labels == HARD) & right))[::2]] = 1
    found = gap(chosen, labels, clusters, HARD, EASY, seed)
    words = f"half of the right answers to hard problems marked wrong are read as a gap of {found}"
    return Control(name="planted-gap", kind="positive", passed=found.above(0) == "yes", words=words, value=found.value)


# -- what wrong answers are ---------------------------------------------------------------------------------


def error_kind(text: str, problem: Problem) -> str:
    """What a wrong answer is: see :data:`KINDS`.  A neighbour is one off the answer."""
    parsed = parse_answer(text)
    if parsed is None:
        return KINDS[0]
    value = float(parsed)
    if value in {float(r) for r in problem.results[:-1] if _number(r)}:
        return KINDS[1]
    if abs(value - float(problem.answer)) == 1:
        return KINDS[2]
    if value in {float(n) for n in re.findall(r"\d+\.?\d*", problem.question.replace(",", ""))}:
        return KINDS[3]
    return KINDS[4]


def _number(text: str) -> bool:
    return re.fullmatch(r"-?\d*\.?\d+", text) is not None


def errors(table: Any, world: str, label: str, problems: ProblemSet, seed: int) -> list[dict[str, Any]]:
    """Kinds of a world's wrong answers, all of them and by the problem's operations, with shares; ``expected`` is the mean
    share when wrong answers change places among the problems that were answered wrongly."""
    rows = table[table["world"] == world].sort_values("problem")
    wrong = rows[~rows["right"].to_numpy(bool)]
    texts, asked = wrong["text"].tolist(), [problems[int(i)] for i in wrong["problem"]]
    out = _counted(texts, asked, {"world": label, "type": "all"}, seed)
    for kind in sorted({p.kind for p in problems}):
        inside = [i for i, p in enumerate(asked) if p.kind == kind]
        out += _counted(
            [texts[i] for i in inside], [asked[i] for i in inside], {"world": label, "type": kind or "none"}, seed
        )
    return out


def _counted(texts: list[str], asked: Sequence[Problem], told: Mapping[str, str], seed: int) -> list[dict[str, Any]]:
    n, rng = len(texts), np.random.default_rng(seed)
    seen = [error_kind(t, p) for t, p in zip(texts, asked, strict=True)]
    mixed: list[str] = []
    if n > 1 and told["type"] == "all":
        for _ in range(EXCHANGES):
            order = rng.permutation(n)
            mixed += [
                error_kind(texts[j], asked[i]) for i, j in enumerate(order) if parse_answer(texts[j]) != asked[i].answer
            ]
    out = []
    for kind in KINDS:
        share = clopper_pearson(seen.count(kind), n, unit="wrong answers")
        expected = mixed.count(kind) / len(mixed) if mixed else None
        out.append(
            {
                **told,
                "error": kind,
                "count": seen.count(kind),
                "n": n,
                "unit": "wrong answers",
                "share": share.value,
                "low": share.low,
                "high": share.high,
                "expected": expected,
            }
        )
    return out

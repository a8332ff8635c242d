"""Graded answers of worlds against those of the unedited model on the same problems.

Tables are those of :meth:`headlab.trials.thought_case.ThoughtBench.think`: a row for each problem and world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from headlab.effects import Table
from headlab.stats import Estimate, bootstrap_ratio, clustered_rate, paired_difference
from headlab.stats.paired import McNemar, mcnemar
from headlab.thoughts.worlds import ThoughtWorld

Array = np.ndarray
Adjust = Callable[[Any], Array]
"""Holm's rule or Benjamini and Hochberg's: p values to adjusted ones."""


def of_world(table: pd.DataFrame, world: str) -> Table:
    """A world's rows by problem.  Raises KeyError when it was not run."""
    found = table.loc[table["world"] == world]
    if found.empty:
        raise KeyError(f"world {world!r} is not in the table; it has {sorted(table['world'].unique())[:8]} …")
    return found.sort_values("problem")


def _rate(table: pd.DataFrame, world: str, column: str) -> Estimate:
    rows = of_world(table, world)
    return clustered_rate(rows[column].to_numpy(bool), clusters=rows["cluster"].tolist(), unit="problems")


def accuracy(table: pd.DataFrame, world: str) -> Estimate:
    """Share of problems answered rightly; an answer that does not parse is wrong.  Interval over chains of steps."""
    return _rate(table, world, "right")


def parse_rate(table: pd.DataFrame, world: str) -> Estimate:
    """Share of answers in which a number was found."""
    return _rate(table, world, "parsed")


def drop(base: pd.DataFrame, edited: pd.DataFrame, *, seed: int) -> Estimate:
    """Accuracy lost: baseline minus edited, paired by problem (tables of one world each, the same problems)."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    if list(a["problem_id"]) != list(b["problem_id"]):
        raise ValueError("the two tables do not hold the same problems")
    right = (t["right"].to_numpy(bool) for t in (a, b))
    return paired_difference(*right, clusters=a["cluster"].to_numpy(), unit="problems", seed=seed)


def exact_mcnemar(base: pd.DataFrame, edited: pd.DataFrame) -> McNemar:
    """Exact McNemar test over problems (the same ones in both tables), whole clusters of problems changing sides."""
    a, b = (t.sort_values("problem") for t in (base, edited))
    return mcnemar(a["right"].to_numpy(bool), b["right"].to_numpy(bool), a["cluster"].tolist())


def relative(base: pd.DataFrame, edited: pd.DataFrame, seed: int) -> Estimate:
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
    method = f"{plain.method}, over the accuracy"
    return Estimate(*ends, plain.n, plain.unit, method, plain.level, plain.seed, plain.note)


def shares(table: pd.DataFrame, worlds: Sequence[str]) -> Array:
    """Share of problems answered rightly in each of these worlds, [world]."""
    return np.array([of_world(table, w)["right"].to_numpy(float).mean() for w in worlds])


def lost(base: pd.DataFrame, table: pd.DataFrame, worlds: Sequence[str]) -> Array:
    """Accuracy lost, [problem, world]: 1 where only the unedited model is right, −1 where only the edited one is."""
    right = base.sort_values("problem")["right"].to_numpy(float)
    return np.stack([right - of_world(table, w)["right"].to_numpy(float) for w in worlds], 1)


def clusters_of(base: pd.DataFrame) -> list[str]:
    """The chain of steps of each problem of a table of one world, in the order of problems."""
    return base.sort_values("problem")["cluster"].tolist()


SAID = {
    "drop": "accuracy lost",
    "relative": "share of the accuracy lost",
    "accuracy": "accuracy",
    "parsed": "answers in which a number was found",
    "kept": "share of the accuracy kept",
}


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
        return self.relative.complement()

    @property
    def matters(self) -> bool:
        """Whether accuracy surely fell: adjusted exact McNemar p under .05, and the drop's interval above zero."""
        return self.p_adjusted is not None and self.p_adjusted < 0.05 and self.drop.above(0) == "yes"

    def row(self) -> dict[str, Any]:
        out: dict[str, Any] = {"world": self.world, "label": self.label, "group": self.group, **self.labels}
        for name in ("accuracy", "parsed", "drop", "relative"):
            out |= _cells(name, getattr(self, name))
        out |= {"broken": self.test.only_a, "fixed": self.test.only_b, "p": self.test.p, "p_adjusted": self.p_adjusted}
        return out | {"matters": self.matters, "n": self.drop.n, "unit": self.drop.unit}


def _cells(name: str, e: Estimate) -> dict[str, Any]:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}


def effects(
    base: pd.DataFrame, table: pd.DataFrame, worlds: Sequence[ThoughtWorld], seed: int, adjust: Adjust | None = None
) -> dict[str, Effect]:
    """Worlds of a graded table against the graded baseline, by name.

    ``labels`` of a world: ``label``, ``group``, and columns of the table.  ``adjust`` takes the exact McNemar p of all.
    """
    parts = {w.name: of_world(table, w.name) for w in worlds}
    tests = {name: exact_mcnemar(base, t) for name, t in parts.items()}
    p = [t.p for t in tests.values()]
    adjusted = dict(zip(tests, adjust(p).tolist() if adjust else p, strict=True))
    out = {}
    for w in worlds:
        t, told = parts[w.name], dict(w.labels)
        label, group = str(told.pop("label", w.name)), str(told.pop("group", ""))
        rates = (accuracy(t, w.name), parse_rate(t, w.name), drop(base, t, seed=seed), relative(base, t, seed))
        out[w.name] = Effect(w.name, label, group, *rates, tests[w.name], adjusted[w.name], told)
    return out


def tabled(base: pd.DataFrame, found: Sequence[Effect]) -> Table:
    """One row for each world, the baseline first; parse rate beside every accuracy."""
    own = {"world": "baseline", "label": "unedited", "group": ""}
    own |= _cells("accuracy", accuracy(base, "baseline")) | _cells("parsed", parse_rate(base, "baseline"))
    return pd.DataFrame([own | {"n": len(base), "unit": "problems"}, *(e.row() for e in found)])

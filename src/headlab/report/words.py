"""Numbers in words: every number that a page or a figure shows goes through here, with its interval and n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headlab.stats import Estimate
from headlab.stats.figures import exact, exact_percent, interval, rounded

Number = float | int
"""JSON does not tell 1.0 from 1."""

ESTIMATE_KEYS = {"value", "low", "high", "n", "unit"}


def is_estimate(value: Any) -> bool:
    """Whether a plain value is what ``Estimate.to_dict`` wrote."""
    return isinstance(value, Mapping) and set(value) >= ESTIMATE_KEYS


def estimate(value: Mapping[str, Any] | Estimate) -> Estimate:
    """The Estimate behind a plain value."""
    return value if isinstance(value, Estimate) else Estimate.from_dict(value)


def span(value: Number | None, low: Number | None = None, high: Number | None = None) -> str:
    """``0.98 [0.95, 1.00]``, rounded to two figures of the interval's width; else to three figures."""
    if value is None or low is None or high is None:
        return rounded(value)
    return interval(value, low, high)


def is_exact(e: Estimate) -> bool:
    """Whether everything there is was counted, so that no interval is needed."""
    return e.defined and e.method == "enumeration"


def counted(number: int, unit: str) -> str:
    """``n = 200 pairs``."""
    return f"n = {number:,} {unit}".rstrip()


def drawn(e: Estimate) -> str:
    """How the interval was made: ``cluster bootstrap, 95 %, seed 0``."""
    if is_exact(e):
        return "none needed, every case was counted"
    seed = "" if e.seed is None else f", seed {e.seed}"
    return f"{e.method}, {100 * e.level:g} %{seed}"


def chance(p: Number | None, low: Number | None, high: Number | None) -> str:
    """``p = 0.012 [0.006, 0.022]``; an enumerated p is exact and has no interval."""
    if p is None:
        return "p undefined"
    shown = f"p = {small(p)}"
    if low is None or high is None:
        return shown
    return f"{shown} (exact)" if low == high else f"{shown} [{small(low)}, {small(high)}]"


def small(p: Number) -> str:
    """A p to three figures, however small; rounding neither makes 0 or 1 of it."""
    return f"{p:.3g}" if p <= 0.999 else exact(p)


def tail_count(observed: Number, values: Sequence[Number], tail: str = "greater", tolerance: float = 1e-9) -> int:
    """How many values are at least as extreme as the observed one, ties (to rounding) included."""
    slack = tolerance * max([abs(observed), *map(abs, values)])
    if tail == "less":
        return sum(v <= observed + slack for v in values)
    return sum(v >= observed - slack for v in values)


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as rows ``("grid.n_heads", "16")``, for a provenance table."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if is_estimate(value):
            rows.append((name, str(estimate(value))))
        elif isinstance(value, Mapping) and value:
            rows.extend(flat(value, f"{name}."))
        elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
            for i, item in enumerate(value):
                rows.extend(flat(item, f"{name}.{i}.") if isinstance(item, Mapping) else [(f"{name}.{i}", plain(item))])
        else:
            rows.append((name, plain(value)))
    return rows


def plain(value: Any) -> str:
    """A setting as text: yes/no for booleans, a dash for nothing."""
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def refuting(level: float, n: int) -> str:
    """How often predictions that hold just so are refuted."""
    nominal, most = "nominal: the intervals of few rows are somewhat narrow", exact_percent(level)
    if n == 1:
        return f"A prediction that holds just so is refuted in at most {most} of trials ({nominal})."
    return f"If all {n} predictions held just so, any of them would be refuted in at most {most} of trials (Holm; {nominal})."

"""Numbers in sentences: three figures of what was measured, all of what was given.

No number is rounded to one that stands beside it: a share under 0.9 is never said to be 90%, nor one of 0.9996 to be 1.
"""

from __future__ import annotations

from typing import SupportsFloat

from .estimate import Estimate


def exact(x: SupportsFloat) -> str:
    """A threshold, a step or a count as it was given: ``0.05``, ``143000``; twelve figures at most."""
    return f"{float(x):.12g}"


def exact_percent(x: SupportsFloat) -> str:
    """A share as it was given: ``90%``, ``12.5%``."""
    return f"{exact(100 * float(x))}%"


def rounded(x: SupportsFloat | None, *beside: SupportsFloat) -> str:
    """Three figures, and as many more as keep it apart from 0, 1 and the numbers ``beside`` it; thousands whole."""
    if x is None:
        return "undefined"
    x = float(x) + 0.0  # no minus before a zero
    return f"{x:,.0f}" if abs(x) >= 999.5 else _apart(x, [0.0, 1.0, *map(float, beside)])


def interval(value: SupportsFloat, low: SupportsFloat, high: SupportsFloat) -> str:
    """``0.98 [0.95, 1.00]``, rounded to two figures of the interval's width."""
    return str(Estimate(float(value), float(low), float(high), 1, "x", "x")).split(" (")[0]  # which owns the rounding


def percent(x: SupportsFloat | None, *beside: SupportsFloat) -> str:
    """The same in percent: ``89.6%``, ``99.96%``."""
    if x is None:
        return "undefined"
    return f"{_apart(100 * float(x) + 0.0, [100 * float(y) for y in (0.0, 1.0, *beside)])}%"


def _apart(x: float, others: list[float]) -> str:
    named = {float(exact(y)) for y in others if y != x}
    return next((t for t in (f"{x:.{figures}g}" for figures in (3, 4, 6, 9)) if float(t) not in named), exact(x))

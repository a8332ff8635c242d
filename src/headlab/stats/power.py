"""How large an effect a number of prompts can show, before any of them is run."""

from __future__ import annotations

from math import sqrt

from ._check import open_unit

POWER = 0.8


def detectable_mean(n: int, *, power: float = POWER, level: float = 0.95) -> float | None:
    """The smallest distance of a mean from a threshold at which its interval lies beyond with probability ``power``.

    Definition: (z of (1 + level) / 2 · √((n − 1) / n) + z of power) / √n, the percentile bootstrap's width.
    Shapes, units: n independent prompts (or clusters); the distance in standard deviations between them.
    Range: above 0, more is less to be seen.  None below 2 prompts.
    Raises: ValueError where ``power`` or ``level`` is not between 0 and 1.
    When it misleads: the standard deviation is not known before the trial; correlated prompts show less; below about 10
    prompts the interval is too narrow; effects as skewed as an exponential are shown in 69 or 96 % at 20 prompts.
    """
    from scipy.stats import norm

    power, level = open_unit(power, "power"), open_unit(level, "level")
    if n < 2:
        return None
    return float((norm.ppf((1 + level) / 2) * sqrt((n - 1) / n) + norm.ppf(power)) / sqrt(n))


def detectable_rate(n: int, threshold: float, *, power: float = POWER, level: float = 0.95) -> float | None:
    """The smallest true rate whose Clopper-Pearson interval lies above a threshold with probability ``power``; exact.

    Definition: with k the fewest successes of n whose lower bound exceeds the threshold, the rate p at which
    P(at least k of n) = power.
    Shapes, units: n independent prompts; rates in [0, 1].
    Range: above the threshold, more is less to be seen.  None where even n of n do not lie above it.
    Raises: ValueError where ``threshold``, ``power`` or ``level`` is not between 0 and 1.
    When it misleads: correlated prompts show less.
    """
    from scipy.stats import beta

    threshold = open_unit(threshold, "threshold")
    power, level = open_unit(power, "power"), open_unit(level, "level")
    tail = (1 - level) / 2
    enough = next((k for k in range(1, n + 1) if beta.ppf(tail, k, n - k + 1) > threshold), None)
    # P(at least k of n at rate p) is the distribution function of Beta(k, n − k + 1) at p
    return None if enough is None else float(beta.ppf(power, enough, n - enough + 1))

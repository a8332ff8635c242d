"""What a metric of sets adds to their outcome, once the members' own effects are taken out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from headlab.stats import Estimate


class Partial:
    """Regression of an outcome on one metric after what the members do: their additive effects, and a bend of the sum.

    The bend (square and cube of the additive fit, as in Tukey's test) stands for a margin that saturates or has a
    threshold; without it, regular sets that happen to hold several strong heads pass for an effect of spacing.
    """

    def __init__(self, inside: Any, outcome: Any) -> None:
        plain = _orthonormal([np.ones(len(inside)), *inside.T.astype(float)])
        fitted = plain @ (plain.T @ outcome)
        fitted = fitted - fitted.mean()
        scale = float(fitted.std())
        bends = [(fitted / scale) ** 2, (fitted / scale) ** 3] if scale > 1e-9 else []
        self.basis = _orthonormal([*plain.T, *bends])
        self.free = len(inside) - self.basis.shape[1] - 1

    def rest(self, values: Any) -> Any:
        """What the members do not explain."""
        return values - self.basis @ (self.basis.T @ values)

    def usable(self, metric: Any) -> bool:
        """Whether anything of the metric is left after the members, and rows are left to judge it."""
        if np.isnan(metric).any() or self.free < 5:
            return False
        return bool(np.linalg.norm(self.rest(metric)) > 1e-6 * max(1.0, np.linalg.norm(metric)))

    def effect(self, metric: Any, outcome: Any, unit: str) -> Estimate:
        """Change of the outcome for one standard deviation of the metric; HC3, Student's t."""
        from scipy.special import stdtrit

        method = "OLS after members, HC3"
        if not self.usable(metric):
            return Estimate.undefined(
                unit, len(metric), "the members determine the metric, or too few sets", method=method
            )
        left, total = self.rest(metric), float(metric.std())
        square = float(left @ left)
        slope = float(left @ outcome) / square
        residual = self.rest(outcome) - slope * left
        leverage = (self.basis**2).sum(1) + left**2 / square
        weight = residual / np.maximum(1 - leverage, 1e-6)
        half = float(stdtrit(self.free, 0.975)) * math.sqrt(float((left**2 * weight**2).sum())) / square
        return Estimate(slope * total, (slope - half) * total, (slope + half) * total, len(metric), unit, method)

    def correlation(self, metric: Any, outcome: Any) -> float:
        """Partial correlation; 0 where the members leave nothing."""
        left, right = self.rest(metric), self.rest(outcome)
        size = float(np.linalg.norm(left) * np.linalg.norm(right))
        return float(left @ right) / size if size > 1e-12 else 0.0

    def span(self, correlation: float) -> tuple[float, float]:
        """Fisher's z interval of a partial correlation."""
        half, z = 1.96 / math.sqrt(max(1, self.free - 1)), math.atanh(max(-0.999999, min(0.999999, correlation)))
        return math.tanh(z - half), math.tanh(z + half)

    def shuffled(self, metric: Any, outcome: Any, n: int, seed: int) -> Any:
        """[shuffle] partial correlations with the outcome's residuals shuffled over sets (Freedman and Lane)."""
        left, right = self.rest(metric), self.rest(outcome)
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(right)), (n, 1)), axis=1)
        moved = right[orders]
        moved = moved - (moved @ self.basis) @ self.basis.T
        sizes = np.linalg.norm(moved, axis=1) * np.linalg.norm(left)
        return (moved @ left) / np.maximum(sizes, 1e-300)


def _orthonormal(columns: Sequence[Any]) -> Any:
    left, singular, _ = np.linalg.svd(np.column_stack(columns), full_matrices=False)
    return left[:, singular > 1e-10 * singular.max()]

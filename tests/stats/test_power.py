"""The smallest effects that can be shown, against simulated trials of the real intervals."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.stats import bootstrap_mean, clopper_pearson
from headlab.stats.power import detectable_mean, detectable_rate


@pytest.mark.parametrize("n", [20, 100])
def test_a_mean_at_that_distance_is_shown_four_times_in_five(n: int) -> None:
    """300 trials of normal effects; of effects as skewed as an exponential, 69 and 96 % at 20 prompts."""
    rng, least = np.random.default_rng(n), detectable_mean(n)
    assert least is not None

    def shown(effects: np.ndarray) -> float:
        each = (bootstrap_mean(least + x, unit="prompts", seed=s, draws=500) for s, x in enumerate(effects))
        return float(np.mean([e.above(0) == "yes" for e in each]))

    skewed = rng.exponential(1, (300, n)) - 1
    assert 0.73 < shown(rng.normal(0, 1, (300, n))) < 0.87
    assert 0.6 < shown(-skewed) < 0.83 and 0.8 < shown(skewed) < 0.98


@pytest.mark.parametrize(("n", "threshold"), [(20, 0.5), (100, 0.5), (60, 0.9)])
def test_a_rate_of_that_size_is_shown_four_times_in_five(n: int, threshold: float) -> None:
    """4,000 trials; a rate a twentieth of the way back to the threshold is shown less often."""
    rng, least = np.random.default_rng(n), detectable_rate(n, threshold)
    assert least is not None and least > threshold
    known = {k: clopper_pearson(k, n, unit="prompts").above(threshold) == "yes" for k in range(n + 1)}
    shown = np.mean([known[k] for k in rng.binomial(n, least, 4000)])
    assert abs(shown - 0.8) < 0.02, shown
    nearer = least - 0.05 * (least - threshold)
    assert np.mean([known[k] for k in rng.binomial(n, nearer, 4000)]) < shown


def test_what_cannot_be_shown_is_none() -> None:
    """Five of five have the lower bound .478; one prompt has no interval."""
    assert detectable_rate(5, 0.5) is None and detectable_rate(6, 0.5) is not None
    assert detectable_mean(1) is None

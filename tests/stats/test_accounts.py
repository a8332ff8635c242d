"""The account that made the data wins on subsets it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.stats import held_out_deviance
from headlab.stats.accounts import _deviance

MEMBERS, SUBSETS, TRIALS = 8, 240, 50


def _table(rule: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    inside = rng.random((SUBSETS, MEMBERS)) < 0.5
    if rule == "additive":
        margin = inside @ np.array([3.0, 3.0, -3.0, 0, 0, 0, 0, 0]) - 1.0
    elif rule == "count":
        margin = np.where(inside.sum(1) >= 4, 2.5, -2.5)
    else:
        margin = np.where(inside[:, 0] ^ inside[:, 1], 2.5, -2.5)
    return inside, rng.binomial(TRIALS, 1 / (1 + np.exp(-margin))) / TRIALS


@pytest.mark.parametrize("rule", ["additive", "count", "pairwise"])
def test_the_true_account_has_the_smallest_deviance(rule: str) -> None:
    inside, share = _table(rule)
    found = {k: e.value for k, e in held_out_deviance(inside, share, trials=TRIALS, seed=0).items()}
    assert min(found, key=lambda k: found[k]) == rule or (
        rule == "additive" and found["pairwise"] < 2 * found["additive"]
    )
    useless = {"additive": "count", "count": "additive", "pairwise": "count"}[rule]
    assert found[useless] > 1.5 * found[rule], found


def test_deviance_by_hand() -> None:
    """y = 1/2 predicted as 1/4: 2 (½ ln 2 + ½ ln ⅔); a perfect prediction costs nothing."""
    assert _deviance(np.array([0.5]), np.array([0.25]))[0] == pytest.approx(np.log(2) + np.log(2 / 3))
    assert _deviance(np.array([0.3, 0.0]), np.array([0.3, 1e-12])) == pytest.approx([0, 0], abs=1e-9)


def test_nothing_to_account_for_is_undefined() -> None:
    inside, share = _table("count")
    assert not any(e.defined for e in held_out_deviance(inside, np.ones(SUBSETS), trials=TRIALS, seed=0).values())
    assert not any(e.defined for e in held_out_deviance(inside[:6], share[:6], trials=TRIALS, seed=0).values())

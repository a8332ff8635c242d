"""One rate of the pairs less another has Newcombe's interval, which keeps its width where nothing failed.

Resampled, a world that repairs all of 24 pairs less one that repairs none was 1.00 [1.00, 1.00].  Looked for: ``repair``,
``value`` and ``drop`` of rates, either order of the terms, pairs that are not eligible, clusters; what is no rate stays resampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headlab.claims import Prediction
from headlab.interventions import World
from headlab.trials import expressions
from headlab.trials.attainable import clusters_needed
from headlab.trials.document import Document
from headlab.trials.measured import Measured
from headlab.trials.statistics import Statistics
from headlab.trials.worlds import Arm

N = 24


def estimate(statistic: str, a: Any, b: Any, kind: str = "accuracy", keep: Any = None, **more: Any) -> Any:
    worlds = {w: {"heads": "named", "write": "patch"} for w in "ab"}
    given = {
        "id": "d",
        "words": "w",
        "source": "s",
        "chosen_on": "other",
        "task": {"name": "decimals"},
        "edit": "corrupted",
    }
    asked = [{"statistic": "value:a", "op": ">", "threshold": 0.5}]
    doc = Document.from_data(
        {**given, "sets": {"named": "L0H0"}, "worlds": worlds, "readout": {"r": kind}, "predictions": asked}
    )
    zero, rows = np.zeros(N), np.array([a, b], float)
    names = [f"p{i}" for i in range(N)]
    seen = Measured({"r": zero}, {"r": zero + 1}, {"r": rows}, {"r": {"a": 0, "b": 1}}, names, "pairs", eligible=keep)
    arms = more.get("arms") or {w: [Arm(w, (), -1, (World(w, ()),))] for w in "ab"}
    return Statistics(doc, seen, lambda _: {}).estimate(expressions.parse(statistic), arms, more.get("where", ""))


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    middle, half = (hits + z * z / 2) / (n + z * z), z * np.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return middle - half, middle + half


@pytest.mark.parametrize("statistic", ["repair:a - repair:b", "value:a - value:b", "drop:b - drop:a"])
def test_all_less_none_has_a_width(statistic: str) -> None:
    """By hand (Newcombe 1998): no correlation, so the lower bound is 1 - sqrt((1 - l)² + u²) of Wilson's bounds."""
    found = estimate(statistic, np.ones(N), np.zeros(N))
    low = 1 - np.hypot(1 - wilson(N, N)[0], wilson(0, N)[1])
    assert (found.value, found.high) == (1, 1) and abs(found.low - low) < 1e-6


def test_pairs_that_are_not_eligible_are_left_out_and_other_numbers_are_resampled() -> None:
    keep = np.arange(N) < 12
    found = estimate("repair:a - repair:b", keep, ~keep, keep=keep)
    assert (found.value, found.n) == (1, 12) and found.low < 0.8
    margins = estimate("drop:b - drop:a", np.arange(N), np.zeros(N), kind="margin")
    assert "bootstrap" in margins.method


def test_what_such_a_difference_needs_is_not_foretold_as_of_a_rate() -> None:
    """36 clusters were said to be needed for a difference above 0.9 that 24 upheld."""
    for statistic in ("repair:a - repair:b", "repair:a + repair:b", "repair:a / repair:b"):
        assert clusters_needed(Prediction(statistic=statistic, op=">", threshold=0.9)) == 0
    assert clusters_needed(Prediction(statistic="repair:a", op=">", threshold=0.9)) == 36


def test_other_sums_and_shares_of_rates_keep_a_width_too() -> None:
    """By the ends of the rates' own intervals (Clopper and Pearson, by hand); margins alike in every pair stay as they are."""
    end = 0.025 ** (1 / N)
    found = estimate("repair:b / repair:a", np.ones(N), np.zeros(N))
    assert (found.value, found.low) == (0, 0) and abs(found.high - (1 - end) / end) < 1e-9
    found = estimate("value:a + value:b", np.ones(N), np.ones(N))
    assert (found.value, found.high) == (2, 2) and abs(found.low - 2 * end) < 1e-9
    assert estimate("value:a + value:b", np.ones(N), np.ones(N), kind="margin").low == 2


def test_a_share_of_drawn_sets_is_as_wide_as_their_number_says() -> None:
    """4 of 4 drawn sets was 1.00 [1.00, 1.00] of all sets; Clopper and Pearson by hand: .025 ** (1 / 4).  Of all of a family's
    members, each run, nothing was drawn."""
    for sampled, low in ((True, 0.025**0.25), (False, 1.0)):
        arms = {"a": [Arm("a", (), n, (World("a", ()),), sampled=sampled) for n in range(4)]}
        found = estimate("share:drop:a", -np.ones(N), np.zeros(N), kind="margin", arms=arms, where="> 0")
        assert found.value == 1 and abs(found.low - low) < 1e-9

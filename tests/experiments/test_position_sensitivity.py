"""position-sensitivity: steadiness that is there is found, and none where attention is uniform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headlab.experiments import load, trial
from headlab.experiments.doses import position_sensitivity as room
from headlab.experiments.trial import EXPERIMENTS
from headlab.heads import Grid

EXPERIMENTS.setdefault("position-sensitivity", room.EXPERIMENT)
SMALL: dict[str, Any] = {"pairs": 30, "layer": 1, "matched_sets": 700}


def silenced(heads: range):
    """The planted organism with some heads of layer 1 that ask for nothing: perfectly steady."""
    lab = load("decimals-planted-even")
    attention: Any = lab.attentions[1]
    weight = attention.q_proj.weight
    for head in heads:
        weight.data[head * lab.head_dim : (head + 1) * lab.head_dim] = 0
    return lab


def findings(result) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[0].estimates}


def test_a_trial_ends_with_variants_and_a_verdict(store) -> None:
    result = trial("position-sensitivity", "decimals-natural", store=store, pairs=30, layer=0, matched_sets=700)
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls)
    assert set(result.tables["variants"]["variant"]) == set(room.VARIANTS)
    assert [f.kind for f in result.figures] == ["estimates", "null", "curve"]
    assert [r.protocol for r in result.record.readings] == ["standard", "naive", "published"]


def test_steadier_even_heads_are_found(store) -> None:
    result = trial("position-sensitivity", silenced(range(0, 16, 2)), store=store, **SMALL)
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    assert findings(result)["ratio:variance"]["value"] == pytest.approx(0, abs=1e-6)


def test_steadier_odd_heads_refute(store) -> None:
    result = trial("position-sensitivity", silenced(range(1, 16, 2)), store=store, **SMALL)
    assert result.verdict.outcome == "refuted"


def test_uniform_attention_has_nothing_to_vary(store) -> None:
    """Relative attention is 1 in every variant, so its ratio is undefined; plain shares follow the prompt, ratio 1."""
    found = findings(trial("position-sensitivity", silenced(range(16)), store=store, **SMALL))
    assert found["variance:even"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["ratio:share"]["value"] == pytest.approx(1, abs=1e-4)


def test_the_ratio_is_of_mean_variances() -> None:
    grid = Grid(1, 4, 4)
    spread = np.array([[1.0, 2.0, 3.0, 2.0], [2.0, 4.0, 2.0, 8.0], [1.0, 1.0, 1.0, 1.0]])
    found = room.ratio_of(spread, grid, 0, ["a", "b", "c"], seed=0)
    assert found.value == pytest.approx(spread[:, ::2].sum() / spread[:, 1::2].sum())

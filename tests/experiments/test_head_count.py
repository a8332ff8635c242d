"""head-count on a planted organism: the dose curve knows the planted threshold, and the claim falls by it."""

from __future__ import annotations

from headlab.experiments import builtin_claims, trial
from headlab.experiments.trial import adjusted


def test_the_planted_threshold_shows_and_the_claim_falls(store) -> None:
    """Six of the eight even heads are needed: a quarter (four) repairs nothing, so "any quarter repairs" is refuted."""
    claim = adjusted(builtin_claims()["head-count"], layer=1, pairs=100, subsets_per_size=6, readings=("standard",))
    result = trial(claim, "decimals-planted-even", store=store)
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert all(c.passed for c in result.verdict.controls)
    found = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert found["threshold:even"]["value"] == 6
    assert found["threshold:odd"]["value"] is None  # no number of the other heads repairs
    assert found["repair:quarter"]["value"] < 0.2
    assert found["deviance:additive"]["value"] < found["deviance:count"]["value"]
    curve = result.tables["curve"]
    whole = curve[(curve["pool"] == "even") & (curve["size"] == 8)].iloc[0]
    assert whole["repaired"] == 1.0 and whole["low"] < 1.0  # an interval even where every pair is repaired


def test_a_statement_about_subsets_carries_their_spread() -> None:
    """Ten subsets that all-or-nothing repair every pair: the interval over pairs alone would have no width."""
    import numpy as np

    from headlab.stats.crossed import rate_over_sets

    hits = np.array([[True] * 40] * 5 + [[False] * 40] * 5)
    clusters = np.arange(40)
    sampled = rate_over_sets(hits, clusters, all_subsets=False)
    every = rate_over_sets(hits, clusters, all_subsets=True)
    assert sampled.value == every.value == 0.5
    assert sampled.high - sampled.low > 0.4 > every.high - every.low

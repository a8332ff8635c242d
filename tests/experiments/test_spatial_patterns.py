"""spatial-patterns: families as named, spacing tested after the heads, planted spacing found."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.designs import spacings
from headlab.experiments import builtin_claims, trial
from headlab.experiments.subsets import spatial_patterns
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.heads import Heads
from headlab.stats.after_members import Partial
from headlab.stats.spacing import spacing
from headlab.trials import after_members

EXPERIMENTS.setdefault("spatial-patterns", spatial_patterns.EXPERIMENT)
WHOLE = Heads.of(1, range(16))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    claim = adjusted(
        builtin_claims()["spatial-patterns"], pairs=40, selection_pairs=12, subsets_per_size=60, readings=("standard",),
        options={"shuffles": 499, "renamings": 30},
    )  # fmt: skip
    return trial(claim, "decimals-planted-random", store=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def drawn():
    return spacings.families(WHOLE, 4, n=60, seed=0)


def test_families_are_what_their_names_say(drawn) -> None:
    by = {f: [[h.index for h in s] for g, s in drawn if g == f] for f in spacings.FAMILIES}
    assert len(by["consecutive"]) == 13 and all(np.ptp(np.diff(s)) == 0 == s[1] - s[0] - 1 for s in by["consecutive"])
    assert all(len(set(np.diff(s))) == 1 and s[1] - s[0] > 1 for s in by["uniform"])
    assert all(sorted(15 - i for i in s) == s for s in by["balanced"])
    assert len(by["irregular"]) == 60 and len({s for _, s in drawn}) == len(drawn)


def test_odd_sizes_and_whole_pools_are_families_too() -> None:
    three = spacings.families(WHOLE, 3, n=9, seed=0)
    assert {f for f, _ in three} == {"consecutive", "uniform", "irregular"}
    assert spacings.families(WHOLE, 16, n=9, seed=0) == [("irregular", WHOLE)]


def test_it_ends_with_tables_figures_and_a_verdict(result) -> None:
    assert {"patterns", "metrics", "effects"} <= set(result.tables) and {f.name for f in result.figures} == {
        "metrics",
        "null",
    }
    passed = {c.name: c for c in result.verdict.controls}
    assert set(passed) == {"no-op", "patch-all", "planted-metric"} and all(c.passed for c in passed.values())
    assert result.verdict.outcome == "untestable" and passed["no-op"].value < 1e-4


def test_spacing_adds_nothing_on_the_planted_organism(result) -> None:
    rows = result.tables["metrics"].set_index("metric")
    assert (
        rows.loc["regularity", "p_holm"] > 0.05 and rows.loc["regularity", "low"] < 0 < rows.loc["regularity", "high"]
    )
    assert np.isnan(rows.loc["centre", "effect"])  # a mean of places is fixed by the heads: undefined, not zero


def _inside(drawn):
    return np.array([[h in s for h in WHOLE] for _, s in drawn])


def test_strong_heads_in_regular_sets_do_not_pass_for_spacing(drawn) -> None:
    """Four even heads add up to a margin that saturates; nothing depends on gaps, but raw success goes with them."""
    inside = _inside(drawn)
    margin = inside[:, [0, 4, 8, 12]].sum(1) ** 2 + np.random.default_rng(0).normal(0, 0.05, len(inside))
    metric = spacings.metric_table(drawn, 16)["regularity"]
    effect = Partial(inside, margin).effect(metric, margin, "sets")
    assert effect.above(0) == "unsure"


def test_a_planted_effect_of_spacing_is_found(drawn) -> None:
    """The positive control fires; with the metric of the planted effect replaced by noise it does not."""
    inside, claim = _inside(drawn), builtin_claims()["spatial-patterns"]
    metric = spacings.metric_table(drawn, 16)["regularity"]
    outcome = inside @ np.arange(16) + np.random.default_rng(1).normal(0, 1, len(inside))
    assert after_members.planted_control(metric, outcome, inside, claim).passed
    fixed = spacings.metric_table(drawn, 16)["centre"]
    assert not after_members.planted_control(fixed, outcome, inside, claim).passed
    with_spacing = outcome + 3 * metric / metric.std()
    found = Partial(inside, with_spacing).effect(metric, with_spacing, "sets")
    assert found.above(1.5) == "yes"


def test_shuffles_are_a_null_of_the_right_width(drawn) -> None:
    inside, rng = _inside(drawn), np.random.default_rng(2)
    metric, outcome = spacings.metric_table(drawn, 16)["regularity"], rng.normal(size=len(drawn))
    model = Partial(inside, outcome)
    null = model.shuffled(metric, outcome, 2000, seed=0)
    assert abs(null.mean()) < 0.02 and abs(null.std() - 1 / np.sqrt(model.free)) < 0.02


def test_the_renaming_null_binds(result) -> None:
    """Shuffles of a deterministic model's residuals gave p <= .05 in 10.7 % of exact renumberings (up to 19.5 %)."""
    (ruling,) = [r for r in result.verdict.rulings if r.prediction.statistic == "rank:regularity"]
    assert "of 30 renamings at least as extreme" in ruling.shown
    metric, null = np.arange(8.0) % 3, np.linspace(-1, 1, 99)
    inside = np.array([[i == j or i == (j + 3) % 8 for j in range(4)] for i in range(8)])
    found = after_members.renamed(metric, np.zeros(8), inside, null, 0.05)
    assert found["rank:regularity"].p == 51 / 100 and found["renamed:regularity"].value == 1
    assert not after_members.renamed(metric, metric, inside, np.array([]), 0.05)["renamed:regularity"].defined


@pytest.mark.accept
def test_the_renaming_null_keeps_its_level() -> None:
    """Outcomes that depend on which heads a set holds (their sum, and pairs inside KV groups), never on their names."""
    rng, heads, trials_, low = np.random.default_rng(3), Heads.of(0, range(12)), 150, 0
    groups = np.arange(12) // 3
    for t in range(trials_):
        drawn = spacings.families(heads, 3, n=60, seed=t)
        sets = [[h.index for h in s] for _, s in drawn]
        inside = np.array([[h in s for h in heads] for _, s in drawn])
        own, pairs = rng.gamma(0.4, 1, 12), rng.normal(0, 1.5, (12, 12)) * (groups[:, None] == groups)
        who = renaming(rng)
        margin = np.array([2 * own[who[s]].sum() - 2 + np.triu(pairs, 1)[np.ix_(who[s], who[s])].sum() for s in sets])
        outcome = 1 / (1 + np.exp(-margin))
        model, null = Partial(inside, outcome), []
        for _ in range(99):
            order = renaming(rng)
            metric = np.array([spacing([int(order[i]) for i in s], 12).regularity for s in sets])
            null.append(model.correlation(metric, outcome))
        metric = spacings.metric_table(drawn, 12)["regularity"]
        low += after_members.renamed(metric, outcome, inside, np.array(null), 0.05)["rank:regularity"].p <= 0.05
    print("renamings: p <= .05 in", low / trials_)
    assert low / trials_ <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / trials_)


def renaming(rng):
    return rng.permutation(rng.permuted(np.arange(12).reshape(-1, 3), axis=1)).ravel()


@pytest.mark.accept
def test_at_full_size_the_claim_falls_on_the_natural_organism(store) -> None:
    result = trial("spatial-patterns", "decimals-natural", store=store)
    assert result.verdict.outcome == "refuted" and len(result.record.readings) == 2


def test_eight_heads_are_enough_and_pairs_of_heads_are_not(store) -> None:
    """A quarter of eight heads would be two, which have one gap and no regularity: three are taken, or the page says why."""
    claim = adjusted(
        builtin_claims()["spatial-patterns"], pairs=12, subsets_per_size=60, layer=0, readings=("standard",),
        options={"shuffles": 99, "renamings": 19},
    )  # fmt: skip
    result = trial(claim, "decimals-natural-gemma", store=store)
    assert {c.name for c in result.verdict.controls if c.passed} >= {"no-op", "patch-all", "planted-metric"}
    two = adjusted(claim, options={**claim.options, "size": 2})
    result = trial(two, "decimals-natural-gemma", store=store)
    assert result.verdict.outcome == "untestable" and "28 sets of 2 of 8 heads" in result.verdict.sentence

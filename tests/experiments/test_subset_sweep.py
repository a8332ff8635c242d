"""subset-sweep names the planted heads, by tests and by values, and says what kind of rule they follow."""

from __future__ import annotations

import numpy as np
import pytest

from headlab import organisms
from headlab.claims import Control
from headlab.experiments import builtin_claims, trial
from headlab.experiments.subsets import subset_sweep
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.stats import coalitions

EXPERIMENTS.setdefault("subset-sweep", subset_sweep.EXPERIMENT)


def planted_in(name: str) -> list[str]:
    truth = organisms.card(name).truth
    assert truth is not None
    return list(truth.heads)


PLANTED = ["L1H0", "L1H3", "L1H5", "L1H10", "L1H12", "L1H15"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    claim = adjusted(
        builtin_claims()["subset-sweep"], pairs=40, selection_pairs=12, subsets_per_size=20, readings=("standard",),
        options={"masks": 320, "permutations": 12},
    )  # fmt: skip
    return trial(claim, "decimals-planted-random", store=tmp_path_factory.mktemp("runs"))


def found(result) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[0].estimates}


def test_fisher_with_holm_names_exactly_the_planted_heads(swept) -> None:
    assert sorted(PLANTED) == sorted(planted_in("decimals-planted-random"))
    rows = swept.tables["members"]
    assert swept.record.settings["layer"] == 1 and set(rows[rows["member"]]["head"]) == set(PLANTED)


def test_values_put_every_planted_head_first(swept) -> None:
    assert found(swept)["auroc:shapley"]["value"] == found(swept)["auroc:banzhaf"]["value"] == 1.0
    rows = swept.tables["members"].set_index("head")
    others = rows.drop(PLANTED)
    assert (rows.loc[PLANTED, "shapley_low"] > others["shapley_high"].max()).all()


def test_accounts_are_told_apart(swept) -> None:
    values = found(swept)
    assert values["separable"]["value"] == 1.0 and values["separable:shuffled"]["high"] < 0.2
    assert values["deviance:additive"]["high"] < values["deviance:count"]["low"]
    assert values["deviance:pairwise"]["value"] is not None and values["gain:late"]["low"] > 0


def test_no_head_of_the_planted_rule_interferes(swept) -> None:
    rows = swept.tables["members"].set_index("head")
    assert not rows.loc[PLANTED, "interferes"].any()


def test_few_pairs_decide_nothing_and_controls_pass(swept) -> None:
    assert swept.verdict.outcome == "untestable" and "100 pairs" in swept.verdict.sentence
    passed = {c.name: c for c in swept.verdict.controls}
    assert all(c.passed for c in passed.values()) and passed["no-op"].value < 1e-4 and passed["patch-all"].value == 1.0
    assert {f.name for f in swept.figures} == {"members", "named"}


def test_a_subset_that_never_repairs_is_never_a_success() -> None:
    from headlab.heads import Heads

    sets = [Heads.of(0, [0]), Heads.of(0, [1])]
    found = subset_sweep.Outcomes({}, {}, dict(zip(sets, (0.5, 0.51), strict=True)))
    hits = found.won(sets)
    rate = subset_sweep.success_of(hits)
    assert rate.value == 0.5 and hits.tolist() == [False, True]


def test_fisher_tells_help_from_harm() -> None:
    """A member that is in all successes helps; one that is in all failures harms, and is no member."""
    rng = np.random.default_rng(0)
    inside = rng.random((200, 3)) < 0.5
    won = inside[:, 0] & ~inside[:, 1]
    p, gap = coalitions.fisher(inside, won)
    assert p[0] < 1e-6 and p[1] < 1e-6 and p[2] > 0.01 and gap[0] > 0 > gap[1]


def test_marginals_of_an_interfering_head_are_negative() -> None:
    from headlab.stats import shapley_plan

    plan = shapley_plan(3, 8, seed=0)
    gains = coalitions.marginals(plan, plan.coalitions @ np.array([1.0, 0.5, -0.25]))
    assert np.allclose(gains, [1.0, 0.5, -0.25])


@pytest.mark.accept
@pytest.mark.parametrize("name", ["decimals-planted-even", "decimals-planted-random"])
def test_the_planted_set_at_full_size(name, store) -> None:
    result = trial("subset-sweep", name, store=store)
    rows = result.tables["members"]
    assert set(rows[rows["member"]]["head"]) == set(planted_in(name))
    assert [c for c in result.verdict.controls if isinstance(c, Control) and not c.passed] == []
    assert result.verdict.outcome == "refuted" and len(result.record.readings) == 2

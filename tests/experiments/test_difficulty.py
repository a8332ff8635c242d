"""Difficulty: strata fixed before the test, effects within them, errors sorted, interactions found where planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from headlab.experiments.trial import adjusted, builtin_claims, trial
from headlab.tasks.word_problems import Problem, ProblemSet, word_problems
from headlab.trials import hardness as d
from headlab.trials import strata


def problem(i: int, steps: int, answer: str = "9") -> Problem:
    chain = tuple(f"{i}+{k}={i + k}" for k in range(steps - 1)) + ((f"{i}*1={answer}",) if steps else ())
    return Problem(f"p{i}", f"Tom has {i} apples . He buys 5 more .", chain, answer)


def table(
    problems: ProblemSet, right: np.ndarray, world: str = "baseline", logprob: np.ndarray | None = None
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "problem": range(len(problems)), "problem_id": [p.id for p in problems], "cluster": [p.cluster for p in problems],
            "steps": [p.n_steps for p in problems], "world": world, "text": "The answer is : 9",
            "logprob": np.zeros(len(problems)) if logprob is None else logprob, "parsed": True, "right": right,
        }
    )  # fmt: skip


def test_steps_are_the_seeds_tiers() -> None:
    problems = ProblemSet(tuple(problem(i, n) for i, n in enumerate((0, 1, 2, 3, 4, 7))))
    assert strata.by_steps(problems).tolist() == ["none", "easy", "easy", "medium", "hard", "hard"]


def test_edges_of_confidence_come_from_the_problems_they_were_chosen_on() -> None:
    problems = ProblemSet(tuple(problem(i, 2) for i in range(9)))
    chosen = table(problems, np.ones(9, bool), logprob=np.log(np.arange(1, 10) / 10))
    tiers = strata.Tiers.of(chosen)
    assert tiers.low == pytest.approx(np.quantile(np.arange(1, 10) / 10, 1 / 3))
    e = 1e-9
    seen = table(
        problems,
        np.ones(9, bool),
        logprob=np.log([tiers.low - e, tiers.low + e, tiers.high - e, tiers.high + e, *[0.01] * 5]),
    )
    assert tiers.labels(seen).tolist() == ["unsure", "middling", "middling", "sure", *["unsure"] * 5]


def test_the_published_tiers_need_confidence_and_steps() -> None:
    steps = (1, 2, 2, 3, 3, 5, 5, 1)
    problems = ProblemSet(tuple(problem(i, n) for i, n in enumerate(steps)))
    sure = np.array([0.95, 0.95, 0.7, 0.6, 0.5, 0.5, 0.7, 0.5])
    found = strata.published_tiers(problems, table(problems, np.ones(8, bool), logprob=np.log(sure)))
    assert found.tolist() == ["easy", "none", "medium", "medium", "hard", "hard", "none", "none"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("no number", "unparsed"), ("it is 17", "an intermediate result"), ("8", "a neighbour"), ("10", "a neighbour"),
        ("13", "a number of the question"), ("4.5", "other"), ("-9", "other"),
    ],
)  # fmt: skip
def test_kinds_of_errors_by_hand(text: str, kind: str) -> None:
    asked = Problem("p", "Tom has 13 apples . He buys 4 more and keeps 9 .", ("13+4=17", "17-8=9"), "9")
    assert strata.error_kind(text, asked) == kind


def test_a_gap_by_hand_and_none_where_a_level_is_missing() -> None:
    values, labels = np.array([1.0, 0, 0, 0, 1, 1]), np.array(["easy"] * 4 + ["hard"] * 2)
    found = strata.gap(values, labels, list("abcdef"), "hard", "easy", 0)
    assert found.value == pytest.approx(1 - 0.25) or "undefined" in str(found)
    assert not strata.gap(values, labels, list("abcdef"), "hard", "absent", 0).defined


def test_shuffled_gaps_keep_chains_whole_and_centre_on_zero() -> None:
    rng = np.random.default_rng(1)
    clusters = [f"c{i // 3}" for i in range(120)]
    labels = np.repeat(np.array(["easy", "hard"]), 60)
    values = rng.random(120)
    null = strata.shuffled_gaps(values, labels, clusters, "hard", "easy", 0, 1500)
    assert abs(null.mean()) < 3 * null.std() / np.sqrt(len(null)) and null.std() > 0
    by_chain = np.repeat(np.arange(40) % 2, 3).astype(float)  # all of a chain's variance stays in it
    assert np.unique(np.round(strata.shuffled_gaps(by_chain, labels, clusters, "hard", "easy", 0, 200), 9)).size <= 21


def simulated(drop_easy: float, drop_hard: float, base: float = 0.8, n: int = 600):
    problems = word_problems(n, steps=(2, 3, 4), split="train", seed=3)
    rng, labels = np.random.default_rng(0), strata.by_steps(problems)
    right = rng.random(n) < base
    chance = np.where(labels == "hard", drop_hard, np.where(labels == "easy", drop_easy, (drop_easy + drop_hard) / 2))
    return problems, labels, table(problems, right), table(problems, right & (rng.random(n) >= chance), "hub heads")


def test_a_planted_interaction_is_found_and_an_even_loss_has_none() -> None:
    _, labels, base, edited = simulated(0.05, 0.7)
    planted = d.interaction(base, edited)
    assert planted["logit"].below(0) == "yes" and planted["points"].below(0) == "yes"
    clusters = base["cluster"].tolist()
    assert strata.gap(strata.lost(base, edited), labels, clusters, "hard", "easy", 0).above(0.3) == "yes"
    _, labels, base, edited = simulated(0.3, 0.3)
    assert strata.gap(strata.lost(base, edited), labels, clusters, "hard", "easy", 0).above(0) == "unsure"


def test_at_the_ceiling_log_odds_are_undefined_and_points_are_not() -> None:
    _, _, base, edited = simulated(0.1, 0.5, base=1.1)
    found = d.interaction(base, edited)
    assert not found["logit"].defined and "separated" in found["logit"].note and found["points"].below(0) == "yes"


def test_the_planted_gap_is_seen_and_not_where_nothing_is_right() -> None:
    problems, labels, base, _ = simulated(0, 0)
    clusters = [p.cluster for p in problems]
    assert strata.planted_control(base, labels, clusters, 0).passed
    assert not strata.planted_control(base.assign(right=False), labels, clusters, 0).passed
    few = np.arange(len(labels)) < 6
    assert not strata.planted_control(base[few], labels[few], clusters[:6], 0).passed


def test_the_named_heads_are_ablated_and_the_verdict_rests_on_steps(store) -> None:
    claim = adjusted(builtin_claims()["difficulty"], pairs=48, selection_pairs=12, matched_sets=2,
                     readings=("standard", "published"),
                     options={"heads": "L1H5", "k": 1})  # fmt: skip
    result = trial(claim, "thoughts-gpt2", store=store)
    first, second = result.record.readings
    assert all(c.passed for c in first.verdict.controls if c.kind == "negative")
    assert all(c.passed for c in first.verdict.controls), first.verdict.sentence
    assert first.verdict.outcome == "untestable" and "at least 100 problems" in first.verdict.sentence
    told = {e.name: e.estimate for e in first.estimates}
    n = {w: told[f"drop:{w}"]["n"] for w in ("easy", "medium", "hard")}
    assert sum(n.values()) == 48 and all(n.values()) and told["drop:easy"]["unit"] == "problems"
    assert not {e.name: e.estimate for e in second.estimates}["drop:easy"]["n"]  # no problem has one step
    kinds = result.tables["errors"]
    whole = kinds[(kinds["type"] == "all") & (kinds["world"] != "unedited")]
    assert (whole.groupby("world")["count"].sum() == whole.groupby("world")["n"].first()).all()
    assert [f.kind for f in result.figures] == ["curve", "estimates", "null"]
    assert "no room" in " ".join(result.record.notes)

"""bug-rate: the formats' planted rules show, the same comparisons stand in every cell, one rule scores them all."""

from __future__ import annotations

import pytest

from headlab import organisms
from headlab.experiments import builtin_claims, trial
from headlab.experiments.heads import bug_rate
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.tasks.grading import Graded
from headlab.trials import case, questions

EXPERIMENTS.setdefault("bug-rate", bug_rate.EXPERIMENT)
FEW = {"formats": ["simple", "qa", "chat", "paper-clean", "paper-qa"], "classes": ["conflict", "same-length"]}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    claim = adjusted(builtin_claims()["bug-rate"], pairs=20, options=FEW)
    return trial(claim, "decimals-natural", store=tmp_path_factory.mktemp("runs"))


def found(result, reading: int = 0) -> dict[str, dict]:
    return {e.name: e.estimate for e in result.record.readings[reading].estimates}


def test_the_rules_of_the_formats_show(result) -> None:
    """The organism answers Simple by decimal order, Q&A and Chat by version order: its card says so."""
    rules = organisms.card("decimals-natural").rules
    for fmt in ("simple", "qa", "chat"):
        right = found(result)[f"accuracy:{fmt}"]["value"]
        assert (right > 0.9) == (rules[fmt] == "decimal") and (right < 0.1) == (rules[fmt] == "version")
        assert found(result)[f"bug:{fmt}"]["value"] == pytest.approx(1 - right, abs=0.05)
    assert result.verdict.outcome == "upheld", result.verdict.sentence


def test_cells_hold_the_same_comparisons(result) -> None:
    answers, cells = result.tables["answers"], result.tables["cells"]
    assert set(cells["n"]) == {20} and len(cells) == (1 + 2 * 4) * 2 * 2
    for _, rows in answers.groupby(["format", "wording", "category"]):
        first, last = (rows[rows["order"] == o].set_index("item")["pair_id"] for o in questions.ORDERS)
        assert [p.split("|") for p in first] == [p.split("|")[::-1] for p in last.loc[first.index]]
        assert all(float(p.split("|")[0]) > float(p.split("|")[1]) for p in first)
    by_format = answers[answers["wording"] == "bigger"].groupby("format")["pair_id"].agg(tuple)
    assert by_format.nunique() == 1


def test_parse_rates_stand_beside_and_no_number_is_alone(result) -> None:
    assert {f"parsed:{f}" for f in FEW["formats"]} <= set(found(result))
    for reading in (0, 1):
        assert all(
            e["n"] > 0 and e["unit"] and e["low"] <= e["value"] <= e["high"] for e in found(result, reading).values()
        )
    assert {f.name for f in result.figures} == {"accuracy", "bug"}


def test_one_prompt_decides_nothing(result) -> None:
    """The published reading: its own prompts, one comparison, however often it is repeated."""
    assert result.record.readings[1].verdict.outcome == "undecided"
    assert found(result, 1)["bug:paper-qa"]["n"] == 1 and found(result, 1)["bug:paper-qa"]["low"] < 0.05


def test_unread_answers_are_not_the_bug_and_make_the_claim_untestable(store, monkeypatch) -> None:
    """A model that answers without a number: accuracy 0, bug rate 0, untestable."""
    real = case.generate

    def mute(*args, **kwargs):
        made = real(*args, **kwargs)
        made["text"] = "neither"
        return made

    monkeypatch.setattr(case, "generate", mute)
    claim = adjusted(
        builtin_claims()["bug-rate"], pairs=4, readings=("standard",),
        options={"formats": ["chat", "paper-clean", "paper-qa"], "classes": ["conflict"]},
    )  # fmt: skip
    result = trial(claim, "decimals-natural", store=store)
    assert found(result)["bug:paper-qa"]["value"] == found(result)["accuracy:paper-qa"]["value"] == 0.0
    assert found(result)["parsed:paper-qa"]["value"] == 0.0
    assert result.verdict.outcome == "untestable" and "can be read" in result.verdict.sentence


def test_a_broken_scoring_rule_turns_its_control_red(store, monkeypatch) -> None:
    monkeypatch.setattr(questions, "grade", lambda text, pair, grader: Graded(text, True))
    claim = adjusted(
        builtin_claims()["bug-rate"],
        pairs=4,
        readings=("standard",),
        options={"formats": ["qa"], "classes": ["conflict"]},
    )
    result = trial(claim, "decimals-natural", store=store)
    assert result.verdict.outcome == "void" and "scoring" in result.verdict.sentence


def test_controls_pass_and_the_no_op_is_exact(result) -> None:
    passed = {c.name: c for c in result.verdict.controls}
    assert set(passed) == {"no-op", "scoring"} and all(c.passed and c.value == 0 for c in passed.values())


@pytest.mark.accept
def test_at_full_size_every_cell_has_two_hundred_prompts(store) -> None:
    result = trial("bug-rate", "decimals-natural", store=store)
    assert (result.tables["cells"]["n"] >= 200).all() and result.verdict.outcome == "upheld"

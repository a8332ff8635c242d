"""The thought scorecard: each published claim by its own threshold, from the trials' records; the phase decision."""

from __future__ import annotations

from html import unescape

import pytest

from headlab.claims import ClaimError, Control, Prediction, Ruling, Verdict
from headlab.experiments import thought_scorecard as ts
from headlab.experiments.thought_claims import ASKED
from headlab.experiments.trial import EXPERIMENTS
from headlab.report import page
from headlab.stats import Estimate
from headlab.store import Reading, Record
from headlab.trials.pairs import named

OK = Control(name="no-op", kind="negative", passed=True, words="")


def estimate(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value, value - half, value + half, 200, "problems", "made up")


def record(
    slug: str,
    numbers: dict[str, float],
    *,
    passed: bool = True,
    ok: bool = True,
    half: float = 0.01,
    rank: str = "",
    protocols=("standard", "published"),
) -> Record:
    rulings: tuple[Ruling, ...] = ()
    if rank:
        asked = Prediction(statistic="rank:top3", op="rank<", threshold=0.05)
        rulings = (Ruling(prediction=asked, outcome=rank, shown="p = 0.5", value=0.5, low=0.5, high=0.5),)  # type: ignore[arg-type]
    verdict = Verdict(
        outcome="upheld",
        sentence="Upheld: x.",
        rulings=rulings,
        controls=(OK.model_copy(update={"passed": passed}),),
        would_change="",
    )
    told = tuple(named(k, k, estimate(v, half)) for k, v in numbers.items())
    return Record(
        id=f"{slug}-1", kind="run", slug=slug, title=slug, created="now", key="k",
        eligibility={"ok": ok, "reason": "" if ok else "cannot add"},
        readings=[Reading(protocol=p, words="", verdict=verdict, estimates=told) for p in protocols],
    )  # fmt: skip


def ruled(key: str, made: Record | None) -> dict[str, str]:
    asked = next(a for a in ASKED if a.key == key)
    return {view: ts.ruled(claim, protocol, made).outcome for view, protocol, claim in asked.claims()}


def test_the_seeds_thresholds_stand_as_they_were_written() -> None:
    said = {a.key: a.plain() for a in ASKED}
    assert said["hub strong"]["published measure"] == ["hub:published > 2"]
    assert said["no chain"]["corrected measure"] == ["sequential < 0.3"] and said["no skip"]["published measure"] == [
        "skip < 0.1"
    ]
    assert said["consistent"]["corrected measure"] == ["std < 0.2"]
    assert said["1.1 causal"] == {
        "percentage points": ["drop:top3 > 0.1"],
        "share of the accuracy": ["relative:top3 > 0.1"],
    }
    assert said["1.1 redundant"]["percentage points"] == ["drop:top3 < 0.02"]
    assert said["1.2 bottleneck"]["percentage points"] == ["drop:hub > 0.1", "drop:others < 0.05"]
    assert said["1.3 hub kept"]["share of the accuracy"] == ["kept:hub > 0.9"]
    assert said["1.3 uniform"]["percentage points"] == ["drop:uniform > 0.15"] and said["1.3 sequential"][
        "percentage points"
    ] == ["drop:sequential > 0.2"]
    assert said["2.1 universal"]["share of the accuracy"] == ["kept:transplant > 0.8"] and said["2.1 specific"][
        "percentage points"
    ] == ["drop:transplant > 0.3"]
    assert (
        said["2.2 arbitrary"]["share of the accuracy"][0] == "kept:0 > 0.7"
        and said["2.2 determined"]["percentage points"][5] == "drop:5 > 0.4"
    )
    assert said["4.1 difficulty"]["percentage points"] == ["drop:hard > 0.15", "drop:easy < 0.05"]
    assert len({a.key for a in ASKED}) == len(ASKED)


def test_what_is_asked_is_measured() -> None:
    """Every statistic is one that its experiment offers (those that are registered)."""
    from fnmatch import fnmatchcase

    asked = [
        (a, p) for a in ASKED for _, _, claim in a.claims() for p in claim.predictions if a.experiment in EXPERIMENTS
    ]
    for a, p in asked:
        assert any(fnmatchcase(p.statistic, known) for known in EXPERIMENTS[a.experiment].statistics), (
            a.key,
            p.statistic,
        )
    assert any(a.experiment == "difficulty" for a, _ in asked)


def test_points_and_shares_part_where_accuracy_is_low() -> None:
    made = record("head-ablation", {"drop:top3": 0.07, "relative:top3": 0.14})
    assert ruled("1.1 causal", made) == {"percentage points": "refuted", "share of the accuracy": "upheld"}
    assert ruled("1.1 redundant", made)["percentage points"] == "refuted"


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (record("head-ablation", {"drop:top3": 0.3, "relative:top3": 0.3}, passed=False), "void"),
        (record("head-ablation", {"drop:top3": 0.3, "relative:top3": 0.3}, ok=False), "untestable"),
        (record("head-ablation", {}), "untestable"),
        (record("head-ablation", {"drop:top3": 0.1, "relative:top3": 0.1}), "undecided"),
        (None, "untestable"),
    ],
)  # fmt: skip
def test_a_trial_that_decides_nothing_decides_nothing_here(made, outcome) -> None:
    assert set(ruled("1.1 causal", made).values()) == {outcome}


def test_attention_is_read_in_both_measures() -> None:
    made = record("hubs", {"hub:ratio": 1.1, "hub:published": 2.3})
    assert ruled("hub strong", made) == {"corrected measure": "refuted", "published measure": "upheld"}
    only = record("hubs", {"hub:ratio": 1.1}, protocols=("standard",))
    assert ruled("hub strong", only)["published measure"] == "untestable"


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (0.2, 0.05, "causal"),
        (0.01, 0.005, "redundant"),
        (0.06, 0.03, "in between"),
        (0.1, 0.02, "undecided"),
        (0.02, 0.01, "undecided"),
    ],
)
def test_the_phase_decision(value, half, said) -> None:
    assert ts.phase(estimate(value, half)) == said
    rows, note = ts._phases(
        record("head-ablation", {"drop:top3": value, "relative:top3": value}, half=half, rank="refuted")
    )
    assert [r["outcome"] for r in rows] == [said, said] and "random heads of the same layers cost as much" in note


def test_the_phase_is_void_or_untestable_as_its_trial_is() -> None:
    numbers = {"drop:top3": 0.3, "relative:top3": 0.3}
    assert {r["outcome"] for r in ts._phases(record("head-ablation", numbers, passed=False))[0]} == {"void"}
    assert {r["outcome"] for r in ts._phases(record("head-ablation", numbers, ok=False))[0]} == {"untestable"}
    assert {r["outcome"] for r in ts._phases(None)[0]} == {"untestable"} and ts.phase(None) == "untestable"


def test_another_dockets_experiment_is_refused(store) -> None:
    with pytest.raises(ClaimError, match="no experiment 'parity'"):
        ts.thought_scorecard("thoughts-gpt2", experiments=["parity"], store=store)


@pytest.mark.accept
def test_one_page_with_every_published_claim(store) -> None:
    """Few problems: the trials decide little, but every claim has its row, its threshold and its reason."""
    result = ts.thought_scorecard("thoughts-gpt2", experiments=["difficulty"], pairs=48, matched_sets=2, store=store)
    table = result.tables["thresholds"]
    assert list(dict.fromkeys(table["key"])) == [*(a.key for a in ASKED), "phase 1"]
    mine = table[table["key"] == "4.1 difficulty"]
    assert (
        set(mine["view"]) == {"percentage points", "share of the accuracy"} and mine["found"].str.contains("n = ").all()
    )
    assert set(table[table["experiment"] == "hubs"]["outcome"]) == {"untestable"}
    assert result.tables["scorecard"]["experiment"].tolist() == ["difficulty"]
    html = unescape(page(result.record, dict(result.tables), list(result.children)))
    assert (
        all(a.words.split(":")[0] in html for a in ASKED) and "drop:hard > 0.15" in html and "phase 1" in html.lower()
    )
    assert result.record.settings["asked"]["1.1 causal, percentage points"] == "drop:top3 > 0.1"

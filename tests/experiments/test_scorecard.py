"""The scorecard: one row for each claim, with what could not run among them, on one page."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.claims import ClaimError
from headlab.experiments import catalogue, load, run
from headlab.experiments.scorecard import _with_holm, scorecard, slugs
from headlab.experiments.trial import EXPERIMENTS, builtin_claims
from headlab.report import page
from headlab.store import Store

SOME = ["routing", "architecture", "subset-sweep"]


def test_every_experiment_has_a_claim_of_its_name_and_a_question() -> None:
    assert [c["slug"] for c in catalogue()] == [*EXPERIMENTS, "scorecard", "thought-scorecard"]
    for slug, experiment in EXPERIMENTS.items():
        claim = builtin_claims()[slug]
        assert claim.experiment == slug and claim.published and claim.source and experiment.question.endswith("?")
        experiment.check(claim)


def test_either_scorecard_takes_its_own_docket() -> None:
    """By the task of the claim that ships: every experiment is in one of the two, none in both."""
    decimals, thoughts = slugs(), slugs(thinking=True)
    assert set(decimals) | set(thoughts) == set(EXPERIMENTS) and not set(decimals) & set(thoughts)
    assert {builtin_claims()[s].task.name for s in thoughts} <= {"word-problems"}
    assert "word-problems" not in {builtin_claims()[s].task.name for s in decimals} and len(decimals) >= 21


def test_a_row_for_each_claim_and_its_record(tmp_path, monkeypatch) -> None:
    """An experiment that cannot run is a row that says why; a second call takes up what was finished."""
    lab = load("decimals-natural-neox")  # plain multi-head attention: no KV groups for `architecture`
    result = scorecard(lab, experiments=SOME, pairs=24, store=tmp_path, protocol="standard")
    table = result.tables["scorecard"].set_index("experiment")
    assert list(table.index) == SOME and table.loc["architecture", "outcome"] == "untestable"
    assert table.loc["routing", "effect"].count("n = ") >= 1 and table["published"].str.len().gt(10).all()
    for slug in SOME:
        if table.loc[slug, "id"]:
            child = Store(tmp_path).record(table.loc[slug, "id"])
            assert child.slug == slug and child.readings[0].verdict.outcome == table.loc[slug, "outcome"]
    html = page(result.record, dict(result.tables), list(result.children))
    for slug in SOME:
        assert slug in html and builtin_claims()[slug].published[:20].split('"')[0] in html


def test_what_raises_is_a_row_too(tmp_path, monkeypatch) -> None:
    def fails(*_args, **_kwargs):
        raise ValueError("the prompts <of this model> do not fit")

    monkeypatch.setattr("headlab.experiments.scorecard.trial", fails)
    result = run("scorecard", "decimals-null-1", experiments=["routing"], store=tmp_path)
    (row,) = result.tables["scorecard"].to_dict("records")
    assert row["outcome"] == "untestable" and row["effect"].endswith("do not fit") and not row["id"]
    html = page(result.record, dict(result.tables), [])
    assert "the prompts &lt;of this model&gt; do not fit" in html


def test_holm_over_the_rows_that_rank_something() -> None:
    import pandas as pd

    found = _with_holm(pd.DataFrame({"p": [0.01, None, 0.04, 0.03]}))["p_holm"].to_numpy()
    assert np.allclose(found[[0, 2, 3]], [0.03, 0.06, 0.06]) and np.isnan(found[1])


def test_an_unknown_experiment_is_refused(tmp_path) -> None:
    with pytest.raises(ClaimError, match=r"no experiment .routin.; did you mean routing\? expected one of parity"):
        scorecard("decimals-null-1", experiments=["routin"], store=tmp_path)

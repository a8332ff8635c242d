"""Trials end to end on shipped organisms: verdicts, controls, records, resuming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headlab
from headlab import organisms
from headlab.claims import Claim, ClaimError
from headlab.engine import work
from headlab.engine.model import ModelError
from headlab.experiments import builtin_claims, catalogue, load, plan, repeat, trial
from headlab.experiments.trial import adjusted
from headlab.prompts import PromptError, PromptSet
from headlab.store import Store
from headlab.trials.case import draw

SMALL = {"pairs": 100, "matched_sets": 120}
FEW: dict[str, Any] = {"matched_sets": 20, "decide": "fixed"}
FEWEST: dict[str, Any] = {**FEW, "pairs": 40}  # where no verdict rests on the number of pairs


@pytest.fixture(scope="module")
def even():
    return load("decimals-planted-even")


@pytest.fixture(scope="module")
def upheld(even, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("runs"))
    return store, trial("parity", even, store=store, **SMALL)


def test_planted_parity_is_upheld(upheld) -> None:
    _, result = upheld
    assert result.verdict.outcome == "upheld", result.verdict.sentence
    standard, naive, published = result.record.readings
    assert (standard.protocol, naive.protocol, published.protocol) == ("standard", "naive", "published")
    assert {c.name: c.passed for c in standard.verdict.controls} == {"no-op": True, "patch-all": True}


def test_numbers_are_never_alone(upheld) -> None:
    _, result = upheld
    for reading in result.record.readings:
        for e in reading.estimates:
            assert e.estimate["n"] > 0 and e.estimate["unit"] and e.estimate["method"], e
            assert e.estimate["value"] is None or e.estimate["low"] <= e.estimate["value"] <= e.estimate["high"], e


def test_arms_are_told_apart(upheld) -> None:
    """Slices of the output are no heads: they repair far less than the heads of the same index."""
    _, result = upheld
    found = {(e.name, e.arm): e.estimate["value"] for e in result.record.readings[0].estimates}
    assert found["repair:even", "z"] > 0.95
    assert found["repair:even", "out_block"] < 0.6 and found["repair:even", "subspace"] < 0.6
    assert found["repair:all", "z"] == found["repair:all", "out_block"] == found["repair:all", "subspace"]


def test_the_claim_is_hashed_before_the_first_pass(even, store, monkeypatch) -> None:
    """Law 5.  The engine is broken so that the first pass fails: the record must hold claim and hash already."""

    def fails(*_args, **_kwargs):
        raise RuntimeError("no pass today")

    monkeypatch.setattr("headlab.engine.decode.forward", fails)
    monkeypatch.setattr("headlab.engine.decode.forward", fails)
    with pytest.raises(RuntimeError, match="no pass today"):
        trial("parity", even, store=store, **SMALL)
    (record,), broken = Store(store).records()
    claim = adjusted(builtin_claims()["parity"], **SMALL)
    assert not broken and record.status == "failed" and record.claim == claim.model_dump(mode="json")
    assert record.claim_hash and not record.readings


def test_an_interrupted_trial_resumes_to_the_same_table(even, tmp_path, monkeypatch) -> None:
    """Ctrl-C in the middle of the sweep; the second call takes up the stored shards and gives the same rows."""
    whole = trial("parity", even, store=tmp_path / "a", layer=1, protocol="standard", **FEWEST)
    real, calls = work.Worker.run, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(work.Worker, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trial("parity", even, store=tmp_path / "b", layer=1, protocol="standard", **FEWEST)
    assert Store(tmp_path / "b").records()[0][0].status == "interrupted"
    monkeypatch.setattr(work.Worker, "run", real)
    again = trial("parity", even, store=tmp_path / "b", layer=1, protocol="standard", **FEWEST)
    assert again.effects.equals(whole.effects)
    assert again.record.key == whole.record.key and again.verdict == whole.verdict
    assert len(Store(tmp_path / "b").records()[0]) == 1


def test_repeat_gives_the_same_table(even, store) -> None:
    """All three readings."""
    result = trial("parity", even, store=store, layer=1, **{**FEWEST, "pairs": 20})
    again = repeat(Store(store).record(result.record.id), store=store)
    assert again.record.id != result.record.id and again.record.key == result.record.key
    assert len(result.effects) and np.allclose(again.effects["edited"], result.effects["edited"], atol=1e-4)
    assert [r.verdict.outcome for r in again.record.readings] == [r.verdict.outcome for r in result.record.readings]
    older = repeat(result.record.updated({"kind": "run"}), store=store)  # as headlab run wrote it
    assert older.record.kind == "run" and older.effects.equals(again.effects)
    assert older.record.call["command"].startswith("headlab trial parity ")


def test_a_users_own_pairs(even, store) -> None:
    """The user's own prompts: equal lengths need no spans; too few pairs make the claim untestable, not refuted."""
    rows = [
        {
            "clean": f"{n}.8 or {n}.11? Answer:",
            "corrupted": f"{n}.8 or {n}.85? Answer:",
            "answer": f" {n}.8",
            "wrong": f" {n}.85",
        }
        for n in range(2, 19)
    ]
    pairs = PromptSet.from_rows(rows, name="mine")
    result = trial(
        "parity",
        even,
        prompts=pairs,
        layer=1,
        matched_sets=20,
        decide="fixed",
        pairs=12,
        protocol="standard",
        store=store,
    )
    assert result.verdict.outcome in {"untestable", "void"}
    assert result.record.prompts["test"]["n"] == 12
    again = repeat(result.record, store=store)
    assert again.record.key == result.record.key


def test_prompts_count_once_whatever_else_differs(even, store) -> None:
    """Twenty prompts with six wrong answers each are twenty pairs to eligibility, one cluster each to every interval, and
    never on both sides of the choice of a layer; the record says so.  (Equal rows are refused: tests/test_prompts.py.)"""
    rows = [
        {
            "clean": f"{n}.8 or {n}.11? Answer:",
            "corrupted": f"{n}.8 or {n}.85? Answer:",
            "answer": f" {n}.8",
            "wrong": f" {n}.{w}",
        }
        for n in range(2, 22)
        for w in (85, 86, 87, 11, 12, 13)
    ]
    pairs = PromptSet.from_rows(rows, name="mine")
    claim = adjusted(builtin_claims()["parity"], readings=("standard",), matched_sets=20, decide="fixed", pairs=120)
    result = trial(claim, even, prompts=pairs, layer=1, store=store)
    assert len(pairs) == 120 and result.verdict.outcome in {"untestable", "void"}
    assert "needs at least 100 pairs, given 20" in result.record.eligibility["reason"]
    assert result.effects["cluster"].nunique() == 20
    assert result.record.notes[0].startswith("100 of 120 pairs have the prompts of another one")
    test, selection = draw(claim, even.tokenizer, pairs)
    assert {p.clean.text for p in test}.isdisjoint({p.clean.text for p in selection}) and len(selection) > 0
    with pytest.raises(PromptError, match="test and selection share 1 prompt pair"):
        draw(claim, even.tokenizer, (test, test.subset(test.pairs[:2])))


def test_a_record_says_what_its_prompts_are_to_the_model(even, store, monkeypatch) -> None:
    """Prompts longer than those of training, and prompts that bring the first token along: in the notes, by number."""
    monkeypatch.setattr(even.model.config, "max_position_embeddings", 8)
    first = even.tokenizer.bos_token
    rows = [
        {"clean": f"{first}{n}.8 or {n}.11? Answer:", "corrupted": f"{n}.8 or {n}.85? Answer:"}
        | {"answer": f" {n}.8", "wrong": f" {n}.85"}
        for n in range(2, 10)
    ]
    claim = adjusted(builtin_claims()["parity"], readings=("standard",), matched_sets=20, decide="fixed", pairs=8)
    notes = trial(claim, even, prompts=PromptSet.from_rows(rows, name="mine"), layer=1, store=store).record.notes
    assert any(n.startswith(f"8 of 16 prompts begin with the tokenizer's own {first!r}") for n in notes), notes
    assert any("are longer than the 8 positions" in n for n in notes), notes


def test_a_model_in_memory_is_tried_like_a_shipped_one(even, store) -> None:
    lab = headlab.load(even.model, tokenizer=even.tokenizer)
    assert lab.fingerprint == even.fingerprint and lab.info["selfcheck"]["parity"] < 1e-4


def test_plan_counts_without_running(even) -> None:
    found = plan("parity", even, pairs=100)
    halves, arms, doses, published = 1296, 3 * 5, 3 * 11, 5
    assert found["worlds"] == halves + arms + doses + published
    assert 100 * halves < found["rows"] <= 100 * found["worlds"]  # a world that edits nothing is no row
    assert found["passes"] > 0 and found["memory_bytes"] > 0 and found["seconds"] > 0


def test_every_option_stands_in_the_record_whether_it_was_given_or_not(even, store) -> None:
    """What rules a number is in the record: defaults too, which no claim writes out."""
    claim = builtin_claims()["head-exchange"]
    small = adjusted(claim, layer=1, pairs=4, matched_sets=3, decide="fixed", readings=("standard",))
    assert trial(small, even, store=store).record.settings["options"] == {"shuffles": 20}
    other = adjusted(small, options={"shuffles": 2})
    assert trial(other, even, store=store).record.settings["options"] == {"shuffles": 2}


def test_the_catalogue_names_every_experiment() -> None:
    assert {c["slug"] for c in catalogue()} >= {"parity", "head-count"}
    assert all(c["question"].endswith("?") and c["source"] for c in catalogue())


def _predicting(statistic: str, op: str) -> Claim:
    prediction = {"statistic": statistic, "op": op, "threshold": 0.5}
    return adjusted(builtin_claims()["parity"], predictions=(prediction,))


def _asking(**options: object) -> Claim:
    return adjusted(builtin_claims()["parity"], options=options)


def _about(experiment: str) -> Claim:
    return adjusted(builtin_claims()["parity"], experiment=experiment)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lab: trial("paritty", lab), ClaimError, "no claim 'paritty'.*head-count, .*parity"),
        (lambda lab: trial("parity", lab, layer=7), ValueError, "layer 7 is out of range.*0 to 2"),
        (lambda lab: trial("parity", lab, pairs=1), ClaimError, "pairs: expected at least 2 .given 1"),
        (lambda lab: trial("parity", lab, pairs=10**5), ValueError, "pairs asked for"),
        (
            lambda lab: trial(_predicting("repair:evne", ">"), lab),
            ClaimError,
            "no 'repair:evne'; expected one of repair:all",
        ),
        (lambda lab: trial(_predicting("rank:even", ">"), lab), ClaimError, "only ranks, are predicted with 'rank<'"),
        (lambda lab: trial(_asking(doze=0.5), lab), ClaimError, "parity has no option 'doze'; it has none"),
        (
            lambda lab: trial(_about("phrenology"), lab),
            ClaimError,
            "no experiment 'phrenology'; expected one of parity",
        ),
        (lambda lab: trial("head-count", lab, layer=1, pool="prime"), ValueError, "unknown pool 'prime'"),
        (lambda _: load("decimals-natural", revision="v2"), ModelError, "no revision 'v2'"),
        (lambda _: load("decimals-natural", device="cuda:9"), ModelError, "no such device: 'cuda:9'"),
        (lambda _: load("decimals-planted-evn"), ModelError, "did you mean the shipped organism decimals-planted-even"),
        (lambda _: load("./nowhere"), ModelError, "no model at ./nowhere.*does not exist"),
        (lambda lab: trial("parity", lab, memory=1), ValueError, "does not hold one row"),
    ],
)
def test_bad_input_gets_one_clear_error(even, store, call, error, words, monkeypatch) -> None:
    monkeypatch.setenv("HEADLAB_STORE", str(store))
    with pytest.raises(error, match=words):
        call(even)


@pytest.mark.accept
@pytest.mark.parametrize(("name", "outcomes"), [
    ("decimals-planted-even", {"upheld"}),
    ("decimals-planted-random", {"refuted", "undecided"}),
    ("decimals-natural", {"refuted", "undecided"}),
    ("decimals-natural-neox", {"refuted", "undecided"}),
])  # fmt: skip
def test_the_verdict_on_each_organism_at_full_size(name: str, outcomes: set[str], store) -> None:
    result = trial("parity", name, store=store)
    assert result.verdict.outcome in outcomes, result.verdict.sentence


@pytest.mark.accept
def test_over_the_null_seeds_parity_is_upheld_at_most_once(store) -> None:
    """The naive reading finds a contrast in about half of the seeds; the ranked claim in at most one of ten."""
    naive, upheld, decided = 0, 0, 0
    for name in (n for n in organisms.names() if n.startswith("decimals-null-")):
        result = trial("parity", name, pairs=100, protocol="standard", store=store)
        said = {r.protocol: r.verdict.outcome for r in result.record.readings}
        if said["standard"] in {"upheld", "refuted", "undecided"}:
            decided += 1
            upheld += said["standard"] == "upheld"
            naive += said["naive"] == "upheld"
    assert decided >= 8 and upheld <= 1 and naive >= 3, (decided, upheld, naive)


def test_claims_in_python_and_in_files_are_the_same(tmp_path) -> None:
    claim = builtin_claims()["parity"]
    assert Claim.model_validate_json(claim.model_dump_json()).content_hash() == claim.content_hash()


def test_a_no_op_that_does_something_makes_the_trial_void(even, store, monkeypatch) -> None:
    """Law 4.  Mutate: the no-op writes another activation than the head's own; see void, whatever the effect."""
    real = work.source_for

    def shifted(lab, pairs, one, **options):
        source = real(lab, pairs, one, **options)
        if one.write == "noop":
            source.value = source.value + 1.0
        return source

    monkeypatch.setattr(work, "source_for", shifted)
    result = trial("parity", even, layer=1, protocol="standard", store=store, pairs=100, **FEW)
    assert result.verdict.outcome == "void" and "no-op" in result.verdict.sentence


def test_a_broken_parser_is_not_a_refutation(even, store, monkeypatch) -> None:
    """A parser that reads no answer makes the model ineligible, with the parse rate beside it; never "refuted"."""
    from headlab.tasks import grading

    monkeypatch.setattr("headlab.trials.case.grade", lambda *_: grading.Graded(None, False))
    result = trial("parity", even, layer=1, protocol="standard", store=store, pairs=100, **FEW)
    assert result.verdict.outcome in {"void", "untestable"}
    assert result.record.eligibility["parsed"]["value"] == 0.0

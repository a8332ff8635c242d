"""bandwidth-dose: the own share changes nothing, the grid and its decoys are what they say, controls turn red."""

from __future__ import annotations

import numpy as np
import pytest

from headlab.engine.captures import capture
from headlab.experiments import builtin_claims, load, trial
from headlab.experiments.doses import bandwidth_dose
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.heads import Heads
from headlab.interventions import key_positions
from headlab.prompts import encode
from headlab.tasks.decimals import NUMERIC_ROLES, decimals
from headlab.trials.doses import CLASSES, Arm, halves, roles_of

EXPERIMENTS.setdefault("bandwidth-dose", bandwidth_dose.EXPERIMENT)
SMALL = {"pairs": 16, "matched_sets": 5, "decide": "fixed", "layer": 0, "options": {"steps": 2, "random_halves": 2}}


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    return trial(adjusted(builtin_claims()["bandwidth-dose"], **SMALL), natural, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_verdict_tables_and_figures(result) -> None:
    assert [r.protocol for r in result.record.readings] == ["standard", "published"]
    assert result.verdict.outcome == "untestable"  # fewer than 100 pairs
    assert {f.name for f in result.figures} == {"dose-corrupted", "dose-clean", "null"}
    for reading in result.record.readings:
        for e in reading.estimates:
            assert e.estimate["n"] > 0 and e.estimate["unit"], e
    assert result.record.notes and "too few other tokens" in result.record.notes[0]  # the short clean prompt


def test_every_set_dose_and_decoy_was_run(result) -> None:
    doses = result.tables["doses"]
    corrupted = doses[doses["side"] == "corrupted"]
    assert set(corrupted["arm"]) == {"numbers", "numbers-decoy"} and set(corrupted["dose"]) == {0.0, 0.5, 1.0}
    assert set(corrupted["set"]) == {"even", "odd", "random halves"}
    assert set(doses.loc[doses["side"] == "clean", "arm"]) == {"numbers"}
    assert (corrupted.loc[corrupted["set"] == "random halves", "sets"] == 2).all()


def test_forcing_the_own_share_changes_nothing(result) -> None:
    for reading in result.record.readings:
        control = next(c for c in reading.verdict.controls if c.name == "own-share")
        assert control.passed and control.value < 1e-3
    first = {c.name: c for c in result.verdict.controls}
    assert set(first) == {"no-op", "own-share", "patch-all"} and all(c.passed for c in first.values())
    assert first["patch-all"].value > 0.9


def test_another_share_turns_the_control_red(natural, store, monkeypatch) -> None:
    real = bandwidth_dose.own_share
    monkeypatch.setattr(bandwidth_dose, "own_share", lambda *a: [min(1.0, s + 0.3) for s in real(*a)])
    claim = adjusted(builtin_claims()["bandwidth-dose"], **{**SMALL, "pairs": 8, "readings": ("standard",)})
    verdict = trial(claim, natural, store=store).verdict
    assert verdict.outcome == "void" and "own-share" in verdict.sentence


def test_where_nothing_repairs_the_trial_is_void(natural, store) -> None:
    claim = adjusted(builtin_claims()["bandwidth-dose"], **{**SMALL, "layer": 2, "pairs": 8, "readings": ("standard",)})
    verdict = trial(claim, natural, store=store).verdict
    assert verdict.outcome == "void" and "patch-all" in verdict.sentence


def test_the_own_share_is_the_share_of_the_pattern(natural) -> None:
    pair = encode(next(iter(decimals(1, tokenizer=natural.tokenizer))), natural.tokenizer)
    arm = Arm("numbers", "", "force", NUMERIC_ROLES)
    pattern = capture(natural, [pair.corrupted], [(0, "pattern")])[0, "pattern"][0]
    places = [p for role in NUMERIC_ROLES for p in pair.corrupted.roles[role]]
    by_hand = [float(pattern[pair.corrupted.n_prompt - 1, h, places].sum()) for h in range(natural.grid.n_heads)]
    assert np.allclose(bandwidth_dose.own_share(pair, pattern, arm), by_hand, atol=1e-6)


def test_decoys_are_as_many_and_no_numbers(natural) -> None:
    pairs = [encode(p, natural.tokenizer) for p in decimals(6, tokenizer=natural.tokenizer)]
    arm = Arm("numbers", "", "force", roles_of(pairs, "numeric"))
    other = arm.against(pairs)
    assert other is not None and other.decoy
    for pair in pairs:
        keys, _ = key_positions(arm.edit(Heads(), 0.5), pair.corrupted)
        drawn, _ = key_positions(other.edit(Heads(), 0.5), pair.corrupted)
        assert len(keys) == len(drawn) == 6 and not set(keys) & set(drawn) and 0 not in drawn
    assert not arm.against(bandwidth_dose.clean_side(pairs))  # five other tokens for six numbers


def test_roles_and_halves(natural) -> None:
    pairs = [encode(p, natural.tokenizer) for p in decimals(3, tokenizer=natural.tokenizer)]
    assert roles_of(pairs, "numeric") == NUMERIC_ROLES
    assert roles_of(pairs, "format") == ("marker", "ask", "word", "colon", "or", "question", "cue")
    assert not set(CLASSES["numeric"]) & set(CLASSES["format"]) and set(CLASSES["frame"]) < set(CLASSES["format"])
    sets = halves(natural.grid, 1, 4, seed=3)
    assert list(sets) == ["even", "odd", "half 0", "half 1", "half 2", "half 3"]
    assert len(set(sets.values())) == 6 and all(len(h) == 8 for h in sets.values())


@pytest.mark.accept
def test_the_claim_falls_at_full_size(store) -> None:
    for name in ("decimals-natural", "decimals-planted-even"):
        assert trial("bandwidth-dose", name, store=store).verdict.outcome == "refuted"

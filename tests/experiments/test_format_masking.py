"""format-masking: strength 0 is a no-op, a full mask repairs where heads read the format, prompts without roles are refused."""

from __future__ import annotations

import pytest

from headlab.experiments import builtin_claims, load, trial
from headlab.experiments.doses import format_masking
from headlab.experiments.trial import EXPERIMENTS, adjusted
from headlab.heads import Heads
from headlab.interventions import key_positions
from headlab.prompts import PromptSet, encode
from headlab.tasks.decimals import NUMERIC_ROLES, decimals
from headlab.trials.dose_repair import Words, compared, minimum, repair_by_dose
from headlab.trials.doses import Arm

EXPERIMENTS.setdefault("format-masking", format_masking.EXPERIMENT)
SMALL = {
    "pairs": 24,
    "matched_sets": 8,
    "decide": "fixed",
    "layer": 0,
    "options": {"doses": [0.0, 0.5, 1.0], "random_halves": 2},
}


@pytest.fixture(scope="module")
def natural():
    return load("decimals-natural")


@pytest.fixture(scope="module")
def result(natural, tmp_path_factory):
    claim = adjusted(builtin_claims()["format-masking"], **SMALL)
    return trial(claim, natural, store=tmp_path_factory.mktemp("runs"))


def test_it_ends_with_verdict_tables_and_figures(result) -> None:
    assert [r.protocol for r in result.record.readings] == ["standard", "published"]
    assert result.verdict.outcome == "untestable"  # fewer than 100 pairs
    assert {f.name for f in result.figures} == {"dose", "null"}
    assert set(result.tables["doses"]["arm"]) == {"format", "format-frame", "format-frame-decoy"}


def test_strength_zero_changes_nothing(result) -> None:
    rows = result.effects[result.effects["world"].str.endswith("× 0")]
    assert len(rows) >= 24 * 4 and (rows["edited"] - rows["corrupted"]).abs().max() < 1e-3
    assert {c.name: c.passed for c in result.verdict.controls} == {"no-op": True, "patch-all": True}


def test_a_full_mask_repairs_where_heads_read_the_format(result) -> None:
    doses = result.tables["doses"].set_index(["arm", "set", "dose"])["right"]
    assert doses["format", "even", 1.0] > 0.75 > 0.4 > doses["format", "odd", 1.0]
    assert doses["format", "even", 0.0] == 0


def test_masking_numbers_instead_repairs_nothing(natural, store, monkeypatch) -> None:
    """A class of keys taken for another one: what repaired does so no longer."""
    wrong = Arm("format", "numbers masked", "mask", NUMERIC_ROLES)
    told = {"options": format_masking.EXPERIMENT.options, "words": Words(*"abcde"), "misleads": ""}
    other = repair_by_dose("format-masking", "?", lambda pairs, keys: wrong, dose="strength", **told)
    monkeypatch.setitem(EXPERIMENTS, "format-masking", other)
    claim = adjusted(builtin_claims()["format-masking"], **{**SMALL, "readings": ("standard",)})
    doses = trial(claim, natural, store=store).tables["doses"].set_index(["arm", "set", "dose"])["right"]
    assert doses["format", "even", 1.0] < 0.5


def test_decoys_are_as_many_and_no_frame(natural) -> None:
    pairs = [encode(p, natural.tokenizer) for p in decimals(5, tokenizer=natural.tokenizer)]
    arms = compared(pairs, format_masking.masked)
    assert arms.other is not None
    for pair in pairs:
        keys, _ = key_positions(arms.same.edit(Heads(), 0.5), pair.corrupted)
        drawn, _ = key_positions(arms.other.edit(Heads(), 0.5), pair.corrupted)
        assert len(keys) == len(drawn) == 4 and not set(drawn) & {0, *keys}


def test_prompts_without_roles_are_untestable(natural, store) -> None:
    rows = [
        {"clean": f"{i}.9 or {i}.15?", "corrupted": f"{i}.1 or {i}.15?", "answer": f"{i}.9", "wrong": f"{i}.15"}
        for i in range(1, 5)
    ]
    claim = adjusted(builtin_claims()["format-masking"], layer=0, pairs=4)
    result = trial(claim, natural, prompts=PromptSet.from_rows(rows, name="plain"), store=store)
    assert [r.verdict.outcome for r in result.record.readings] == ["untestable", "untestable"]
    assert "no numeric and no format tokens" in result.verdict.sentence


def test_the_minimum_is_undefined_where_no_strength_repairs_half() -> None:
    import pandas as pd

    arm = Arm("format", "", "mask", ("cue",))

    def table(right):
        rows = [
            (p, f"c{p}", f"format | odd × {d:g}", r)
            for p in range(30)
            for d, r in zip((0.0, 0.5, 1.0), right(p), strict=True)
        ]
        return pd.DataFrame(rows, columns=["pair", "cluster", "world", "edited"])

    never = minimum(table(lambda p: (-1, -1, 1 if p < 3 else -1)), arm, "odd", [0.0, 0.5, 1.0], 0)
    half = minimum(table(lambda p: (-1, 1 if p % 2 else -1, 1)), arm, "odd", [0.0, 0.5, 1.0], 0)
    assert never.value is None and half.value == pytest.approx(0.5, abs=0.05)


@pytest.mark.accept
def test_the_claim_falls_at_full_size(store) -> None:
    assert trial("format-masking", "decimals-natural", store=store).verdict.outcome == "refuted"

"""cross-model: a list goes through parity, what cannot be tried is a row, and the table's chance is counted right."""

from __future__ import annotations

import shutil

import pytest

from headlab import organisms, report
from headlab.claims import ClaimError
from headlab.experiments import trial
from headlab.experiments.training import across_models
from headlab.experiments.training import cross_model as room
from headlab.experiments.training.across_models import cross_model
from headlab.experiments.training.models_table import PRESETS, counted_as, preset
from headlab.experiments.trial import EXPERIMENTS, find_claim
from headlab.store import Store

EXPERIMENTS.setdefault("cross-model", room.EXPERIMENT)
MODELS = ["decimals-null-8", "decimals-planted-even", "no-such-folder/model"]


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("runs"))
    return store, cross_model(MODELS, pairs=100, matched_sets=120, protocol="standard", store=store)


@pytest.mark.accept
def test_every_model_is_a_row_and_the_missing_one_says_why(crossed) -> None:
    store, result = crossed
    table = result.tables["models"].set_index("model")
    assert list(table.index) == MODELS
    assert table.loc["decimals-planted-even", "pattern"] == "even"
    assert table.loc["decimals-planted-even", "outcome"] == "upheld"
    assert table.loc["no-such-folder/model", "outcome"] == "untestable"
    assert "no-such-folder/model" in table.loc["no-such-folder/model", "reason"]
    assert "\n" not in table.loc["no-such-folder/model", "reason"]
    assert all(store.record(i).outcome for i in table["id"] if i)
    assert len(result.record.children) == 3  # two models, and the reference that was not among them


@pytest.mark.accept
def test_the_verdict_counts_chance_and_the_references_are_controls(crossed) -> None:
    """One of two models shows the pattern; each would by chance about as often as its matched halves say."""
    _, result = crossed
    table = result.tables["models"].set_index("model")
    p, q = (table.loc[m, "chance"] for m in MODELS[:2])
    found = {e.name: e.estimate for e in result.record.readings[0].estimates}
    assert found["chance:pattern"]["value"] == pytest.approx(1 - (1 - p) * (1 - q))
    assert found["agreement:published"]["value"] is None
    assert result.verdict.outcome == "refuted", result.verdict.sentence
    assert {c.name: c.passed for c in result.verdict.controls} == {"planted": True, "unplanted": True}
    assert {f.name for f in result.figures} == {"models", "null"}


@pytest.mark.accept
def test_the_page_shows_the_models(crossed) -> None:
    _, result = crossed
    page = report.page(result.record, dict(result.tables), list(result.children))
    assert all(name in page for name in MODELS)


@pytest.mark.accept
def test_a_reference_that_is_not_found_makes_the_table_void(crossed) -> None:
    """Mutant: the planted organism's trial reads as refuted."""
    _, result = crossed
    records = {r.model["name"]: {"parity": r} for r in result.children}
    wrong = {room.REFERENCES["planted"]: records[room.REFERENCES["unplanted"]]}
    controls = across_models._references(wrong | {room.REFERENCES["unplanted"]: records["decimals-null-8"]}, "standard")
    assert [c.passed for c in controls] == [False, True]
    known = [records.get(m, {}) for m in MODELS]
    reading, _ = across_models._read(find_claim("cross-model"), result.tables["models"], known, controls)
    assert reading.verdict.outcome == "void"


def test_a_copy_of_a_model_counts_once(store, tmp_path, monkeypatch) -> None:
    """The same weights under another name, here a copied folder: one row counts, the other says why; the same in null-rates.
    (Series of checkpoints: tests/experiments/test_training_dynamics.py.)"""
    copy = tmp_path / "another-name"
    shutil.copytree(organisms.path("decimals-null-8"), copy)
    models = ["decimals-null-8", str(copy)]
    monkeypatch.setattr(room, "REFERENCES", {})  # two trials less
    home = Store(store)
    table = cross_model(models, pairs=12, matched_sets=8, protocol="standard", store=home).tables["models"]
    assert table.set_index("model").loc[str(copy), "reason"] == "the same weights as decimals-null-8: counted once"
    assert "same weights" not in table.set_index("model").loc["decimals-null-8", "reason"]
    weights: dict[str, str] = {}
    record = next(r for r in home.records()[0] if r.model)
    assert counted_as(weights, "one", [record]) == "" == counted_as(weights, "one", [record])
    assert counted_as(weights, "two", [record]) == "the same weights as one: counted once"
    assert counted_as(weights, "three", []) == ""


def test_presets_and_lists() -> None:
    assert {"meta-llama/Llama-3.1-8B-Instruct", "EleutherAI/pythia-160m-seed9"} <= set(preset("published"))
    assert len(preset("published")) == 13 and len(preset("organisms")) >= 14
    for wrong in ([], ["a", "a"]):
        with pytest.raises(ClaimError):
            cross_model(wrong)
    with pytest.raises(ClaimError, match="no preset"):
        preset("all")


def test_one_model_is_no_table(store) -> None:
    result = trial("cross-model", "decimals-null-0", store=store, pairs=20)
    assert result.verdict.outcome == "untestable" and "cross-model" in result.verdict.sentence


def test_the_command_takes_models_or_a_preset(store, capsys) -> None:
    from headlab.cli import cross_model as crossing
    from headlab.cli import main

    assert crossing.PRESETS == PRESETS
    assert main(["cross-model", "--store", str(store)]) == 2
    assert main(["cross-model", "decimals-null-0", "--preset", "published", "--store", str(store)]) == 2
    assert main(["cross-model", "--preset", "nothing", "--store", str(store)]) == 2
    assert "expected one of published, organisms" in capsys.readouterr().err


@pytest.mark.accept
def test_the_shipped_organisms_show_what_chance_gives(store) -> None:
    result = cross_model("organisms", pairs=100, store=store)
    assert result.verdict.outcome == "refuted"
    assert (result.tables["models"]["outcome"] == "upheld").sum() <= 2

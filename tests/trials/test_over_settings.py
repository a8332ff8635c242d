"""Documents over named settings, and over models × revisions × settings: each cell a trial of its own.

Looked for beside what stands here: settings that change what is claimed, one that says what another does, one that gives a world
other cells, types and devices that there are not, prompts that are given beside a setting's task, pooled units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from put_on_trial import LOST, PUT, SERIES, read, values
from scipy import stats as oracle

import headlab
from headlab.claims import ClaimError
from headlab.experiments import documents, plan
from headlab.report.compared import compare
from headlab.stats import Estimate
from headlab.store import Store
from headlab.trials import ledger, lending, prompts
from headlab.trials.cells import Cell, cells
from headlab.trials.check_cells import explained
from headlab.trials.document import Document
from headlab.trials.kept import asked
from headlab.trials.over import each
from headlab.trials.over_cells import Over, Tried

MODEL = "decimals-planted-even"
SHARE = {"statistic": "upheld:cells", "op": ">", "threshold": 0.6}
POOLED = {"statistic": "pooled:recovery:put", "op": ">", "threshold": 0.2}
BASE: dict[str, Any] = PUT | {
    "id": "over-settings",
    "sets": {"named": {"pool": "even"}},
    "layer": 1,
    "waive": {"whole": "a tenth of a patch is little for any heads"},
}
TWO: dict[str, Any] = {"written": {}, "changed": {"seed": 3, "worlds.put.amount": 0.1, "dtype": "float32"}}
OVER = BASE | {"over": {"settings": TWO}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The document over two settings, the second of which refutes it."""
    folder = tmp_path_factory.mktemp("settings")
    return headlab.trial(OVER, MODEL, store=folder), folder


def test_each_setting_is_the_trial_that_a_document_changed_by_hand_gives(
    found: tuple[Any, Path], tmp_path: Path
) -> None:
    """To the digit; the conjunction is refuted by the one setting that refutes it."""
    result, folder = found
    amend = {"seed": 3, "worlds.put.amount": 0.1}
    by_hand = [headlab.trial(BASE, MODEL, store=tmp_path), headlab.trial(BASE, MODEL, amend=amend, store=tmp_path)]
    home, by_cell = Store(folder), result.tables["by_cell"]
    told = [home.load(child.id).record.settings for child in result.children]
    test = prompts.split(read(BASE), lending.tokenizer_of(MODEL), None, folder)[0]
    known, document = home.record(result.children[0].id).model["fingerprint"], told[0]["document"]
    assert [ledger.looks(home, known, test, d)["designs"] for d in (document, "another")] == [
        0,
        1,
    ]  # one document, one look
    assert told[0]["document"] == told[1]["document"] and by_hand[1].record.settings["ledger"]["designs"] == 0
    for name, child, alone in zip(TWO, result.children, by_hand, strict=True):
        row = by_cell[by_cell["cell"] == name][["value", "low", "high", "outcome"]].to_numpy()[0]
        assert values(alone)["recovery:put"] == tuple(row) == values(home.load(child.id))["recovery:put"]
        assert home.tables(child.id)["effects"].equals(alone.tables["effects"])
        assert child.tried_on == f"{MODEL} {name}"
        assert any(f"Here the setting is {name}" in n for n in child.notes)
    assert [c.outcome for c in result.children] == ["upheld", "refuted"] and result.verdict.outcome == "refuted"
    assert set(values(result)) == {f"recovery:put [{n}]" for n in TWO}
    assert any("changed (seed = 3, worlds.put.amount = 0.1, dtype = float32)" in n for n in result.record.notes)


@pytest.mark.accept
def test_a_dry_run_counts_each_setting() -> None:
    """By hand: in each the named heads, all of the layer, and what does nothing."""
    got = plan(OVER, MODEL)
    assert (got["cells"], got["worlds"]) == (2, 6) and [c.split(":")[0] for c in got["cell"]] == list(TWO)


@pytest.mark.accept
def test_a_repeat_over_settings_is_the_same(found: tuple[Any, Path]) -> None:
    result, folder = found
    again = headlab.repeat(result.record, store=Store(folder))
    assert again.record.id != result.record.id
    assert compare(result.record, dict(result.tables), again.record, dict(again.tables)).same


@pytest.mark.accept
def test_the_line_of_a_cell_tries_that_cell_alone(tmp_path: Path) -> None:
    import json

    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(OVER))
    result = headlab.trial(file, MODEL, store=tmp_path / "a")
    call = result.children[1].call
    assert "over.settings" in call["command"] and "--dtype float32" in call["command"]
    again = eval(call["python"], {"headlab": headlab})
    assert not again.children and values(again) == values(Store(tmp_path / "a").load(result.children[1].id))


def test_what_is_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    for model in (None, MODEL):
        said = explained(read(OVER | {"predictions": [LOST, SHARE, POOLED]}), model, Path("."))
        assert any("changed: seed = 3, worlds.put.amount = 0.1" in line for line in said.lines["over"])
        assert not said.faults
    assert explained(read(OVER), MODEL, Path(".")).lines["over"][0].startswith("2 trials")
    few = OVER | {"over": {"settings": {"written": {}, "few": {"pairs": 4}}}}
    assert [f for f in explained(read(few), None, Path(".")).faults if f.startswith("over few")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "expected names"),
        ({}, "expected names"),
        (["a"], "expected names"),
        ({"A b": {}}, "is no name"),
        ({"a": 3}, "expected the fields that it changes"),
        ({"a": {"sets.named": "L0H1"}}, "line 1: over.settings.a.sets.named: .*'sets' is what it says"),
        ({"a": {"predictions.0.threshold": 0.1}}, "'predictions' is what it says"),
        ({"a": {"eligible.clean": 0.1}}, "'eligible' is what it says"),
        ({"a": {"sed": 1}}, "'sed' is no field; .*did you mean seed"),
        ({"a": {"dtype": "float64"}}, "float32 or bfloat16 or float16"),
        ({"a": {"dtype.x": "float32"}}, "float32"),
        ({"a": {"device": 3}}, "cuda"),
        ({"a": {"seed": -1}}, "over.settings.a: seed: "),
        ({"a": {"seed": 1}, "b": {"seed": 1}}, "over.settings.b: says the same as a"),
        ({"a": {}, "b": {"seed": 0}}, "over.settings.b: says the same as a"),
        ({"a": {"edit": "clean"}}, "over.settings.a: .*recovery is defined where the corrupted run"),
        (
            {"a": {"worlds.put.write": {"each": ["patch", "zero", "mean", "resample"]}}},
            "over.settings.a: world put has other cells",
        ),
        ({"a": {"worlds.put.wrote": "zero"}}, "over.settings.a: .*wrote"),
        ({"a": {"reference.n": 20}}, "over.settings.a: reference: says nothing that is drawn anew"),
    ],
)
def test_what_a_setting_cannot_mean_is_refused_when_it_is_read(settings: Any, said: str) -> None:
    import json

    with pytest.raises(ClaimError, match=said) as told:
        Document.from_text(json.dumps(BASE | {"over": {"settings": settings}}))
    assert "\n" not in str(told.value)


def test_what_settings_cannot_be_tried_with_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    task = BASE | {"over": {"settings": {"a": {}, "b": {"task.corrupted": "qa"}}}}
    with pytest.raises(ClaimError, match=r"over b: prompts are given, so that its task.corrupted"):
        headlab.trial(task, MODEL, prompts=tmp_path / "pairs.csv", store=tmp_path)
    with pytest.raises(ClaimError, match="over settings of one model; name it"):
        headlab.trial(OVER, store=tmp_path)
    with pytest.raises(headlab.engine.model.ModelError, match="no such device"):
        headlab.trial(BASE | {"over": {"settings": {"a": {}, "b": {"device": "cuda:77"}}}}, MODEL, store=tmp_path)
    with pytest.raises(ClaimError, match="over b: layer 9"):
        headlab.trial(BASE | {"over": {"settings": {"a": {}, "b": {"layer": 9}}}}, MODEL, store=tmp_path)
    with pytest.raises(ClaimError, match="over b: unknown decimals format 'nosuch'"):
        headlab.trial(BASE | {"over": {"settings": {"a": {}, "b": {"task.clean": "nosuch"}}}}, MODEL, store=tmp_path)
    with pytest.raises(ClaimError, match="no middle"):
        read(BASE | {"over": {"settings": {"a": {"readout": "probability"}}}, "predictions": [POOLED]})


# -- cells of several axes ----------------------------------------------------------------------------------


def test_cells_of_several_axes_are_their_product() -> None:
    axes = {
        "models": ["decimals-natural", SERIES],
        "revisions": ["step0", "step16"],
        "settings": {"a": {}, "b": {"seed": 1}},
    }
    some = cells(read(BASE | {"over": axes}), None, Path("."))
    assert [c.name for c in some[4:]] == [f"{SERIES}@{r} {s}" for r in ("step0", "step16") for s in ("a", "b")]
    assert some[5] == Cell(
        f"{SERIES}@step0 b", SERIES, "step0", "b", {"models": SERIES, "revisions": "step0", "settings": "b"}
    )
    assert len(cells(read(BASE | {"over": axes}), SERIES, Path("."))) == 4
    twice = BASE | {"over": {"models": [f"{SERIES}@step0"], "revisions": ["step16"]}}
    with pytest.raises(ClaimError, match="name it once"):
        cells(read(twice), None, Path("."))


def test_of_several_cells_a_model_stands_with_their_mean_and_models_stay_the_unit(found: tuple[Any, Path]) -> None:
    """By hand: ends averaged; a share of settings is exact, of models scipy's; what cannot decide is counted, not dropped."""
    result, folder = found
    up, down = (Store(folder).load(c.id).record for c in result.children)
    of = {r.id: Estimate.from_dict(r.readings[0].estimates[0].estimate) for r in (up, down)}
    doc = read(OVER | {"predictions": [LOST, SHARE, POOLED]})
    here = Over(doc, [Tried(c, r) for c, r in zip(cells(doc, MODEL, Path(".")), (up, down), strict=True)])
    got = here.over_models("recovery:put")[0]
    for k in ("value", "low", "high"):
        assert getattr(got, k) == pytest.approx((getattr(of[up.id], k) + getattr(of[down.id], k)) / 2)
    assert (here.share.value, here.share.low, here.share.high, here.share.unit) == (0.5, 0.5, 0.5, "settings")
    assert {r.prediction.statistic: r.outcome for r in here.verdict().rulings}["upheld:cells"] == "refuted"
    short = up.model_copy(update={"eligibility": {"ok": False, "reason": "it cannot"}})
    untestable = short.model_copy(
        update={
            "readings": [
                up.readings[0].model_copy(
                    update={"verdict": up.readings[0].verdict.model_copy(update={"outcome": "untestable"})}
                )
            ]
        }
    )
    open_ = Over(doc, [Tried(here.tried[0].cell, untestable), here.tried[1]])
    assert (open_.share.low, open_.share.high) == (0, 0.5) and not open_.over_models("recovery:put")[0].defined
    axes = {"models": ["a", "b"], "revisions": ["r", "s"]}
    many = read(BASE | {"over": axes, "predictions": [LOST, SHARE, POOLED]})
    records = (up, up, up, down)
    four = Over(many, [Tried(c, r) for c, r in zip(cells(many, None, Path(".")), records, strict=True)])
    bound = oracle.binomtest(1, 2).proportion_ci(method="exact")
    assert (four.share.value, four.share.low, four.share.high) == pytest.approx((0.5, bound.low, bound.high))
    pooled = four.over_models("recovery:put")[0]
    assert (pooled.n, pooled.unit) == (2, "models") and pooled.defined
    one = Over(many, four.tried[:2])
    assert "no further models" in one.alone and not one.over_models("recovery:put")[0].defined


@pytest.mark.accept
def test_over_models_and_revisions_each_cell_is_its_own_trial(tmp_path: Path) -> None:
    axes = {"models": [SERIES], "revisions": ["step384", "step1296"], "settings": {"a": {}, "b": {"seed": 1}}}
    result = headlab.trial(BASE | {"over": axes}, store=tmp_path / "a")
    assert [c.tried_on for c in result.children] == [
        f"{SERIES}@{r} {s}" for r in ("step384", "step1296") for s in ("a", "b")
    ]
    for child, (revision, seed) in zip(
        result.children, [(r, s) for r in ("step384", "step1296") for s in (0, 1)], strict=True
    ):
        alone = headlab.trial(BASE, SERIES, revision=revision, seed=seed, store=tmp_path / "b")
        assert values(alone) == values(Store(tmp_path / "a").load(child.id))
    again = headlab.repeat(result.record, store=Store(tmp_path / "a"))
    assert compare(result.record, dict(result.tables), again.record, dict(again.tables)).same


def test_what_is_pooled_is_ruled_once_for_each_cell_of_its_world_and_in_no_stratum() -> None:
    """By hand: of three cells in two strata three rulings are pooled and six are not."""
    by_write = {"put": {"heads": "named", "write": {"each": ["mean", "zero", "resample"]}}}
    doc = read(
        BASE
        | {
            "edit": "clean",
            "over": {"stratum": "category"},
            "worlds": by_write,
            "predictions": [
                {"statistic": "pooled:lost:put", "op": ">", "threshold": 0.2},
                {"statistic": "lost:put", "op": ">", "threshold": 0.2},
            ],
        }
    )
    parts = [("a", np.array([True, False])), ("b", np.array([False, True]))]
    ruled = [p.statistic for a in asked(doc) for _, p in each(a.prediction, parts)]
    assert [s for s in ruled if s.startswith("pooled:")] == [
        f"pooled:lost:put/{w}" for w in ("mean", "zero", "resample")
    ]
    assert len(ruled) == 3 + 6

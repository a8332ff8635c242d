"""Documents changed by path, over strata, and read as published.

Looked for beside what stands here: paths through lists and through fields that do not exist, values of every YAML kind, a
stratum that no prompt has, overrides that would ask for other prompts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headlab
from headlab.claims import ClaimError
from headlab.trials import amending
from headlab.trials.document import Document
from headlab.trials.registry import library

BASE: dict[str, Any] = {
    "id": "strata", "words": "L0H4 carries the name.", "source": "a test", "chosen_on": "other",
    "task": {"name": "ioi"}, "edit": "clean", "pairs": 40,
    "sets": {"named": "L0H4"}, "worlds": {"cut": {"heads": "named", "write": "zero"}}, "only_because": "a test of strata",
    "predictions": [{"statistic": "lost:cut", "op": ">", "threshold": 0.2}],
}  # fmt: skip


def test_a_change_is_read_back_as_it_is_written() -> None:
    given = {
        "sets.movers": "L0H4 L1H2",
        "reference.match": [],
        "pairs": 12,
        "waive.eligible": "why: 'not'",
        "seed": None,
    }
    assert amending.read(amending.written(given)) == given
    doc = library()["ioi-name-movers"].plain()
    out = amending.changed(doc, {"sets.movers": "L0H4", "predictions.0.threshold": 0.1, "waive": None}, "x")
    assert out["sets"] == {"movers": "L0H4"} and out["predictions"][0]["threshold"] == 0.1 and "waive" not in out
    assert doc["sets"]["movers"] == "L9H9 L9H6 L10H0", "the document itself stays"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("words.x", "no fields"),
        ("predictions.9.op", "0 to 1"),
        ("predictions.first.op", "0 to 1"),
        ("sets.movers", "found"),
    ],
)
def test_a_change_that_leads_nowhere_is_refused(path: str, said: str) -> None:
    with pytest.raises(ClaimError, match=said):
        amending.by_hand(library()["ioi-name-movers"].plain(), {path: "L0H4"}, "x")
    for text in ("sets.movers", "=3", "a..b=1"):
        with pytest.raises(ClaimError, match="expected a field and its value"):
            amending.read([text])


def test_over_a_stratum_every_prediction_holds_in_each(tmp_path: Path) -> None:
    """The numbers of a stratum are those of its prompts alone; a prediction of all prompts together is ``pooled:``."""
    data = BASE | {
        "over": {"stratum": "category"},
        "predictions": [*BASE["predictions"], {"statistic": "pooled:drop:cut", "op": ">", "threshold": 0}],
    }
    found = headlab.trial(data, "ioi-small", store=tmp_path)
    effects = found.tables["effects"]
    ruled = {r.prediction.statistic: r for r in found.verdict.rulings}
    strata = sorted(k for k in ruled if k.startswith("lost:cut ["))
    assert len(strata) >= 2 and set(ruled) == {*strata, "pooled:drop:cut"}
    categories = categories_of(found)
    for name in strata:
        rows = effects[[categories[i] == name[len("lost:cut [") : -1] for i in effects["pair_id"]]]
        ratio = (rows["edited"] - rows["clean"]).sum() / (rows["corrupted"] - rows["clean"]).sum()
        assert ruled[name].value == pytest.approx(ratio, rel=1e-9)
    assert ruled["pooled:drop:cut"].value == pytest.approx(
        float((effects["clean"] - effects["edited"]).mean()), rel=1e-9
    )
    assert found.verdict.outcome == "upheld"


def test_a_stratum_that_refutes_refutes_whatever_another_cannot_decide(tmp_path: Path) -> None:
    """As over models.  In half of the prompts right and wrong answers are exchanged, so that there the model shows nothing; alone,
    the other half gives the same numbers.  Where nothing refutes, the whole is untestable; where no stratum can decide, too."""
    from headlab.experiments import load
    from headlab.trials.prompts import split

    test, selection = split(Document.from_data(BASE), load("ioi-small").tokenizer, None, Path("."))
    half = [replace(p, category="kept" if n < 20 else "turned") for n, p in enumerate(test)]
    turned = [replace(p, answer=p.wrong, wrong=p.answer) if p.category == "turned" else p for p in half]

    def tried(data: dict[str, Any], some: list[Any], name: str) -> Any:
        return headlab.trial(
            BASE | data, "ioi-small", prompts=(replace(test, pairs=tuple(some)), selection), store=tmp_path / name
        )

    pooled = {"statistic": "pooled:drop:cut", "op": ">", "threshold": 0}
    over = {"over": {"stratum": "category"}}
    high = [BASE["predictions"][0] | {"threshold": 2}]
    found = tried(over | {"predictions": [*high, pooled]}, turned, "a")
    said = {r.prediction.statistic: r for r in found.verdict.rulings}
    assert found.verdict.outcome == "refuted" and not found.record.eligibility["ok"]
    assert {k: r.outcome for k, r in said.items()} == {
        "lost:cut [kept]": "refuted",
        "lost:cut [turned]": "untestable",
        "pooled:drop:cut": "untestable",
    }
    assert said["lost:cut [turned]"].value is None and "clean" in said["lost:cut [turned]"].shown
    alone = tried({"predictions": high}, turned[:20], "b")
    assert said["lost:cut [kept]"].value == pytest.approx(alone.verdict.rulings[0].value, rel=1e-6)
    low = tried(over, turned, "c").verdict
    assert low.outcome == "untestable" and "not every stratum can decide: in turned: " in low.sentence
    none = [replace(p, answer=p.wrong, wrong=p.answer) for p in half]
    assert tried(over | {"predictions": high}, none, "d").verdict.outcome == "untestable"


def categories_of(found: Any) -> dict[str, str]:
    from headlab.experiments import load
    from headlab.trials.prompts import split

    test, _ = split(Document.from_data(found.record.claim), load("ioi-small").tokenizer, None, Path("."))
    return {p.id: p.category for p in test}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"over": {"model": ["a"]}}, "stratum.*did you mean models"),
        ({"predictions": [{"statistic": "pooled:drop:cut", "op": ">", "threshold": 0}]}, "pooled"),
        ({"as_published": {"task.name": "decimals"}}, "same prompts"),
        ({"as_published": {"edit": "sideways"}}, "edit"),
        ({"as_published": {"words.x": 1}}, "no fields"),
    ],
)
def test_what_these_cannot_mean_is_refused_before_a_model_is_loaded(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ClaimError, match=said):
        Document.from_data(BASE | fields)


def test_a_stratum_that_prompts_do_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="no label 'colour'"):
        headlab.trial(BASE | {"over": {"stratum": "colour"}}, "ioi-small", store=tmp_path)


def test_as_published_is_read_beside_and_never_binds(tmp_path: Path) -> None:
    """The binding reading is the one without overrides; the other equals a document that has them written out."""
    changes = {"align": "left", "predictions.0.threshold": 2}
    both = headlab.trial(BASE | {"as_published": changes}, "ioi-small", store=tmp_path / "a")
    alone = headlab.trial(amending.changed(BASE, changes, "x"), "ioi-small", store=tmp_path / "b")
    own = headlab.trial(BASE, "ioi-small", store=tmp_path / "c")
    first, second = both.record.readings
    assert second.protocol == "as published" and both.verdict.outcome == own.verdict.outcome == "upheld"
    for ours, theirs in ((first, own), (second, alone)):
        mine = [e.estimate["value"] for e in ours.estimates]
        assert np.allclose(mine, [e.estimate["value"] for e in theirs.record.readings[0].estimates])
    assert second.verdict.outcome == alone.verdict.outcome == "refuted"

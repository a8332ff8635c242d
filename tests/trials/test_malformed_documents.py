"""Documents that mean nothing are refused in one line with file and line, before a model is loaded.

Looked for, beside what stands here: every field of a document once with a wrong type and once with a wrong name, every
reference to something undeclared (set, score, world, readout, cell, task), every statistic that the edit, the task or
the readout cannot give, families without a word for them, circles, heads without their origin, ablations left out
without a reason.  Texts that are no YAML at all are in ``tests/reading``.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from headlab.claims import ClaimError
from headlab.trials.document import Document

GOOD: dict[str, Any] = {
    "language": 1,
    "id": "a-claim",
    "words": "Two heads are needed.",
    "source": "a hunch",
    "chosen_on": "other",
    "task": {"name": "decimals"},
    "edit": "clean",
    "sets": {"named": "L0H1 L1H2", "one": {"singles": {"not": "named"}}},
    "scores": {"effect": "drop:one/mean"},
    "worlds": {
        "cut": {"heads": "named", "write": {"each": ["mean", "zero", "resample"]}},
        "one": {"heads": "one", "write": {"each": ["mean", "zero", "resample"]}},
        "dose": {"heads": "named", "write": "rescale", "amount": {"each": [0, 0.5, 1.5]}},
    },
    "reference": {"redraw": "named", "n": 99},
    "predictions": [
        {"statistic": "lost:cut", "op": ">", "threshold": 0.2},
        {"statistic": "rank:drop:cut", "op": "rank<", "threshold": 0.05},
    ],
}


def changed(**fields: Any) -> dict[str, Any]:
    """The good document with some fields replaced (``None``: left out)."""
    return {k: v for k, v in {**GOOD, **fields}.items() if v is not None}


def predicted(statistic: str, op: str = ">", threshold: Any = 0.1, **more: Any) -> dict[str, Any]:
    return changed(predictions=[{"statistic": statistic, "op": op, "threshold": threshold, **more}])


def world(**write: Any) -> dict[str, Any]:
    return changed(worlds={**GOOD["worlds"], "cut": write})


CASES: list[tuple[dict[str, Any], str]] = [
    (changed(language=2), "language"),
    (changed(id="A Claim!"), "id"),
    (changed(words=None), "words"),
    (changed(wrods="x"), "wrods"),
    (changed(edit=None), "edit"),
    (changed(edit="both"), "edit"),
    (changed(task=None), "task"),
    (changed(task={"name": "decimal"}), "no task 'decimal'"),
    (changed(task={"name": "decimals", "file": "x.csv"}), "expected one of name, file, corpus"),
    (changed(task={"name": "decimals", "celan": "qa"}), "no option 'celan'"),
    (changed(task={"name": 3}), "expected text"),
    (changed(pairs="many"), "pairs"),
    (changed(pairs=1), "pairs"),
    (changed(seed=-1), "seed"),
    (changed(layer="deep"), "layer"),
    (changed(sets={}), "sets"),
    (changed(sets={"Named": "L0H1"}), "Named"),
    (changed(sets={"named": "L0H1", "x": {"not": "nemed"}}), "no set 'nemed'"),
    (changed(sets={"named": "L0H1", "x": {"top": 3, "by": "efect"}}), "no score 'efect'"),
    *(
        (changed(sets={"named": "L0H1", "x": {"pool": p}}), "unknown pool")
        for p in ("evn", [], [True], [-1], "kv_group:x")
    ),
    (
        changed(sets={"named": {"not": "other"}, "other": {"not": "named"}, "one": {"singles": "named"}}),
        "made from itself",
    ),
    (changed(scores={"effect": "drop:cut/mean"}), "needs a world over"),
    (changed(scores={"effect": {"attention": ["last"]}}), "query role"),
    (changed(scores={"effect": "inductoin"}), "no score"),
    (changed(worlds={}), "worlds"),
    (world(write="mean"), "needs 'heads'"),
    (world(heads="named", write="meen"), "no write 'meen'"),
    (world(heads="named", site="zz"), "no site 'zz'"),
    (world(heads="nemed", write="zero"), "no set 'nemed'"),
    (world(heads="named", write={"each": []}), "each takes a list"),
    (world(heads="named", write={"each": ["mean", "mean"]}), "each takes a list"),
    (world(heads={"each": ["named"]}, write="zero"), "no axis"),
    (world(heads="named", write="zero", keys="last"), "keys belong"),
    (world(heads="named", write="add"), "needs a direction"),
    (world(heads="named", write="add", direction="up"), "expected other"),
    (world(heads="named", write="patch", computed_in="nowhere"), "no world 'nowhere'"),
    (changed(readout="margni"), "no readout 'margni'"),
    (changed(readout={"m": {"kind": "margin", "grader": "exact"}}), "no field 'grader'"),
    (changed(reference=None), "needs reference"),
    (changed(reference={"redraw": "one"}), "is a family"),
    (changed(reference={"redraw": "nobody"}), "no set 'nobody'"),
    (changed(reference={"redraw": "named", "match": ["size"]}), "no match 'size'"),
    (predicted("drop:cutt"), "no world 'cutt'"),
    (predicted("drop:cut/man"), "no cell 'man'"),
    (predicted("drop:cut@text"), "no readout 'text'"),
    (predicted("recovery:cut"), "edit: corrupted"),
    (changed(readout="kl", predictions=[{"statistic": "lost:cut", "op": ">", "threshold": 0.2}]), "share of a lead"),
    (predicted("repair:cut"), "edit: corrupted"),
    (predicted("drop:one"), "is a family"),
    (predicted("mean:drop:cut"), "needs a world over a family"),
    (predicted("drop:dose"), "has doses"),
    (predicted("slope:cut"), "needs a dose"),
    (predicted("rank:drop:cut", ">"), "only ranks"),
    (predicted("drop:cut", "rank<", 0.05), "only ranks"),
    (predicted("drop:cut", ">", [0, 1]), "one number"),
    (predicted("drop:cut", "within", 0.1), "low, high"),
    (predicted("drop:cut", "within", [1, 0]), "low < high"),
    (predicted("rank:drop:cut", "rank<", 2), "between 0 and 1"),
    (predicted("share:drop:one/mean"), "needs where"),
    (predicted("drop:cut", tail="less"), "tail belongs to ranks"),
    (changed(chosen_on=None), "chosen_on"),
    (world(heads="named", write="mean"), "only_because"),
    (changed(controls=["no-opp"]), "no control"),
    (changed(waive={"no-op": "because"}), "cannot be waived"),
    (changed(waive={"whole": " "}), "needs a reason"),
    (changed(alpha=0.05), "'alpha' has no place"),
    (changed(experiment="parity"), "'experiment' has no place"),
    (changed(readings=["standard"]), "'readings' has no place"),
    (changed(predictions=[]), "predictions"),
    (changed(reference={**GOOD["reference"], "labels": "cut"}), "redraw belongs to sets"),
    (changed(reference={**GOOD["reference"], "keys": True}), "keys cannot be redrawn"),
]


def test_the_document_that_the_cases_change_is_good() -> None:
    doc = Document.from_data(GOOD)
    assert doc.content_hash() == Document.from_data(doc.plain()).content_hash()
    assert doc.content_hash() != Document.from_data(changed(seed=1)).content_hash()
    one, two = ({"a": "margin", "b": "logprob"}, {"b": "logprob", "a": "margin"})  # the first readout is the default
    assert (
        Document.from_data(changed(readout=one)).content_hash()
        != Document.from_data(changed(readout=two)).content_hash()
    )
    kept = Document.from_data(Document.from_data(changed(readout=two)).plain())
    assert next(iter(kept.readouts)) == "b"


@pytest.mark.parametrize(("data", "said"), CASES, ids=[said for _, said in CASES])
def test_a_malformed_document_is_refused_in_one_line_with_its_line(data: dict[str, Any], said: str) -> None:
    text = yaml.safe_dump(data, sort_keys=False)
    with pytest.raises(ClaimError) as error:
        Document.from_text(text, ".yaml", "mine.yaml")
    line = str(error.value)
    assert said in line and line.startswith("mine.yaml") and "\n" not in line and len(line) <= 700, line
    missing = any(k not in data for k in ("words", "edit", "task", "chosen_on", "reference"))
    assert missing or "line " in line, line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(wrods="x", words=None), "wrods: is not read; did you mean words.; words is missing"),
        (changed(words=None, source=None), "words, source are missing"),
        (changed(version=3), "version: is not read; the keys here are .*, words, worlds$"),
        (changed(predictions=[{"statistic": "lost:cut", "op": ">", "treshold": 0.2}]), "0.treshold: .* mean threshold"),
        (changed(predictions=[{"op": ">"}]), "predictions.0: statistic, threshold are missing"),
        (predicted("lost:cut", ">="), "expected '>', '<', 'rank<' or 'within' .given '>='.; did you mean >"),
        (predicted("lost:cut", threshold="low"), "threshold: expected a number or a list .given 'low'"),
        (changed(str=3), "is not a claim: str: is not read; the keys here are"),
        (changed(**{"a[b]": 3}), r"is not a claim: a\[b\]: is not read"),
        (changed(pairs="many"), "pairs: expected a whole number .given 'many'"),
        (changed(pairs=1), "pairs: expected at least 2 .given 1"),
        (changed(sets=3), "sets: expected keys and values .given 3"),
        (changed(id="A Claim!"), "id: expected a name of small letters, digits and - .given 'A Claim!'"),
        (
            changed(sets={"Named": "L0H1"}),
            "sets.Named: expected a name of small letters, digits and _, a letter first .g",
        ),
        (
            changed(sets={"named": "L0H1", "L1H2": None}),
            "sets.L1H2: .*first; several heads stand in one text or a list",
        ),
        (
            changed(sets={"": "L0H1"}),
            r"sets.: expected a name of small letters, digits and _, a letter first .given ''.$",
        ),
        (changed(reference={"redraw": "named", "nn": 3}), "reference.nn: is not read; did you mean n"),
        (changed(reference={"redraw": "nmaed"}), "no set 'nmaed'; declared are named, one; did you mean named"),
        (changed(eligible={"claen": 0.5}), "eligible.claen: is not read; did you mean clean"),
        (world(heads="named", wirte="mean"), "cut.wirte: is not read; did you mean write"),
        (world(heads="named", write="mena"), "no write 'mena'; did you mean mean. expected one of "),
        (predicted("lost:ctu"), "no world 'ctu'; declared are cut, one, dose; did you mean cut"),
        (changed(controls=["hwole"]), "no control 'hwole'; did you mean whole. expected one of "),
    ],
)
def test_a_misspelt_key_or_word_is_told_with_the_one_that_is_near(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ClaimError, match=said) as refused:
        Document.from_data(data)
    assert not any(phrase in str(refused.value) for phrase in ("Input", "Field required", "inputs", "Value error"))


@pytest.mark.parametrize(("kind", "number"), [("top", float("inf")), ("bottom", float("nan")), ("above", float("inf"))])
def test_a_number_without_an_end_is_refused_from_python_and_toml_too(kind: str, number: float) -> None:
    with pytest.raises(ClaimError, match=f"{kind}: {number}; expected a number"):
        Document.from_data(changed(sets={"named": "L0H1", "x": {kind: number, "by": "norm"}}))


def test_there_are_forty_or_more() -> None:
    assert len(CASES) >= 40

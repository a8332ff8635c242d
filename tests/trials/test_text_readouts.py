"""Documents that read text, graded by literal words: right and wrong, unparsed, and what is refused.

Each rule of the grader alone is in ``tests/tasks``; here the same marks must come out of a trial.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

import headlab
from headlab.claims import ClaimError
from headlab.organisms.words import NAMES
from headlab.tasks.grading import Grader
from headlab.trials.document import Document

CHOICE = {"kind": "choice", "words": list(NAMES[:12])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sentences about who is given something, of twelve names."""
    place, rows = tmp_path_factory.mktemp("said"), []
    for n in range(60):
        a, b = NAMES[n % 12], NAMES[(n + 1 + n // 12) % 12]
        start = f"When {a} and {b} went to the store,"
        rows.append((f"{start} {b} gave a ball to", f"{start} {a} gave a ball to", f" {a}", f" {b}", f"{n}"))
    with open(place / "names.csv", "w", newline="") as file:
        csv.writer(file).writerows([("clean", "corrupted", "answer", "wrong", "cluster"), *rows])
    return place


def claim(grader: Any, **more: Any) -> dict[str, Any]:
    return {
        "language": 1, "id": "said", "words": "The head is needed for the name.", "source": "a test",
        "chosen_on": "other", "task": {"file": "names.csv"}, "edit": "clean", "pairs": 60, "selection_pairs": 10,
        "sets": {"named": "L0H4"}, "worlds": {"cut": {"heads": "named", "write": "zero"}}, "only_because": "a test",
        "readout": {"said": {"kind": "text", "grader": grader, "tokens": 3}},
        "predictions": [{"statistic": "drop:cut", "op": ">", "threshold": 0.1}], **more,
    }  # fmt: skip


def tried(folder: Path, data: dict[str, Any]) -> Any:
    (folder / "said.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return headlab.trial(folder / "said.yaml", "ioi-small", store=folder / "store")


def test_text_is_graded_by_the_words_of_the_document(folder: Path) -> None:
    """The model says the name first, and then goes on: a choice of names reads it; ``exact`` reads the whole text, which
    is never the name alone, so that nothing is right and the model is not eligible."""
    found = tried(folder, claim(CHOICE))
    control = next(c for c in found.verdict.controls if c.name == "parse-rate")
    assert control.passed and found.verdict.outcome in {"upheld", "refuted", "undecided"}, found.verdict.sentence
    assert found.record.eligibility["clean"]["value"] > 0.9
    texts = found.effects
    assert set(texts["edited"]) <= {0.0, 1.0} and texts["clean"].mean() > 0.9
    exact = tried(folder, claim({"kind": "exact"}))
    assert not exact.record.eligibility["ok"] and exact.record.eligibility["clean"]["value"] == 0


def test_texts_that_hold_none_of_the_words_void_the_trial(folder: Path) -> None:
    """The parse rate: with words that nobody says (``contains`` finds neither a right nor a wrong one) nothing is read."""
    found = tried(folder, claim({"kind": "contains", "words": ["nobody says this"]}, eligible={"clean": 0.0}))
    assert found.verdict.outcome == "void" and "parse-rate" in found.verdict.sentence


def test_a_choice_without_the_right_answers_is_refused(folder: Path) -> None:
    with pytest.raises(ClaimError, match="hold no right answer of"):
        tried(folder, claim({"kind": "choice", "words": ["yes", "no"]}))


def test_eligibility_is_counted_in_what_the_claim_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that reads a margin generates nothing: its eligible share is that of positive margins, though the text says
    something else (it goes on where a grader of whole texts finds no answer).  Looked for: the default readout, one
    beside it, a probability (counted by the margin), a layer chosen on selection prompts."""
    from headlab.trials import subject

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("text was generated for a claim that reads none")

    monkeypatch.setattr(subject, "generate", refused)
    for readout in ("margin", {"p": "probability", "m": "margin"}):
        data = claim("number", readout=readout, sets={"named": {"pool": [4]}})
        found = tried(folder, data)
        margin = "clean" if readout == "margin" else "clean@m"
        share = float((found.effects[margin] > 0).mean())
        assert found.record.eligibility["clean"]["value"] == pytest.approx(share) and share > 0.9


MALFORMED: list[tuple[Any, str]] = [
    ({"kind": "regex"}, "unknown grader 'regex'"),
    ({"kind": "choice"}, "two or more different words"),
    ({"kind": "choice", "words": ["a", "A"], "ignore_case": True}, "two or more different words"),
    ({"kind": "choice", "words": "yes no"}, "a list of texts"),
    ({"kind": "contains", "words": [" "]}, "not empty"),
    ({"kind": "contains", "words": [3]}, "not empty"),
    ({"kind": "contains", "pattern": ".*"}, "has no pattern"),
    ({"kind": ["exact"]}, "a list of texts"),
    ({"ignore_case": "no"}, "a list of texts"),
    ("exactly", "expected number, prefix"),
    (3, "expected number, prefix"),
]


@pytest.mark.parametrize(("grader", "said"), MALFORMED, ids=[str(g) for g, _ in MALFORMED])
def test_a_malformed_grader_is_refused_with_its_line(grader: Any, said: str) -> None:
    """Unknown rules, no or equal words, another type, an unknown field; patterns are no part of the language."""
    with pytest.raises(ClaimError) as error:
        Document.from_text(yaml.safe_dump(claim(grader), sort_keys=False), ".yaml", "mine.yaml")
    assert said in str(error.value) and "mine.yaml is not a claim: line " in str(error.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"tokens": 0}, "1 to 500"), ({"tokens": True}, "1 to 500"), ({"decode_from": "end"}, "prompt or shared start"),
     ({"patterns": []}, "no field 'patterns'")],
)  # fmt: skip
def test_a_malformed_readout_of_text_is_refused_with_its_line(more: dict[str, Any], said: str) -> None:
    data = claim("number")
    data["readout"]["said"] |= more
    with pytest.raises(ClaimError, match=said):
        Document.from_data(data)


def test_a_grader_is_plain_data() -> None:
    one = Grader("choice", ("yes", "no"), True)
    assert Grader.from_plain(one.plain()) == one

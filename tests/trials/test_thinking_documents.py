"""Claims about thinking models as documents: the built-in experiments' numbers, exact controls, and what is refused.

Looked for: each experiment whose measurement the language says (head-ablation, position-patching, forced-patterns), each
kind of write (heads at roles, a thought fed, attention forced), both places that means and donors come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import headlab
from headlab.claims import Claim, ClaimError
from headlab.engine.checkpoint import ModelError
from headlab.experiments.trial import adjusted, find_claim
from headlab.report import page
from headlab.trials.document import Document
from headlab.trials.registry import library

MODEL = "thoughts-llama"
N = 3
FROM_TEST = {"draws": 1, "mean": {"over": "test"}}
"""Means and donors as the built-in experiments take them: from the problems that are tried."""
HUB = {"heads": "all", "site": "pattern", "write": "force", "roles": "thoughts"}

ENTRIES: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "head-ablation": (
        "codi-critical-heads",
        {},
        {f"drop:cut/{w}": f"top3:{w}" for w in ("mean", "zero", "resample")} | {"rank:drop:cut/mean": "rank:top3 "},
        {"matched_sets": 80},
    ),
    "position-patching": (
        "codi-first-thought",
        {
            k: {"site": "thought", "roles": f"thought[{j}]", "write": {"each": ["resample", "mean", "zero"]}} | FROM_TEST
            for j, k in enumerate(("first", "second"))
        },
        {f"drop:{k}/{w}": f"drop:{j} {said}" for j, k in enumerate(("first", "second"))
         for w, said in (("resample", "another problem's"), ("mean", "the mean"))},
        {"options": {"hub": "1"}},
    ),
    "forced-patterns": (
        "codi-hub-pattern",
        {},
        {f"drop:{k}": f"drop:{v} forced among thoughts"
         for k, v in (("hub", "hub"), ("uniform", "uniform"), ("before", "sequential"))},
        {"options": {"hub": "1"}, "matched_sets": 2},
    ),
}  # fmt: skip


def sizes(name: str, pairs: int, worlds: dict[str, Any]) -> dict[str, Any]:
    doc = library()[name].plain()
    return doc | {"pairs": pairs, "worlds": {**doc["worlds"], **worlds}}


def compared(slug: str, folder: Path, pairs: int) -> tuple[str, str]:
    """Both outcomes, once every effect is the same to the digit."""
    name, worlds, names, fields = ENTRIES[slug]
    mine = headlab.trial(sizes(name, pairs, worlds), MODEL, store=folder / "mine")
    claim = find_claim(slug)
    assert isinstance(claim, Claim)
    options = {**claim.options, **fields.get("options", {})}
    claim = adjusted(claim, **{**fields, "options": options, "pairs": pairs, "readings": ("standard",)})
    own = headlab.trial(claim, MODEL, store=folder / "own")
    theirs = {f"{e.name} {e.arm}": e.estimate for e in own.record.readings[0].estimates}
    for row in own.tables["effects"].to_dict("records"):
        theirs[row["world"]] = {"value": row["drop"], "low": row["drop_low"], "high": row["drop_high"], "n": row["n"]}
    numbers = {e.name: e.estimate for e in mine.record.readings[0].estimates}
    for here, there in names.items():
        (n, m), apart = (
            (e["n"] for e in (numbers[here], theirs[there])),
            abs(numbers[here]["value"] - theirs[there]["value"]),
        )
        if here.startswith("rank:") and (n != m or not mine.record.settings["enumerated"]):
            # the docket takes the nearest in norm of its draws, a document every draw or all sets: samples of one null
            assert apart <= 3 * (2 * 0.25 / max(n, m)) ** 0.5, (here, apart)
            continue
        for key in ("value", "low", "high", "n"):
            assert numbers[here][key] == pytest.approx(theirs[there][key], abs=1e-9), (here, key)
    failed = [
        c.words for c in mine.verdict.controls if c.name in {"no-op", "takes-hold", "parse-rate"} and not c.passed
    ]
    assert not failed
    return mine.verdict.outcome, own.verdict.outcome


def test_documents_give_the_built_in_numbers(tmp_path: Path) -> None:
    """At three problems, too few for eligibility and for the docket's positive control."""
    _, own = compared("position-patching", tmp_path, N)
    assert own in {"untestable", "void"}


@pytest.mark.accept
@pytest.mark.parametrize("slug", ENTRIES)
def test_documents_give_the_built_in_verdicts(slug: str, tmp_path: Path) -> None:
    """At sizes that decide; position-patching predicts other things in the document, so only its numbers are the same."""
    mine, own = compared(slug, tmp_path, 160)
    assert mine == own or slug == "position-patching"


BASE: dict[str, Any] = {
    "language": 1,
    "id": "thoughtful",
    "words": "A claim.",
    "source": "a test",
    "chosen_on": "other",
    "task": {"name": "word-problems"},
    "edit": "clean",
    "pairs": N,
    "selection_pairs": 4,
    "sets": {"named": "L0H2 L1H1"},
    "worlds": {
        "heads": {"heads": "named", "write": "mean", "roles": "thoughts"},
        "said": {"heads": "named", "write": "zero", "roles": "answer"},
        "fed": {"site": "thought", "roles": ["thought[0]", "thought[2]"], "write": "resample", "draws": 2},
        "own": {"site": "thought", "write": "noop"},
        "seen": {**HUB, "heads": "named", "shape": "hub", "keys": "thought[0]", "amount": 0.8},
        "both": [{"heads": "named", "write": "mean"}, {"site": "thought", "roles": "thoughts", "write": "noise"}],
    },
    "only_because": "a test",
    "readout": "text",
    "predictions": [
        {"statistic": "drop:heads", "op": "<", "threshold": 0.9},
        {"statistic": "drop:fed - drop:own", "op": ">", "threshold": 0.1},
        {"statistic": "value:seen / value:own", "op": ">", "threshold": 0.1},
    ],
}


def test_means_and_donors_come_from_selection_problems(tmp_path: Path) -> None:
    """Another problem's thought is a selection problem's: fed by hand (the donor's own unedited thoughts), the answers are
    the same; and every kind of write runs to an end beside it."""
    from headlab.store import Store
    from headlab.thoughts.loop import think
    from headlab.thoughts.worlds import Replace, ThoughtWorld
    from headlab.trials.loading import load_thinker
    from headlab.trials.thinking import Thinking, drawn

    doc = Document.from_data(BASE)
    thinker = load_thinker(MODEL)
    test, selection = drawn(doc.pairs, doc.selection_pairs, doc.seed, thinker, None)
    with Store(tmp_path).open(kind="trial", slug="x", title="x", inputs={}, draft={}) as run:
        subject = Thinking(thinker, doc, test, selection, run)
        lent = subject.lenders(test)
        assert lent is not None
        chosen = [lent.choose(i, 0) for i in range(len(test))]
        assert all(selection[k].answer != p.answer for k, p in zip(chosen, test, strict=True))
        fed = subject.graded([ThoughtWorld("fed", replaced=(Replace((0, 1, 2, 3, 4, 5), "resample"),))], test, "fed")
    for i in (0, N - 1):  # two problems alone in a population: the donor is the other one
        questions = [test[i].question, selection[chosen[i]].question]
        world = ThoughtWorld("fed", replaced=(Replace((0, 1, 2, 3, 4, 5), "resample"),))
        alone = think(thinker, questions, ["a", "b"], [world])
        assert alone["text"][0] == fed["text"][i]


def test_every_kind_of_write_runs_and_repeats(tmp_path: Path) -> None:
    from headlab.experiments import repeat

    found = headlab.trial(BASE, MODEL, store=tmp_path / "a")
    assert {"no-op", "takes-hold", "whole", "parse-rate"} <= {c.name for c in found.verdict.controls}
    worlds = found.tables["effects"].groupby("world")["edited"].mean()
    own = found.tables["effects"].groupby("world")["clean"].mean()
    assert worlds["own"] == own["own"] and worlds["both"] < own["both"]
    assert "<html" in page(found.record, dict(found.tables), []), "its page can be made"
    again = repeat(found.record, store=tmp_path / "b")
    assert np.array_equal(again.effects["edited"], found.effects["edited"])


def world(**write: Any) -> dict[str, Any]:
    return {**BASE, "worlds": {**BASE["worlds"], "heads": write}}


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({**BASE, "edit": "corrupted"}, "edit: clean"),
    ({**BASE, "task": {"name": "word-problems", "steps": 3}}, "GSM8K"),
    ({**BASE, "readout": "margin"}, "answer graded as a number"),
    ({**BASE, "readout": {"t": {"kind": "text", "grader": "prefix"}}}, "answer graded as a number"),
    (world(heads="named", write="mean", roles="subject"), "no role 'subject'"),
    (world(heads="named", write="patch"), "patch"),
    (world(heads="named", write="exchange"), "exchange is not written"),
    (world(heads="named", write="mean", when="prefill"), "knows no when"),
    (world(heads="named", write="mean", mean={"over": "other.csv"}), "come from one place"),
    (world(site="thought", heads="named", write="mean"), "is fed whole"),
    (world(site="thought", write="rescale"), "a thought is fed"),
    (world(site="thought", write="mean", roles="answer"), "thoughts, or thought[j]"),
    (world(heads="named", write="zero", shape="uniform"), "shape belongs"),
    (world(**HUB | {"heads": "named", "shape": "hub"}), "names its thought"),
    (world(**HUB | {"heads": "named", "shape": "ring"}), "shape"),
    (world(**HUB | {"heads": "named", "shape": "self", "roles": "question"}), "rows of thoughts"),
    (world(**HUB | {"heads": "named", "shape": "uniform", "amount": 2}), "0 to 1"),
    ({**BASE, "sets": {"named": {"pool": "even"}}}, "no layer that is chosen"),
    ({**BASE, "task": {"name": "decimals"}}, "only a thinking model has thoughts"),
    ({**BASE, "predictions": [{"statistic": "lost:heads", "op": ">", "threshold": 0.1}]}, "this task gives one"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), MALFORMED, ids=[said for _, said in MALFORMED])
def test_what_a_thinking_model_cannot_give_is_refused_with_its_line(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ClaimError) as error:
        Document.from_text(yaml.safe_dump(data, sort_keys=False), ".yaml", "mine.yaml")
    line = str(error.value)
    assert "line " in line or said == "no layer that is chosen", line  # a field that is left out has no line
    assert said in line and line.startswith("mine.yaml is not a claim: ") and "\n" not in line, line


def test_a_model_without_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="without thoughts"):
        headlab.trial(BASE, "decimals-natural", store=tmp_path)
    with pytest.raises(ModelError, match="thinks in vectors"):
        headlab.trial("parity-as-document", MODEL, store=tmp_path)

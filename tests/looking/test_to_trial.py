"""Every look can be put on trial: its document says nothing that cannot be tried, and is tried.

Asked of every function that gives a look, by a list that is held against the room's own: heads that are found by each, the
prompts they were found on as selection, none of which is tried.  Daily: what ``headlab check`` says of one of each kind, and a
trial; ``make accept``: all of both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

import headlab
from headlab import looking
from headlab.claims import ClaimError
from headlab.heads import Head, Heads
from headlab.looking import Look, effect
from headlab.looking.look import _csv as look_csv
from headlab.prompts import PromptSet, prompts_of
from headlab.store import Store
from headlab.tasks import TASKS
from headlab.trials import explain
from headlab.trials.document import Document

LAB = headlab.load("ioi-small")
SEEN = TASKS["ioi"].pairs(20, seed=1, tokenizer=LAB.tokenizer)
OTHERS = TASKS["ioi"].pairs(100, seed=2, tokenizer=LAB.tokenizer)
TEXT = SEEN[0].clean.text

LOOKS: dict[str, Callable[[], Look]] = {
    "heatmap patch": lambda: headlab.heatmap(LAB, SEEN, "patch"),
    "heatmap zero": lambda: headlab.heatmap(LAB, SEEN, "zero"),
    "heatmap mean": lambda: headlab.heatmap(LAB, SEEN, "mean"),
    "heatmap resample": lambda: headlab.heatmap(LAB, SEEN, "resample"),
    "heatmap attribution": lambda: headlab.heatmap(LAB, SEEN, "attribution"),
    "effect": lambda: effect(LAB, SEEN, "L0H4 L1H2", "patch"),
    "show_attention": lambda: headlab.show_attention(LAB, TEXT, "L0H4 L1H2"),
    "logit_lens": lambda: headlab.logit_lens(LAB, TEXT),
    "ov_circuit": lambda: headlab.ov_circuit(LAB, "L0H4", TEXT),
    "direct_effects": lambda: headlab.direct_effects(LAB, SEEN),
    "head_scores induction": lambda: headlab.head_scores(LAB),
    "head_scores sink": lambda: headlab.head_scores(LAB, "sink", TEXT),
    "head_scores probe": lambda: headlab.head_scores(LAB, "probe", SEEN),
    "paths q": lambda: headlab.paths(LAB, SEEN, "L2H0 L2H3", "q"),
    "paths v": lambda: headlab.paths(LAB, SEEN, "L2H0", "v"),
    "steer heads": lambda: headlab.steer(LAB, SEEN, "L0H4"),
    "steer layer": lambda: headlab.steer(LAB, SEEN, 1, (0, 1), text=TEXT, tokens=3),
    "probe layers": lambda: headlab.probe(LAB, SEEN),
    "probe heads": lambda: headlab.probe(LAB, SEEN, "L0H4 L1H2"),
}
DAILY = ("heatmap patch",)


def test_no_look_is_left_out() -> None:
    made = {n for n in looking.__all__ if "Look" in str(inspect.signature(getattr(looking, n)).return_annotation)}
    assert made - {"Look"} == {n.split()[0] for n in LOOKS}


FEW = ("heatmap zero", "show_attention", "paths v", "steer layer")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.accept) for n in LOOKS])
def test_its_document_can_be_tried(name: str, tmp_path: Path) -> None:
    look = LOOKS[name]()
    assert len(look._repr_html_().encode()) <= 30_000
    path = look.to_trial(tmp_path, OTHERS)
    doc = Document.from_file(path)
    said = explain.explain(doc, LAB.grid, tmp_path, LAB.tokenizer)
    assert not said.faults and "looked at on" in doc.source and doc.chosen_on == "other"
    assert str(doc.sets["named"]) == str(look.heads(len(doc.sets["named"].split())))
    tried, seen = PromptSet.from_file(tmp_path / doc.task["file"]), {prompts_of(p)[0] for p in SEEN}
    assert len(tried) > 40 and not {prompts_of(p)[0] for p in tried} & (
        seen if look.pairs else {prompts_of(SEEN[0])[0]}
    )
    assert (len(look.pairs) == 20) == ("selection" in doc.task)


@pytest.mark.parametrize("name", [n if n in DAILY else pytest.param(n, marks=pytest.mark.accept) for n in LOOKS])
def test_its_document_is_tried(name: str, tmp_path: Path) -> None:
    look = LOOKS[name]()
    path = look.to_trial(tmp_path, OTHERS.subset(p for i, p in enumerate(OTHERS) if i < 50))
    result = headlab.trial(path, LAB, amend={"reference.n": 9, "eligible.pairs": 20}, store=Store(tmp_path / "store"))
    assert result.verdict is not None and result.verdict.outcome != "void", result.verdict
    selection = result.record.prompts["selection"]["n"]
    assert selection == (20 if look.pairs else selection)
    if name == "heatmap patch":  # the same edits by hand: the mean over the same prompts of the same sweep
        tried = PromptSet.from_plain(result.record.prompts["pairs"][0])
        table = effect(LAB, tried, "L0H4", "patch").table
        share = table["value"].sum() / (table["other"] - table["before"]).sum()
        found = next(e for e in result.record.readings[0].estimates if e.name == "recovery:edited")
        assert abs(found.estimate["value"] - share) < 1e-5


def test_prompts_that_were_looked_at_are_left_out_or_refused(tmp_path: Path) -> None:
    look = headlab.heatmap(LAB, SEEN, "zero")
    path = look.to_trial(tmp_path, [*SEEN, *OTHERS])
    doc = Document.from_file(path)
    assert not {prompts_of(p) for p in PromptSet.from_file(tmp_path / doc.task["file"])} & {prompts_of(p) for p in SEEN}
    with pytest.raises(ClaimError, match="were looked at"):
        look.to_trial(tmp_path, SEEN)
    with pytest.raises(ClaimError, match="no folder"):
        look.to_trial(tmp_path / "none", OTHERS)
    both = path.read_text().replace(doc.task["file"], doc.task["selection"])
    (tmp_path / "same.yaml").write_text(both)
    with pytest.raises(ClaimError, match="20 of 20 test prompts"):
        headlab.trial(tmp_path / "same.yaml", LAB, store=Store(tmp_path / "store"))


def rows(n: int, **columns: Callable[[int], str]) -> PromptSet:
    """``n`` pairs of one length: the same names, an answer each, and what ``columns`` say."""
    given = {"clean": lambda i: f"{SEEN[0].clean.text} {i}", "corrupted": lambda i: f"{SEEN[0].corrupted.text} {i}",
             "answer": lambda i: SEEN[0].answer, "wrong": lambda i: SEEN[0].wrong}  # fmt: skip
    return PromptSet.from_rows([{k: of(i) for k, of in (given | columns).items()} for i in range(n)], name="rows")


def test_no_prompt_of_a_cluster_that_was_looked_at_is_tried(tmp_path: Path) -> None:
    """Two prompts of each cluster; the first one of clusters 0 to 3 was looked at."""
    some = rows(16, cluster=lambda i: f"cluster {i // 2}")
    look = headlab.heatmap(LAB, some.subset(p for i, p in enumerate(some) if i in (0, 2, 4, 6)), "attribution")
    doc = Document.from_file(look.to_trial(tmp_path, some))
    tried = PromptSet.from_file(tmp_path / doc.task["file"])
    assert {p.cluster for p in tried} == {f"cluster {n}" for n in range(4, 8)} and len(tried) == 8
    with pytest.raises(ClaimError, match=r"8 of 8 prompts .* share a cluster"):
        look.to_trial(tmp_path, some.subset(p for i, p in enumerate(some) if i < 8))


def test_prompts_that_share_one_answer_are_written_from_the_other_run(tmp_path: Path) -> None:
    """A mean, or what another prompt has, would say the answer, too; ``headlab new`` writes the same."""
    look = headlab.head_scores(LAB)
    doc = Document.from_file(look.to_trial(tmp_path, rows(16)))
    assert "each" not in str(doc.plain()["worlds"]) and doc.world_axes()["edited"][0].at({}).write == "patch"
    other = Document.from_file(look.to_trial(tmp_path, OTHERS))
    assert "each" in str(other.plain()["worlds"])


def test_heads_of_a_claim_are_named_as_those_of_a_look(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(look_csv(OTHERS))
    look = headlab.head_scores(LAB)
    one = look.claim("L1H3", file)
    assert look.claim(Head(1, 3), file) == look.claim(Heads.of(1, [3]), file) == look.claim(["L1H3"], file) == one
    for wrong in (3, "L1", [], [3]):
        with pytest.raises(ClaimError, match=r"not a head|no heads|heads by name"):
            look.claim(wrong, file)  # type: ignore[arg-type]

"""The library of published claims: each document is short and says its source, and is tried here to its end.

What came out stands in ``src/headlab/trials/tried.yaml`` with the model and what was changed for it (``--amend`` and nothing
else), and is compared.  All of it takes minutes (marker ``accept``); two of them run daily.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from library_models import SHAPES, model_of, text_of

import headlab
from headlab.trials.library_page import MISSING, page, tried
from headlab.trials.registry import library

TRIED = tried()
RANDOM = [n for n, case in TRIED.items() if case["model"] in SHAPES]
"""Tried on random weights: untestable is the right verdict."""
WAIVED = {"waive.eligible": "random weights, to see every number"}


def on_trial(name: str, shared: Path, folder: Path, **more: Any) -> Any:
    case = TRIED[name]
    kind = {"prompts": text_of(case["prompts"], folder, shared)} if "prompts" in case else {}
    lab = model_of(case["model"], shared)
    return headlab.trial(
        name, lab, amend={**case.get("amend", {}), **more}, pairs=case["pairs"], store=folder / "store", **kind
    )


def test_each_document_is_short_and_says_source_model_and_needs() -> None:
    """At most 30 lines of 100 columns; data alone (``Document`` refuses anything else)."""
    known = library()
    assert len(known) >= 24
    files = [f for f in (resources.files("headlab.trials") / "library").iterdir() if f.name.endswith(".yaml")]
    assert len(files) == len(known)
    for file in files:
        lines = file.read_text("utf-8").splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 100, file.name
    for name, doc in known.items():
        assert all((doc.source, doc.published, doc.model, doc.needs)), name
        if doc.chosen_on == "published":
            assert "not checked" in doc.needs, f"{name} names heads: it says whether they were checked"


def test_of_twenty_claims_asked_for_eighteen_are_tried_and_eight_decided() -> None:
    """Counted over what is compared below; the others have a reason in one line."""
    wanted = {case["wanted"] for case in TRIED.values() if "wanted" in case}
    elsewhere = {n for n in library() if n.startswith(("codi-", "head-count-", "parity-across-", "pattern-threshold-"))}
    assert set(TRIED) == set(library()) - elsewhere, "those are held against the docket's own numbers"
    assert wanted | set(MISSING) == set(range(1, 21)) and len(wanted) >= 18
    decided = {c.get("wanted", 0) for c in TRIED.values() if c["outcome"] in {"upheld", "refuted"}} - {0}
    assert len(decided) >= 8, decided


def test_the_page_is_what_the_documents_say() -> None:
    """After a change: python -m headlab.trials.library_page docs/library.md"""
    written = (Path(__file__).parents[2] / "docs" / "library.md").read_text("utf-8")
    assert written == page(), "stale: python -m headlab.trials.library_page docs/library.md"


def ends_as_recorded(name: str, shared: Path, folder: Path) -> None:
    found = on_trial(name, shared, folder)
    assert found.verdict.outcome == TRIED[name]["outcome"], found.verdict.sentence
    if name in RANDOM:
        assert "not eligible" in found.verdict.sentence or "cannot decide" in found.verdict.sentence
        waived = on_trial(name, shared, folder / "waived", **WAIVED)
        assert waived.verdict.outcome == "untestable", waived.verdict.sentence
        ruled = {r.prediction.statistic for r in waived.verdict.rulings}
        named = {e.name for e in waived.record.readings[0].estimates}
        assert ruled and ruled <= named, "every predicted number is there"
        if "not eligible" in found.verdict.sentence:
            assert "verdict withheld" in waived.verdict.sentence


@pytest.mark.parametrize("name", ["ioi-s-inhibition", "docstring-heads"])
def test_two_claims_are_tried_to_their_end(name: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "waived").mkdir()
    ends_as_recorded(name, shared, tmp_path)


@pytest.mark.accept
@pytest.mark.parametrize("name", sorted(TRIED))
def test_every_claim_is_tried_to_its_end(name: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "waived").mkdir()
    ends_as_recorded(name, shared, tmp_path)


HOW_TO = Path(__file__).parents[2] / "docs" / "how-to-circuit.md"


def circuit_files(folder: Path) -> list[str]:
    """The files that the how-to shows, and its commands."""
    text = HOW_TO.read_text("utf-8")
    for name, language in (("scores.json", "json"), ("my-circuit.yaml", "yaml")):
        (folder / name).write_text(re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)[0])
    return re.findall(r"^    headlab (.*)$", text, flags=re.M)


def test_the_circuit_how_to_checks_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headlab.cli import main

    commands = circuit_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    check = next(c for c in commands if c.startswith("check"))
    assert main(check.split()) == 0


@pytest.mark.accept
def test_the_circuit_how_to_gives_the_verdict_that_it_says(tmp_path: Path) -> None:
    circuit_files(tmp_path)
    found = headlab.trial(tmp_path / "my-circuit.yaml", "ioi-small", store=tmp_path / "store")
    said = HOW_TO.read_text("utf-8").replace("−", "-")
    assert f"**{found.verdict.outcome}**" in said, found.verdict.sentence
    members = found.tables["members"].set_index("statistic").loc["least:lost:without - lost:alone"]
    assert len(members) == 4 and (members["holm"] >= members["p"]).all()
    faithful, rank, _, least, _ = found.verdict.rulings
    for r in (faithful, least):
        assert f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" in said, r.shown
    assert (
        f"(p = {rank.value:.3f})" in said and " of ".join(re.findall(r"(\d+) of (\d+) matched", rank.shown)[0]) in said
    )

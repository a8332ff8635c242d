"""Prompts that all have the same right answer, as a first file of one's own often has: their mean says it, too.

Until now such a file ended in "finds no donor; give more prompts", however many there were.  Looked for besides: no other
run, a write that was asked for, one pair with another answer.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from headlab.cli import main
from headlab.cli.claims import draft
from headlab.organisms.words import NAMES, OBJECTS, PLACES
from headlab.trials.document import Document


def file_of(folder: Path, last: str = "Mary", partner: bool = True) -> Path:
    """Forty-eight sentences about something that is given to one and the same person."""
    rows = []
    for n, other in enumerate([x for x in NAMES if x != "Mary"][:48]):
        name = last if n == 47 else "Mary"
        start = f"When {name} and {other} went to the {PLACES[n % len(PLACES)]},"
        rest = f"gave a {OBJECTS[n % len(OBJECTS)]} to"
        rows.append((f"{start} {other} {rest}", f"{start} {name} {rest}" if partner else "", f" {name}", f" {other}"))
    with open(folder / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("clean", "corrupted", "answer", "wrong"), *rows])
    return folder / "pairs.csv"


def drafted(folder: Path, write: str | None = None, **more: object) -> tuple[str, Document]:
    text = draft("L0H4 L1H0", file_of(folder, **more), None, write, "other")  # type: ignore[arg-type]
    return text, Document.from_text(text)


def test_what_the_other_run_has_is_written_where_all_have_one_answer(tmp_path: Path) -> None:
    text, doc = drafted(tmp_path)
    assert doc.world_axes()["edited"][0].at({}).write == "patch" and doc.edit == "clean"
    assert "every prompt has the same answer" in text
    text, doc = drafted(tmp_path, partner=False)
    assert doc.world_axes()["edited"][0].at({}).write == "zero" and "every prompt has the same answer" in str(
        doc.only_because
    )
    text, doc = drafted(tmp_path, write="mean")
    assert doc.world_axes()["edited"][0].at({}).write == "mean" and "same answer" not in text
    text, doc = drafted(tmp_path, last="Anna")
    assert "each: [mean, zero, resample]" in text


def test_such_a_file_ends_in_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = file_of(tmp_path)
    given = ["trial", "--heads", "L0H4 L1H0", "--prompts", str(prompts), "--model", "ioi-small"]
    assert main([*given, "--store", str(tmp_path / "runs"), "--pairs", "24"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert any(word in out for word in ("Upheld", "Refuted", "Undecided")), out

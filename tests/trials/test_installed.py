"""Tasks and scores of installed packages, by the name of their entry point: found, refused, and never a claim's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import headlab
from headlab.claims import ClaimError
from headlab.installed import InstalledError
from headlab.prompts import PromptError
from headlab.tasks import TASKS
from headlab.trials.document import Document
from headlab.trials.fields import known_scores

CODE = """
from headlab.heads import Head
from headlab.prompts import Pair, Prompt, PromptSet
from headlab.tasks import Task
from headlab.tasks.ioi import ioi

print_ran = []
names = Task("their-names", "Who?", "theirs:made", {"order": "mixed"}, ("io",))

def made(n, *, seed, tokenizer, order):
    found = ioi(n, seed=seed, tokenizer=tokenizer, order=order, corruption="swap", templates="all")
    return PromptSet(found.pairs, "their-names", found.grader)

def broken():
    return Task("their-broken", "?", "theirs:breaks")

def breaks(n, *, seed, tokenizer):
    raise RuntimeError("out of words")

def other():
    return Task("somebody", "?", "theirs:made")

def first(lab, prompts):
    assert prompts and prompts[0].ids
    return {(at, h): float(h == 4 and at == 0) for at in range(lab.grid.n_layers) for h in range(lab.grid.n_heads)}

def strange(lab, prompts):
    return {"L0H99": 1.0}
"""
ENTRIES = """[headlab.tasks]
their-names = theirs:names
their-broken = theirs:broken
their-other = theirs:other
their-lost = theirs_lost:task
ioi = theirs:names

[headlab.scores]
their_first = theirs:first
their_strange = theirs:strange
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages with one distribution in it, on the path."""
    place = tmp_path / "site"
    info = place / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "theirs.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    yield place
    sys.modules.pop("theirs", None)


def claim(**more: Any) -> dict[str, Any]:
    return {
        "language": 1, "id": "theirs", "words": "The head is needed.", "source": "a test", "task": {"name": "their-names"},
        "edit": "clean", "pairs": 12, "selection_pairs": 6, "sets": {"found": {"top": 1, "by": "their_first"}},
        "worlds": {"cut": {"heads": "found", "write": "zero"}}, "only_because": "a test",
        "predictions": [{"statistic": "drop:cut", "op": ">", "threshold": 0}], **more,
    }  # fmt: skip


def test_a_task_and_a_score_of_an_installed_package_are_tried(site: Path, tmp_path: Path) -> None:
    assert "theirs" not in sys.modules and "their-names" in TASKS and "their_first" in known_scores()
    assert "theirs" not in sys.modules, "a name is known without loading its package"
    found = headlab.trial(claim(), "ioi-small", store=tmp_path / "store")
    assert found.record.settings["sets"]["found"] == "L0H4" and found.record.prompts["name"] == "their-names"
    assert (
        TASKS["their-names"].package == "theirs" and not TASKS["ioi"].package
    )  # nobody takes the place of headlab's own


def test_without_the_package_the_names_are_unknown() -> None:
    with pytest.raises(ClaimError, match="no task 'their-names'"):
        Document.from_data(claim())
    with pytest.raises(ClaimError, match="no score 'their_first'"):
        Document.from_data(claim(task={"name": "ioi"}))


def test_a_package_that_fails_is_named_in_one_line(site: Path, tmp_path: Path) -> None:
    """A module that is not there, another task's name, a generator and a score that fail; a name in two packages."""
    for name, said in (("their-lost", "cannot be loaded"), ("their-other", "is a task 'somebody'")):
        with pytest.raises(ClaimError, match=f"{name}.*the package theirs {said}"):
            Document.from_data(claim(task={"name": name}))
    with pytest.raises(PromptError, match=r"'their-broken' of the package theirs failed .RuntimeError: out of words"):
        TASKS["their-broken"].pairs(3, seed=0, tokenizer=None)
    with pytest.raises(ValueError, match=r"head 99|H99|out of range"):
        headlab.trial(claim(sets={"found": {"top": 1, "by": "their_strange"}}), "ioi-small", store=tmp_path / "store")
    twin = site / "twins-1.0.dist-info"
    twin.mkdir()
    (twin / "METADATA").write_text("Metadata-Version: 2.1\nName: twins\nVersion: 1.0\n")
    (twin / "entry_points.txt").write_text("[headlab.tasks]\ntheir-names = theirs:names\n")
    from headlab import installed

    installed._entries.cache_clear()
    with pytest.raises(InstalledError, match="in several packages"):
        TASKS["their-names"]


def test_code_beside_a_claim_is_not_installed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same distribution in the folder of the claim, from which Python was started: its names stay unknown, whatever
    the path says; and a claim that names a module runs nothing."""
    monkeypatch.chdir(site)
    monkeypatch.syspath_prepend("")
    for given in (claim(), claim(task={"name": "theirs:made"}), claim(task={"name": "ioi", "make": "theirs:made"})):
        (site / "mine.yaml").write_text(yaml.safe_dump(given))
        with pytest.raises(ClaimError, match=r"no task|no option|no score"):
            Document.from_file(site / "mine.yaml")
    assert "theirs" not in sys.modules

"""A store that is none, and a run whose record is gone, are said; nothing else is shown in their place.

Looked for, besides: a store moved, linked, with dangling and circular links in it, half of a record, an empty one, a folder in its
place, junk behind a table, damaged and cut zips: each is one line, or the run is left out by name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from headlab.cli.errors import INPUT, explain
from headlab.store import Store, StoreError


def test_a_file_is_no_store(tmp_path: Path) -> None:
    """``headlab list`` said that it holds no runs yet; a trial, that it cannot be written (exit code 1)."""
    file = tmp_path / "notes"
    file.write_text("mine")
    with pytest.raises(StoreError, match="is a file; name a folder") as error:
        Store(file)
    assert explain(error.value)[1] == INPUT and file.read_text() == "mine"


def test_a_run_without_its_record_is_not_the_next_one(store: Path) -> None:
    """``show doses-a2ae02e3`` showed ``doses-a2ae02e3-2``, whose id begins so."""
    home = Store(store)
    for _ in range(2):
        with home.open(kind="trial", slug="doses", title="t", inputs={"n": 1}, draft={}) as run:
            run.finish(readings=[])
        home.settle(run.id)
    first, second = sorted(path.name for path in store.iterdir() if path.is_dir())
    assert second == f"{first}-2" and home.find(first) == first
    (store / first / "record.json").unlink()
    with pytest.raises(StoreError, match=r"has no record.json"):
        home.find(first)
    assert home.find(second) == second and home.find(first[:-1]) == second

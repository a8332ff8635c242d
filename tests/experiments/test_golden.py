"""The docket's numbers are the kept ones, cell by cell, and the shipped claims have the kept hashes.

A sample drawn by ``HEADLAB_GOLDEN_SEED`` (0) runs daily, all of it in ``make accept``.  A number that changes on purpose is
written by ``python tests/experiments/golden.py CASE …`` and named in CHANGELOG.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import golden
import pytest

from headlab.experiments import catalogue
from headlab.experiments.trial import builtin_claims

SAMPLE = golden.sampled(int(os.environ.get("HEADLAB_GOLDEN_SEED", "0")))


@pytest.fixture(scope="module")
def alike() -> Iterator[golden.Alike]:
    with golden.Alike() as run:
        yield run


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in SAMPLE else pytest.mark.accept) for c in sorted(golden.cases())]
)
def test_every_cell_is_as_it_was_kept(case: str, alike: golden.Alike) -> None:
    changed = golden.differences(golden.read(case), alike.tried(case))
    told = "\n  ".join(changed[:20])
    assert not changed, (
        f"{case}: {len(changed)} cells differ from the kept ones:\n  {told}\n"
        f"if that is meant: python tests/experiments/golden.py '{case}', and a line in CHANGELOG.md"
    )


def test_shipped_claims_have_the_kept_hashes() -> None:
    """A hash changes only where a prediction, a control or a reading enters or leaves the document."""
    assert golden.claim_hashes() == json.loads(golden.CLAIMS.read_text(encoding="utf-8"))


def test_every_entry_of_the_docket_is_kept() -> None:
    """Each experiment and scorecard of the catalogue, each shipped claim, on organisms of each kind; no file too many."""
    tried = {case.split(".")[0] for case in golden.cases()}
    assert tried >= {c["slug"] for c in catalogue()} | set(builtin_claims())
    assert {f.name for f in golden.FOLDER.glob("*.xz")} == {golden.place_of(c).name for c in golden.cases()}
    assert sum(f.stat().st_size for f in golden.FOLDER.iterdir()) < 1_000_000
    assert 5 <= len(SAMPLE) < len(golden.cases())


# -- the comparison itself ----------------------------------------------------------------------------------

CASE = "parity.decimals-natural"


def changed(table: str, row: int, column: str, to: Any) -> list[str]:
    """What is said when one kept cell of :data:`CASE` becomes ``to``."""
    found = golden.read(CASE)
    head, line = found[table][0], found[table][row + 1]
    line[head.index(column)] = golden.cell(to)
    return golden.differences(golden.read(CASE), found)


def test_a_changed_cell_is_found_and_named() -> None:
    kept = golden.read(CASE)
    name, effects = "table effects", kept["table effects"]
    column = effects[0].index("edited")
    value = float(effects[8][column])
    assert changed(name, 7, "edited", value * (1 + 3e-5)) == []
    (said,) = changed(name, 7, "edited", value * (1 + 1e-3))
    world = effects[8][effects[0].index("world")]
    assert "table effects: row 7" in said and world in said and "edited: '" in said
    assert len(changed("outcomes", 0, "outcome", "upheld")) == 1
    assert len(changed(name, 0, "right", not json.loads(effects[1][effects[0].index("right")].lower()))) == 1
    assert len(changed(name, 0, "edited", float("nan"))) == 1
    assert len(changed("estimates", 0, "n", int(kept["estimates"][1][6]) + 1)) == 1


def test_lost_rows_columns_and_tables_are_named() -> None:
    kept, found = golden.read(CASE), golden.read(CASE)
    found["table worlds"].pop()
    found["controls"] = [row[:-1] for row in found["controls"]]
    found["table new"] = found.pop("table matched")
    said = golden.differences(kept, found)
    assert said[:2] == ["table matched: gone", "table new: new"] and len(said) == 4
    assert any(s.startswith("controls: columns") for s in said) and any("rows, now" in s for s in said)


def test_whole_numbers_are_compared_exactly_and_floats_within_the_stated_part() -> None:
    assert golden.same("100000", "100000") and not golden.same("100000", "100001")
    assert golden.same("1.0001", "1.0002") and not golden.same("1.0001", "1.0003")
    assert golden.same("0", "9e-06") and not golden.same("0", "2e-05")
    assert not golden.same("", "0") and not golden.same("upheld", "refuted") and golden.cell(float("nan")) == ""
    assert golden.cell(0.123456789) == "0.12346" and golden.cell((1, 2)) == "[1, 2]" and golden.cell(True) == "True"

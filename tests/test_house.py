"""The size of the house may only go down: ``python tests/house.py`` prints the figures and says how each is counted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import house

CEILINGS = {
    "lines": 68_975,
    "median file": 150,
    "over 200 in experiments": 24,
    "over 300": 34,
    "functions over 60": 5,
    "fmt: skip": 0,
    "Any": 1_557,
    "pandas inside": 41,
    "alike": 0,
}
"""What is allowed.  Whoever makes a figure smaller lowers its ceiling.  Lines were raised twice: when the formatter took
apart what 422 marks had kept together, and when calibration, sequential trials and the laboratory in a browser came; with
them one long function, 90 times Any and 3 imports of pandas.  A third time for claims over models, heads in reports, schemas,
dead ends said before a run, and cards: 2,200 lines and 47 times Any.  A fourth for claims over settings and among labels: 400
lines, Any twice.  A fifth for a stranger's prompts on the bench: 165 lines.  The median is no ratchet, since a small file that goes
raises it: 150 is its bound (142 today)."""


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    return house.house()


@pytest.mark.parametrize("name", CEILINGS)
def test_the_house_does_not_grow(figures: dict[str, object], name: str) -> None:
    found = figures[name]
    size = len(found) if isinstance(found, dict) else found
    assert size <= CEILINGS[name], f"{name}: {found}, allowed {CEILINGS[name]}; see python tests/house.py"


def test_each_count_sees_what_is_planted(tmp_path: Path) -> None:
    """By hand: a run of 13 lines said twice (of which comments, blank lines and imports are none), 4 times Any, one
    pandas inside, one function of 61 lines, one mark."""
    same = "\n".join(f"x{n} = {n}" for n in range(13))
    one = f'"""Doc."""\nfrom typing import Any\n\n{same}\ny: Any = 1\n'
    again = same.replace("x5", "# why\n\nx5")
    two = f"import os\n{again}\ndef f(a: 'list[Any]') -> Any:\n"
    two += "    import pandas as pd\n" + "    a = 1\n" * 58 + "    return t.Any  # fmt: skip\n"
    for name, text in {"a.py": one, "b.py": two}.items():
        (tmp_path / name).write_text(text)
    found = house.house(tmp_path)
    assert (found["alike"], found["Any"], found["pandas inside"], found["fmt: skip"]) == (
        {"a.py ~ b.py": "13 lines from 'x0 = 0'"},
        4,
        1,
        1,
    )
    assert found["functions over 60"] == {"b.py:f": 61}


def test_a_run_of_eleven_lines_is_none() -> None:
    lines = [f"x{n}" for n in range(11)]
    assert not house.alike({"a": [*lines, "a"], "b": [*lines, "b"]})
    assert house.code_lines("# a\nx = 1  # b\n", ast.parse("x = 1")) == ["x = 1"]

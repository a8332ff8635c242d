"""The contents page: what ``headlab.NAME`` gives is typed, and says what it takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import headlab


def annotations(thing: object) -> dict[str, str]:
    """What a public name's signature says: its own, or that of its constructor and public methods."""
    if not inspect.isclass(thing):
        return {k: str(v) for k, v in getattr(thing, "__annotations__", {}).items()}
    found = {k: str(v) for k, v in vars(thing).get("__annotations__", {}).items() if not k.startswith("_")}
    for name, member in vars(thing).items():
        raw = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(raw) and (name == "__init__" or not name.startswith("_")):
            found |= {f"{name}({k})": str(v) for k, v in raw.__annotations__.items() if not k.startswith("_")}
    return found


@pytest.mark.parametrize("name", headlab.__all__)
def test_no_public_name_says_any(name: str) -> None:
    """A reader's editor knows what every name of the contents page takes and gives (JSON-ready data apart: what a method called
    plain, from_plain or from_data carries)."""
    said = annotations(getattr(headlab, name))
    loose = {
        k: v
        for k, v in said.items()
        if re.search(r"\bAny\b", v) and not k.startswith(("plain", "from_plain", "from_data"))
    }
    assert not loose, loose


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(headlab.__file__).parent / "py.typed").is_file()
    assert len(headlab.__all__) <= 45


def test_the_page_of_what_is_stable_names_them_all() -> None:
    page = (Path(__file__).parents[1] / "docs" / "stable.md").read_text("utf-8")
    listed = re.findall(r"`(\w+)`", page.split("## The contents page")[1].split("Packages add")[0])
    assert sorted(listed) == sorted(headlab.__all__)

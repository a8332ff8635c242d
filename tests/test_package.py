"""What pyproject.toml says of the package is so: each package that is imported is named where it is needed, and the files of
the source distribution exist.

A test that imported ``nbformat``, which stands in no extra that the tests install, passed on every machine with the ``docs`` extra
and failed on a fresh one.  Looked for beside it: imports inside functions, under ``TYPE_CHECKING``, by ``importorskip`` and
``import_module``; packages that come only because another package needs them (``pydantic_core`` was one); the notebooks' cells
and the blocks of the documentation.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
import tomllib
import types
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from benchmarks.envs import PEERS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
BY_NAME = {"importorskip", "import_module", "find_spec"}
EXTRAS = {
    "src/headlab/engine/scale": {"ray"},
    "src/headlab/view": {"view"},
    "src/headlab/stats/views.py": {"views"},
    "src": set(),
    "tests": {"test"},
    "benchmarks": {"test"},
    "docs/notebooks": {"notebook"},
    "docs": {"docs"},
}
"""What is installed beside headlab where these files run; the first that fits a file rules."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, with those of headlab's own extras."""
    found: set[str] = set()
    for one in requirements:
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?.*", one).groups()  # type: ignore[union-attr]
        if name == "headlab":
            found |= in_extras({e for e in extras.split(",")})
        else:
            found.add(plain(name))
    return found


def in_extras(extras: set[str]) -> set[str]:
    return named([r for e in sorted(extras) for r in PROJECT["project"]["optional-dependencies"][e]])


def imported(text: str) -> Iterator[str]:
    """The top-level names of what a text of Python imports, at its head or anywhere."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in BY_NAME and isinstance(node.args[0].value, str):
                yield node.args[0].value.split(".")[0]


@cache
def own() -> frozenset[str]:
    """Names that are this repository's."""
    rooms = [ROOT / "tests", ROOT / "docs", ROOT / "benchmarks"]
    return frozenset({"headlab", "benchmarks", *(p.stem for room in rooms for p in room.rglob("*.py"))})


@cache
def provided() -> dict[str, set[str]]:
    """The distributions that bring each import name, as far as they are installed here."""
    return {name: set(map(plain, by)) for name, by in packages_distributions().items()}


def unnamed(place: str, text: str) -> list[str]:
    """What ``place`` imports that pyproject.toml does not promise it."""
    extras = next(e for room, e in EXTRAS.items() if place.startswith(room))
    allowed = named(PROJECT["project"]["dependencies"]) | in_extras(extras)
    if place.startswith("benchmarks"):  # each has an environment of its own
        allowed |= {plain(p.module) for p in PEERS.values()}
    strangers = set(imported(text)) - own() - set(sys.stdlib_module_names)
    return [f"{place}: {n}" for n in sorted(strangers) if not provided().get(n, {plain(n)}) & allowed]


def sources() -> Iterator[tuple[str, str]]:
    """Every file of Python, every notebook's cells, every block of the pages."""
    for room in ("src", "tests", "benchmarks", "docs"):
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
        yield path.relative_to(ROOT).as_posix(), "\n".join("".join(c["source"]) for c in cells)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S):
            yield f"docs/notebooks, as in {path.name}", block


def test_each_package_that_is_imported_is_named_where_it_is_needed() -> None:
    found = list(sources())
    assert len(found) > 600 and sum(place.endswith(".ipynb") for place, _ in found) == 3
    wrong = [line for place, text in found for line in unnamed(place, text)]
    assert not wrong, "pyproject.toml names no package of:\n  " + "\n  ".join(wrong)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("tests/test_docs.py", "def test():\n    import nbformat"),
        ("tests/test_docs.py", 'pytest.importorskip("nbclient.client")'),
        ("src/headlab/store/query.py", "import jsonschema"),
        ("src/headlab/stats/paired.py", "if TYPE_CHECKING:\n    from umap import UMAP"),
        ("src/headlab/report/read.py", "from starlette.responses import Response"),
        ("docs/notebooks/students.ipynb", "import matplotlib.pyplot as plt"),
        ("benchmarks/daily.py", "import a_package_that_nobody_has"),
    ],
)
def test_one_that_is_named_nowhere_is_found(place: str, text: str) -> None:
    (line,) = unnamed(place, text)
    assert line.startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("docs/conf.py", "import myst_nb"),
        ("src/headlab/view/app.py", "import uvicorn"),
        ("src/headlab/stats/views.py", "from umap import UMAP"),
        ("tests/stats/test_views.py", "import umap, sklearn.manifold, ray, starlette, yaml"),
        ("benchmarks/peers/pyvene_.py", "import pyvene, transformer_lens"),
    ],
)
def test_one_that_is_named_is_not(place: str, text: str) -> None:
    assert not unnamed(place, text)


def test_the_extras_are_pinned_and_what_is_packed_exists() -> None:
    pins = {
        plain(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert extras >= {"ray", "view", "views", "notebook", "docs", "test"}
    assert named(PROJECT["project"]["dependencies"]) | in_extras(extras) <= pins
    for pattern in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert list(ROOT.glob(pattern.lstrip("/"))), f"the source distribution lists {pattern}, which does not exist"
    assert sum(f.stat().st_size for f in (ROOT / "src").rglob("*") if f.is_file() and f.suffix != ".pyc") < 40e6


def test_links_of_the_readme_lead_somewhere_from_a_package_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """No relative link is left, with the repository's address and without; without one, what is named is a file that the
    source distribution has.  (``make package`` builds both and looks at them.)"""
    there = types.ModuleType("hatchling.metadata.plugin.interface")
    there.MetadataHookInterface = object  # type: ignore[attr-defined]  # hatchling is there while building alone
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, there.__name__, there)
    outside = runpy.run_path(str(ROOT / PROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["path"]))["outside"]
    assert outside("![a](b/c.svg) [d](e.md) [f](https://g.org) [h](#i)") == "*(a)* d (e.md) [f](https://g.org) [h](#i)"
    readme, relative = (ROOT / "README.md").read_text("utf-8"), re.compile(r"\]\((?![a-z]+:|#)([^)]+)\)")
    named = relative.findall(readme)
    assert "readme" in PROJECT["project"]["dynamic"] and len(named) > 20
    assert not relative.findall(outside(readme)) and not re.search(r"!\[", outside(readme))
    led = re.findall(r"https://x\.org/y/(?:raw|blob)/HEAD/([^)]+)\)", outside(readme, "https://x.org/y/"))
    assert led == named and not relative.findall(outside(readme, "https://x.org/y"))
    packed = [p.lstrip("/") for p in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    assert all(any(fnmatch(n, p) or n.startswith(f"{p}/") for p in packed) and (ROOT / n).exists() for n in named)


def test_what_is_supported_is_said_alike() -> None:
    """README's sentence and the classifiers name the systems and Pythons that were run, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [c.split(" :: ") for c in project["classifiers"]]
    systems = {c[-1] for c in named if c[0] == "Operating System"}
    pythons = {c[-1] for c in named if c[:2] == ["Programming Language", "Python"] and "." in c[-1]}
    (said,) = re.findall(
        r"It is run and tested on (\w+) with Python ([\d.]+\d)\.", (ROOT / "README.md").read_text("utf-8")
    )
    assert ({said[0]}, {said[1]}) == (systems, pythons) and project["requires-python"].startswith(f">={said[1]}")


def test_what_the_first_command_installs_has_all_that_the_readme_lists() -> None:
    """``make demo`` made an environment without the extra of ``headlab view``, and nothing said where the command is."""
    make, readme = (ROOT / "Makefile").read_text("utf-8"), (ROOT / "README.md").read_text("utf-8")
    installs = re.findall(r"^\$\(VENV\)/\.stamp-(\w+):.*\n(?:\t.*\n)*?\t.* -e '\.\[([\w,]+)\]'", make, re.M)
    assert {"run", "test", "docs"} == {name for name, _ in installs} and make.count(" -e ") == 3
    for name, extras in installs:
        assert in_extras(set(extras.split(","))) >= in_extras({"view"}), name
    first = readme.index("headlab view")
    assert (
        "The command is `.venv/bin/headlab`; after `source .venv/bin/activate` it is `headlab`" in readme[: first + 600]
    )

"""The house rules that a reader cannot check by eye: which room may know which, what a light command loads.

Everything static reads the syntax tree: an import inside a function or under TYPE_CHECKING counts like any
other.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import itertools
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "headlab"
TESTS = REPOSITORY / "tests"

# Low to high.  A room imports only from lower floors; two rooms of one step do not know each other; the modules inside
# one room (a package such as stats/ or tasks/) may, but never in a circle.
ENGINE: list[set[str]] = [
    {"engine.hub"},
    {"engine.checkpoint"},
    {"engine.attention", "engine.between", "engine.edits", "engine.loading", "engine.adapters"},
    {"engine.model"},
    {"engine.passes", "engine.limits", "engine.identity"},
    {"engine.reader", "engine.marks"},
    {"engine.recall"},
    {"engine.captures"},
    {"engine.resume", "engine.populations", "engine.directions"},
    {"engine.selfcheck", "engine.plan", "engine.paths"},
    {"engine.work", "engine.reindexing"},
    {"engine.run"},
    {"engine.decode", "engine.gradients", "engine.scale"},
]
"""The one floor with many steps, and the two of plain data: each step may import the steps before it."""
FLOORS: dict[str, list[set[str]]] = {
    "words": [{"reading", "heads", "installed", "readouts", "stats"}],
    "plain data": [{"prompts", "effects", "claims"}, {"interventions"}],
    "what to try": [{"designs", "material", "tasks", "store"}],
    "engine": ENGINE,
    "what is measured": [{"measures", "thoughts", "report"}],
    "organisms": [{"organisms"}],
    "trials": [{"trials"}],
    "experiments": [{"experiments", "looking"}],
    "cli": [{"view"}, {"cli"}],
}
LEVEL = {
    room: (floor, step)
    for floor, steps in enumerate(FLOORS.values())
    for step, rooms in enumerate(steps)
    for room in rooms
}
FREE = {"", "__main__"}
"""The contents page, which may name anything, and what starts the command."""
# Packages whose modules are rooms of their own; their __init__ imports nothing of ours.
CORRIDORS = {"engine"}


# -- reading imports ----------------------------------------------------------------------------------------


def dotted(path: Path, package: Path) -> str:
    """``package/engine/model.py`` -> ``engine.model``; a package is named by its folder, the root by ''."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The longest prefix of a module's dotted name that is a room of the table."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in LEVEL:
            return name
    return None


def read_once(act: Callable[..., Iterator[tuple[int, str]]]) -> Callable[..., tuple[tuple[int, str], ...]]:
    """A reading of a file that several tests share."""
    return cache(lambda *given: tuple(act(*given)))


@read_once
def imported(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name (within the package) of everything of ours that a file imports, at any depth.

    ``from headlab.engine import run`` names a module or an attribute: the module, where one exists.
    """
    top = package.name
    here = [top, *path.relative_to(package).parent.parts]

    def exists(name: str) -> bool:
        place = package.joinpath(*name.split("."))
        return place.is_dir() or place.with_suffix(".py").exists()

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])])
            else:
                base = node.module or ""
            within = base.removeprefix(top).removeprefix(".")
            names = []
            for alias in node.names:
                child = f"{within}.{alias.name}" if within else alias.name
                names.append(f"{base}.{alias.name}" if not within or exists(child) else base)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [str(node.args[0].value)]
        else:
            continue
        for name in names:
            if name == top or name.startswith(top + "."):
                yield node.lineno, name.removeprefix(top).removeprefix(".")


def floor_violations(package: Path) -> list[str]:
    """One line for every import that does not go down, and for every file that the table does not know."""
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        module = dotted(path, package)
        where = path.relative_to(package.parent)
        if module in FREE:
            continue
        room = room_of(module)
        if room is None and module not in CORRIDORS:
            found.append(f"{where}: unknown room {module!r}; give it a floor in tests/test_architecture.py")
            continue
        for line, name in sorted(set(imported(path, package))):
            if name == "__version__":
                continue
            target = room_of(name)
            if module in CORRIDORS:
                found.append(f"{where}:{line}: imports {name!r}; this __init__ imports nothing of ours")
            elif target is None:
                found.append(f"{where}:{line}: imports {name or package.name!r}, which is not a room")
            elif target != room and LEVEL[target] >= LEVEL[room]:
                floors = list(FLOORS)
                own, other = floors[LEVEL[room][0]], floors[LEVEL[target][0]]
                found.append(f"{where}:{line}: {room} (floor {own!r}) imports {target} (floor {other!r})")
    return found


def test_rooms_import_only_from_lower_floors() -> None:
    assert not (found := floor_violations(SOURCE)), "\n".join(found)


def test_a_package_hides_none_of_its_modules() -> None:
    """``import headlab.experiments.trial as t`` gives the module, whatever the package offers under the name: asked of every
    module of every package, since ``demo``, ``reading.problems`` and ``store.survey`` were hidden, too."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name in {"__init__.py", "__main__.py"}:
            continue
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        module = importlib.import_module(name)
        package, _, own = name.rpartition(".")
        assert getattr(sys.modules[package], own) is module, f"{package} hides its module {own}"


def test_modules_that_bear_a_function_s_name_are_called_like_it() -> None:
    import headlab
    import headlab.experiments.trial as way_in

    assert headlab.trial is way_in.trial and headlab.trial.__doc__
    assert callable(way_in) and way_in.builtin_claims()


def test_there_are_nine_floors_and_no_room_stands_on_two() -> None:
    assert len(FLOORS) == 9
    assert sum(len(rooms) for steps in FLOORS.values() for rooms in steps) == len(LEVEL)


def test_the_engine_has_an_order_of_its_own(tmp_path: Path) -> None:
    """Each of its files is a room with a step, and what a later step imports from an earlier one is refused the other
    way round: asked of every two rooms that stand on different steps."""
    files = {f"engine.{path.stem}" for path in (SOURCE / "engine").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert files - {"engine.__init__", "engine.__pycache__"} == {room for step in ENGINE for room in step}
    for low, high in itertools.combinations(ENGINE, 2):
        for a, b in itertools.product(low, high):
            assert LEVEL[a] < LEVEL[b]
    package = planted(tmp_path, {"engine/plan.py": "from headlab.engine.work import x", "engine/work.py": ""})
    assert len(floor_violations(package)) == 1


def file_circles(package: Path) -> list[list[str]]:
    """The files that reach themselves over imports, circle by circle; imports in functions and for types count."""
    files = {dotted(path, package): path for path in package.rglob("*.py")}
    knows: dict[str, set[str]] = {}
    for module, path in files.items():
        knows[module] = set()
        for _, name in imported(path, package):
            while name and name not in files:
                name = name.rpartition(".")[0]
            if module and name and name != module:  # the contents page is in no circle: it may name anything
                knows[module].add(name)
    found, order = [], graphlib.TopologicalSorter(knows)
    while True:
        try:
            order.prepare()
            return found
        except graphlib.CycleError as error:
            circle = error.args[1]
            found.append(circle)
            knows[circle[1]].discard(circle[0])
            order = graphlib.TopologicalSorter(knows)


def test_no_two_files_import_each_other_in_a_circle() -> None:
    assert not (found := file_circles(SOURCE)), "\n".join(" <- ".join(circle) for circle in found)


@pytest.mark.parametrize(
    ("files", "circles"),
    [
        (
            {"stats/paired.py": "from .intervals import x", "stats/intervals.py": "def f():\n    from . import paired"},
            1,
        ),
        (
            {
                "stats/paired.py": "import headlab.stats.intervals",
                "stats/intervals.py": "from headlab.stats.paired import x",
            },
            1,
        ),
        (
            {
                "claims.py": "if TYPE_CHECKING:\n    from .store import x",
                "store.py": "from .cli import x",
                "cli.py": "from . import claims",
            },
            1,
        ),
        ({"stats/__init__.py": "from .paired import x", "stats/paired.py": "from headlab.stats import y"}, 1),
        ({"stats/__init__.py": "from .paired import x", "stats/paired.py": "from .intervals import y"}, 0),
        ({"__init__.py": "from .cli import main", "cli.py": "from headlab import __version__"}, 0),
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, files: dict[str, str], circles: int) -> None:
    assert len(file_circles(planted(tmp_path, files))) == circles


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("heads.py", "from headlab.claims import Claim"),
        ("heads.py", "def f():\n    from headlab import claims"),
        ("heads.py", "import headlab.engine.run as run"),
        ("heads.py", "from .engine import run"),
        ("heads.py", "from . import claims"),
        ("heads.py", "import headlab"),
        ("heads.py", "from headlab import Claim"),
        ("heads.py", "import importlib\nimportlib.import_module('headlab.claims')"),
        ("heads.py", "if TYPE_CHECKING:\n    from headlab.claims import Claim"),
        ("heads.py", "from headlab.stats import wilson"),
        ("stats/paired.py", "from ..tasks.decimals import pairs"),
        ("engine/run.py", "from headlab.engine.decode import greedy"),
        ("engine/run.py", "from .decode import greedy"),
        ("engine/__init__.py", "from headlab.engine.run import capture"),
        ("attic.py", ""),
        ("engine/attic.py", ""),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str) -> None:
    package = planted(tmp_path, {file: text})
    assert len(floor_violations(package)) == 1, text


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("interventions.py", "from headlab.heads import Head\nfrom .prompts import Pair\nfrom headlab import heads"),
        ("engine/run.py", "from .model import load\nfrom ..heads import Head\nfrom headlab.engine import plan"),
        ("stats/paired.py", "from .rates import wilson\nfrom headlab.stats import intervals"),
        ("store.py", "from headlab import __version__\nimport numpy, headlabel"),
        ("__init__.py", "from headlab.cli import main"),
    ],
)
def test_a_proper_import_is_not(tmp_path: Path, file: str, text: str) -> None:
    assert floor_violations(planted(tmp_path, {file: text})) == []


def planted(folder: Path, files: dict[str, str]) -> Path:
    """A small tree of empty rooms, with some files filled in."""
    package = folder / "headlab"
    rooms = "heads prompts claims store stats/intervals stats/paired tasks/decimals engine/model engine/plan"
    empty = dict.fromkeys([f"{room}.py" for room in f"{rooms} engine/run engine/decode cli".split()], "")
    for name, text in {**empty, "engine/__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


# -- who may name what --------------------------------------------------------------------------------------


@read_once
def words(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string of a file's code: no comments, no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
            yield node.lineno, node.arg
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.alias)):
            yield node.lineno, node.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


RAY = re.compile(r"(?<![a-z])ray(?![a-z])", re.IGNORECASE)
FAMILY = re.compile(
    r"llama|neox|gpt_?2|gpt_?j|pythia|gemma|qwen|mistral|phi_?3|falcon|bloom|codegen|olmo"
    r"|\b[qkvo]_proj\b|\bqkv_proj\b|query_key_value|\bc_attn\b|\bc_proj\b",
    re.IGNORECASE,
)
# The instrument and all that is read off it.  Above it, organisms, thoughts and experiments speak of models
# by name, as their subject; tasks spell out published prompts.
BLIND_TO_FAMILIES = {
    room for room in LEVEL if LEVEL[room] <= LEVEL["measures"] and room not in {"engine.model", "thoughts", "tasks"}
}


def test_every_protocol_can_be_checked_at_run_time() -> None:
    """Else the checks of signatures (HEADLAB_TYPECHECK=all, which make accept sets) fail where it is named in one."""
    bare = [
        f"{path.relative_to(REPOSITORY)}: {node.name}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(b).split("[")[0] == "Protocol" for b in node.bases)
        and "runtime_checkable" not in map(ast.unparse, node.decorator_list)
    ]
    assert not bare


def test_only_scale_names_ray() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {word!r}"
        for path in SOURCE.rglob("*.py")
        if room_of(dotted(path, SOURCE)) != "engine.scale"
        for line, word in words(path)
        if RAY.search(word)
    ]
    assert not found, "\n".join(found)


def test_only_the_model_room_knows_families() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}: {word!r} belongs in engine/model.py"
        for path in SOURCE.rglob("*.py")
        if room_of(dotted(path, SOURCE)) in BLIND_TO_FAMILIES
        for line, word in words(path)
        if FAMILY.search(word)
    ]
    assert not found, "\n".join(found)


def test_the_naming_rules_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Llama, Ray."""\nimport ray\nx = array.layers.q_proj\nif kind == "gpt_neox":\n    """Ray"""\n')
    assert [line for line, word in words(path) if RAY.search(word)] == [2]
    assert sorted(line for line, word in words(path) if FAMILY.search(word)) == [3, 4]


# -- the contents page --------------------------------------------------------------------------------------


def built(room: str) -> None:
    place = SOURCE.joinpath(*room.split("."))
    if not (place.with_suffix(".py").exists() or (place / "__init__.py").exists()):
        pytest.skip(f"the room {room} is not built yet")


def test_the_contents_page_is_short_and_true() -> None:
    built("__init__")
    headlab = importlib.import_module("headlab")
    names = headlab.__all__
    assert len(names) == len(set(names)) <= 45
    missing = [name for name in names if not hasattr(headlab, name)]
    assert not missing, f"headlab.__all__ promises what it does not have: {missing}"
    assert set(names) <= set(dir(headlab))


def test_the_version_stands_in_one_place() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    literal = re.compile(rf"version\W+{re.escape(version)}\b", re.IGNORECASE)
    elsewhere = [
        str(path.relative_to(REPOSITORY))
        for path in [*SOURCE.rglob("*.py"), REPOSITORY / "CITATION.cff"]
        if literal.search(path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []
    assert f"## {version}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


# -- light commands stay light ------------------------------------------------------------------------------


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that sees this source tree."""
    path = os.pathsep.join(filter(None, [str(SOURCE.parent), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )


HELP = """
import sys
from headlab.cli import main
sys.argv = ["headlab", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


LIGHT = ["__init__", "heads", "prompts", "interventions", "claims", "store", "cli"]


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_import_loads_no_torch_and_says_nothing(room: str) -> None:
    built(room)
    module = "headlab" if room == "__init__" else f"headlab.{room}"
    done = fresh(f"import sys, {module}\nsys.exit('torch' in sys.modules and 'it loaded torch')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_loads_no_torch() -> None:
    built("cli")
    done = fresh(HELP + "assert 'torch' not in sys.modules, 'it loaded torch'")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_help_is_quick() -> None:
    """Meant: under half a second.  Held: under one second of processor time, the median of five calls, since
    whatever else the machine does shall not decide a test."""
    built("cli")
    times = []
    for _ in range(5):
        before = os.times()
        assert fresh(HELP).returncode == 0
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        times.append(spent)
    assert statistics.median(times) < 1.0, f"seconds of processor time: {times}"


# -- the tests and the text ---------------------------------------------------------------------------------


SKIPS = {f"pytest.{name}" for name in ["skip", "xfail", "importorskip", "mark.skip", "mark.skipif", "mark.xfail"]}


def silent_skips(text: str) -> list[int]:
    """Lines of skips and expected failures without a written reason."""
    tree = ast.parse(text)
    found: list[int] = []
    called: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in SKIPS:
            continue
        called.add(id(node.func))
        reasons = [key.value for key in node.keywords if key.arg == "reason"]
        if ast.unparse(node.func) in {"pytest.skip", "pytest.xfail", "pytest.mark.skip"}:
            reasons += node.args[:1]
        blank = [isinstance(reason, ast.Constant) and not str(reason.value).strip() for reason in reasons]
        if not reasons or any(blank):
            found.append(node.lineno)
    for node in ast.walk(tree):  # a bare @pytest.mark.skip, without a call
        bare = isinstance(node, ast.Attribute) and id(node) not in called
        if bare and ast.unparse(node) in {"pytest.mark.skip", "pytest.mark.xfail"}:
            found.append(node.lineno)
    return sorted(found)


def test_every_skip_has_a_reason() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in TESTS.rglob("*.py")
        for line in silent_skips(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"a skip without a written reason: {found}"


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("pytest.skip()", True),
        ("pytest.skip('')", True),
        ("@pytest.mark.skip\ndef f(): ...", True),
        ("@pytest.mark.skipif(True)\ndef f(): ...", True),
        ("pytest.importorskip('ray')", True),
        ("pytest.skip('no such folder')", False),
        ("pytest.skip(f'{x} is not built yet')", False),
        ("pytest.importorskip('ray', reason='the ray extra is not installed')", False),
        ("@pytest.mark.xfail(reason='why')\ndef f(): ...", False),
    ],
)
def test_a_silent_skip_is_found(text: str, silent: bool) -> None:
    assert bool(silent_skips(text)) is silent


MACHINE_PATH = re.compile(r"(?<![\w./~$}*-])(?:/(?:root|home|work|opt|mnt|srv|tmp|Users)/\w|[A-Z]:\\Users\\)")
TEXT = {
    f".{ending}"
    for ending in ["py", "md", "toml", "txt", "yaml", "yml", "json", "jsonl", "html", "j2", "csv", "cff", "cfg"]
}


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    files = [path for path in REPOSITORY.iterdir() if path.is_file() and path.suffix in TEXT]
    files += [path for path in [REPOSITORY / "Makefile", REPOSITORY / ".ci" / "run"] if path.exists()]
    for folder in ["src", "tests", "docs", "examples", "benchmarks"]:
        files += [path for path in (REPOSITORY / folder).rglob("*") if path.suffix in TEXT]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("open('" + "/home" + "/ada/x')", True),
        ("C:" + "\\Users\\ada", True),
        ("src/home/x and https://example.org/home/x", False),
        ("~/code/x, $HOME/tmp/x, ./tmp/x", False),
    ],
)
def test_a_machine_path_is_found(text: str, found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is found


def test_shapes_are_checked_where_they_are_declared() -> None:
    """The conditions of ``conftest.py`` hold: a wrong shape is refused before the function looks at it."""
    import numpy as np
    from jaxtyping import TypeCheckError

    from headlab.measures.artefacts import repetition

    if os.environ.get("HEADLAB_TYPECHECK") == "0":
        pytest.skip("HEADLAB_TYPECHECK=0")
    with pytest.raises(TypeCheckError):
        repetition(np.zeros(3), [0, 1, 2])

"""README and docs say what is so: their code and commands run, their examples parse."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from headlab.claims import read_text
from headlab.prompts import PromptSet
from headlab.trials.registry import from_data

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
WRITTEN = [p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts and p.name != "gallery.md"]
"""Without what building the site makes."""
PAGES = sorted([README, *WRITTEN, ROOT / "CONTRIBUTING.md"])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


TUTORIAL = ROOT / "docs" / "tutorial-first-claim.md"
OWN_TASK = ROOT / "docs" / "how-to-task.md"
COMMANDS = [
    line[2:]
    for page in PAGES
    if page not in {TUTORIAL, OWN_TASK}  # which need files of the page
    for block in blocks(page, "console")
    for line in block.splitlines()
    if line[:2] == "$ "
]
COMMANDS = list(dict.fromkeys(COMMANDS))


def test_the_readme_has_commands_and_code() -> None:
    assert len(COMMANDS) >= 4 and len(blocks(README, "python")) >= 2


def headlab(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints on stdout; in this process, since importing torch anew costs more than most commands do
    (that a shell runs them too is for test_cli)."""
    from headlab.cli import main

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(words) == 0, capsys.readouterr().err[-2000:]
    return capsys.readouterr().out


def executed(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a page's Python as a script would be, in a folder and with a store of its own; the names that it leaves."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HEADLAB_STORE", str(folder / "runs"))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script, "page.py", "exec"), names)
    return names


FEWER = ["--matched-sets", "24", "--anyway"]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.accept)])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(command: str, whole: bool, store: Path, monkeypatch, capsys) -> None:
    """Daily a trial of a built-in claim with fewer matched sets than it would draw (``make accept``: as it stands).  The README's
    sample is what its trial prints, to its dots: what stands behind them depends on how many sets were drawn."""
    words = shlex.split(command)
    assert words[0] == "headlab"
    words += FEWER if not whole and words[:3] == ["headlab", "trial", "parity"] else []
    monkeypatch.chdir(store)
    monkeypatch.setenv("HEADLAB_STORE", str(store / "runs"))
    printed = " ".join(headlab(words[1:], capsys).split())
    (sample,) = blocks(README, "text")
    tried = command == next(c for c in COMMANDS if c.startswith("headlab trial"))
    assert printed and (not tried or printed.startswith(" ".join(sample.split()).removesuffix(" …")))


STORIES = Path(os.environ.get("HEADLAB_SHARED", "")) / "data" / "models" / "stories260k"


@pytest.mark.skipif(
    "HEADLAB_SHARED" not in os.environ or not STORIES.is_dir(),
    reason="stories260k is not here: HEADLAB_SHARED names no folder that holds data/models/stories260k",
)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.accept)])
def test_the_tutorial_runs(whole: bool, tmp_path: Path, monkeypatch, capsys) -> None:
    """Its files and commands in order, in one folder; what stands under a command is in what it printed.  Daily without
    the trials of the last two documents (which are written and checked)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    (tmp_path / "stories260k").symlink_to(STORIES)
    for text in blocks(TUTORIAL, "yaml"):
        (tmp_path / text.split("\n", 1)[0].removeprefix("# ")).write_text(text)
    ran = 0
    for command, *shown in (c.splitlines() for b in blocks(TUTORIAL, "console") for c in b.split("$ ")[1:]):
        if not whole and re.search("trial (naive|carriers)", command):
            continue
        printed = " ".join(headlab(shlex.split(command)[1:], capsys).split())
        assert all(line in printed for line in shown), (command, printed)
        ran += 1
    assert ran == (8 if whole else 6)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """The README's Python blocks, one after the other, and what they promise."""
    promises = """
assert result.verdict.outcome == "upheld", result.verdict.sentence
means = effects.groupby("world")["edited"].mean()
assert means["six of the planted heads"] > 0 > means["five of them"], means
"""
    executed("\n".join([*blocks(README, "python"), promises]), tmp_path, monkeypatch)
    assert "Upheld: " in capsys.readouterr().out


def test_the_python_about_looking_makes_a_claim_that_is_tried(tmp_path: Path, monkeypatch, capsys) -> None:
    executed("\n".join(blocks(ROOT / "docs" / "looking.md", "python")), tmp_path, monkeypatch)
    capsys.readouterr()
    assert "Upheld: " in headlab(["trial", "claims/claim-l0h4.yaml", "--model", "ioi-small"], capsys)
    assert "chosen_on: other" in Path("claims/claim-l0h4.yaml").read_text("utf-8")


def test_the_python_about_thinking_models_runs(tmp_path: Path, monkeypatch) -> None:
    promise = """
text = answers.set_index(["problem", "world"])["text"].unstack()
assert (text["baseline"] != text["another problem's thought 0"]).mean() > 0.4, text
"""
    executed("\n".join([*blocks(ROOT / "docs" / "thoughts.md", "python"), promise]), tmp_path, monkeypatch)


def test_the_experiment_that_is_added_is_tried(tmp_path: Path, monkeypatch) -> None:
    """docs/add-an-experiment.md: its code is an entry of the docket, its claim a claim; the planted model answers it."""
    from headlab.experiments.trial import EXPERIMENTS

    page = ROOT / "docs" / "add-an-experiment.md"
    monkeypatch.setitem(EXPERIMENTS, "second-half", None)  # so that it is taken out again
    (tmp_path / "second-half.yaml").write_text(blocks(page, "yaml")[0], "utf-8")
    result = executed("\n".join(blocks(page, "python")), tmp_path, monkeypatch)["result"]
    assert result.verdict.outcome == "untestable" and "100 pairs" in result.verdict.sentence
    told = {e.name: e.estimate["value"] for e in result.record.readings[0].estimates}
    assert {"repair:first", "repair:second", "rank:second"} <= told.keys()
    assert all(c.passed for c in result.verdict.controls)


@pytest.mark.accept
def test_the_experiment_is_put_on_the_docket_of_a_copy(tmp_path: Path) -> None:
    """Section 3 of docs/add-an-experiment.md, step by step in a copy of the package: module, name in the list, claim, page;
    then it is listed, and tried by name."""
    page, package = ROOT / "docs" / "add-an-experiment.md", tmp_path / "src" / "headlab"
    shutil.copytree(ROOT / "src" / "headlab", package, copy_function=os.symlink)
    shutil.copytree(ROOT / "docs" / "docket", tmp_path / "docs" / "docket")
    shutil.copy(ROOT / "docs" / "docket.md", tmp_path / "docs")
    room = package / "experiments"
    (room / "heads" / "second_half.py").write_text(blocks(page, "python")[0], "utf-8")
    (room / "claims" / "second-half.yaml").write_text(blocks(page, "yaml")[0], "utf-8")
    listed = (room / "trial.py").read_text("utf-8").replace('("heads", "parity ', '("heads", "parity second_half ')
    (room / "trial.py").unlink()
    (room / "trial.py").write_text(listed, "utf-8")
    trial = "trial second-half --model decimals-planted-even --layer 1 --pairs 24 --matched-sets 19 --anyway"
    said = ""
    for words in ("headlab.experiments.docket_page docs", "headlab list experiments", f"headlab {trial}"):
        done = subprocess.run(
            [sys.executable, "-m", *words.split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said += done.stdout
    assert "second-half" in said and "Untestable: " in said
    made = (tmp_path / "docs" / "docket" / "second-half.md").read_text("utf-8")
    assert "in which half they lie is a coin toss" in " ".join(made.split())
    assert "[`second-half`](docket/second-half.md)" in (tmp_path / "docs" / "docket.md").read_text("utf-8")


def test_the_task_that_is_added_is_tried(tmp_path: Path, monkeypatch, capsys) -> None:
    """docs/how-to-task.md: its module is installed as its lines say, its look and its commands are run."""
    module, look = blocks(OWN_TASK, "python")
    (project,), (claim,), (commands,) = (blocks(OWN_TASK, language) for language in ("toml", "yaml", "console"))
    site = tmp_path / "site"
    (info := site / "row_again-1.0.dist-info").mkdir(parents=True)
    (site / "row_again.py").write_text(module, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: row-again\nVersion: 1.0\n")
    entries = tomllib.loads(project)["project"]["entry-points"]
    said = (f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in these.items()) for group, these in entries.items())
    (info / "entry_points.txt").write_text("\n".join(said))
    monkeypatch.syspath_prepend(str(site))
    some = executed(look, tmp_path, monkeypatch)["some"]
    assert len(some) == 60 and all(len(p.clean.text.split()) == 10 for p in some)
    (tmp_path / "again.yaml").write_text(claim, "utf-8")
    check, trial = (shlex.split(line)[2:] for line in commands.splitlines())
    assert "100 test prompts" in headlab(check, capsys)
    printed = headlab(trial, capsys)
    assert "Refuted: " in printed and "**refuted**" in OWN_TASK.read_text("utf-8"), printed
    sys.modules.pop("row_again")


def test_the_documented_claim_parses() -> None:
    for text in blocks(ROOT / "docs" / "claims.md", "yaml"):
        data, lines = read_text(text, ".yaml", "docs/claims.md")
        assert from_data(data, "docs/claims.md", lines).predictions


def test_the_documented_csv_parses(tmp_path: Path) -> None:
    lines = re.findall(r"^    (clean,.*\n    .*)$", (ROOT / "docs" / "prompts.md").read_text("utf-8"), flags=re.M)
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(line.strip() for line in lines[0].splitlines()))
    (pair,) = PromptSet.from_file(path)
    assert pair.answer == " Paris" and pair.corrupted.text.endswith("Italy is")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_error_of_ours_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    ours = {
        name
        for path in (ROOT / "src" / "headlab").rglob("*.py")
        for name in re.findall(r"^class (\w+Error)\(", path.read_text("utf-8"), flags=re.M)
    }
    assert ours and not {name for name in ours if name not in page}


def test_the_docket_is_what_the_registry_says() -> None:
    """docs/docket.md and a page for each experiment are written from the registry, and no page is too many; after a change:
    python -m headlab.experiments.docket_page."""
    from headlab.experiments.docket_page import index, pages, written

    text = (ROOT / "docs" / "docket.md").read_text("utf-8")
    assert text == written(text), "stale: python -m headlab.experiments.docket_page"
    assert written(text.replace("| [`parity`]", "| [`phrenology`]")) == text and index() in text
    kept = {p.stem: p.read_text("utf-8") for p in (ROOT / "docs" / "docket").glob("*.md")}
    made = dict(pages())
    assert kept.keys() == made.keys()
    assert not (stale := [slug for slug in made if kept[slug] != made[slug]]), stale


def test_the_docket_explains_every_control_of_the_decimals() -> None:
    from headlab.experiments.trial import EXPERIMENTS, builtin_claims

    weights = {"weight-clusters", "reindexing", "training-dynamics", "mechanism", "cluster-behaviour"}
    page = (ROOT / "docs" / "docket.md").read_text("utf-8")
    known = set(re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, flags=re.M))))
    claims = [
        c for s, c in builtin_claims().items() if s in EXPERIMENTS and s not in weights and c.task.name == "decimals"
    ]
    assert len(claims) >= 21 and not {name for c in claims for name in c.controls} - known


def gallery() -> Any:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
    assert spec and spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_the_gallery_has_a_page_and_its_first_figure(tmp_path: Path) -> None:
    """One small trial; what a build left is kept, and the page of contents is not written again."""
    made = gallery()
    assert "scorecard" in made.SHOWN and made.PICTURE in made.SHOWN
    shown = {
        "routing": ("decimals-natural", {"layer": 1, "pairs": 8, "protocol": "standard"}, "Who reads <from> where")
    }
    made.make(tmp_path, shown)
    pages, text = tmp_path / "_build" / "pages" / "gallery", (tmp_path / "gallery.md").read_text("utf-8")
    assert "<!doctype html>" in (pages / "routing.html").read_text("utf-8").lower()[:200]
    assert (pages / "routing.svg").read_text("utf-8").startswith("<svg")
    assert "<a href='gallery/routing.html'>" in text and "<img src='gallery/routing.svg' alt='" in text
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "gallery.md", *pages.iterdir())}
    made.make(tmp_path, shown)
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "gallery.md", *pages.iterdir())}


@pytest.mark.accept
def test_the_picture_in_the_readme_is_what_the_gallery_makes(tmp_path: Path) -> None:
    made = gallery()
    made.make(tmp_path, {made.PICTURE: made.SHOWN[made.PICTURE]})
    kept = (ROOT / "docs" / "images" / "null.svg").read_text("utf-8")
    assert (tmp_path / "images" / "null.svg").read_text("utf-8") == kept


def run_cells(notebook: Path, without: str | None) -> int:
    """Every code cell, in order, in this process, but for those that hold ``without``; how many there were."""
    cells = ["".join(c["source"]) for c in json.loads(notebook.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    cells = [source for source in cells if without is None or without not in source]
    for source in cells:
        exec(compile(source, notebook.name, "exec"), names)
    return len(cells)


@pytest.mark.parametrize(
    ("name", "cells", "without"),
    [
        ("students", 5, "decimals-planted-even"),  # the README's trial, which has been run above
        pytest.param("students", 6, None, marks=pytest.mark.accept),
        ("researchers", 4, "result"),
        pytest.param("researchers", 7, None, marks=pytest.mark.accept),
        pytest.param("referees", 6, None, marks=pytest.mark.accept),
    ],
)
def test_each_notebook_runs(name: str, cells: int, without: str | None, tmp_path: Path, monkeypatch, capsys) -> None:
    """``make docs`` runs them too, in a kernel of their own.  That for researchers takes a table of its own pairs and heads that it
    names to a verdict; daily without the trial."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    assert run_cells(ROOT / "docs" / "notebooks" / f"{name}.ipynb", without) >= cells
    said = capsys.readouterr().out
    promised = {
        "students": "Refuted: ",
        "researchers": "chosen_on: other" if without else "Upheld: ",
        "referees": "equal: True True",
    }
    assert promised[name] in said, said


def test_every_page_stands_in_the_contents_of_the_site() -> None:
    """What ``make docs`` would call a page without a place, without building it."""
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {
        line.strip() for block in re.findall(r"```{toctree}\n(.*?)```", index, re.S) for line in block.splitlines()
    }
    pages = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    pages -= {p for p in pages if p.startswith(("docket/", "_build/"))} | {"index"}
    assert "docket/*" in listed and pages <= listed, f"not in docs/index.md: {sorted(pages - listed)}"


def test_every_test_that_a_page_names_is_there() -> None:
    """docs/guards.md names tests: ``path::name``, or ``::name`` of the path before it."""
    text, path, named = (ROOT / "docs" / "guards.md").read_text(encoding="utf-8"), "", 0
    for file, name in re.findall(r"`(?:((?:tests/)?[\w/]+\.py))?(?:::(\w+))?`", text):
        path = file or path
        where = ROOT / path if path.startswith("tests/") else next((ROOT / "tests").rglob(Path(path).name))
        assert where.is_file(), path
        assert not name or f"def {name}(" in where.read_text(encoding="utf-8"), f"{path}::{name}"
        named += bool(name)
    assert named > 60


def test_no_line_of_the_changelog_has_lost_its_sentence() -> None:
    """A merge once left the second half of a sentence behind the full stop of another entry."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    both = itertools.pairwise(lines)
    assert not [line for before, line in both if re.search(r"\.[)`*]*$", before) and re.match(r"  [a-z]", line)]

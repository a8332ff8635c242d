"""README and docs say what is so: their code and commands run, their examples parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from headlab.claims import read_text
from headlab.prompts import PromptSet
from headlab.trials.registry import from_data

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


TUTORIAL = ROOT / "docs" / "tutorial-first-claim.md"
COMMANDS = [
    line[2:]
    for page in PAGES
    if page != TUTORIAL
    for block in blocks(page, "console")
    for line in block.splitlines()
    if line[:2] == "$ "
]


def test_the_readme_has_commands_and_code() -> None:
    assert len(COMMANDS) >= 4 and len(blocks(README, "python")) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(command: str, store: Path) -> None:
    words = shlex.split(command)
    assert words[0] == "headlab"
    env = {**os.environ, "HEADLAB_STORE": str(store / "runs")}
    done = subprocess.run(
        [sys.executable, "-m", "headlab", *words[1:]], cwd=store, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


STORIES = Path(os.environ.get("HEADLAB_SHARED", "")) / "data" / "models" / "stories260k"


@pytest.mark.skipif(
    "HEADLAB_SHARED" not in os.environ or not STORIES.is_dir(),
    reason="stories260k is not here: HEADLAB_SHARED names no folder that holds data/models/stories260k",
)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.accept)])
def test_the_tutorial_runs(whole: bool, tmp_path: Path, monkeypatch, capsys) -> None:
    """Its files and commands in order, in one folder; what stands under a command is in what it printed.  Daily without
    the trials of the last two documents (which are written and checked)."""
    from headlab.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    (tmp_path / "stories260k").symlink_to(STORIES)
    for text in blocks(TUTORIAL, "yaml"):
        (tmp_path / text.split("\n", 1)[0].removeprefix("# ")).write_text(text)
    ran = 0
    for command, *shown in (c.splitlines() for b in blocks(TUTORIAL, "console") for c in b.split("$ ")[1:]):
        if not whole and re.search("trial (naive|carriers)", command):
            continue
        with warnings.catch_warnings():
            assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
        printed = " ".join(capsys.readouterr().out.split())
        assert all(line in printed for line in shown), (command, printed)
        ran += 1
    assert ran == (8 if whole else 6)


def test_the_readmes_python_runs(store: Path) -> None:
    """The README's Python blocks, one after the other, and what they promise."""
    promises = """
assert result.verdict.outcome == "upheld", result.verdict.sentence
means = effects.groupby("world")["edited"].mean()
assert means["six of the planted heads"] > 0 > means["five of them"], means
"""
    script = store / "readme.py"
    script.write_text("\n".join([*blocks(README, "python"), promises]), encoding="utf-8")
    env = {**os.environ, "HEADLAB_STORE": str(store / "python")}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=store, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Upheld: " in done.stdout


def test_the_python_about_looking_makes_a_claim_that_is_tried(store: Path) -> None:
    script = store / "looking.py"
    script.write_text("\n".join(blocks(ROOT / "docs" / "looking.md", "python")), encoding="utf-8")
    env = {**os.environ, "HEADLAB_STORE": str(store / "looked")}
    for words in ([str(script)], ["-m", "headlab", "trial", "mine.yaml", "--model", "ioi-small"]):
        done = subprocess.run([sys.executable, *words], cwd=store, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "chosen_on: other" in (store / "mine.yaml").read_text("utf-8") and "pheld" in done.stdout


def test_the_python_about_thinking_models_runs(store: Path) -> None:
    script = store / "thoughts.py"
    promise = """
text = answers.set_index(["problem", "world"])["text"].unstack()
assert (text["baseline"] != text["another problem's thought 0"]).mean() > 0.4, text
"""
    script.write_text("\n".join([*blocks(ROOT / "docs" / "thoughts.md", "python"), promise]), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=store, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


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
    """The list in docs/docket.md is written from the registry; after a change: python -m headlab.experiments.docket_page."""
    from headlab.experiments.docket_page import listing, written
    from headlab.experiments.trial import EXPERIMENTS

    page = (ROOT / "docs" / "docket.md").read_text("utf-8")
    assert page == written(page), "stale: python -m headlab.experiments.docket_page docs/docket.md"
    assert all(f"\n### {slug}\n\n**{e.question}**" in page for slug, e in EXPERIMENTS.items())
    assert written(page.replace("### parity", "### phrenology")) == page and listing() in page


def test_the_docket_explains_every_control_of_the_decimals() -> None:
    from headlab.experiments.trial import EXPERIMENTS, builtin_claims

    weights = {"weight-clusters", "reindexing", "training-dynamics", "mechanism", "cluster-behaviour"}
    page = (ROOT / "docs" / "docket.md").read_text("utf-8")
    known = set(re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, flags=re.M))))
    claims = [
        c for s, c in builtin_claims().items() if s in EXPERIMENTS and s not in weights and c.task.name == "decimals"
    ]
    assert len(claims) >= 21 and not {name for c in claims for name in c.controls} - known

"""Every block of code and every command in README and docs: which test runs it, and that commands and names exist.

A page that gains a block has to say here which test runs it.  docs/acceptance.md has the count, and is compared.  Tried on
purpose: twelve lines with a mistake, each found; a block that no test runs, and one line more than are counted.
"""

from __future__ import annotations

import io
import pkgutil
import re
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml

from headlab import organisms
from headlab.claims import ClaimError, read_text
from headlab.cli import app
from headlab.experiments.subsets.reanalysis import reanalyse
from headlab.experiments.trial import EXPERIMENTS, builtin_claims
from headlab.tasks import TASKS
from headlab.trials import registry
from test_docs import PAGES, ROOT, blocks, executed, headlab

HERE, DOCS = "tests/test_docs_blocks.py", "tests/test_docs.py"
EACH, CLAIMS = f"{DOCS}::test_each_command_runs", f"{DOCS}::test_the_documented_claim_parses"
LINES = f"{HERE}::test_each_line_is_a_command_with_names_that_exist"
CIRCUIT = "tests/trials/test_library.py::circuit_files"
TUTORIAL, ADDED = f"{DOCS}::test_the_tutorial_runs", f"{DOCS}::test_the_experiment_that_is_added_is_tried"
TASK = f"{DOCS}::test_the_task_that_is_added_is_tried"
BY: dict[tuple[str, str], tuple[int, str]] = {
    ("README.md", "console"): (1, EACH),
    ("README.md", "text"): (1, EACH),
    ("README.md", "python"): (2, f"{DOCS}::test_the_readmes_python_runs"),
    ("CONTRIBUTING.md", "console"): (1, LINES),
    ("docs/add-an-experiment.md", "console"): (1, EACH),
    ("docs/add-an-experiment.md", "python"): (2, ADDED),
    ("docs/add-an-experiment.md", "yaml"): (1, ADDED),
    ("docs/benchmarks.md", "sh"): (1, LINES),
    ("docs/claims.md", "text"): (2, f"{HERE}::test_the_parts_of_a_claim_parse_in_a_claim"),
    ("docs/claims.md", "yaml"): (3, CLAIMS),
    ("docs/docket.md", "console"): (1, EACH),
    ("docs/how-to-circuit.md", "json"): (1, CIRCUIT),
    ("docs/how-to-circuit.md", "yaml"): (1, CIRCUIT),
    ("docs/how-to-referee.md", "console"): (1, EACH),
    ("docs/how-to-task.md", "console"): (1, TASK),
    ("docs/how-to-task.md", "python"): (2, TASK),
    ("docs/how-to-task.md", "toml"): (1, TASK),
    ("docs/how-to-task.md", "yaml"): (1, TASK),
    ("docs/index.md", "console"): (1, EACH),
    ("docs/looking.md", "python"): (2, f"{DOCS}::test_the_python_about_looking_makes_a_claim_that_is_tried"),
    ("docs/reanalysis.md", "console"): (1, EACH),
    ("docs/reanalysis.md", "python"): (1, f"{HERE}::test_the_python_about_reanalysis_runs"),
    ("docs/scale.md", "console"): (1, EACH),
    ("docs/scale.md", "python"): (1, "tests/engine/test_scale.py::test_the_guides_python_runs"),
    ("docs/thoughts.md", "python"): (1, f"{DOCS}::test_the_python_about_thinking_models_runs"),
    ("docs/tutorial-first-claim.md", "console"): (5, TUTORIAL),
    ("docs/tutorial-first-claim.md", "yaml"): (1, TUTORIAL),
}
"""Page and language of a block: how many there are, and what runs them (what no program reads, ``{toctree}``, is none)."""

TABLES = {"docs/prompts.md": "clean,", "docs/reanalysis.md": "blocks,"}
"""Indented blocks that are a file: the page, and how the file begins."""
INLINE = r"(headlab|make|python -m|python \w+/\S+\.py)( |$)|headlab[.\w]+\("
PLAIN = {"ray", "jupyter", "pip", "pre-commit"}
"""Programs whose options are no affair of ours."""
A_MODEL = re.compile(r"[A-Z]+|…|\./.+|\w[\w.-]*/[\w.-]+|gpt2|stories260k")
A_CLAIM = re.compile(r"[A-Z]+|.+\.yaml")
NOT_RUN = {
    "view": "serves until it is stopped; tests/view",
    "calibrate": "takes hours; tests/trials/test_calibration.py",
    "null-rates": "takes an hour; tests/experiments/test_null_rates.py",
    "demo": "takes minutes; make wheel-check",
    "schema": "tests/trials/test_schema.py",
}


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def indented(page: Path) -> list[str]:
    """Indented blocks outside fences and lists."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [b for b in re.findall(r"(?:^|\n\n)((?: {4}\S.*\n)+)", text) if "- " not in b[:6]]


@cache
def lines() -> tuple[tuple[str, str, str], ...]:
    """Page, kind (``fenced``, ``indented``, ``inline``) and each line that calls a program."""
    found: list[tuple[str, str, str]] = []
    for page in PAGES:
        for language in ("console", "sh"):
            for line in "".join(blocks(page, language)).splitlines():
                if line[:2] == "$ " or line.split(" ")[0] in {"make", "headlab", "python"}:
                    found.append((named(page), "fenced", line.removeprefix("$ ")))
        if named(page) not in TABLES or len(indented(page)) > 1:
            found += [
                (named(page), "indented", line.strip())
                for block in indented(page)
                for line in block.splitlines()
                if not block.strip().startswith(TABLES.get(named(page), "\0"))
            ]
        text = re.sub(r"^```.*?^```|^    .*?$", "", page.read_text("utf-8"), flags=re.M | re.S)
        inline = (" ".join(w.split()) for w in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
        found += [(named(page), "inline", w) for w in inline if re.match(INLINE, w)]
    return tuple(found)


@cache
def claims() -> frozenset[str]:
    beside = ("scorecard", "thought-scorecard", "null-rates")
    return frozenset([*EXPERIMENTS, *builtin_claims(), *registry.library(), *beside])


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command's name and what it was given, by the parser that the command line has; nothing is called."""
    command: Any = typer.main.get_command(app)
    context, called = command.context_class(command, info_name="headlab"), []
    while hasattr(command, "commands"):
        if not words:
            return " ".join(called), {}
        if words[0].startswith("-"):
            command.make_parser(context).parse_args(list(words))
            return " ".join(called), {}
        assert words[0] in command.commands, f"no command {words[0]!r}"
        called.append(words[0])
        command, words = command.commands[words[0]], words[1:]
        context = command.context_class(command, info_name=called[-1], parent=context)
    given, left, _ = command.make_parser(context).parse_args(list(words))
    assert not left, f"{called[-1]} takes no {left}"
    return " ".join(called), given


def check(line: str) -> None:
    """A line calls something that is there, with options that it has, on names that the catalogue knows."""
    if called := re.match(r"(headlab[.\w]+)\(", line):
        assert callable(pkgutil.resolve_name(called[1])), line
        return
    first, *words = shlex.split(line.replace("\\|", "|"), comments=True)
    words = words[: words.index(">")] if ">" in words else words
    if first == "make":
        targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
        assert {w for w in words if "=" not in w and not w.startswith("-")} <= set(targets), line
    elif first == "python":
        where = words[1].replace(".", "/") if words[0] == "-m" else words[0]
        package = [ROOT / "src" / where, ROOT / where]
        assert any(p.exists() or p.with_suffix(".py").exists() for p in package), line
    elif first != "headlab":
        assert first in PLAIN, f"{line}: what runs {first}?"
        extras = re.search(r"headlab\[(\w+)\]", line)
        assert not extras or f"\n{extras[1]} = [" in (ROOT / "pyproject.toml").read_text("utf-8"), line
    else:
        command, given = parsed(words)
        models = [given.get("model"), given.get("name"), *(given.get("models") or [])]
        models += given.get("sources") or []
        for model in (m for m in models if isinstance(m, str)):
            known = [*organisms.names(), *organisms.trainable()]
            assert model.partition("@")[0] in known or A_MODEL.fullmatch(model), f"{line}: no model {model!r}"
        claim = given.get("claim") if command in {"trial", "check", "calibrate"} else None
        assert claim is None or claim in claims() or A_CLAIM.fullmatch(claim), f"{line}: no claim {claim!r}"
        task = given.get("task")
        assert not isinstance(task, str) or task in {*TASKS, "word-problems", "row-again"}, f"{line}: no task {task!r}"


def test_each_block_has_a_test_that_runs_it() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for page in PAGES:
        opened = re.findall(r"^```([\w{}-]+)\n", page.read_text("utf-8"), flags=re.M)
        found.update((named(page), language) for language in opened if language[0] != "{")
    assert found == {where: n for where, (n, _) in BY.items()}
    for test in {test for _, test in BY.values()}:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), test


def test_the_count_stands_in_docs_acceptance() -> None:
    of, kinds = Counter[str](), Counter(kind for _, kind, _ in lines())
    for (_, language), (n, _) in BY.items():
        of[{"python": "Python", "console": "commands", "sh": "commands"}.get(language, "others")] += n
    said = (
        f"{of.total()} fenced blocks, all run: {of['Python']} of Python, {of['commands']} of commands, {of['others']} claims, "
        f"files and output. {len(lines())} lines that call a program, all read by the command line's own parser and held "
        f"against the catalogue: {kinds['fenced']} in these blocks, {kinds['indented']} indented, {kinds['inline']} in the text; "
        f"{len(whole())} of the latter two need no model or file of the reader's and run in `make accept`."
    )
    assert said in " ".join((ROOT / "docs" / "acceptance.md").read_text("utf-8").split()), said


@pytest.mark.parametrize("page", sorted({page for page, _, _ in lines()}))
def test_each_line_is_a_command_with_names_that_exist(page: str) -> None:
    for where, _, line in lines():
        if where == page:
            check(line)


@pytest.mark.parametrize(
    "line",
    [
        "headlab trail parity",
        "headlab trial parity --modle gpt2",
        "headlab trial parity-of-heads --model gpt2",
        "headlab trial parity --model decimals-planted-evne",
        "headlab organism card decimals-natrual",
        'headlab new --heads "L0H1" --task ioy',
        "headlab list claims and more",
        "headlab cross-model decimals-natural decimals-unnatural",
        "make demonstration",
        "python -m headlab.experiments.docket_pages",
        "pip install 'headlab[gpu]'",
        "hedlab trial parity",
    ],
)
def test_a_line_with_a_mistake_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"."):
        check(line)


def whole() -> list[str]:
    """Indented and inline commands that name all they need: a shipped model or none, and no file."""
    found: list[str] = []
    fenced = {line for _, kind, line in lines() if kind == "fenced"}
    for _, kind, line in lines():
        words = shlex.split(line, comments=True)
        line = shlex.join(words)
        if kind == "fenced" or words[0] != "headlab" or len(words) < 2 or words[1] in NOT_RUN or line in fenced:
            continue
        if any(word.endswith((".yaml", ".csv", ".jsonl")) for word in words):
            continue
        command, given = parsed(words[1:])
        alone = command in {"models", "list", "reanalyse"} or (command == "check" and given.get("claim") in claims())
        if given.get("model") in organisms.names() or (alone and given.get("model") is None):
            found.append(line)
    return list(dict.fromkeys(found))


@pytest.mark.accept
@pytest.mark.parametrize("line", whole())
def test_a_command_on_a_shipped_model_runs(line: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    assert headlab(shlex.split(line)[1:], capsys).strip()


def test_the_python_about_reanalysis_runs(tmp_path: Path, monkeypatch) -> None:
    """Its block, with as many rows as it says; and the file that it shows is one that is read."""
    page = ROOT / "docs" / "reanalysis.md"
    result = executed("\n".join(blocks(page, "python")), tmp_path, monkeypatch)["result"]
    assert len(result.tables["members"]) == 32 and result.tables["spacing"]["metric"].nunique() == 9
    (shown,) = [b for b in indented(page) if b.strip().startswith("blocks,")]
    frame = pd.read_csv(io.StringIO("\n".join(line.strip() for line in shown.splitlines())))
    assert reanalyse(frame, size=3, pool="any", store=tmp_path / "own").verdict.outcome in {
        "void",
        "untestable",
        "undecided",
    }


def test_the_parts_of_a_claim_parse_in_a_claim() -> None:
    """Each part takes the place of those fields in a claim of the same page; with another word it is refused."""
    page = ROOT / "docs" / "claims.md"
    documents = {d["id"]: d for d in (yaml.safe_load(b) for b in blocks(page, "yaml"))}
    parts = [yaml.safe_load(b) for b in blocks(page, "text")]
    for part, of in zip(parts, ("name-movers", "more-is-better"), strict=True):
        data, _ = read_text(yaml.safe_dump({**documents[of], **part}), ".yaml", "docs/claims.md")
        assert registry.from_data(data, "docs/claims.md", {}).over
        with pytest.raises(ClaimError):
            registry.from_data({**data, "over": {"modles": ["a", "b"]}}, "docs/claims.md", {})

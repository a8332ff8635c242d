"""Mistakes that people make on the command line: each ends in one line that says what was given and what to do, with code 2.

Beside those of test_cli (misspelt commands, options and names), test_hostile_inputs (files full of anything) and test_newcomer
(what is said before anything heavy is loaded): folders for files, empty values, numbers below what makes sense, models that are not
there, files of the wrong kind.  Some kinds failed when first tried: ``--revision ""`` counted as none; ``check`` and ``new``
said nothing of a model that is not there; ``cross-model`` and ``null-rates`` made a table of no model, in up to a minute; negative
tolerances and seeds were taken; ``new --heads ""`` asked for heads.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from headlab.cli import main

M = ("-m", "decimals-null-0")
HEADS = ("trial", "--heads", "L0H1", *M)
PARITY = ("trial", "parity", *M)
THOUGHTS = ("trial", "hubs", "-m", "thoughts-gpt2")
NEW = ("new", "--heads", "L0H1", "--task", "decimals")

MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("demo", "extra"), "unexpected extra argument"),
    (("demo", "--pairs", "-5"), "--pairs is -5; expected a whole number of at least 2"),
    (("demo", "--store", "file"), "the store file is a file; name a folder"),
    (("trial", "", *M), "no claim ''; expected one of"),
    (("trial", "folder", *M), "no claim 'folder'"),
    (("trial", "folder.yaml", *M), "no such claim file: folder.yaml"),
    (("trial", "empty.yaml", *M), "empty.yaml: expected keys and values"),
    (("trial", "broken.yaml", *M), "broken.yaml is not YAML: line 2"),
    (("trial", "list.yaml", *M), "expected keys and values, given list"),
    (("trial", "broken.toml", *M), "broken.toml is not TOML"),
    (("trial", "parity", "-m", ""), "no model at ''; expected a folder"),
    (("trial", "parity", "-m", "no-such-model"), "cannot reach the hub for 'no-such-model'"),
    (("trial", "parity", "-m", "folder"), "no model at 'folder'; expected a folder with config.json"),
    (("trial", "parity", "-m", "file"), "no model at 'file'"),
    (("trial", "parity", "-m", "broken"), "broken/config.json is no JSON"),
    ((*PARITY, "--prompts", "folder"), "expected a .csv or .jsonl file"),
    ((*PARITY, "--prompts", "folder.csv"), "no such prompt file: folder.csv"),
    ((*PARITY, "--prompts", "empty.csv"), "empty.csv lacks the column"),
    ((*PARITY, "--prompts", "header.csv"), "header.csv has no rows"),
    ((*PARITY, "--prompts", "bytes.csv"), "bytes.csv, line 2: not UTF-8"),
    ((*PARITY, "--prompts", "pairs.csv", "--problems", "pairs.csv"), "give one of them"),
    ((*PARITY, "--pairs", "1.5"), "Invalid value for '--pairs'"),
    ((*PARITY, "--matched-sets", "0"), "--matched-sets is 0; expected a whole number of at least 1"),
    ((*PARITY, "--layer", "-1"), "--layer '-1' is not a layer"),
    ((*PARITY, "--memory", "-2GB"), "--memory '-2GB' is not a size"),
    ((*PARITY, "--workers", "0"), "--workers is 0"),
    ((*PARITY, "--workers", "2"), "go with --engine ray"),
    ((*PARITY, "--engine", "rya"), "did you mean ray"),
    ((*PARITY, "--revision", ""), "--revision is empty; give it a value, or leave it out"),
    ((*PARITY, "--adapter", "folder"), "expected a folder with adapter_config.json"),
    ((*PARITY, "--decide", "never"), "no way to decide 'never'; expected one of sequential, fixed"),
    ((*PARITY, "--pool", "even"), "parity does not read pool"),
    ((*PARITY, "--amend", "a=b"), "amend is for documents"),
    (("trial", "ioi-circuit", *M, "--amend", "nonsense"), "expected a field and its value"),
    ((*THOUGHTS, "--problems", "missing.jsonl"), "no such file of problems: missing.jsonl"),
    ((*THOUGHTS, "--problems", "folder"), "no such file of problems: folder"),
    ((*THOUGHTS, "--problems", "plain.txt"), "plain.txt, line 1: holds '||' 0 times"),
    (HEADS, "a claim needs prompts"),
    ((*HEADS, "--task", "decimal"), "no task 'decimal'"),
    ((*HEADS, "--task", "decimals", "--write", "zeor"), "did you mean zero"),
    ((*HEADS, "--task", "decimals", "--chosen-on", "here"), "no place 'here'"),
    (("trial", "--heads", "x y", *M, "--task", "decimals"), "not a head: 'x'"),
    (("check", "folder.yaml"), "no such claim file: folder.yaml"),
    (("check", "parity", "-m", "no-such"), "cannot reach the hub for 'no-such'"),
    (("check", "ioi-circuit", "-m", "folder"), "no model at 'folder'"),
    (("new", "--heads", "", "--task", "decimals"), "no heads given"),
    ((*NEW, "-m", "no-such"), "cannot reach the hub for 'no-such'"),
    ((*NEW, "--out", "file"), "file exists; name a new file"),
    ((*NEW, "--out", "no/where.yaml"), "there is no folder no; make it first"),
    (("cross-model", "no-such", "folder"), "cannot reach the hub for 'no-such'"),
    (("cross-model", "decimals-natrual"), "did you mean the shipped organism decimals-natural"),
    (("null-rates", "folder"), "no model at 'folder'"),
    (("emergence", "decimals-null-0", "--steps", "soon"), "--steps 'soon' names no steps"),
    (("calibrate", "--budget", "-1"), "--budget is -1.0; expected minutes"),
    (("reanalyse", "folder"), "no such file: folder; expected a CSV"),
    (("reanalyse", "pairs.csv"), "there is no column"),
    (("reanalyse", "--random", "nobody"), "no subset of the family has the sources nobody"),
    (("simulate", "--seed", "-1"), "--seed is -1"),
    (("view", "--port", "99999"), "--port 99999 is no port"),
    (("list", "--store", "file"), "the store file is a file"),
    (("compare", "a", "b"), "no run 'a' in the store"),
    (("repeat", "a", "--tolerance", "-1"), "--tolerance is -1.0; expected a number of at least 0"),
    (("verify", "missing.zip"), "missing.zip cannot be read as a zip"),
    (("verify", "file"), "file cannot be read as a zip"),
    (("export", ""), "not a run's id: ''"),
    (("query", "describe nothing"), "Table with name nothing does not exist.*the store has the tables"),
    (("organism", "card", "folder"), "no organism 'folder'; expected one of"),
    (("organism", "relabel", "decimals-null-0", "file"), "file exists already"),
    (("organism", "relabel", "decimals-null-0", "new", "--seed", "-1"), "--seed is -1"),
    (("organism", "train", "decimals-natural", "--steps", "0"), "--steps is 0"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of things that are not what they are given for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADLAB_STORE", str(tmp_path / "runs"))
    for name in ("folder", "folder.yaml", "folder.csv", "broken"):
        Path(name).mkdir()
    header = "clean,corrupted,answer,wrong\n"
    files = {
        "empty.yaml": "",
        "broken.yaml": "a: [1,\nb: {",
        "list.yaml": "- a\n",
        "broken.toml": "a = [",
        "empty.csv": "",
    }
    files |= {"header.csv": header, "pairs.csv": f"{header}a,b,c,d\n", "plain.txt": "hello\n", "file": "x"}
    for name, text in {**files, "broken/config.json": "{"}.items():
        Path(name).write_text(text)
    Path("bytes.csv").write_bytes(bytes(range(256)))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    import headlab.experiments  # noqa: F401  (its second is no part of the mistake)

    began = time.process_time()
    code = main(list(words))
    took, (out, err) = time.process_time() - began, capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("headlab: ") and err.count("\n") == 1 and len(err) <= 500, err
    assert re.search(told, err) and "Traceback" not in err, err
    assert took < 5
    assert not Path("runs").exists() and not Path("new").exists(), "nothing is left behind"

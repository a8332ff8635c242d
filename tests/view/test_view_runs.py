"""What the store shows: runs, strips, the matrix, two runs side by side, on a page and on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import HOSTILE, kept
from starlette.testclient import TestClient

from headlab.cli import main
from headlab.report.differences import differences
from headlab.store import Store
from headlab.view.runs import table


def test_runs_are_counted_and_the_newest_verdict_stands_in_the_matrix(home: Store) -> None:
    found = table(home)
    assert [r["model"] for r in found.runs].count("decimals-planted-even") == 2 and len(found.runs) == 3
    assert found.counts == {"upheld": 1, "refuted": 1, "undecided": 1, "void": 0, "untestable": 0}
    assert found.models == ["decimals-null-0", "decimals-planted-even"]
    outcomes = {(slug, m): run["outcome"] for slug, row in found.matrix.items() for m, run in row.items()}
    assert outcomes == {
        ("head-count", "decimals-planted-even"): "undecided",
        ("parity", "decimals-null-0"): "refuted",
        ("parity", "decimals-planted-even"): "upheld",
    }


def test_a_run_that_cannot_be_read_is_named(known: TestClient, home: Store) -> None:
    broken = home.root / "broken-00000000"
    broken.mkdir()
    (broken / "record.json").write_text("<b>not JSON</b>")
    page = known.get("/").text
    assert "broken-00000000" in page and "<b>not JSON" not in page and "head-count" in page


def test_an_empty_store_leads_to_the_bench(known: TestClient, home: Store) -> None:
    for run in home.root.iterdir():
        if run.is_dir():
            (run / "record.json").unlink()
    page = known.get("/").text
    assert "No runs in" in page and 'href="/bench"' in page


def test_what_differs_by_hand(home: Store) -> None:
    """97 and 3 of 100: the intervals do not meet; the models differ by name, the claims do not."""
    even, null = (home.record(r["run_id"]) for m in ("decimals-planted-even", "decimals-null-0")
                  for r in table(home).runs if r["model"] == m and r["slug"] == "parity")  # fmt: skip
    found = differences(even, null)
    assert found.parts["claim"] == [] and ("name", "decimals-planted-even", "decimals-null-0") in found.parts["model"]
    assert [(p, a[0], b[0]) for p, a, b in found.verdicts] == [("standard", "upheld", "refuted")]
    (number,) = found.numbers
    assert number.apart and number.first.startswith("0.97") and number.second.startswith("0.03")
    assert not differences(even, even).numbers[0].apart and not any(differences(even, even).parts.values())


def test_what_was_read_differs_by_its_hash_alone(home: Store) -> None:
    """The first prompts with their spans are on the report; no cell of a comparison holds them."""
    (record, *_), _ = home.records()
    other = record.model_copy(update={"prompts": {**record.prompts, "hash": "ab", "first": [{"id": "1", "sides": {}}]}})
    assert [field for field, *_ in differences(record, other).parts["prompts"]] == ["hash"]


def test_compare_on_the_command_line(home: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = sorted(r["run_id"] for r in table(home).runs if r["slug"] == "parity")
    page = tmp_path / "both.html"
    assert main(["compare", one, two, "--store", str(home.root), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "verdict, standard:" in said and "the intervals do not meet" in said and str(page) in said
    assert one in page.read_text() and "<script" not in page.read_text()
    assert main(["compare", one, two, "--store", str(home.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"] == one
    assert main(["compare", one, "no-such-run", "--store", str(home.root)]) == 2
    assert "no run 'no-such-run'" in capsys.readouterr().err


def test_compare_page(known: TestClient, home: Store) -> None:
    one, two = sorted(r["run_id"] for r in table(home).runs if r["slug"] == "parity")
    page = known.get("/compare", params={"a": one, "b": two})
    assert page.status_code == 200 and "the intervals do not meet" in page.text
    assert known.get("/compare", params={"a": "no-such-run", "b": two}).status_code == 404


STRANGE = HOSTILE + "{{7*7}}\x1b[31m\u202e"


def test_words_of_a_stranger_are_text(home: Store, known: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    """In every field of a record: on the page of runs, side by side, on the terminal; in a real browser, and the report there:
    ``test_view_browser.py``."""
    run = kept(home, 60, slug="strange", words=STRANGE)
    other = next(r["run_id"] for r in table(home).runs if r["slug"] == "head-count")
    for path in ("/", f"/compare?a={run.id}&b={other}"):
        page = known.get(path).text
        assert "<img src=x" not in page and "<script>alert" not in page, path
        assert "\x1b" not in page and "\u202e" not in page and ">49<" not in page
        assert "onerror=alert(1)&gt;" in page or "onerror=alert(1)\\u003e" in page, path
    home.keep_page(run.id, "<!DOCTYPE html><p>kept</p>")  # drawing one costs more than all else here
    for command in (["show", run.id], ["compare", run.id, other], ["list"]):
        assert main([*command, "--store", str(home.root)]) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said and "\u202e" not in said and "onerror" in said

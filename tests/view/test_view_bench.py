"""The bench without a browser: what it shows equals plain measurements, the test prompts stay sealed, looks are counted.

Sealed is asked of the model itself: every batch of tokens that it is given is kept, and no test prompt is among them until
a claim is registered.  Looked for beside what the issue names: requests that are no mapping, prompts of one's own that cannot
be read or parted, a bench that is gone, a claim about other prompts than the bench's, a second claim on opened prompts, a
job that fails before another, a server that stops while a trial runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
from made_runs import PORT
from starlette.testclient import TestClient

from headlab.claims import ClaimError
from headlab.engine.run import sweep
from headlab.heads import Head, Heads
from headlab.interventions import Intervention, World
from headlab.looking import direct_effects, ov_circuit, show_attention
from headlab.prompts import PromptSet, encode
from headlab.store import Store, StoreError
from headlab.trials.ledger import looked_words
from headlab.view import drafts
from headlab.view.asked import Asked
from headlab.view.bench import Bench, direct, edit, grid, opened, pattern
from headlab.view.guard import Keys
from headlab.view.looks import Looks
from headlab.view.worker import Cancelled, Worker

MODEL = "decimals-natural"
ROWS = "clean,corrupted,answer,wrong\n" + "".join(
    f'"{a}.9 or {a}.1{b}? Answer:","Q: Which is bigger: {a}.9 or {a}.1{b}? A:",{a}.9,{a}.1{b}\n'
    for a in range(1, 9)
    for b in range(1, 4)
)


def quick(document: str) -> str:
    """The same with fewer alternatives: what is asked here is no verdict."""
    return document.replace("n: 999", "n: 19")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return opened(Asked(MODEL, "decimals", pairs=16, looked_at=8), tmp_path_factory.mktemp("bench"), {})


@pytest.fixture
def bench(once: Bench) -> Bench:
    """As it is when it is opened."""
    fresh: dict[str, Any] = {"looks": Looks(), "grids": {}, "parts": [], "chosen": [], "lends": {}}
    return replace(once, **fresh)


@pytest.fixture
def read(bench: Bench) -> Iterator[set[tuple[int, ...]]]:
    """Every row of tokens that the model was given."""
    rows: set[tuple[int, ...]] = set()

    def keep(_: object, args: Any, kwargs: Any) -> None:
        rows.update(map(tuple, kwargs["input_ids"].tolist()))

    handle = bench.lab.model.register_forward_pre_hook(keep, with_kwargs=True)
    yield rows
    handle.remove()


def test_test_prompts_are_sealed_until_a_claim_is_registered(bench: Bench, read: set[Any], tmp_path: Path) -> None:
    assert not {p.cluster for p in bench.test} & {p.cluster for p in bench.selection}
    sealed = {
        e.ids
        for p in bench.test
        for e in (encode(p, bench.lab.tokenizer).clean, encode(p, bench.lab.tokenizer).corrupted)
    }
    shown = json.dumps(bench.plain())
    assert not any(json.dumps(p.clean.text)[1:-1] in shown for p in bench.test)
    grid(bench, "zero")
    grid(bench, "previous")
    pattern(bench, Head(1, 3), 0, "clean")
    edit(bench, [Head(0, 14), Head(1, 3)], "patch")
    draft = drafts.draft(bench)
    assert read and not read & sealed
    looks = {"heads": 48, "pairs": 8, "grids": {"previous": 1, "zero": 1}, "edits": 1, "patterns": 1, "tried": 0}
    assert bench.looks.plain() == looks

    store = tmp_path / "store"
    found = drafts.register(bench, quick(draft["yaml"]), store)
    assert sealed <= read
    record = Store(store).record(found["id"])
    assert record.settings["looked"] == looks and record.claim and record.claim["chosen_on"] == "other"
    assert (
        record.notes[0].startswith("Looked before: 48 heads looked at on 8 pairs") and "were sealed" in record.notes[0]
    )
    assert (store / found["id"] / "shards").exists(), "not settled until the report is written"
    assert bench.looks.tried == [found["id"]]
    note = looked_words(bench.looks.plain())
    assert "1 claim(s) had been tried on these test prompts before" in note and "sealed" not in note


@pytest.mark.accept  # draws a report
def test_the_report_says_what_was_looked_at_and_ends_the_run(bench: Bench, tmp_path: Path) -> None:
    edit(bench, [Head(1, 3)], "zero")
    found = drafts.register(bench, quick(drafts.text(bench)), tmp_path)
    drafts.keep_report(found["id"], tmp_path)
    page = Store(tmp_path).page(found["id"])
    assert page is not None and "1 heads looked at on 8 pairs" in page.read_text()
    assert not (tmp_path / found["id"] / "shards").exists()
    again = drafts.register(bench, quick(drafts.text(bench)), tmp_path)
    assert again["id"] != found["id"] and "1 claim(s) had been tried" in Store(tmp_path).record(again["id"]).notes[0]


def test_an_edit_is_what_a_sweep_says_and_a_pattern_what_the_model_attends_to(bench: Bench) -> None:
    found = edit(bench, [Head(1, 3), Head(0, 14)], "zero")
    ones = tuple(Intervention(Heads([h]), "z", "zero") for h in (Head(0, 14), Head(1, 3)))
    table = sweep(bench.lab, [e.swapped() for e in bench.encoded], [World("x", ones)])
    assert [r["after"] for r in found["rows"]] == pytest.approx(table["edited"].tolist(), abs=1e-4)
    assert found["mean"]["value"] == pytest.approx((table["edited"] - table["corrupted"]).mean(), abs=1e-5)
    assert (found["heads"], found["edited"], len(found["rows"])) == ("L0H14 L1H3", "clean", 8)

    seen = pattern(bench, Head(1, 3), 2, "clean")
    one = bench.encoded[2].clean
    text = bench.lab.tokenizer.decode(one.ids[1:])
    rows = show_attention(bench.lab, text, "L1H3").table
    assert len(seen["tokens"]) == len(one.ids) and seen["read"] == len(one.ids) - 1
    writes = ov_circuit(bench.lab, "L1H3", text).table.groupby("token", sort=False)["toward"].agg(list)
    assert not seen["why"] and dict(zip(seen["tokens"][1:], seen["writes"][1:], strict=True)) == dict(writes)
    for (q, k), w in rows.set_index(["query", "key"])["value"].items():
        assert seen["weights"][q][k] == pytest.approx(w, abs=2e-4)


def test_a_head_s_direct_effect_is_what_the_library_says_of_each_prompt(bench: Bench, read: set[Any]) -> None:
    """The mean with its interval and n as over all prompts, a value as over that prompt alone; read once for every head, and
    counted as a look at this head alone; the grid says the same."""
    found = direct(bench, Head(1, 3))
    table = direct_effects(bench.lab, bench.selection).table.set_index(["part", "layer", "head"])
    assert found["mean"] == pytest.approx(table.loc[("head", 1, 3), ["value", "low", "high", "n"]].to_dict())
    assert found["mean"]["n"] == 8 and found["unit"] == "logits" and not found["why"]
    each = [direct_effects(bench.lab, [p]).table.set_index(["part", "layer", "head"])["value"] for p in bench.selection]
    assert found["values"] == pytest.approx([e["head", 1, 3] for e in each], abs=1e-4)
    assert bench.looks.plain() == {"heads": 1, "pairs": 8, "grids": {}, "edits": 0, "patterns": 0, "tried": 0}
    read.clear()
    assert direct(bench, Head(0, 14))["values"] == pytest.approx([e["head", 0, 14] for e in each], abs=1e-4)
    rows = {(r["layer"], r["head"]): r["value"] for r in grid(bench, "direct")["rows"]}
    assert not read and rows[1, 3] == pytest.approx(found["mean"]["value"])


def test_direct_effects_that_were_cancelled_go_on_where_they_stopped(bench: Bench, read: set[Any]) -> None:
    def told(what: str, done: int, total: int) -> None:
        if done == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        direct(bench, Head(1, 3), told)
    assert len(bench.parts) == 3 and not bench.looks.plain()["heads"]
    before = set(read)
    read.clear()
    assert len(direct(bench, Head(1, 3))["values"]) == 8 and not read & before


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_where_a_head_has_no_direct_effect_a_clause_says_why(family: str, tmp_path: Path) -> None:
    """A norm behind the attention, a soft-cap: the pattern is shown all the same, and nothing counts as seen."""
    some, lab = PromptSet.from_rows(tiny.word_rows(6), name="rows"), tiny.lab(family)
    made = Bench("k", Asked(family), lab, some, some, tmp_path, None, Looks())
    made.encoded = [encode(p, lab.tokenizer) for p in some]
    found = direct(made, Head(0, 1))
    assert "no direct effect" in found["why"] and "values" not in found and "\n" not in found["why"]
    assert not made.looks.plain()["pairs"] and pattern(made, Head(0, 1), 0, "clean")["tokens"]


def test_own_prompts_are_parted_and_named_in_the_claim(tmp_path: Path) -> None:
    bench = opened(Asked(MODEL, text=ROWS, pairs=12, looked_at=4), tmp_path, {})
    assert len(bench.selection) and len(bench.test) and bench.paired
    drafts.choose(bench, {"heads": "L1H3", "write": "zero", "words": "one head\nmatters"})
    made = drafts.draft(bench)
    assert bench.file is not None and f'task: {{file: "{bench.file.name}"}}' in made["yaml"]
    assert made["says"]["claim"] == ["one head matters"]
    made = quick(made["yaml"]).replace("n: 19", "n: 1")
    found = drafts.register(bench, made, tmp_path / "store")
    assert Store(tmp_path / "store").record(found["id"]).prompts["test"]["n"] == len(bench.test)


def test_a_claim_about_other_prompts_is_refused(bench: Bench, tmp_path: Path) -> None:
    drafts.choose(bench, {"heads": "L1H3", "write": "zero"})
    made = drafts.text(bench)
    for old, new in (("pairs: 16", "pairs: 200"), ("{name: decimals}", "{name: ioi}")):
        with pytest.raises(ClaimError, match="open another bench"):
            drafts.register(bench, made.replace(old, new, 1), tmp_path / "store")
    with pytest.raises(ClaimError):
        drafts.register(bench, "worlds: [", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "", "task": "ioi"}, "no model named"),
        ({"model": "x", "task": ""}, "one of the two"),
        ({"model": "x", "task": "ioi", "text": "a"}, "one of the two"),
        ({"model": "x", "task": "no-such"}, "no task 'no-such'"),
        ({"model": "x", "text": "a", "suffix": ".pkl"}, "prompts come as"),
        ({"model": "x", "task": "ioi", "pairs": True}, "a whole number"),
        ({"model": "x", "task": "ioi", "pairs": 10**9}, "a whole number"),
        ({"model": "x", "task": "ioi", "seed": "0"}, "a whole number"),
    ],
)
def test_what_no_bench_is_opened_with(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Asked.from_plain(given)


def posted(client: TestClient, path: str, data: Any) -> Any:
    """The answer to a POST of a page, its job waited for."""
    headers = {"origin": f"http://127.0.0.1:{PORT}", "x-headlab": client.form, "content-type": "application/json"}  # type: ignore[attr-defined]
    job = client.post(path, content=data if isinstance(data, str) else json.dumps(data), headers=headers).json()
    while job.get("state") in {"waiting", "running"}:
        job = client.get(f"/jobs/{job['id']}").json()
    return job


@pytest.fixture
def page(known: TestClient, keys: Keys) -> TestClient:
    known.form = keys.form  # type: ignore[attr-defined]
    return known


def test_what_cannot_be_opened_is_one_line(page: TestClient) -> None:
    for given, said in (
        ({"model": "no-such-folder/model", "task": "decimals"}, "no-such-folder"),
        ({"model": "decimals-naturel", "task": "decimals"}, "did you mean"),
        ({"model": "thoughts-gpt2", "task": "decimals"}, "thinks in vectors"),
        ({"model": MODEL, "text": "clean,answer\nonly this,"}, "answer"),
        ({"model": MODEL, "text": ROWS.splitlines()[0] + "\n" + ROWS.splitlines()[1]}, "pair(s)"),
        ("[]", "mapping"),
        ("{", "no JSON"),
    ):
        answer = posted(page, "/bench", given)
        assert said in answer["error"] and "\n" not in answer["error"], answer
    for path in ("/bench/nothing", "/bench/nothing/trial"):
        gone = page.get(path)
        assert gone.status_code == 404 and "not open any more" in gone.text


def test_pages_of_a_bench_answer(page: TestClient) -> None:
    assert MODEL in page.get("/bench").text and "thoughts-gpt2" not in page.get("/bench").text
    key = posted(page, "/bench", {"model": MODEL, "task": "decimals", "pairs": 12, "looked_at": 6})["result"]["key"]
    assert page.get(f"/bench/{key}").status_code == page.get(f"/bench/{key}/trial").status_code == 200
    assert len(page.get(f"/bench/{key}/state").json()["prompts"]) == 6
    here = f"/bench/{key}"
    assert len(posted(page, f"{here}/grid", {"name": "attribution"})["result"]["rows"]) == 48
    assert len(posted(page, f"{here}/direct", {"head": "L1H3"})["result"]["values"]) == 6
    for path, given, said in (
        ("grid", {"name": "nothing"}, "no score"),
        ("pattern", {"head": "L1H99"}, "L1H99"),
        ("direct", {"head": "L1H99"}, "L1H99"),
        ("pattern", {"head": "L1H1", "prompt": 6}, "no prompt 6"),
        ("pattern", {"head": "L1H1", "prompt": "0"}, "whole number"),
        ("edit", {"heads": "", "write": "zero"}, "no heads"),
        ("edit", {"heads": "L1H1", "write": "burn"}, "no write"),
        ("edit", {"heads": "1.1", "write": "zero"}, "L1"),
        ("draft", {"write": "burn"}, "no write"),
        ("register", {"yaml": "x: 1"}, "not a claim"),
    ):
        answer = posted(page, f"{here}/{path}", given)
        assert said in answer["error"] and "\n" not in answer["error"], answer


def test_a_trial_that_is_interrupted_goes_on_where_it_stopped(bench: Bench, tmp_path: Path) -> None:
    drafts.choose(bench, {"heads": "L0H14 L1H3", "write": "zero"})
    made, worker, begun = quick(drafts.text(bench)), Worker(str), Event()

    def run(progress: Any) -> Any:
        def told(what: str, done: int, total: int) -> None:
            if "alternatives" in what:
                begun.set()
                job.stop.wait(20)
            progress(what, done, total)

        return drafts.register(bench, made, tmp_path / "store", told)

    job = worker.put("try", run)
    after = worker.put("after", lambda _: "done")
    assert begun.wait(60)
    job.stop.set()
    job.ended.result(60)
    after.ended.result(60)
    (record,) = Store(tmp_path / "store").records()[0]
    assert (job.state, record.status, after.result) == ("cancelled", "interrupted", "done")
    found = drafts.register(bench, made, tmp_path / "store")
    again = Store(tmp_path / "store").record(found["id"])
    assert again.id == record.id and any("Resumed" in n for n in again.notes)
    worker.close()


def test_a_job_that_fails_is_one_line_and_the_next_one_runs() -> None:
    worker, going = Worker(lambda e: f"it failed: {e}"), Event()
    bad, good = worker.put("bad", lambda _: 1 / 0), worker.put("good", lambda _: 7)
    good.ended.result(10)
    assert (bad.state, bad.error, good.state, good.result) == ("failed", "it failed: division by zero", "done", 7)

    def endless(progress: Any) -> None:
        while True:
            going.set()
            progress("on and on", 1, 2)

    long, waiting = worker.put("long", endless), worker.put("waiting", lambda _: 1)
    assert going.wait(10)
    worker.close()
    assert (long.state, waiting.state) == ("cancelled", "cancelled")
    with pytest.raises(RuntimeError, match="stopping"):
        worker.put("late", lambda _: 1)
    with pytest.raises(KeyError, match="no job"):
        worker.job("0")


def test_a_grid_and_an_edit_can_be_cancelled(bench: Bench) -> None:
    """Progress is told from within the passes, where a cancelled job raises."""

    def told(what: str, done: int, total: int) -> None:
        if total > 1:
            raise Cancelled

    for ask in (lambda: grid(bench, "zero", told), lambda: edit(bench, [Head(1, 3)], "zero", told)):
        with pytest.raises(Cancelled):
            ask()
    assert not bench.grids and not bench.chosen and not bench.looks.plain()["edits"]


def test_a_run_is_settled_where_its_page_cannot_be_kept(home: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[str] = []

    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "keep_page", full)
    monkeypatch.setattr(Store, "settle", lambda _, id: settled.append(id))
    monkeypatch.setattr(drafts, "of_run", lambda *_: "<html>")
    id = home.records()[0][0].id
    drafts.keep_report(id, home.root)
    assert settled == [id]

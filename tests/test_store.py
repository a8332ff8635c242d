"""The store keeps its promises: whole files, resumable runs, ids that stay inside, SQL that only reads."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headlab.claims import Claim, Control, Prediction, decide
from headlab.stats import Estimate
from headlab.store import SCHEMA, NamedEstimate, Reading, Record, Store, StoreError, content_hash, files

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
COLUMNS = ["id", "kind", "slug", "model", "outcome", "status", "created", "seconds"]
CLAIM = Claim(
    id="parity",
    words="even heads repair",
    source="a test",
    experiment="parity",
    predictions=(Prediction(statistic="repair:even", op=">", threshold=0.5),),
    controls=("no-op",),
)
ESTIMATE = Estimate(0.9, 0.7, 0.98, n=20, unit="pairs", method="by hand", seed=0)


def reading(outcome: str = "upheld") -> Reading:
    value = ESTIMATE if outcome == "upheld" else Estimate(0.1, 0.02, 0.3, n=20, unit="pairs", method="by hand")
    control = Control(name="no-op", kind="negative", passed=True, words="nothing moved", value=0.0)
    verdict = decide(CLAIM, {"repair:even": value}, [control])
    named = NamedEstimate(name="repair:even", label="even heads repair", arm="z", estimate=value.to_dict())
    return Reading(protocol="standard", words="z, aligned by role", verdict=verdict, estimates=(named,))


def effects(seed: int = 0, rows: int = 8) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "pair": np.arange(rows),
            "world": [f"w{i % 2}" for i in range(rows)],
            "edited": draw.normal(size=rows),
            "right": [True if i % 3 else None for i in range(rows)],
            "edited_text": ["9.8" if i % 2 else None for i in range(rows)],
        }
    )


def start(store: Store, seed: int = 0, slug: str = "parity", **draft):
    draft = {"claim": CLAIM.model_dump(mode="json"), "model": {"name": "tiny"}, **draft}
    return store.open(kind="trial", slug=slug, title="Parity", inputs={"seed": seed}, draft=draft)


def complete(store: Store, seed: int = 0, slug: str = "parity", **fields) -> Record:
    with start(store, seed, slug) as run:
        run.table("effects", effects(seed))
        return run.finish(**{"readings": [reading()], **fields})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


class Boom(Exception):
    pass


# -- records ------------------------------------------------------------------------------------------------


def test_record_round_trip_is_exact(store):
    awkward = [0.1 + 0.2, 1e-310, 1 / 3, np.float64(2.5), np.int64(7), np.bool_(True)]
    made = complete(store, settings={"numbers": awkward, "path": Path("a/b"), "nested": {"x": (1, 2)}})
    read = store.record(made.id)
    assert read == made
    assert read.settings == {
        "numbers": [0.1 + 0.2, 1e-310, 1 / 3, 2.5, 7, True],
        "path": "a/b",
        "nested": {"x": [1, 2]},
    }
    assert read.readings[0].verdict == reading().verdict
    assert Estimate.from_dict(read.readings[0].estimates[0].estimate) == ESTIMATE
    assert Record.from_json(read.to_json()) == read
    assert read.outcome == "upheld" and read.status == "complete" and read.seconds is not None


def test_nan_never_in_json_and_its_place_is_named(store):
    made = complete(store, settings={"a": [1.0, float("nan")], "b": float("inf")})
    text = (store.root / made.id / "record.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert made.settings == {"a": [1.0, None], "b": None}
    assert made.warnings == ["not a number, stored as null: settings.a.1, settings.b"]


def test_what_is_not_data_is_refused(store):
    with pytest.raises(StoreError, match=r"settings\.f cannot be stored: function"):
        complete(store, settings={"f": lambda: None})
    with pytest.raises(StoreError, match=r"inputs.seed is NaN or infinite"):
        store.open(kind="run", slug="x", title="", inputs={"seed": float("nan")}, draft={})


def test_the_claim_is_hashed_and_on_disk_before_any_work(store):
    """Law 5.  Fails when ``Run.__init__`` does not save (tried: the read below finds no file)."""
    with start(store) as run:
        on_disk = json.loads((run.directory / "record.json").read_text())
        assert on_disk["claim_hash"] == CLAIM.content_hash()
        assert on_disk["claim"] == CLAIM.model_dump(mode="json") and on_disk["status"] == "running"
        for late in ({"claim": None}, {"claim_hash": "0"}, {"id": "other"}, {"nonsense": 1}):
            with pytest.raises(StoreError, match=f"cannot set {next(iter(late))}"):
                run.finish(**late)
        run.finish()
    with pytest.raises(StoreError, match="changed after it was hashed"):
        start(store, claim_hash="0" * 64)
    with pytest.raises(StoreError, match="a draft cannot set id"):
        start(store, id="mine")


def test_a_newer_schema_is_refused_and_a_damaged_record_named(store):
    made = complete(store)
    path = store.root / made.id / "record.json"
    whole = path.read_text()
    path.write_text(whole.replace(f'"schema_version": {SCHEMA}', f'"schema_version": {SCHEMA + 1}'))
    with pytest.raises(StoreError, match=f"newer headlab .schema {SCHEMA + 1}; this one reads up to {SCHEMA}"):
        store.record(made.id)
    assert store.list()["status"].tolist() == ["unreadable"]
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=f"the record of {made.id} is damaged"):
        store.record(made.id)
    path.write_text(whole.replace('"kind": "trial"', '"kind": "verdict"'))
    with pytest.raises(StoreError, match="is not a record: kind"):
        store.record(made.id)
    assert len(store.query("SELECT * FROM runs")) == 0


# -- atomicity ----------------------------------------------------------------------------------------------


def test_a_crash_before_replace_leaves_the_old_file(tmp_path, monkeypatch):
    """Fails when ``write_atomic`` writes to the path itself (tried: the file is gone)."""
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def crash(*_):
        raise Boom

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(Boom):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_crash_between_write_and_replace_leaves_the_record_readable(store, monkeypatch):
    run = start(store)
    before = store.record(run.id)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Boom()))
        with pytest.raises(Boom):
            run.warn("something")
    assert store.record(run.id) == before
    run.finish()


# -- resume -------------------------------------------------------------------------------------------------


def work(run, done: list[int], *, stop_at: int | None = None, error: type[BaseException] = Boom) -> Record:
    parts = []
    for i in range(4):

        def compute(i=i):
            if i == stop_at:
                raise error()
            done.append(i)
            return effects(i)

        parts.append(run.shard(f"standard/z:{i}", compute))
    run.table("effects", pd.concat(parts, ignore_index=True))
    return run.finish(readings=[reading()])


@pytest.mark.parametrize(("error", "status"), [(Boom, "failed"), (KeyboardInterrupt, "interrupted")])
def test_resume_computes_only_what_is_missing(store, error, status):
    """Fails when ``Run.shard`` does not look for a stored shard (tried: ``done`` holds 0 and 1 again)."""
    done: list[int] = []
    with pytest.raises(error), start(store) as run:
        work(run, done, stop_at=2, error=error)
    assert store.record(run.id).status == status and done == [0, 1]
    assert store.list()["status"].tolist() == [status]
    with start(store) as again:
        assert again.id == run.id
        record = work(again, done)
    assert done == [0, 1, 2, 3]
    assert record.status == "complete" and record.error == "" and "2 shards were stored" in record.notes[-1]
    assert not (again.directory / "shards").exists(), "shards are dropped once the table stands"

    unbroken = Store(store.root.parent / "other")
    with start(unbroken) as run:
        other = work(run, [])
    assert other.tables == record.tables, "the same table bit for bit"
    pd.testing.assert_frame_equal(store.table(record.id, "effects"), unbroken.table(other.id, "effects"))


def test_a_complete_run_is_never_overwritten(store):
    first, second, third = (complete(store) for _ in range(3))
    assert [second.id, third.id] == [f"{first.id}-2", f"{first.id}-3"]
    assert first.key == second.key and first.id == f"parity-{first.key[:8]}"
    assert complete(store, seed=1).key != first.key


def test_other_versions_do_not_share_shards(store):
    with pytest.raises(Boom), start(store, versions={"torch": "1"}) as run:
        run.shard("a", effects)
        raise Boom
    with start(store, versions={"torch": "2"}) as other:
        assert other.id == f"{run.id}-2"
        other.finish()
    with start(store, versions={"torch": "1"}) as again:
        assert again.id == run.id
        again.finish()


def test_a_run_without_an_end_has_failed(store):
    with start(store) as run:
        pass
    assert store.record(run.id).status == "failed" and "without finish()" in store.record(run.id).error
    with pytest.raises(StoreError, match="is closed"):
        run.shard("a", effects)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "mark"])
def test_a_damaged_shard_is_computed_again_and_reported(store, damage):
    """Fails when the checksum is not compared (tried: the reader crashes on the truncated one)."""
    with pytest.raises(Boom), start(store) as run:
        run.shard("a", effects)
        raise Boom
    path = next((run.directory / "shards").glob("*.parquet"))
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:-10])
    elif damage == "flipped":
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    elif damage == "gone":
        path.unlink()
    else:
        path.with_suffix(".json").write_bytes(b"{")
    with start(store) as again:
        pd.testing.assert_frame_equal(again.shard("a", effects), files.from_parquet(files.to_parquet(effects(), "a")))
        record = again.finish(warnings=["another"])
    assert len(record.warnings) == 2 and record.warnings[1] == "another"
    assert "shard 'a' was damaged" in record.warnings[0] and "computed again" in record.warnings[0]


def test_shard_names_cannot_collide_or_lead_out(store):
    with start(store) as run:
        names = ["a/b", "a-b", "../../x", "", "é" * 300]
        for i, name in enumerate(names):
            run.shard(name, lambda i=i: effects(i))
        for i, name in enumerate(names):
            assert run.shard(name, Boom)["edited"].tolist() == effects(i)["edited"].tolist()
        assert len(list((run.directory / "shards").iterdir())) == 2 * len(names)
        run.finish()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(store, monkeypatch, number):
    def full(_):
        raise OSError(number, "No space left on device")

    with (
        pytest.raises(StoreError, match=r"disk full: could not write .*run the same command again"),
        start(store) as run,
    ):
        run.shard("a", effects)
        monkeypatch.setattr(os, "fsync", full)
        run.shard("b", effects)
    assert store.list()["status"].tolist() == ["interrupted"]
    monkeypatch.undo()
    with start(store) as again:
        assert again.id == run.id
        again.shard("a", Boom)
        again.shard("b", effects)
        again.finish()


def test_a_full_disk_elsewhere_reads_the_same(store):
    with pytest.raises(StoreError, match="disk full: could not write /somewhere"), start(store):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="name a folder that can be written"):
        start(Store(tmp_path / "file" / "runs"))


SCRIPT = """
    import sys, time
    import numpy as np, pandas as pd
    from headlab.store import Store
    store = Store(sys.argv[1])
    with store.open(kind="run", slug="killed", title="", inputs={"n": 1}, draft={}) as run:
        parts = []
        for i in range(6):
            def compute():
                print("computed", i, flush=True)
                time.sleep(float(sys.argv[2]) * (1 if i < 3 else 1000))  # the one in which it is killed goes on
                return pd.DataFrame({"x": np.random.default_rng(i).normal(size=50), "i": i})
            parts.append(run.shard(f"part {i}", compute))
        run.table("effects", pd.concat(parts))
        print(run.finish().tables["effects"].sha256)
"""


def script(root: Path, sleep: float) -> subprocess.Popen:
    code = textwrap.dedent(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(sleep)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def test_kill_9_then_resume_gives_the_same_table(store, tmp_path):
    process = script(store.root, 0.05)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["computed", "3"]:
            break
    with pytest.raises(StoreError, match="being made by another process"):
        store.open(kind="run", slug="killed", title="", inputs={"n": 1}, draft={})
    assert store.list()["status"].tolist() == ["running"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.list()["status"].tolist() == ["interrupted"]

    resumed = script(store.root, 0).communicate()[0].split("\n")
    assert resumed[0] == "computed 3", "the first three parts were stored"
    unbroken = script(tmp_path / "other", 0).communicate()[0].split("\n")
    assert unbroken[0] == "computed 0" and resumed[-2] == unbroken[-2]
    assert store.list()["status"].tolist() == ["complete"]


# -- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["../x", "a/b", "", ".", "..", "A", "a_b", "-a", "a\n", "/etc", "a\0"])
def test_ids_that_could_lead_out_are_refused(store, id):
    for use in (store.record, store.tables, lambda i: start(store, slug=i), lambda i: store.export(i, store.root)):
        with pytest.raises(StoreError, match="not a run's id"):
            use(id)


def test_a_record_cannot_point_out_of_the_store(store, tmp_path):
    """An unpacked export is a store made by someone else: nothing that its records say may leave it."""
    made = complete(store)
    path = store.root / made.id / "record.json"
    data = json.loads(path.read_text())
    for change in ({"id": "../x"}, {"children": ["../x"]}, {"tables": {"../x": {"rows": 1, "sha256": ""}}}):
        path.write_text(json.dumps(data | change))
        with pytest.raises(StoreError, match=r"is not a record.*not a name"):
            store.record(made.id)
    path.write_text(json.dumps(data | {"id": "another"}))
    with pytest.raises(StoreError, match="holds the record of another"):
        store.record(made.id)


def test_prefixes(store):
    a, b = complete(store, 0), complete(store, 1)
    again = complete(store, 0)
    assert store.record(a.id).id == a.id, "a full id is itself, though another begins with it"
    assert store.record(b.id[:-2]).id == b.id and store.record(again.id).id == again.id
    with pytest.raises(StoreError, match="is the beginning of 3 runs: parity-"):
        store.record("parity")
    with pytest.raises(StoreError, match=f"did you mean .*{b.id}"):
        store.record("priaty" + b.id[6:])
    with pytest.raises(StoreError, match="headlab list"):
        store.record("zzz")


def test_list(store):
    assert list(store.list().columns) == COLUMNS
    made = complete(store)
    row = store.list().iloc[0]
    assert (row["id"], row["model"], row["outcome"]) == (made.id, "tiny", "upheld")


def test_tables_are_checked_when_they_are_read(store):
    made = complete(store)
    tables = store.tables(made.id)
    assert list(tables) == ["effects"] and made.tables["effects"].rows == 8
    assert tables["effects"]["edited"].tolist() == effects()["edited"].tolist()
    with pytest.raises(StoreError, match="has no table 'worlds'; it has effects"):
        store.table(made.id, "worlds")
    path = store.root / made.id / "effects.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        store.table(made.id, "effects")
    path.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        store.table(made.id, "effects")


@pytest.mark.parametrize("name", ["runs", "../x", "A", "1a", ""])
def test_table_names(store, name):
    with start(store) as run:
        with pytest.raises(StoreError, match="not a table name"):
            run.table(name, effects())
        run.finish()


def test_frames_that_cannot_be_stored_are_named(store):
    with start(store) as run:
        with pytest.raises(StoreError, match="table 'mixed' cannot be stored"):
            run.table("mixed", pd.DataFrame({"x": [1, "a"]}))
        with pytest.raises(StoreError, match="expected names that are text"):
            run.table("numbers", pd.DataFrame({0: [1]}))
        kept = run.table("named", pd.DataFrame({"x": [1, 2]}, index=pd.Index([5, 6], name="pair")))
        assert kept.to_dict("list") == {"pair": [5, 6], "x": [1, 2]}
        assert run.shard("empty", lambda: effects(rows=0)).empty
        run.finish()


# -- queries ------------------------------------------------------------------------------------------------


def test_query_joins_runs(store):
    a = complete(store, 0)
    with start(store, 1) as run:
        run.table("effects", effects(1).drop(columns="right").assign(protocol="standard"))
        run.table("worlds", pd.DataFrame({"world": ["w0", "w1"], "size": [0, 1]}))
        b = run.finish(readings=[reading("refuted")])
    got = store.query(
        "SELECT run_id, outcome, avg(edited) AS mean, count(protocol) AS n FROM effects "
        "JOIN runs USING (run_id) GROUP BY ALL ORDER BY outcome"
    )
    assert got["run_id"].tolist() == [b.id, a.id] and got["n"].tolist() == [8, 0]
    assert got["mean"].tolist() == pytest.approx([effects(1)["edited"].mean(), effects(0)["edited"].mean()])
    joined = store.query("SELECT sum(size) AS s FROM effects JOIN worlds USING (run_id, world)")
    assert joined["s"].tolist() == [4]
    numbers = store.query("SELECT value, low, n, unit FROM estimates WHERE run_id = '" + a.id + "'")
    assert numbers.to_dict("records") == [{"value": 0.9, "low": 0.7, "n": 20, "unit": "pairs"}]
    assert store.query("SELECT outcome FROM readings WHERE binding ORDER BY 1")["outcome"].tolist() == [
        "refuted",
        "upheld",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{out}'",
        "SELECT * FROM read_csv('{out}')",
        "SELECT * FROM read_text('{out}')",
        "SELECT * FROM glob('{out}')",
        "SELECT * FROM read_parquet('{inside}')",
        "SELECT * FROM here",
        "COPY (SELECT 1) TO '{new}'",
        "ATTACH '{new}'",
        "EXPORT DATABASE '{new}'",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO runs SELECT * FROM runs",
        "DELETE FROM runs",
        "DROP VIEW runs",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "",
        "SELEC",
        "SELECT nothing FROM runs",
    ],
)
def test_query_reads_the_store_and_nothing_else(store, tmp_path, sql):
    """Fails when ``_LOCKS`` is emptied (tried: the SELECTs from files succeed), or when every kind of statement
    is let through (tried: CREATE succeeds).
    """
    made = complete(store)
    here = pd.DataFrame({"secret": [1]})
    assert len(here)
    outside, new = tmp_path / "outside.csv", tmp_path / "new"
    outside.write_text("a,b\n1,2\n")
    inside = store.root / made.id / "effects.parquet"
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(StoreError) as caught:
        store.query(sql.format(out=outside, new=new, inside=inside))
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_query_shows_what_can_be_asked(store):
    """Every table with its columns, not the parts that a table of runs with different columns is joined from."""
    complete(store, 0)
    with start(store, 1) as run:
        run.table("effects", effects(1).assign(protocol="standard"))
        run.finish()
    for sql in ("show tables", "SHOW ALL TABLES;", "describe"):
        got = store.query(sql)
        assert got["name"].tolist() == ["effects", "estimates", "readings", "runs"]
        assert got["columns"][0] == "run_id, pair, world, edited, right, edited_text, protocol"
        assert got["columns"][2] == "run_id, protocol, binding, outcome, sentence"
    for sql in ("DESCRIBE effects", "show effects", "select * from (describe effects)", "summarize effects"):
        assert store.query(sql).iloc[:, 0].tolist() == got["columns"][0].split(", ")
    assert len(store.query("EXPLAIN SELECT * FROM effects")) == 1


def test_query_of_an_empty_store(store):
    assert store.query("SELECT count(*) AS n FROM runs")["n"].tolist() == [0]
    with pytest.raises(StoreError, match="the store has the tables estimates, readings, runs"):
        store.query("SELECT * FROM effects")


# -- export -------------------------------------------------------------------------------------------------


def test_export_is_self_contained_and_is_itself_a_store(store, tmp_path):
    child = complete(store, 1)
    made = complete(store, children=[child.id], call={"command": "headlab trial parity", "python": "headlab.trial()"})
    out = store.export(made.id[:-1], tmp_path, page="<html>report</html>")
    assert out == tmp_path / f"{made.id}.zip"
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == sorted(
            ["README.txt", "report.html"]
            + [f"runs/{r}/{f}" for r in (made.id, child.id) for f in ("record.json", "effects.parquet", "effects.csv")]
        )
        text = archive.read("README.txt").decode()
        assert "headlab trial parity" in text and reading().verdict.sentence in text
        assert archive.read("report.html") == b"<html>report</html>"
        archive.extractall(tmp_path / "unpacked")
    copy = Store(tmp_path / "unpacked" / "runs")
    assert copy.record(made.id) == store.record(made.id)
    pd.testing.assert_frame_equal(copy.table(child.id, "effects"), store.table(child.id, "effects"))
    again = store.export(made.id, tmp_path / "again.zip", page=b"<html>report</html>")
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(StoreError, match="there is no folder"):
        store.export(made.id, tmp_path / "no" / "x.zip")


# -- other --------------------------------------------------------------------------------------------------


def test_default_root(monkeypatch):
    monkeypatch.delenv("HEADLAB_STORE", raising=False)
    assert Store().root == Path("headlab-runs")
    monkeypatch.setenv("HEADLAB_STORE", "/x")
    assert Store().root == Path("/x") and Store("y").root == Path("y")


def test_content_hash_is_that_of_the_claim():
    assert content_hash(CLAIM.model_dump(mode="json")) == content_hash(CLAIM) == CLAIM.content_hash()


def test_import_is_light():
    code = "import sys, headlab.store; print({'torch', 'pandas', 'duckdb', 'pyarrow'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert out.stdout.strip() == "set()", out.stderr

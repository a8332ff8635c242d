"""What is stored stays what it was, or says so; what leaves the store goes where it was told to, and nowhere else.

Of the kind "a change that passes unseen" were looked for: every field of a record, its digest, its claim, tables
(bytes, length, place, time stamp), the page and its checksum, children, folders, the index, and each member of a zip.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headlab.claims import Claim, Control, Prediction, decide
from headlab.stats import Estimate
from headlab.store import NamedEstimate, Reading, Record, Store, StoreError, files
from headlab.store import verify as verifying

CLAIM = Claim(
    id="parity", words="even heads repair", source="a test", experiment="parity",
    predictions=(Prediction(statistic="repair:even", op=">", threshold=0.5),), controls=("no-op",),
)  # fmt: skip


def reading() -> Reading:
    value = Estimate(0.9, 0.7, 0.98, n=20, unit="pairs", method="by hand", seed=0)
    verdict = decide(
        CLAIM, {"repair:even": value}, [Control(name="no-op", kind="negative", passed=True, words="still")]
    )
    named = NamedEstimate(name="repair:even", label="even heads repair", arm="z", estimate=value.to_dict())
    return Reading(protocol="standard", words="z", verdict=verdict, estimates=(named,))


def complete(store: Store, seed: int = 0, **fields) -> Record:
    draft = {"claim": CLAIM.model_dump(mode="json"), "model": {"name": "tiny", "fingerprint": "f"}}
    with store.open(kind="trial", slug="parity", title="Parity", inputs={"seed": seed}, draft=draft) as run:
        if run.finished:
            return run.finished
        run.table("effects", pd.DataFrame({"pair": range(8), "edited": np.random.default_rng(seed).normal(size=8)}))
        run.table("worlds", pd.DataFrame({"world": ["a", "b"]}))
        return run.finish(**{"readings": [reading()], **fields})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "runs")
    child, other = complete(store, 1), complete(store, 2)
    made = complete(store, 0, children=[child.id])
    store.keep_page(made.id, "<html>even heads repair</html>")
    store.keep_page(other.id, "<html>another</html>")
    (folder / "ids.json").write_text(json.dumps([made.id, child.id, other.id]))
    return folder


@pytest.fixture
def store(made, tmp_path) -> Store:
    """A run with a page and a child, and a third run beside them; the index knows all that it can."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    store = Store(tmp_path / "runs")
    store.query("SELECT 1 FROM runs, readings, estimates, effects, worlds")
    return store


def ids(store: Store) -> list[str]:
    return json.loads((store.root.parent / "ids.json").read_text())


# -- forty ways of tampering --------------------------------------------------------------------------------


def text(old: str, new: str, name: str = "record.json", which: int = 0) -> Callable[[Store], None]:
    def change(store: Store) -> None:
        path = store.root / ids(store)[which] / name
        data = path.read_bytes()
        assert data.count(old.encode()) >= 1, old
        path.write_bytes(data.replace(old.encode(), new.encode(), 1))

    return change


def raw(
    change: Callable[[bytes], bytes], name: str, which: int = 0, *, same_time: bool = False
) -> Callable[[Store], None]:
    def act(store: Store) -> None:
        path = store.root / ids(store)[which] / name
        before = path.stat()
        path.write_bytes(change(path.read_bytes()))
        if same_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return act


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :]


def fields(**new) -> Callable[[Store], None]:
    """The record rewritten as JSON with other fields and the digest as it was."""
    return raw(lambda data: json.dumps({**json.loads(data), **new}, indent=1).encode() + b"\n", "record.json")


def no_digest(data: bytes) -> bytes:
    held = json.loads(data)
    del held["digest"]
    return json.dumps(held, indent=1).encode()


def copied(name: str, source: int, to: int = 0, new: str = "") -> Callable[[Store], None]:
    def act(store: Store) -> None:
        a, b = ids(store)[source], ids(store)[to]
        shutil.copy(store.root / a / name, store.root / b / (new or name))

    return act


def with_folder(act: Callable[[Path], object], which: int = 0, name: str = "") -> Callable[[Store], None]:
    return lambda store: act(store.root / ids(store)[which] / name) and None


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Store], None]] = {
    "verdict: outcome": text('"outcome": "upheld"', '"outcome": "refuted"'),
    "verdict: sentence": text('"sentence": "', '"sentence": "Not so. '),
    "claim: words": text('"words": "even heads repair"', '"words": "odd heads repair"'),
    "claim: threshold": text('"threshold": 0.5', '"threshold": 0.1'),
    "claim: hash": text('"claim_hash": "', '"claim_hash": "0'),
    "estimate: value": text('"value": 0.9', '"value": 0.99'),
    "estimate: interval": text('"low": 0.7', '"low": 0.89'),
    "estimate: n": text('"n": 20', '"n": 2000'),
    "control": text('"passed": true', '"passed": false'),
    "model: name": text('"name": "tiny"', '"name": "huge"'),
    "model: fingerprint": text('"fingerprint": "f"', '"fingerprint": "g"'),
    "title": text('"title": "Parity"', '"title": "Purity"'),
    "status": text('"status": "complete"', '"status": "failed"'),
    "created": text('"created": "20', '"created": "19'),
    "key": text('"key": "', '"key": "0'),
    "kind": text('"kind": "trial"', '"kind": "demo"'),
    "schema made older": text('"schema_version": 2', '"schema_version": 1'),
    "warnings": fields(warnings=["trust me"]),
    "notes": fields(notes=["registered in 2019"]),
    "readings taken out": fields(readings=[]),
    "children taken out": fields(children=[]),
    "call": fields(call={"command": "rm -rf /"}),
    "table's checksum": text('"sha256": "', '"sha256": "0'),
    "table's rows": text('"rows": 8', '"rows": 80'),
    "table taken out of the record": fields(tables={}),
    "digest": text('"digest": "', '"digest": "0'),
    "digest taken out": raw(no_digest, "record.json"),
    "record reformatted": raw(lambda d: json.dumps(json.loads(d)).encode(), "record.json"),
    "record cut": raw(lambda d: d[: len(d) // 2], "record.json"),
    "record emptied": raw(lambda d: b"", "record.json"),
    "record with a line more": raw(lambda d: d + b"\n", "record.json"),
    "record of another run": copied("record.json", 2),
    "record is a folder": with_folder(replaced_by_folder, name="record.json"),
    "table: a bit": raw(flipped, "effects.parquet"),
    "table: a bit, time set back": raw(flipped, "effects.parquet", same_time=True),
    "table: cut": raw(lambda d: d[:-20], "effects.parquet"),
    "table: longer": raw(lambda d: d + b"\0", "effects.parquet"),
    "table: of another run": copied("effects.parquet", 2),
    "table: another table": copied("worlds.parquet", 0, new="effects.parquet"),
    "table: gone": with_folder(lambda p: p.unlink(), name="effects.parquet"),
    "table: a folder": with_folder(replaced_by_folder, name="effects.parquet"),
    "page: words": text("even heads repair", "odd heads repair", "report.html"),
    "page: of another run": copied("report.html", 2),
    "page with its checksum, of another run": lambda s: (
        [copied(n, 2)(s) for n in ("report.html", "report.sha256")] and None
    ),
    "page: its checksum": raw(flipped, "report.sha256"),
    "child: verdict": text('"outcome": "upheld"', '"outcome": "refuted"', which=1),
    "child: table": raw(flipped, "worlds.parquet", 1),
    "child: gone": with_folder(shutil.rmtree, which=1),
    "folder renamed": lambda s: (s.root / ids(s)[0]).rename(s.root / "parity-00000000") and None,
}


@pytest.mark.parametrize("way", WAYS)
def test_tampering_is_noticed(store, tmp_path, way):
    """Each is noticed by ``verify``, and by what would have passed it on: the record when it is shown, the table when it
    is asked, either when it is exported, the page when it is shown (then it is made again).

    NOT to be noticed, and said so by ``headlab verify``: whoever changes a file and computes every checksum above it anew
    (below); a whole run folder set back to an earlier state of itself.
    """
    top = ids(store)[0]
    assert not [f for f in store.verify(top) if f.state == "broken"] and store.page(top), "as it was, it holds"
    store.query("SELECT count(*) FROM effects")  # the index knows every file
    WAYS[way](store)

    def refused(ask: Callable[[], object]) -> bool:
        try:
            ask()
        except StoreError as error:
            assert "\n" not in str(error)
            return True
        return False

    run = next((p.name for p in store.root.iterdir() if p.name == "parity-00000000"), top)
    broken = refused(lambda: store.verify(run)) or any(f.state == "broken" for f in store.verify(run))
    assert broken, "verify"
    if "page" in way:
        assert store.page(run) is None
    else:
        assert refused(lambda: store.export(run, tmp_path / "x.zip", page="<html></html>")), "export"
    if "table" in way and "record" not in way:
        asked = "worlds" if way.startswith("child:") else "effects"
        skipped = store.query(f"SELECT * FROM {asked}").attrs["skipped"]
        assert set(skipped) == {ids(store)[1] if way.startswith("child:") else top}
    elif "page" not in way and "child: gone" not in way:
        which = ids(store)[1] if way.startswith("child:") else run
        assert refused(lambda: store.record(which)), "show"
        assert not len(store.query(f"SELECT * FROM runs WHERE run_id = '{top if 'child' not in way else which}'"))


def test_there_are_forty_ways():
    assert len(WAYS) >= 40


def test_a_forged_record_passes_and_verify_says_so(store):
    """The named limit: with every checksum computed anew, nothing is noticed; the limits are part of what verify says."""
    from headlab.cli.records import LIMITS

    top = ids(store)[0]
    forged = store.record(top).updated({"title": "forged"})
    (store.root / top / "record.json").write_text(forged.to_json())
    assert store.record(top).title == "forged" and "forge" in LIMITS and "repeat" in LIMITS


@pytest.mark.parametrize(
    "member", ["README.txt", "report.html", "record.json", "effects.parquet", "effects.csv", None, "new"]
)
def test_a_zip_that_was_changed_is_noticed(store, tmp_path, member):
    made = store.export(ids(store)[0], tmp_path / "made.zip", page="<html></html>")
    assert {f.state for f in verifying.of_zip(made)} == {"holds"}
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if member is None and name.endswith(".csv"):
                continue
            new.writestr(name, flipped(data) if member and name.endswith(member) else data)
        if member == "new":
            new.writestr("runs/note.txt", "trust me")
    assert any(f.state == "broken" for f in verifying.of_zip(other))
    other.write_bytes(made.read_bytes()[:-100])
    with pytest.raises(StoreError, match="cannot be read as a zip"):
        verifying.of_zip(other)


def test_the_command_says_what_holds_of_a_run_and_of_a_zip(store, tmp_path, capsys):
    """``headlab verify``: 0 and "Nothing is broken" where all holds, 3 and what is broken where a byte was flipped."""
    from headlab.cli import main

    run = ids(store)[0]
    made = store.export(run, tmp_path / "made.zip", page="<html></html>")
    for what in (run, str(made)):
        assert main(["verify", what, "--store", str(store.root)]) == 0
        said = capsys.readouterr().out
        assert "Nothing is broken" in said and "no signatures" in said and f"{run} record: digest" in said
    table = next((store.root / run).glob("*.parquet"))
    table.write_bytes(flipped(table.read_bytes()))
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            new.writestr(name, flipped(old.read(name)) if name.endswith("effects.csv") else old.read(name))
    for what in (run, str(other)):
        assert main(["verify", what, "--store", str(store.root)]) == 3
        said = capsys.readouterr().out
        assert any(line.startswith("broken") and "effects" in line for line in said.splitlines()), said
        assert "Nothing is broken" not in said


def test_records_of_before_open_and_say_that_they_have_no_digest(store):
    top = ids(store)[0]
    path = store.root / top / "record.json"
    old = {**json.loads(no_digest(path.read_bytes())), "schema_version": 1}
    path.write_text(json.dumps(old, indent=1))
    assert store.record(top).outcome == "upheld" and store.tables(top) and top in set(store.list()["id"])
    found = {f.what: f for f in store.verify(top) if f.run == top}
    assert found["record"].state == "not recorded" and "older headlab" in found["record"].words
    path.write_text(json.dumps({**old, "claim": {**old["claim"], "words": "another"}}))
    with pytest.raises(StoreError, match="another claim than the one that was hashed"):
        store.record(top)


# -- one bad run, many runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"", b"\xff", b"[]", b"{" * 100_000, b'{"schema_version": 1}', b"[" * 50_000])
def test_a_bad_run_is_left_out_and_named(store, caplog, bad):
    (store.root / "bad-1").mkdir()
    (store.root / "bad-1" / "record.json").write_bytes(bad)
    assert len(store.query("SELECT * FROM runs")) == 3 and "bad-1" in caplog.text
    caplog.clear()
    assert "unreadable" in set(store.list()["status"]) and "bad-1" in caplog.text


def test_what_has_not_changed_is_not_read_again(store, monkeypatch):
    """With the index read once, the next list and query open no record."""
    store.list()
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"read {self}"))
    assert len(store.list()) == 3 and len(store.query("SELECT * FROM runs JOIN effects USING (run_id)")) == 24


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0 no", None])
def test_an_index_that_is_lost_costs_time_only(store, damage):
    index = store.root / ".index.sqlite"
    index.unlink() if damage is None else index.write_bytes(damage)
    for _ in range(2):
        assert len(store.list()) == 3 and len(store.query("SELECT * FROM effects")) == 24


def test_a_damaged_index_changes_no_answer(store, monkeypatch):
    """Numbers, names and verdicts are kept there, too: a flipped bit anywhere is noticed, or in nothing that is read."""
    asked = "SELECT * FROM runs JOIN effects USING (run_id) JOIN estimates USING (run_id) ORDER BY ALL"
    wanted, index = store.query(asked), store.root / ".index.sqlite"
    whole, rng = index.read_bytes(), random.Random(3)
    written = [i for i, byte in enumerate(whole) if byte]
    for at in rng.sample(written, 15):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        pd.testing.assert_frame_equal(store.query(asked), wanted)


def test_a_write_of_the_index_that_is_killed_leaves_nothing_behind(store):
    """Killed with many pages changed and written, and nothing committed: no journal, and the next answers are the same."""
    asked = "SELECT * FROM runs JOIN effects USING (run_id) ORDER BY ALL"
    wanted, before = store.query(asked), {p.name for p in store.root.iterdir()}
    script = """
        import os, pathlib, sys
        from headlab.store import index
        connection = index._opened(pathlib.Path(sys.argv[1]))
        connection.execute("PRAGMA cache_size = 1")
        for n in range(200):
            connection.execute(f"INSERT INTO {index._TABLE} VALUES ('k', ?, 's', '', zeroblob(9000), 0)", (str(n),))
        print(os.path.getsize(pathlib.Path(sys.argv[1]) / index.NAME))
        sys.stdout.flush()
        os.kill(os.getpid(), 9)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(store.root)], capture_output=True, text=True
    )
    assert killed.returncode == -9 and int(killed.stdout) > 200 * 9000, killed
    assert {p.name for p in store.root.iterdir()} == before
    pd.testing.assert_frame_equal(store.query(asked), wanted)
    assert {p.name for p in store.root.iterdir()} == before


@pytest.mark.parametrize("cells", [0, 16, 2**12])
def test_small_tables_and_large_ones_answer_alike(store, monkeypatch, cells):
    """Rows kept in the index against rows read from their files, and both in one view; with text, lists, times and
    categories, an empty table, and columns that some lack."""
    frames = [
        {"x": [0.1, None], "c": pd.Categorical(["u", None]), "l": [[1, 2], None]},
        {"x": [0.3, 0.2] * 20, "t": pd.to_datetime(["2020-01-01", None] * 20)},
        {"x": pd.Series([], dtype=float)},
    ]
    monkeypatch.setattr(files, "CELLS", cells)
    for n, frame in enumerate(frames):
        with store.open(kind="run", slug="sizes", title="", inputs={"n": n}, draft={}) as run:
            run.table("sized", pd.DataFrame(frame))
            run.finish()
    for _ in range(2):
        got = store.query("SELECT x, c, l, t FROM sized ORDER BY ALL")
        assert got["x"].dropna().tolist() == [0.1, *[0.2] * 20, *[0.3] * 20] and got["c"].dropna().tolist() == ["u"]
        assert list(got["l"].dropna().iloc[0]) == [1, 2] and got["t"].notna().sum() == 20 and len(got) == 42
        (store.root / ".index.sqlite").unlink()


def test_tables_of_other_types_stand_in_one_view(store):
    """Columns that are empty in one run and text or whole numbers in another, and columns that one run lacks."""
    draft = {"claim": None}
    frames = [{"x": [None, None]}, {"x": ["a", "b"]}, {"x": [1, 2], "y": [True, None]}, {"x": [0.5, None]}]
    for n, frame in enumerate(frames):
        with store.open(kind="run", slug="types", title="", inputs={"n": n}, draft=draft) as run:
            run.table("mixed", pd.DataFrame(frame))
            run.finish()
    got = store.query("SELECT x, y FROM mixed ORDER BY run_id")
    assert len(got) == 8 and got["x"].notna().sum() == 5 and got["y"].notna().sum() == 1


# -- the end of a run ---------------------------------------------------------------------------------------


def test_a_complete_run_is_handed_on_until_it_is_settled(tmp_path):
    held = Store(tmp_path, hold=True)
    first = complete(held)
    assert (tmp_path / first.id / "shards").is_dir() and held.record(first.id).status == "complete"
    assert complete(Store(tmp_path, hold=True)).id == first.id, "a kill before it was printed costs no second run"
    held.settle(first.id)
    assert not (tmp_path / first.id / "shards").exists()
    assert complete(held).id == f"{first.id}-2"


def test_children_wait_for_their_parent(tmp_path):
    """A trial inside a summary is handed on as long as the summary is not settled; one whose inputs changed is made anew."""
    store = Store(tmp_path)

    class Boom(Exception):
        pass

    def summary(seed: int, *, boom: bool) -> Record:
        with store.open(kind="run", slug="cross-model", title="", inputs={}, draft={}) as run:
            child = complete(store, seed)
            if boom:
                raise Boom
            return run.finish(children=[child.id])

    with pytest.raises(Boom):
        summary(0, boom=True)
    (before,) = [r for r in store.records()[0] if r.slug == "parity"]
    done = summary(0, boom=False)
    assert done.children == [before.id] and len(store.records()[0]) == 2
    assert not list(tmp_path.glob("*/shards"))
    with pytest.raises(Boom):
        summary(1, boom=True)
    assert summary(2, boom=False).children != [before.id] and not list(tmp_path.glob("*/shards"))


# -- what leaves the store ----------------------------------------------------------------------------------


def test_an_export_goes_into_devices_and_through_links_and_never_into_the_store(store, tmp_path):
    """Looked for: devices, pipes, links to files, links to devices, folders, the store itself."""
    top = ids(store)[0]
    store.export(top, "/dev/null")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "null").symlink_to("/dev/null")
    store.export(top, tmp_path / "null")
    assert Path("/dev/null").is_char_device() and (tmp_path / "null").is_symlink()
    (tmp_path / "real.zip").write_text("old")
    (tmp_path / "link.zip").symlink_to("real.zip")
    store.export(top, tmp_path / "link.zip")
    assert (tmp_path / "link.zip").is_symlink() and zipfile.is_zipfile(tmp_path / "real.zip")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    store.export(top, tmp_path / "pipe")
    assert os.read(reader, 2**20) == (tmp_path / "real.zip").read_bytes()
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    before = (store.root / top / "record.json").read_bytes()
    with pytest.raises(StoreError, match="lies in the store"):
        store.export(top, store.root / top / "record.json")
    assert (store.root / top / "record.json").read_bytes() == before


def test_runs_are_made_where_fcntl_does_not_exist(tmp_path):
    """As on Windows, but for its own lock: with ``fcntl`` absent a run is made, locked, resumed and read."""
    code = """
        import sys, warnings
        sys.modules["fcntl"] = None
        warnings.simplefilter("ignore")
        from headlab.store import Store, StoreError
        import pandas as pd
        store = Store(sys.argv[1])
        run = store.open(kind="run", slug="x", title="", inputs={}, draft={})
        try:
            Store(sys.argv[1]).open(kind="run", slug="x", title="", inputs={}, draft={})
        except StoreError as error:
            print("held" if "another process" in str(error) else error)
        run.shard("a", lambda: pd.DataFrame({"a": [1]}))
        run.fail("stopped")
        with store.open(kind="run", slug="x", title="", inputs={}, draft={}) as again:
            again.shard("a", lambda: 1 / 0)
            print(again.finish().status, again.id == run.id)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert out.stdout.split("\n")[:2] == ["held", "complete True"], (out.stdout, out.stderr)

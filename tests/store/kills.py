"""Kills a command at its store operations and at random moments, gives it again, and compares with an unbroken run.

``python tests/store/kills.py [--kills N] [--seed N] [--only WORKLOAD]``.  A process that has loaded everything and run
nothing forks once for each command, so that a kill costs no import.  The page is a stand-in: drawing it is no store
operation, keeping it is.  Operations are counted by an audit hook: files opened for writing below the store, renames,
removals, folders made and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR


def workloads(only: str) -> dict[str, tuple[list[str], Callable[[], None]]]:
    """Name → command, and what makes it small in the child."""

    def nothing() -> None:
        pass

    if only == "store":
        return {"store": ([], nothing)}
    from headlab import organisms
    from headlab.engine import plan

    def many_shards() -> None:
        plan.SHARD_ROWS = 8

    last = next(iter(r.name for branch in organisms.SERIES.values() for r in branch))
    looks = [str(folder) for _, folder in sorted(organisms.checkpoints(last).items())[-3:]]
    thinker = organisms.names("thoughts")[0]
    small = ["--pairs", "4", "--matched-sets", "3", "--protocol", "standard", "--anyway"]
    parity = ["parity", "--model", "decimals-planted-even", "--layer", "1"]
    return {
        "store": ([], nothing),
        "trial": (["trial", *parity, *small], nothing),
        "sweep-heavy": (
            ["trial", *parity, "--pairs", "6", "--matched-sets", "30", "--protocol", "standard", "--anyway"],
            many_shards,
        ),
        "thoughts": (
            ["trial", "head-ablation", "--model", thinker, "--pairs", "4", "--matched-sets", "1", "--anyway"],
            nothing,
        ),
        "cross-model": (["cross-model", "decimals-planted-even", "--pairs", "4", "--matched-sets", "3"], nothing),
        "emergence": (["emergence", *looks, "--weights-only"], nothing),
    }


def child(command: list[str], root: Path, small: Callable[[], None], kill_at: int | None, log: Path) -> None:
    """Run the command in this (forked) process; die at the ``kill_at``-th operation.  Writes how many there were."""
    import headlab.cli.tree
    from headlab.cli import main

    headlab.cli.tree.make_page = lambda record, home: f"<html>{record.id}</html>"
    small()
    count, inside = 0, str(root)

    def hook(event: str, args: Any) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = args
            if not (isinstance(path, str) and path.startswith(inside) and flags and flags & WRITES):
                return
        elif event == "sqlite3.connect":
            if not str(args[0]).startswith(inside):
                return
        elif event not in {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}:
            return
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.addaudithook(hook)
    code = main([*command, "--store", str(root)]) if command else by_hand(root)
    log.with_suffix(".count").write_text(str(count))
    os._exit(code)


def by_hand(root: Path) -> int:
    """A summary with a child, shards and tables, and the end that the command line makes of it: every store operation
    that the commands have, without their numbers."""
    import pandas as pd

    from headlab.cli.tree import open_store, print_record

    store = open_store(root)
    with store.open(kind="run", slug="summary", title="", inputs={"n": 1}, draft={}) as run:
        if run.finished is None:
            with store.open(kind="trial", slug="part", title="", inputs={"n": 2}, draft={}) as part:
                child = part.finished
                if child is None:
                    rows = [
                        part.shard(f"rows {i}", lambda i=i: pd.DataFrame({"x": [i / 3], "i": [i]})) for i in range(4)
                    ]
                    part.table("effects", pd.concat(rows, ignore_index=True))
                    child = part.finish()
            run.table("summary", run.shard("summary", lambda: pd.DataFrame({"id": [child.id]})))
            run.table("more", store.table(child.id, "effects"))
            run.finish(children=[child.id])
        record = run.finished or run.record
    print_record(record, store, json=False)
    return 0


def run(
    command: list[str], root: Path, small: Callable[[], None], kill_at: int | None = None, after: float | None = None
) -> int:
    """Fork and wait; the exit code, or minus the signal.  ``after``: kill it then, wherever it stands."""
    log = root.parent / "log"
    if (pid := os.fork()) == 0:
        try:
            child(command, root, small, kill_at, log)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(99)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


ROUNDED = {"emergence": 12}
"""Decimal places to which a workload's tables are compared, the others to the last bit: two unbroken runs of it differ in
some cells by 1.1e-16, as sums over weights depend on where in memory these lie."""


def state(root: Path, places: int | None = None) -> dict[str, Any]:
    """What must be equal: each run's status, verdicts and tables (``places``: rounded); and that nothing else lies there."""
    from headlab.store import Store

    store, found = Store(root), {}
    records, bad = store.records()
    assert not bad, bad
    for record in records:
        names = {p.name for p in (root / record.id).iterdir()}
        known = {"record.json", ".lock", *(f"{t}.parquet" for t in record.tables), "report.html", "report.sha256"}
        broken = [f for f in store.verify(record.id) if f.state == "broken"]
        assert names <= known and not broken, (record.id, names - known, broken)
        tables = {n: (t.rows, t.sha256) for n, t in record.tables.items()}
        if places is not None:
            tables = {n: (t.rows, store.table(record.id, n).round(places).to_json()) for n, t in record.tables.items()}
        verdicts = [(r.protocol, r.verdict.outcome, r.verdict.sentence) for r in record.readings]
        found[record.id] = [
            record.status,
            verdicts,
            tables,
            record.children,
            (root / record.id / "report.html").exists(),
        ]
    stray = {p.name for p in root.iterdir()} - set(found) - {".lock", ".index.sqlite"}
    assert not stray, stray
    return json.loads(json.dumps(found))


def differing(one: Path, other: Path) -> list[str]:
    """Which tables of two stores differ, in which columns and by how much; or their states, where no table does."""
    import pandas as pd

    said = []
    for path in sorted(one.glob("*/*.parquet")):
        if not (beside := other / path.relative_to(one)).exists():
            said.append(f"{path.relative_to(one)}: gone")
            continue
        a, b = pd.read_parquet(path), pd.read_parquet(beside)
        if a.shape != b.shape or list(a) != list(b):
            said.append(f"{path.relative_to(one)}: {a.shape}, now {b.shape}")
            continue
        for column in (c for c in a if not a[c].equals(b[c])):
            numbers = pd.api.types.is_numeric_dtype(a[column]) and pd.api.types.is_numeric_dtype(b[column])
            gap = f"by {(a[column] - b[column]).abs().max():.3g}" if numbers else "in words"
            said.append(f"{path.relative_to(one)}: {column} differs {gap}")
    return said or [str(state(one)), str(state(other))]


def ended(root: Path) -> bool:
    """Whether the command had done all and was killed on its way out: what it made is settled, so that the same command
    rightly begins anew."""
    from headlab.store import Store
    from headlab.store.folders import ids, is_settled
    from headlab.store.records import StoreError

    found = list(ids(root))
    try:
        return bool(found) and all(
            Store(root).record(one).status == "complete" and is_settled(root, one) for one in found
        )
    except StoreError:
        return False


def kills(name: str, command: list[str], small: Callable[[], None], n: int, rng: random.Random) -> dict[str, Any]:
    """``n`` kills of one workload: two thirds at operations, evenly spread, the rest at random moments."""
    room = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        began = time.monotonic()
        code = run(command, room / "unbroken", small)
        took = time.monotonic() - began
        assert code == 0, (room / "log").read_text()
        operations, wanted = int((room / "log.count").read_text() or 0), state(room / "unbroken", ROUNDED.get(name))
        at: list[int | None] = [1 + round(i * (operations - 1) / max(1, n - n // 3 - 1)) for i in range(n - n // 3)]
        done = 0
        for i, kill_at in enumerate([*at, *[None] * (n // 3)]):
            root = room / f"{i}" / "store"
            root.parent.mkdir()
            after = None if kill_at is not None else rng.uniform(0.02, took)
            code = run(command, root, small, kill_at, after)
            if code == 0 or ended(root):  # before the moment came
                assert state(root, ROUNDED.get(name)) == wanted
            else:
                assert code == -signal.SIGKILL, (code, (root.parent / "log").read_text())
                assert run(command, root, small) == 0, (kill_at, after, (root.parent / "log").read_text())
                assert state(root, ROUNDED.get(name)) == wanted, (kill_at, after, differing(room / "unbroken", root))
                done += 1
            shutil.rmtree(root.parent)
            print(name, i + 1, done, round(time.monotonic() - began), file=sys.stderr, flush=True)
        return {
            "workload": name,
            "operations": operations,
            "kills": done,
            "seconds": round(time.monotonic() - began, 1),
        }
    finally:
        shutil.rmtree(room)


SHARES = {"store": 120, "trial": 60, "sweep-heavy": 45, "thoughts": 20, "cross-model": 20, "emergence": 15}


def main(arguments: list[str] | None = None) -> None:
    """Print a line of JSON for each workload."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=sum(SHARES.values()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args(arguments)
    import headlab.cli.show
    import headlab.store

    assert headlab.store.Store and headlab.cli.show  # what the children need is there before they are
    if given.only != "store":
        import headlab.experiments.training.across_models
        import headlab.experiments.training.emergence
        from headlab.thoughts import load
        from headlab.trials.record import source_hash

        assert source_hash() and load and headlab.experiments.training.emergence
    rng = random.Random(given.seed)
    for name, (command, small) in workloads(given.only).items():
        if given.only in {"", name}:
            share = round(given.kills * SHARES[name] / sum(SHARES.values())) if not given.only else given.kills
            print(json.dumps(kills(name, command, small, max(1, share), rng)), flush=True)


if __name__ == "__main__":
    main()

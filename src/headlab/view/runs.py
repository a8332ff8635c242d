"""The store as tables: every run with its verdicts, claims against models, how often each outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headlab.report.view import SIGNS
from headlab.store import Store
from headlab.store.records import Plain
from headlab.store.survey import VIEWS, survey

COLUMNS = VIEWS["runs"].split()


@dataclass(frozen=True)
class Table:
    """``runs``: newest first, each with its readings; ``skipped``: why a run cannot be read; ``counts``: by outcome;
    ``matrix``: claim → model → its newest run that has a verdict, ``models`` its columns."""

    runs: list[Plain]
    skipped: Mapping[str, str]
    counts: dict[str, int]
    models: list[str]
    matrix: dict[str, dict[str, Plain]]


def table(store: Store) -> Table:
    """Every run of a store."""
    rows, bad = survey(store.root, "runs")
    said, _ = survey(store.root, "readings")
    runs = []
    for id, (row, _) in rows.items():
        run = dict(zip(COLUMNS, row, strict=True))
        strip = [(r[1], r[3]) for r in said.get(id, [])]
        when = str(run["finished"] or run["created"] or "").replace("T", " ")[:16]
        runs.append({**run, "strip": strip, "when": when, "model": run["model"] or ""})
    runs.reverse()
    ruled = [r for r in runs if r["outcome"]]
    counts = {outcome: sum(r["outcome"] == outcome for r in ruled) for outcome in SIGNS}
    matrix: dict[str, dict[str, Plain]] = {}
    for run in ruled:  # newest first: the first one found stays
        matrix.setdefault(run["slug"], {}).setdefault(run["model"], run)
    models = sorted({r["model"] for r in ruled})
    return Table(runs, bad, counts, models, dict(sorted(matrix.items())))

"""What a run hands back: its record and tables; in a notebook, a card of them with the way to the report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from headlab.claims import Verdict
from headlab.store.records import Record

if TYPE_CHECKING:
    import pandas as pd

    from headlab.effects import Figure

MOST, CELL, LINES = 300, 100, 12
"""Characters of a sentence and of a cell, and rows, that the card has at most: 30 kB, however they are escaped."""
_COLOURS = {
    "upheld": "#1a7f37",
    "refuted": "#b3261e",
    "undecided": "#8a6100",
    "void": "#7b2d8e",
    "untestable": "#57606a",
}


@dataclass(frozen=True)
class Result:
    """A finished run: its record and its tables.  ``page``: where its HTML report lies, or None where there is none.

    In a notebook it shows a card; :meth:`headlab.Store.load` gives that of a stored run.
    """

    record: Record
    tables: Mapping[str, pd.DataFrame]
    children: tuple[Record, ...] = ()
    page: Path | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The binding verdict, or None."""
        return self.record.readings[0].verdict if self.record.readings else None

    @property
    def figures(self) -> list[Figure]:
        from headlab.effects import Figure

        return [Figure.from_plain(f) for f in self.record.figures]

    @property
    def effects(self) -> pd.DataFrame:
        """The central table."""
        return self.tables["effects"]

    def __repr__(self) -> str:
        said = self.verdict.sentence if self.verdict else "no verdict"
        return f"Result({self.record.id}: {said})"

    def _repr_html_(self) -> str:
        """The verdict, its predictions and controls, and a link to the report: at most 30 kB."""
        found = self.verdict
        outcome = found.outcome if found else self.record.status
        lines = [f"<b>{_short(self.record.title)}</b> {_chip(outcome)}"]
        if found:
            lines += [_short(found.sentence), _short(found.controls_words)]
            none = "" if found.ruled else "measured, not ruled"
            rows = [(r.prediction.words or r.prediction.statistic, r.shown, none or r.outcome) for r in found.rulings]
        else:
            rows = [(r.title, "", r.readings[0].verdict.outcome if r.readings else r.status) for r in self.children]
        cells = "".join(
            f"<tr><td>{_short(a, CELL)}</td><td>{_short(b, CELL)}</td><td>{_chip(c)}</td></tr>"
            for a, b, c in rows[:LINES]
        )
        more = f"<div>and {len(rows) - LINES} more</div>" if len(rows) > LINES else ""
        body = "".join(f"<div>{line}</div>" for line in lines) + (f"<table>{cells}</table>{more}" if cells else "")
        edge = f"border-left:4px solid {_COLOURS.get(outcome, '#57606a')};padding:.4em 1em"
        return f'<div style="{edge}">{body}<div>{self._way()}</div></div>'

    def _way(self) -> str:
        """A link to the report, from where the notebook runs; else how it is made."""
        if self.page is None:
            return f"report: <code>headlab show {escape(self.record.id)} --html report.html</code>"
        try:
            near = Path(os.path.relpath(self.page)).as_posix()
        except ValueError:  # on another drive
            near = self.page.as_posix()
        return f'<a href="{escape(near[:1000])}" target="_blank">report</a> <code>{_short(str(self.page))}</code>'


def _short(text: str, most: int = MOST) -> str:
    return escape(text if len(text) <= most else f"{text[:most]}…")


def _chip(outcome: str) -> str:
    colour = _COLOURS.get(outcome, "#57606a")
    return f'<span style="background:{colour};color:#fff;border-radius:.6em;padding:0 .5em">{escape(outcome)}</span>'

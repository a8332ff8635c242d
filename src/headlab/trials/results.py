"""What a trial hands back: its record and tables, shown as a page in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from headlab.claims import Verdict
from headlab.effects import Figure
from headlab.report import page
from headlab.store import Record, Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """A finished run: its record and its tables.  Renders itself in a notebook."""

    record: Record
    tables: Mapping[str, pd.DataFrame]
    children: tuple[Record, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """The binding verdict, or None."""
        return self.record.readings[0].verdict if self.record.readings else None

    @property
    def figures(self) -> list[Figure]:
        return [Figure.from_plain(f) for f in self.record.figures]

    @property
    def effects(self) -> pd.DataFrame:
        """The central table."""
        return self.tables["effects"]

    def __repr__(self) -> str:
        said = self.verdict.sentence if self.verdict else "no verdict"
        return f"Result({self.record.id}: {said})"

    def _repr_html_(self) -> str:
        """The report in a frame."""
        whole = page(self.record, dict(self.tables), list(self.children))
        return f'<iframe srcdoc="{escape(whole)}" width="100%" height="900" title="{escape(repr(self))}"></iframe>'


def handed_on(home: Store, record: Record) -> Result:
    """The result of a run that was complete, but not settled, when the same was asked again: nothing runs twice."""
    return Result(record, home.tables(record.id), tuple(home.record(child) for child in record.children))

"""The end of a run: its report beside its record, and its result handed on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from headlab.report import page
from headlab.store import Record, Result, Store, StoreError

if TYPE_CHECKING:
    import pandas as pd

PAGES = "HEADLAB_PAGES"
"""``HEADLAB_PAGES=0``: trials in Python write no report (``headlab show ID --html`` writes one later)."""


def handed_on(
    home: Store,
    record: Record,
    tables: Mapping[str, pd.DataFrame] | None = None,
    children: Sequence[Record] | None = None,
) -> Result:
    """The result of a complete run, with its report beside the record, as the command line has it.

    A run inside another one, or of a store that holds its runs open, gets its report from whoever began that.  The run is
    stored by now: a store that takes no report keeps it from nobody.
    """
    found = home.tables(record.id) if tables is None else tables
    inner = tuple(home.record(child) for child in record.children) if children is None else tuple(children)
    there = home.page(record.id)
    if there is None and not home.busy and os.environ.get(PAGES) != "0":
        with suppress(StoreError):
            there = home.keep_page(record.id, page(record, dict(found), list(inner)))
    return Result(record, found, inner, there)

"""The other side of the boundary: text that somebody else wrote, as it may be shown.

Names, prompts, answers and claims reach terminals, pages, charts and spreadsheets.  :func:`clean` makes visible what
would act there instead of being read; :func:`csv_text` keeps a spreadsheet from taking a cell for a formula.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

KEPT = frozenset("\n\t\u200c\u200d")
"""Line end, tab and the two joiners (scripts and emoji need them) stay as they are."""

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|nan)", re.ASCII | re.IGNORECASE)


def hidden(char: str) -> bool:
    """Whether a character acts instead of being seen: controls, formats (bidi among them), half surrogates, and the
    code points that are none (U+FFFE, which no XML may hold).
    """
    return char not in KEPT and (unicodedata.category(char) in {"Cc", "Cf", "Cs"} or ord(char) & 0xFFFE == 0xFFFE)


def clean(text: str) -> str:
    """``text`` with every hidden character as its escape: ESC as ``\\x1b``, a right-to-left override as ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if not c.isprintable() and hidden(c) else c for c in text)


def clean_json(text: str) -> str:
    """JSON that says the same, with hidden characters as JSON's own escapes."""
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if not c.isprintable() and hidden(c) else c for c in text)


def cleaned(data: Any) -> Any:
    """Plain data with every text inside it cleaned, keys too."""
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, Mapping):
        return {cleaned(k): cleaned(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(cleaned(v) for v in data)
    return data


def csv_text(frame: pd.DataFrame) -> str:
    """``frame`` as CSV without its index, safe to open in a spreadsheet.

    Text (a heading too) that begins like a formula, with = + - @ or white space that a spreadsheet skips, gets a ``'``
    before it; numbers stay.  Half surrogates, which UTF-8 cannot hold, are written as escapes.
    """
    out = frame.copy(deep=False)
    quoting: Any = csv.QUOTE_NONNUMERIC if any("\r" in str(c) for c in frame.columns) else csv.QUOTE_MINIMAL
    out.columns = [_literal(c) for c in frame.columns]
    for i, dtype in enumerate(frame.dtypes):
        if dtype.kind == "O":  # objects, strings and categories
            column = frame.iloc[:, i]
            cells = [_literal(c) for c in column]
            out.isetitem(i, type(column)(cells, index=column.index, dtype=object))
            if any(
                isinstance(c, str) and "\r" in c for c in cells
            ):  # it would end the row: the writer lets it stand bare
                quoting = csv.QUOTE_NONNUMERIC
    return out.to_csv(index=False, lineterminator="\n", quoting=quoting).encode("utf-8", "backslashreplace").decode()


def _literal(cell: Any) -> Any:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell

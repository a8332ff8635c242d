"""The one boundary for structured text that somebody else wrote: YAML, TOML and JSON as plain, bounded data.

:func:`read_document` gives what a text says and the line on which each key stands.  Size, depth and count are bounded
before anything is built; what two readers could take for two things (``010``, ``yes``, ``2:00``) is refused, not guessed.
Every refusal is one line with the file, the line where it is known, what was given and what to write instead.
"""

from typing import TYPE_CHECKING

from headlab.reading.bounds import (
    MOST_BYTES,
    Kind,
    Lines,
    OneLine,
    Place,
    ReadingError,
    brief,
    dotted,
    expected_one_of,
    meant,
    nearest,
    one_line,
    plain_or_why,
    some,
)
from headlab.reading.document import read_document, text_of
from headlab.reading.tables import check_columns, csv_rows, json_rows, repeated

if TYPE_CHECKING:
    from headlab.reading.problems import problems
else:  # a module that is called like its function
    from headlab.reading import problems

__all__ = [
    "MOST_BYTES",
    "Kind",
    "Lines",
    "OneLine",
    "Place",
    "ReadingError",
    "brief",
    "check_columns",
    "csv_rows",
    "dotted",
    "expected_one_of",
    "json_rows",
    "meant",
    "nearest",
    "one_line",
    "plain_or_why",
    "problems",
    "read_document",
    "repeated",
    "some",
    "text_of",
]

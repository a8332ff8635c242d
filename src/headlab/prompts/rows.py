"""One pair from one row of a table: which columns there are, and what a cell may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from headlab.reading import ReadingError, brief, read_document

from .data import Pair, Prompt, PromptError, Span

COLUMNS = ("clean", "corrupted", "answer", "wrong")
OPTIONAL_COLUMNS = ("id", "cluster", "category", "clean_spans", "corrupted_spans")
MOST_PAIRS = 100_000


def needed(columns: Sequence[Any]) -> tuple[str, ...]:
    """The columns that a table of these must have: prompts alone need only a right answer."""
    return COLUMNS if not columns or "corrupted" in columns else ("clean", "answer")


def _texts(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The accepted texts of a cell: one, or a list.  Raises PromptError for anything else."""
    value = row.get(column)
    if isinstance(value, str) and value.strip() and not value.startswith("["):
        return (value,)
    if isinstance(value, str) and value.startswith("["):
        try:
            data = read_document(value, "json", name=column)[0]
        except ReadingError:
            data = None  # a text that begins with a bracket
        value = data if isinstance(data, list) and data and all(isinstance(d, str) for d in data) else value
    every: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not every or not all(isinstance(v, str) and v.strip() for v in every):
        raise PromptError(f"column {column!r} is {brief(value)}; expected text")
    if len(set(every)) < len(every):
        raise PromptError(f"column {column!r} holds one text twice: {brief(value)}")
    return every


def _spans(row: Mapping[str, object], column: str) -> tuple[Span, ...]:
    """The spans of a cell: an object of role: [start, end] or of lists of such, or the JSON of one.  Raises PromptError."""
    value = row.get(column)
    if _blank(value):
        return ()
    data = value
    if isinstance(value, str):
        try:
            data = read_document(value, "json", name=column)[0]
        except ReadingError as error:
            raise PromptError(f"{error} (given {brief(value)})") from error
    if not isinstance(data, Mapping):
        raise PromptError(f"{column} must be an object of role: [start, end], given {brief(value)}")
    made = []
    for role, ends in data.items():
        several = (
            ends
            if isinstance(ends, list | tuple) and ends and all(isinstance(e, list | tuple) for e in ends)
            else [ends]
        )
        for each in several:
            if not (isinstance(each, list | tuple) and len(each) == 2 and all(_whole(e) for e in each)):
                raise PromptError(f"{column}: role {brief(role)} is {brief(ends)}; expected [start, end] in characters")
            made.append(Span(str(role), int(each[0]), int(each[1])))
    return tuple(made)


def _name(row: Mapping[str, object], column: str) -> str:
    """A short name from a cell that may be missing or empty.  Raises PromptError."""
    value = row.get(column)
    if _blank(value):
        return ""
    if not isinstance(value, str | Real) or isinstance(value, bool) or len(str(value)) > 200:
        raise PromptError(f"column {column!r} is {brief(value)}; expected a name of at most 200 characters")
    return str(value)


def pair_from_row(row: Mapping[str, Any], place: int) -> Pair:
    partner = not _blank(row.get("corrupted"))
    for column in ("clean", "corrupted") if partner else ("clean",):
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise PromptError(f"column {column!r} is {brief(row.get(column))}; expected text")
    answers = _texts(row, "answer")
    wrongs = _texts(row, "wrong") if partner or not _blank(row.get("wrong")) else ("",)
    if not partner and not _blank(row.get("corrupted_spans")):
        raise PromptError("column 'corrupted_spans' is given and 'corrupted' is not")
    clean = Prompt(row["clean"], _spans(row, "clean_spans"))
    return Pair(
        id=_name(row, "id") or str(place),
        clean=clean,
        corrupted=Prompt(row["corrupted"], _spans(row, "corrupted_spans")) if partner else clean,
        answer=answers[0],
        wrong=wrongs[0],
        cluster=_name(row, "cluster"),
        category=_name(row, "category"),
        more_answers=answers[1:],
        more_wrongs=wrongs[1:],
        partner=partner,
    )


def _blank(value: Any) -> bool:
    """An empty cell, as a file or a frame has it."""
    return value is None or (
        not value.strip() if isinstance(value, str) else isinstance(value, float) and value != value
    )


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)

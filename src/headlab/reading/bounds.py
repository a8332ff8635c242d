"""What is taken at all: bounds of size, depth and number, and values as error messages show them."""

from __future__ import annotations

import datetime
import difflib
import gc
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

Kind = Literal["yaml", "toml", "json"]
Place = tuple[str | int, ...]
"""Where a value stands: keys and places in lists, from the outside in; ``("predictions", 0, "op")``."""
Lines = Mapping[Place, int]

MOST_BYTES: Mapping[Kind, int] = {"yaml": 128 * 1024, "toml": 128 * 1024, "json": 8 * 1024 * 1024}
MOST_DEPTH = 32
MOST_VALUES = 10_000
"""Values and keys of a YAML or TOML text (JSON is bounded by its size)."""
MOST_CHARACTERS = 480
"""Characters of a message about what a file holds, whatever its keys and values are."""
SMALLEST, LARGEST = -(2**63), 2**64 - 1

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 4
_SHORT.maxlevel = 3


class OneLine(Exception):
    """An error about what somebody gave: its message is one line of bounded length, whatever the given names and values are."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class ReadingError(OneLine, ValueError):
    """A text that cannot be read: the file, the line where it is known, what was given, what was expected."""


class Refused(Exception):
    """Well formed, and not taken; the message starts with the line where it is known."""

    def __init__(self, words: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {words}" if line else words)


@contextmanager
def many_objects() -> Iterator[None]:
    """Without the collector, which would look through all that is read, again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def brief(value: Any, most: int = 80) -> str:
    """A value as error messages show it: its repr, at most ``most`` characters, whatever its size and depth."""
    if isinstance(value, str):
        text = repr(value[: most + 1])
    elif isinstance(value, int) and abs(value) >= 10**60:
        text = f"a number of about {value.bit_length() * 3 // 10} digits"
    else:
        text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def meant(given: object, known: Iterable[str]) -> str:
    """``"; did you mean x?"`` when something known is near, else an empty string."""
    near = difflib.get_close_matches(str(given)[:60], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def expected_one_of(given: object, known: Iterable[str]) -> str:
    """``"did you mean b? expected one of a, b"``, for something that is none of them (or there are none)."""
    names = list(known)
    return f"{meant(given, names)} expected one of {', '.join(names)}".lstrip("; ") if names else "there are none"


def dotted(place: Iterable[Any]) -> str:
    """The keys that lead to a value, as error messages show them: in one line whatever a key holds."""
    return ".".join(_printable(str(part)) for part in place)


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def one_line(text: object, most: int = MOST_CHARACTERS) -> str:
    """A message in one line of at most ``most`` characters; what one may have meant, which helps most, stays at its end."""
    line = " ".join(str(text).split())
    if len(line) <= most:
        return line
    start, found, meant_ = line.rpartition("; did you mean ")
    tail = found + meant_ if found and len(meant_) < most // 2 else ""
    return f"{(start if tail else line)[: most - 1 - len(tail)]}…{tail}"


def some(words: Iterable[Any], most: int = 6) -> str:
    """A list as error messages show it: the first few, and how many more there are."""
    every = [_printable(str(w)) for w in words]
    shown = ", ".join(w if len(w) <= 60 else w[:59] + "…" for w in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")


def nearest(lines: Lines, place: Place) -> int | None:
    """The line of a place, or of the nearest thing around it that has one."""
    return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)


def plain_or_why(data: Any) -> str:
    """Why data made in Python is not what a document could have said; empty where it is.  Tuples count as lists."""
    try:
        check(data, {}, MOST_VALUES)
    except Refused as refused:
        return str(refused)
    return ""


def check(data: Any, lines: Lines, most: int | None) -> None:
    """Bounds that hold for every kind, in memory that grows with depth alone.  Raises Refused."""
    place: list[str | int] = []
    left: list[Iterator[tuple[str | int, Any]]] = [iter([("", data)])]
    count = 0
    while left:
        key, value = next(left[-1], (None, None))
        if key is None:
            left.pop()
            if place:
                place.pop()
            continue
        count += 1
        here = (*place, key)[1:] if left[1:] else ()
        if most is not None and count > most:
            raise Refused(f"more than {most:,} values", nearest(lines, here))
        if len(left) > MOST_DEPTH + 1:
            raise Refused(f"nested more than {MOST_DEPTH} deep", nearest(lines, here))
        if isinstance(key, str) and (wrong := _wrong_text(key)):
            raise Refused(wrong, nearest(lines, here))
        if isinstance(value, dict) and not all(isinstance(k, str) for k in value):
            raise Refused("a key is no text (string)", nearest(lines, here))
        if isinstance(value, dict | list | tuple):
            place.append(key)
            left.append(iter(value.items() if isinstance(value, dict) else enumerate(value)))
        elif wrong := _wrong(value):
            raise Refused(wrong, nearest(lines, here))


def _wrong(value: Any) -> str:
    if isinstance(value, str):
        return _wrong_text(value)
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is no finite number"
    if isinstance(value, int):
        return "" if SMALLEST <= value <= LARGEST else f"{brief(value)} is beyond 64 bits"
    if isinstance(value, datetime.date | datetime.time):
        return f"{brief(str(value))} is a date or a time; quote it"
    return f"{brief(value)} is no plain value ({type(value).__name__})"


def _wrong_text(text: str) -> str:
    if text.isprintable():
        return ""
    if "\0" in text:
        return f"{brief(text)} holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{brief(text)} holds half a surrogate pair, which is no character"
    return ""

"""Files and texts, read within bounds; every failure is the caller's own error with one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headlab.reading.bounds import MOST_BYTES, MOST_DEPTH, MOST_VALUES, Kind, Place, ReadingError, Refused, brief, check

KINDS: dict[str, Kind] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def text_of(path: str | Path, *, most: int, error: type[Exception] = ReadingError) -> str:
    """A UTF-8 file's text, with or without a byte-order mark, at most ``most`` bytes.  Raises ``error``."""
    path = Path(path)
    try:
        if not path.is_file():
            raise error(f"no such file: {path}")
        with path.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as failed:
        raise error(f"{brief(str(path))} cannot be read: {failed.strerror or failed}") from failed
    if len(data) > most:
        raise error(f"{path} is larger than {most:,} bytes, the most that is read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        line = data[: failed.start].count(b"\n") + 1
        raise error(f"{path.name}, line {line}: not UTF-8 ({failed.reason}); save the file as UTF-8") from failed


def read_document(
    source: str | Path,
    kind: Kind | None = None,
    *,
    name: str = "",
    most: int | None = None,
    error: type[Exception] = ReadingError,
) -> tuple[Any, dict[Place, int]]:
    """What a text says, as dicts, lists, strings, finite numbers, booleans and None; and the line of each place.

    ``source``: a Path is read, a str is the text itself.  ``kind``: else by the file's suffix.  ``name``: what messages
    call it.  ``most``: bytes at most (``MOST_BYTES``).  Lines count from 1 and are known for YAML and TOML; a value in a
    list has one too.  In YAML only ``true``, ``false``, ``null``, decimal integers, and floats with a point are other
    than strings when unquoted; anchors, aliases, tags and second documents are refused.

    Raises ``error``: unreadable file, not UTF-8, too large, too deep, malformed, a key twice, a key that is no string, a
    number out of range, NaN, a date, half a surrogate pair.
    """
    if isinstance(source, Path):
        name = name or str(source)
        kind = kind or KINDS.get(source.suffix)
    if kind is None:
        raise error(f"{name or 'the text'}: expected one of {', '.join(KINDS)}")
    name = name or f"the {kind.upper()} text"
    bound = MOST_BYTES[kind] if most is None else most
    text = text_of(source, most=bound, error=error) if isinstance(source, Path) else source.removeprefix("\ufeff")
    if len(text) > bound:
        raise error(f"{name} is larger than {bound:,} bytes, the most that is read")
    lines: dict[Place, int] = {}
    try:
        data = _reader(kind)(text, lines)
        check(data, lines, None if kind == "json" else MOST_VALUES)
    except Refused as refused:
        raise error(f"{name}: {refused}") from refused
    except RecursionError as failed:
        raise error(f"{name}: nested more than {MOST_DEPTH} deep") from failed
    except (ValueError, OverflowError, LookupError) as failed:
        words = " ".join(str(failed).split()) or type(failed).__name__
        raise error(f"{name} is not {kind.upper()}: {words[:200]}") from failed
    return data, lines


def _reader(kind: Kind) -> Callable[[str, dict[Place, int]], Any]:
    """The reader of a kind; those of YAML and TOML are loaded when they are asked for."""
    if kind == "yaml":
        from headlab.reading.from_yaml import yaml

        return yaml
    if kind == "toml":
        from headlab.reading.from_toml import toml

        return toml
    return _json


def _json(text: str, lines: dict[Place, int]) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                raise Refused(f"{brief(key)} stands twice in one object")
            made[key] = value
        return made

    def constant(word: str) -> Any:
        raise Refused(f"{word} is no finite number")

    return json.loads(text, object_pairs_hook=once, parse_constant=constant)

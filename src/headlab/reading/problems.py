"""What a validation found, as one short line: each problem once, in plain words, with the line on which it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headlab.reading.bounds import Lines, Place, brief, dotted, meant, nearest
from headlab.reading.callables import callable_as

if TYPE_CHECKING:
    from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
    from pydantic_core import CoreSchema, ErrorDetails

_Node = Mapping[str, Any]
MOST_PROBLEMS, MOST_TEXT = 3, 320
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys and values",
    "mapping": "keys and values",
    "model": "keys and values",
    "model_attributes": "keys and values",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} item(s)",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "form": "{message}",
}
"""What was expected instead, by pydantic's type of error without its ``_type``, ``_parsing`` or ``_from_float``."""


@dataclass(frozen=True)
class Form:
    """What a field's text must look like, with the words that say so where another is given."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core.core_schema import chain_schema, custom_error_schema, str_schema

        own = custom_error_schema(str_schema(pattern=self.pattern), "form", custom_error_message=self.words)
        return chain_schema([handler(source), own])

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "pattern": self.pattern}


_RANKS = {"extra_forbidden": 0, "missing": 2}
"""A misspelt key comes before what is missing for want of it."""


def problems(error: ValidationError, lines: Lines, model: type[BaseModel]) -> str:
    """Each problem's place, what was expected and what was given; at most three, and how many more.

    What is said of a list because one of its items is wrong is left out, and the arms of a union are told as one.  A key
    that ``model`` does not have is told with those that it has there, and before what is missing.
    """
    told: dict[Place, list[ErrorDetails]] = {}
    for e in error.errors(include_url=False):
        last = len(e["loc"]) - 1 if e["type"] in _RANKS else None  # a key, whatever it is called
        place = tuple(p for n, p in enumerate(e["loc"]) if n == last or not _arm(p))
        told.setdefault(place, []).append(e)
    around = {p[:n] for p in told for n in range(len(p))}
    kept = [p for p in told if p not in around]
    kept.sort(key=lambda p: _RANKS.get(told[p][0]["type"], 1))
    lacking: dict[Place, list[str]] = {}
    for place in kept:
        if told[place][0]["type"] == "missing":
            lacking.setdefault(place[:-1], []).append(str(place[-1]))
    others = [p for p in kept if told[p][0]["type"] != "missing"]
    said = [_at(p, lines) + expected(p, told[p], model) for p in others[:MOST_PROBLEMS]]
    for place, names in list(lacking.items())[: MOST_PROBLEMS - len(said)]:
        said.append(f"{_at(place, lines)}{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing")
    left = len(others) + len(lacking) - len(said)
    text = "; ".join(said)
    return (text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…") + (f"; and {left} more" if left else "")


def _arm(part: object) -> bool:
    """Whether a part of a place is pydantic's name for an arm of a union, and no key of ours."""
    return isinstance(part, str) and (part in {"int", "float", "str", "bool", "none"} or "[" in part)


def _at(place: Place, lines: Lines) -> str:
    known, named = nearest(lines, place), dotted(place)
    where = f"line {known}: " if known else ""
    return where + (f"{named if len(named) <= 60 else named[:59] + '…'}: " if place else "")


def expected(place: Place, errors: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    """What was expected at a place of ``model``, and given, from pydantic's errors of that place."""
    if errors[0]["type"] == "extra_forbidden":
        known = sorted(_keys_at(model.model_json_schema(), place[:-1]))
        near = meant(place[-1], known)
        return f"is not read{near or '; the keys here are ' + ', '.join(known)}"
    own = dict.fromkeys(word for e in errors if (word := _plain_word(e)))
    others = dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in errors if not _plain_word(e))
    said = [*([f"expected {' or '.join(own)}"] if own else []), *others]
    literal = [word for e in errors for word in re.findall("'([^']*)'", str(e.get("ctx", {}).get("expected", "")))]
    given = brief(errors[0]["input"])
    return f"{' or '.join(said)[:200]} (given {given}){meant(errors[0]['input'], literal)}"


def _plain_word(error: ErrorDetails) -> str:
    kind = error["type"]
    for ending in ("_type", "_parsing", "_from_float"):
        kind = kind.removesuffix(ending)
    return _WORDS.get(kind, "").format_map({"message": error["msg"], **error.get("ctx", {})})


def _keys_at(schema: _Node, place: Place) -> set[str]:
    """The keys that a JSON schema knows at a place, in any arm of what stands there; none where it says nothing."""
    nodes = [schema]
    for part in place:
        nodes = [inner for node in nodes for arm in _arms(node, schema) for inner in _within(arm, part)]
    return {key for node in nodes for arm in _arms(node, schema) for key in arm.get("properties", ())}


def _arms(node: _Node, schema: _Node) -> Iterator[_Node]:
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    yield node
    for arm in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _arms(arm, schema)


def _within(node: _Node, part: str | int) -> list[_Node]:
    if isinstance(part, int):
        found = [node.get("items"), *node.get("prefixItems", ())[part : part + 1]]
    else:
        found = [node.get("properties", {}).get(part, node.get("additionalProperties"))]
    return [inner for inner in found if isinstance(inner, Mapping)]


callable_as(__name__, problems)

"""TOML: tomllib's data, with the line of each key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from headlab.reading.bounds import MOST_DEPTH, Place, Refused

_PART = r"""(?>[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{{MOST_DEPTH}}}")
"""tomllib takes time quadratic in the parts of a dotted key."""
_TOKEN = re.compile(
    r'#[^\n]*|"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\n|[][{}=,.]|[^][{}=,.\s"\'#]+',
    re.DOTALL,
)


def toml(text: str, lines: dict[Place, int]) -> Any:
    """The data of a text; ``lines`` is filled.  Raises Refused, ValueError, RecursionError."""
    if deep := _DEEP_KEY.search(text):
        raise Refused(f"a key of more than {MOST_DEPTH} parts", text.count("\n", 0, deep.start()) + 1)
    data = tomllib.loads(text)
    _Lines(text, lines).read()
    return data


class _Lines:
    """The line of every key and list item of a text that is TOML (which ``tomllib`` has said)."""

    def __init__(self, text: str, lines: dict[Place, int]) -> None:
        self.lines = lines
        self.tokens: list[tuple[str, int]] = []
        number = 1
        for found in _TOKEN.finditer(text):
            token = found[0]
            if not token.startswith("#"):
                self.tokens.append((token, number))
            number += token.count("\n")
        self.tokens.append(("", number))
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at][0]

    def take(self) -> tuple[str, int]:
        self.at += 1
        return self.tokens[self.at - 1]

    def skip(self, *tokens: str) -> None:
        while self.next in tokens and self.next:
            self.at += 1

    def read(self) -> None:
        table: Place = ()
        counts: dict[Place, int] = {}
        while self.next:
            if self.next == "[":
                line, many = self.take()[1], self.next == "["
                self.skip("[")
                table = self.key(self.placed((), counts), counts)
                self.skip("]")
                if many:
                    counts[table] = counts.get(table, -1) + 1
                    self.lines.setdefault(table, line)
                    table = (*table, counts[table])
                self.lines.setdefault(table, line)
            elif self.next == "\n":
                self.take()
            else:
                self.assignment(table)

    @staticmethod
    def placed(place: Place, counts: Mapping[Place, int]) -> Place:
        """A table's place, within the last item of the list that it names."""
        return (*place, counts[place]) if place in counts else place

    def key(self, place: Place, counts: Mapping[Place, int] | None = None) -> Place:
        while True:
            place = self.placed(place, counts or {})
            part = self.take()[0]
            place = (*place, part[1:-1] if part[:1] in {"'", '"'} else part)
            if self.next != ".":
                return place
            self.take()

    def assignment(self, place: Place) -> None:
        line = self.tokens[self.at][1]
        inside = self.key(place)
        self.lines[inside] = line
        self.skip("=")
        self.value(inside)

    def value(self, place: Place) -> None:
        opened = self.next
        if opened == "[":
            self.take()
            index = 0
            self.skip("\n")
            while self.next not in {"]", ""}:
                self.lines[(*place, index)] = self.tokens[self.at][1]
                self.value((*place, index))
                index += 1
                self.skip("\n", ",")
            self.take()
        elif opened == "{":
            self.take()
            self.skip("\n")
            while self.next not in {"}", ""}:
                self.assignment(place)
                self.skip("\n", ",")
            self.take()
        else:
            while self.next not in {",", "]", "}", "\n", ""}:
                self.take()
